"""Masked expression: which genes of a cell are hidden, and what it costs not to know them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from episome_scbert.tokens import Sequences, rank_in_row

#: Share of the chosen genes that are replaced by the mask; the others keep their level.
REPLACED = 0.9


class Masked(NamedTuple):
    """Sequences with genes hidden, and what was there.

    Parameters
    ----------
    sequences
        What the network sees.
    at
        Places of the chosen tokens, int64 (n,).
    truth
        Their levels, int64 (n,).
    pooled
        Which tokens are expressed genes, hidden or not, bool (T,).
    """

    sequences: Sequences
    at: torch.Tensor
    truth: torch.Tensor
    pooled: torch.Tensor


def masked_places(sequences: Sequences, rate: float, score: torch.Tensor) -> torch.Tensor:
    """Return which tokens are chosen, bool (T,): expressed ones, ``ceil(rate * n)`` of a cell.

    Parameters
    ----------
    sequences
        Of the cells.
    rate
        Share of the expressed genes, at most that of all tokens.
    score
        Of every token, (T,): those with the largest are chosen.
    """
    cells, lengths = sequences.cells, sequences.lengths
    expressed = sequences.tokens > 0
    n = torch.bincount(cells[expressed], minlength=len(lengths))
    wanted = torch.minimum(_share(n, rate), _share(lengths, rate))
    rank = rank_in_row(torch.where(expressed, score, -1.0), cells, lengths)
    return expressed & (rank < wanted[cells])


def _share(n: torch.Tensor, rate: float) -> torch.Tensor:
    """Return ``ceil(rate * n)``, and not one more where rounding makes a product too large."""
    return torch.ceil(n.double() * rate - 1e-9).to(torch.int64)


def mask_expressed(
    sequences: Sequences,
    mask_token: int,
    *,
    rate: float,
    generator: torch.Generator | None = None,
    scores: tuple[torch.Tensor, torch.Tensor] | None = None,
    hide_keys: bool = False,
) -> Masked:
    """Hide expressed genes of every cell.

    Parameters
    ----------
    sequences
        Of the cells.
    mask_token
        Token that stands for a hidden gene.
    rate
        Share of the expressed genes that are chosen.
    generator
        Of the draws.
    scores
        Numbers in [0, 1) of every token, in the place of draws: by the first genes are chosen, and
        by the second replaced.
    hide_keys
        Whether other genes may not attend to those that are replaced.
    """
    tokens = sequences.tokens
    if scores is None:
        drawn = torch.rand(2, len(tokens), generator=generator, device=tokens.device)
        scores = (drawn[0], drawn[1])
    chosen = masked_places(sequences, rate, scores[0])
    replaced = chosen & (scores[1] < REPLACED)
    seen = torch.where(replaced, mask_token, tokens)
    keys = sequences.keys
    if hide_keys:
        keys = ~replaced if keys is None else keys & ~replaced
    at = chosen.nonzero()[:, 0]
    return Masked(sequences._replace(tokens=seen, keys=keys), at, tokens[at], tokens > 0)


def masked_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of hidden genes; zero where there are none.

    Parameters
    ----------
    logits
        Of the chosen tokens, (n, n_tokens).
    truth
        Their levels, int64 (n,).
    """
    if not len(truth):
        return logits.sum() * 0.0
    return F.cross_entropy(logits.float(), truth)


def ask_unexpressed(
    masked: Masked,
    sequences: Sequences,
    whole: Sequences,
    *,
    n_genes: int,
    mask_token: int,
    generator: torch.Generator | None,
    insert: bool,
    measured: torch.Tensor | None = None,
) -> Masked:
    """Ask for genes that are not expressed too: one draw for every expressed gene that is asked.

    Draws are over all genes, and those that fall on an expressed one are left out, so that a
    network learns at known odds which genes are expressed.

    Parameters
    ----------
    masked
        Of :func:`mask_expressed`.
    sequences
        What was masked.
    whole
        All expressed genes of the same cells.
    n_genes, mask_token
        Genes of the model, and the token of hidden ones.
    generator
        Of the draws.
    insert
        Whether unexpressed genes are no part of the sequences: then they are put in, and others
        may not attend to them.
    measured
        Which genes were measured in each cell, bool (B, G); default all.
    """
    device, lengths = sequences.tokens.device, sequences.lengths
    expressed = whole.tokens > 0
    cells = sequences.cells[masked.at]
    genes = torch.randint(n_genes, (len(cells),), generator=generator, device=device)
    drawn = torch.unique(cells * n_genes + genes)
    known = whole.cells[expressed] * n_genes + whole.genes[expressed]
    drawn = drawn[~torch.isin(drawn, known)]
    cells, genes = torch.div(drawn, n_genes, rounding_mode="floor"), drawn % n_genes
    if measured is not None:
        there = measured[cells, genes]
        cells, genes = cells[there], genes[there]
    zeros = torch.zeros_like(genes)
    if not insert:
        # All genes stand in their order.
        at = cells * lengths[0] + genes
        tokens = masked.sequences.tokens.clone()
        tokens[at] = mask_token
        seen = masked.sequences._replace(tokens=tokens)
        return Masked(
            seen, torch.cat([masked.at, at]), torch.cat([masked.truth, zeros]), masked.pooled
        )
    seen, n = masked.sequences, len(sequences.tokens)
    order = torch.argsort(torch.cat([sequences.cells, cells]), stable=True)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=device)
    keys = torch.ones(n, dtype=torch.bool, device=device) if seen.keys is None else seen.keys
    none = torch.zeros(len(genes), dtype=torch.bool, device=device)
    longer = Sequences(
        torch.cat([seen.tokens, torch.full_like(genes, mask_token)])[order],
        torch.cat([seen.genes, genes])[order],
        lengths + torch.bincount(cells, minlength=len(lengths)),
        torch.cat([keys, none])[order],
    )
    asked = torch.cat([masked.at, torch.arange(n, n + len(genes), device=device)])
    return Masked(
        longer,
        back[asked],
        torch.cat([masked.truth, zeros]),
        torch.cat([masked.pooled, none])[order],
    )
