"""FAVOR+: softmax attention by random features, in time and memory linear in the length.

No matrix of tokens by tokens is formed, and none of tokens by features either: features exist for
a block of tokens at a time, in the forward pass and again in the backward pass.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import torch
from torch.autograd.function import once_differentiable

#: Over what the keys' stabiliser is taken: one head of a cell, a cell, or the whole batch, as the
#: published code has it; then the answer of a cell depends on the cells beside it.
Stabilizer: TypeAlias = Literal["head", "cell", "batch"]
STABILIZERS: tuple[Stabilizer, ...] = ("head", "cell", "batch")

#: Added to every feature, as published.
EPSILON = 1e-4
#: Features that exist at a time: a few megabytes on the host, which stay in the cache.
_BLOCK, _BLOCK_ON_DEVICE = 2**19, 2**26
_TINY = 1e-30


def n_features_for(width: int) -> int:
    """Return the published number of random features of heads of a width: d ln d."""
    return max(int(width * math.log(width)), 1)


def orthogonal_features(
    n_features: int, width: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Return random directions, (n_features, width), orthogonal in blocks of ``width``.

    Rows have the lengths of Gaussian vectors.

    Parameters
    ----------
    n_features, width
        Shape.
    generator
        Of the draws, on the host.
    """
    blocks = []
    for _ in range(-(-n_features // width)):
        gauss = torch.randn(width, width, generator=generator, dtype=torch.float64)
        blocks.append(torch.linalg.qr(gauss)[0].T)
    directions = torch.cat(blocks)[:n_features]
    lengths = torch.randn(n_features, width, generator=generator, dtype=torch.float64).norm(dim=1)
    return (directions * lengths[:, None]).float()


def favor_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    projection: torch.Tensor,
    *,
    keys: torch.Tensor | None = None,
    stabilizer: Stabilizer = "head",
) -> torch.Tensor:
    """Return the attention of queries to keys, (B, H, L, d).

    Parameters
    ----------
    q, k, v
        Queries, keys and values, (B, H, L, d).
    projection
        Of :func:`orthogonal_features`, (m, d).
    keys
        Which keys there are, bool (B, L); ``None``: all.
    stabilizer
        Over what the largest projection of the keys is taken, which is subtracted before the
        exponential. It cancels but for the constant that is added to features.
    """
    shape, shared = q.shape, _GROUPS[stabilizer](q.shape)
    flat = [t.reshape(-1, *t.shape[2:]) for t in (q, k, v)]
    valid = None if keys is None else keys.repeat_interleave(shape[1], dim=0)
    with torch.autocast(q.device.type, enabled=False):
        dtype = torch.promote_types(q.dtype, torch.float32)
        out: torch.Tensor = _Favor.apply(
            *(t.to(dtype) for t in flat), projection.to(dtype), valid, shared
        )
    return out.to(v.dtype).view(*shape[:3], v.shape[-1])


_GROUPS = {
    "head": lambda shape: 1,
    "cell": lambda shape: shape[1],
    "batch": lambda shape: shape[0] * shape[1],
}


def attention_received(
    q: torch.Tensor,
    k: torch.Tensor,
    projection: torch.Tensor,
    *,
    keys: torch.Tensor | None = None,
    stabilizer: Stabilizer = "head",
) -> torch.Tensor:
    """Return how much attention every key gets, the sum over queries that are keys, (B, H, L).

    It takes time in proportion to the length: the sum over queries comes before the product.

    Parameters
    ----------
    q, k, projection, keys, stabilizer
        Of :func:`favor_attention`.
    """
    b, h, length, _ = q.shape
    valid = None if keys is None else keys.repeat_interleave(h, dim=0)
    kernel = _Kernel.of(q, k, projection, valid, _GROUPS[stabilizer](q.shape))
    total = kernel.key_sums()
    asked = q.new_zeros(b * h, kernel.n_features, dtype=total.dtype)
    for some, part in kernel.blocks():
        features = kernel.query_features(some, part)
        share = 1.0 / (features @ total[some, :, None]).clamp_min_(_TINY)
        if valid is not None:
            share = share * valid[some, part, None]
        asked[some] += (features * share).sum(1)
    out = torch.empty(b * h, length, dtype=total.dtype, device=q.device)
    for some, part in kernel.blocks():
        out[some, part] = (kernel.key_features(some, part) @ asked[some, :, None])[..., 0]
    return out.view(b, h, length)


def attention_between(
    q: torch.Tensor,
    k: torch.Tensor,
    projection: torch.Tensor,
    chosen: torch.Tensor,
    *,
    keys: torch.Tensor | None = None,
    stabilizer: Stabilizer = "head",
) -> torch.Tensor:
    """Return the attention that some tokens pay to each other, (B, H, n, n), rows are queries.

    Parameters
    ----------
    q, k, projection, keys, stabilizer
        Of :func:`favor_attention`.
    chosen
        Places of the tokens, int64 (n,), the same in every cell.
    """
    b, h, _, _ = q.shape
    valid = None if keys is None else keys.repeat_interleave(h, dim=0)
    kernel = _Kernel.of(q, k, projection, valid, _GROUPS[stabilizer](q.shape))
    total = kernel.key_sums()
    every = slice(None)
    asked = kernel.query_features(every, chosen)
    share = 1.0 / (asked @ total[:, :, None]).clamp_min_(_TINY)
    found = (asked * share) @ kernel.key_features(every, chosen).transpose(1, 2)
    return found.view(b, h, len(chosen), len(chosen))


class _Kernel:
    """Features of queries and keys, a block at a time; heads of cells are the first axis."""

    def __init__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        projection: torch.Tensor,
        valid: torch.Tensor | None,
        shared: int,
    ) -> None:
        self.q, self.k, self.valid, self.shared = q, k, valid, shared
        width = projection.shape[1]
        # exp(w x d^-1/4 - |x|^2 d^-1/2 / 2): the factor of x goes into the projection.
        self.weights = (projection * width**-0.25).T.contiguous()
        self.half = 0.5 * width**-0.5
        self.n_features = len(projection)
        self.shift = q.new_zeros(len(q), 1, 1)

    @classmethod
    def of(
        cls,
        q: torch.Tensor,
        k: torch.Tensor,
        projection: torch.Tensor,
        valid: torch.Tensor | None,
        shared: int,
    ) -> _Kernel:
        """Return the kernel of (B, H, L, d), with the stabiliser of the keys."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        flat = [t.reshape(-1, *t.shape[2:]).to(dtype) for t in (q, k)]
        made = cls(*flat, projection.to(dtype), valid, shared)
        largest = made.shift.new_full((len(made.q), 1, 1), -torch.inf)
        for some, part in made.blocks():
            u = made.k[some, part] @ made.weights
            found, _ = made.largest(u, some, part)
            largest[some] = torch.maximum(largest[some], found)
        made.shift = made.common(largest)
        return made

    def blocks(self) -> list[tuple[slice, slice]]:
        """Return which heads and tokens are taken together."""
        n, length, _ = self.q.shape
        budget = _BLOCK if self.q.device.type == "cpu" else _BLOCK_ON_DEVICE
        rows = max(budget // self.n_features, 16)
        if length <= rows:
            step = max(rows // max(length, 1), 1)
            return [(slice(i, i + step), slice(0, length)) for i in range(0, n, step)]
        parts = [slice(j, j + rows) for j in range(0, length, rows)]
        return [(slice(i, i + 1), part) for i in range(n) for part in parts]

    def common(self, largest: torch.Tensor) -> torch.Tensor:
        """Return the stabiliser of every head, (n, 1, 1), from the largest of each."""
        finite = largest.clamp_min(torch.finfo(largest.dtype).min / 4)
        if self.shared == 1:
            return finite
        of_group = finite.view(-1, self.shared).amax(1)
        return of_group.repeat_interleave(self.shared)[:, None, None]

    def largest(
        self, u: torch.Tensor, some: slice, part: slice
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the largest projection of keys of every head, (n, 1, 1), and its place."""
        if self.valid is not None:
            u = u.masked_fill(~self.valid[some, part, None], -torch.inf)
        value, place = u.flatten(1).max(1)
        return value[:, None, None], place + part.start * self.n_features

    def exponentials(self, x: torch.Tensor, shift: torch.Tensor | None) -> torch.Tensor:
        """Return features without the constant, of x (n, l, d); ``None``: queries."""
        u = x @ self.weights
        off = x.square().sum(-1, keepdim=True).mul_(self.half)
        off += u.amax(-1, keepdim=True) if shift is None else shift
        return u.sub_(off).exp_()

    def query_features(self, some: Any, part: Any) -> torch.Tensor:
        """Return the features of queries."""
        return self.exponentials(self.q[some, part], None).add_(EPSILON)

    def key_features(self, some: Any, part: Any) -> torch.Tensor:
        """Return the features of keys; zero where there is none."""
        found = self.exponentials(self.k[some, part], self.shift[some]).add_(EPSILON)
        return found if self.valid is None else found * self.valid[some, part, None]

    def through_stabilizer(
        self, d_k: torch.Tensor, moved: torch.Tensor, places: torch.Tensor
    ) -> None:
        """Add to the gradient of the keys what comes through their largest projection."""
        whole = moved.view(-1, self.shared).sum(1).repeat_interleave(self.shared)
        heads = (places >= 0).nonzero()[:, 0]
        token = torch.div(places[heads], self.n_features, rounding_mode="floor")
        feature = places[heads] % self.n_features
        d_k[heads, token] -= whole[heads, None] * self.weights.T[feature]

    def key_sums(self) -> torch.Tensor:
        """Return the sum of the features of the keys, (n, m)."""
        total = self.q.new_zeros(len(self.q), self.n_features)
        for some, part in self.blocks():
            total[some] += self.key_features(some, part).sum(1)
        return total


class _Favor(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        projection: torch.Tensor,
        valid: torch.Tensor | None,
        shared: int,
    ) -> torch.Tensor:
        kernel = _Kernel(q, k, projection, valid, shared)
        n, length, width = v.shape
        summed = v.new_zeros(n, kernel.n_features, width)
        total = v.new_zeros(n, kernel.n_features)
        largest = v.new_full((n, 1, 1), torch.finfo(v.dtype).min / 4)
        places = torch.zeros(n, dtype=torch.int64, device=v.device)
        # One pass over the keys: what was summed is brought to a larger stabiliser when one comes.
        for some, part in kernel.blocks():
            x = k[some, part]
            u = x @ kernel.weights
            found, place = kernel.largest(u, some, part)
            places[some] = torch.where((found > largest[some])[:, 0, 0], place, places[some])
            now = torch.maximum(largest[some], found)
            u.sub_(x.square().sum(-1, keepdim=True).mul_(kernel.half) + now).exp_()
            if valid is not None:
                u *= valid[some, part, None]
            before = (largest[some] - now).exp_()
            summed[some] = summed[some] * before + u.transpose(1, 2) @ v[some, part]
            total[some] = total[some] * before[..., 0] + u.sum(1)
            largest[some] = now
        kernel.shift = kernel.common(largest)
        factor = (largest - kernel.shift).exp_()
        kept = v if valid is None else v * valid[..., None]
        # A product with whole numbers would be of the default precision.
        n_keys = length if valid is None else valid.sum(1, keepdim=True).to(v.dtype)
        summed = summed * factor + EPSILON * kept.sum(1, keepdim=True)
        total = total * factor[..., 0] + EPSILON * n_keys
        out = torch.empty_like(v)
        for some, part in kernel.blocks():
            features = kernel.query_features(some, part)
            norm = (features @ total[some, :, None]).clamp_min_(_TINY)
            out[some, part] = (features @ summed[some]).div_(norm)
        # Of heads that share a stabiliser it comes from one.
        places = torch.where((largest == kernel.shift)[:, 0, 0], places, -1)
        kept_for_backward = (q, k, v, projection, valid, summed, total, kernel.shift, places, out)
        ctx.save_for_backward(*kept_for_backward)
        ctx.shared = shared
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, projection, valid, summed, total, shift, places, out = ctx.saved_tensors
        kernel = _Kernel(q, k, projection, valid, ctx.shared)
        kernel.shift = shift
        back = kernel.weights.T
        d_summed, d_total = torch.zeros_like(summed), torch.zeros_like(total)
        d_q, d_k, d_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for some, part in kernel.blocks():
            x = q[some, part]
            features = kernel.query_features(some, part)
            norm = (features @ total[some, :, None]).clamp_min_(_TINY)
            g = grad[some, part] / norm
            g_norm = -(g * out[some, part]).sum(-1, keepdim=True)
            d_summed[some] += features.transpose(1, 2) @ g
            d_total[some] += (features * g_norm).sum(1)
            d = torch.addcmul(g @ summed[some].transpose(1, 2), g_norm, total[some, None, :])
            best = features.argmax(-1, keepdim=True)
            d *= features.sub_(EPSILON)
            off = d.sum(-1, keepdim=True)
            d.scatter_add_(-1, best, -off)
            d_q[some, part] = d @ back - x * (2 * kernel.half * off)
        moved = d_total.new_zeros(len(k))
        for some, part in kernel.blocks():
            x, value = k[some, part], v[some, part]
            e = kernel.exponentials(x, shift[some])
            d = value @ d_summed[some].transpose(1, 2)
            d += d_total[some, None, :]
            d *= e
            of_value = e.add_(EPSILON) @ d_summed[some]
            if valid is not None:
                here = valid[some, part, None]
                d, of_value = d * here, of_value * here
            off = d.sum(-1, keepdim=True)
            moved[some] += off.sum((1, 2))
            d_v[some, part] = of_value
            d_k[some, part] = d @ back - x * (2 * kernel.half * off)
        kernel.through_stabilizer(d_k, moved, places)
        return d_q, d_k, d_v, None, None, None
