"""What attention says of genes: how much each gets, and how much some pay to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from episome_scbert.exact import exact_received, weights
from episome_scbert.favor import attention_between, attention_received
from episome_scbert.tokens import Sequences, starts_of

if TYPE_CHECKING:
    from episome_scbert.layers import Attention, Encoder


def gene_scores(encoder: Encoder, sequences: Sequences, n_genes: int) -> torch.Tensor:
    """Return the attention that every token gets in its cell, (T,).

    The mean over heads and layers of the columns of the attention matrix, which is not formed;
    the scores of the genes of a cell sum to one, and the appended token has none.

    Parameters
    ----------
    encoder
        In evaluation mode.
    sequences
        Of the cells.
    n_genes
        Genes of the model.
    """
    total = encoder.levels.new_zeros(len(sequences.tokens))

    def look(attention: Attention, q: torch.Tensor, k: torch.Tensor, seen: Sequences) -> None:
        if attention.kind == "favor":
            found = attention_received(
                attention.by_cell(q, seen),
                attention.by_cell(k, seen),
                attention.projection,
                keys=attention.keys_by_cell(seen),
                stabilizer=attention.stabilizer,
            )
            total.add_(found.mean(1).flatten())
        else:
            total.add_(exact_received(q, k, seen.lengths).mean(1))

    with torch.no_grad():
        encoder(sequences, look)
    total *= sequences.genes < n_genes
    sums = total.new_zeros(len(sequences.lengths)).index_add(0, sequences.cells, total)
    return total / sums.clamp_min(1e-12)[sequences.cells]


def attention_among(
    encoder: Encoder, sequences: Sequences, genes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the attention that some genes pay to each other, mean over heads and layers.

    Parameters
    ----------
    encoder
        In evaluation mode.
    sequences
        Of the cells.
    genes
        Their numbers, int64 (n,).

    Returns
    -------
    (B, n, n), rows are queries, weights among all genes of the cell; and which of the genes are in
    the sequence of each cell, bool (B, n). Entries of others are zero.
    """
    places = places_in(sequences, genes)
    there = places >= 0
    n_cells, n = places.shape
    total = encoder.levels.new_zeros(n_cells, n, n)
    starts = starts_of(sequences.lengths).tolist()
    sizes = sequences.lengths.tolist()

    def look(attention: Attention, q: torch.Tensor, k: torch.Tensor, seen: Sequences) -> None:
        if attention.kind == "favor":
            found = attention_between(
                attention.by_cell(q, seen),
                attention.by_cell(k, seen),
                attention.projection,
                genes,
                keys=attention.keys_by_cell(seen),
                stabilizer=attention.stabilizer,
            )
            total.add_(found.mean(1))
            return
        for cell, (start, size) in enumerate(zip(starts, sizes, strict=True)):
            here = there[cell].nonzero()[:, 0]
            at = places[cell, here]
            shares = weights(q[at], k[start : start + size])[:, :, at - start].mean(0)
            total[cell, here[:, None], here] += shares

    with torch.no_grad():
        encoder(sequences, look)
    return total / len(encoder.layers), there


def vectors_of(encoder: Encoder, sequences: Sequences, genes: torch.Tensor) -> torch.Tensor:
    """Return the vectors of some genes in every cell, (B, n, dim); NaN where one is not there."""
    places = places_in(sequences, genes)
    with torch.no_grad():
        h = encoder(sequences)
    if not len(h):
        return h.new_full((*places.shape, h.shape[1]), torch.nan)
    found = h[places.clamp(min=0)]
    return found.masked_fill((places < 0)[..., None], torch.nan)


def places_in(sequences: Sequences, genes: torch.Tensor) -> torch.Tensor:
    """Return where some genes are, int64 (B, n), -1 where a cell has none."""
    n_cells = len(sequences.lengths)
    width = int(max(genes.max(), sequences.genes.max() if len(sequences.genes) else 0)) + 1
    number = torch.full((width,), -1, dtype=torch.int64, device=genes.device)
    number[genes] = torch.arange(len(genes), device=genes.device)
    column = number[sequences.genes]
    at = (column >= 0).nonzero()[:, 0]
    places = torch.full((n_cells, len(genes)), -1, dtype=torch.int64, device=genes.device)
    places[sequences.cells[at], column[at]] = at
    return places
