"""Exact attention of the genes of every cell to each other, whatever their number."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from episome_scbert.tokens import rows_of, starts_of

#: Tokens of a cell up to which cells are padded to one block; longer ones are taken one by one on
#: the host, where padding costs more than calls do.
_SHORT = 96
#: Attention weights that exist at a time where they are asked for.
_BLOCK = 2**22


def exact_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: torch.Tensor,
    keys: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return softmax attention within every cell, (T, H, d).

    A cell without a key gets zeros.

    Parameters
    ----------
    q, k, v
        Queries, keys and values of all cells, one behind the other, (T, H, d).
    lengths
        Tokens of every cell, int64 (B,).
    keys
        Which tokens may be attended to, bool (T,); ``None``: all.
    """
    sizes = lengths.tolist()
    if not sizes or max(sizes) == 0:
        return torch.zeros_like(v)
    if q.device.type == "cpu" and max(sizes) > _SHORT:
        return _one_by_one(q, k, v, sizes, keys)
    if keys is None and min(sizes) == max(sizes):
        shape = (len(sizes), sizes[0], *q.shape[1:])
        whole = (t.view(shape).transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(*whole).transpose(1, 2).reshape(q.shape)
    return _padded(q, k, v, lengths, keys)


def _one_by_one(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    sizes: list[int],
    keys: torch.Tensor | None,
) -> torch.Tensor:
    if keys is not None:
        of_cell = keys.split(sizes)
        k, v = k[keys], v[keys]
        key_sizes = [int(part.sum()) for part in of_cell]
    else:
        key_sizes = sizes
    found = []
    for one in zip(q.split(sizes), k.split(key_sizes), v.split(key_sizes), strict=True):
        if not len(one[1]):
            found.append(torch.zeros_like(one[0]))
            continue
        heads = (t.transpose(0, 1)[None] for t in one)
        found.append(F.scaled_dot_product_attention(*heads)[0].transpose(0, 1))
    return torch.cat(found)


def _padded(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: torch.Tensor,
    keys: torch.Tensor | None,
) -> torch.Tensor:
    n, width = len(lengths), int(lengths.max())
    cells = rows_of(lengths)
    at = torch.arange(len(cells), device=q.device) - starts_of(lengths)[cells]

    def block(t: torch.Tensor) -> torch.Tensor:
        out = t.new_zeros(n, width, *t.shape[1:])
        return out.index_put((cells, at), t)

    there = torch.zeros(n, width, dtype=torch.bool, device=q.device)
    there[cells, at] = True if keys is None else keys
    some = there.any(1)
    # A softmax over nothing is no number: such cells look at their first place, and get zero.
    open_to = there.clone()
    open_to[:, 0] |= ~some
    whole = (block(t).transpose(1, 2) for t in (q, k, v))
    out = F.scaled_dot_product_attention(*whole, attn_mask=open_to[:, None, None, :])
    out = out * some[:, None, None, None]
    return out.transpose(1, 2)[cells, at]


def exact_received(q: torch.Tensor, k: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return how much attention every token gets in its cell, summed over queries, (T, H).

    Weights exist for a block of queries at a time.

    Parameters
    ----------
    q, k, lengths
        Of :func:`exact_attention`.
    """
    found = [torch.zeros(0, q.shape[1], dtype=q.dtype, device=q.device)]
    sizes = lengths.tolist()
    for queries, those in zip(q.split(sizes), k.split(sizes), strict=True):
        total = those.new_zeros(len(those), those.shape[1])
        rows = max(_BLOCK // max(len(those) * q.shape[1], 1), 1)
        for part in queries.split(rows):
            total += weights(part, those).sum(1).T
        found.append(total)
    return torch.cat(found)


def weights(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Return the attention weights of queries (n, H, d) over keys (m, H, d), (H, n, m)."""
    scores = q.transpose(0, 1) @ k.permute(1, 2, 0)
    return (scores * q.shape[-1] ** -0.5).float().softmax(-1)
