"""From expression to tokens: levels of expression, and the sequence of genes of every cell."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import torch

if TYPE_CHECKING:
    from episome.nn import CSRParts

Binning: TypeAlias = Literal["log2", "rank"]
BINNINGS: tuple[Binning, ...] = ("log2", "rank")

_LN2 = math.log(2.0)
#: A share of a level by which rounding may have made a value smaller than it is.
_ROUNDING = 1e-5


class Sequences(NamedTuple):
    """The genes of B cells, one cell behind the other.

    Parameters
    ----------
    tokens
        Level of every gene, int64 (T,); the last token of the vocabulary is the mask.
    genes
        Number of every gene, int64 (T,); ``n_genes`` is the appended token.
    lengths
        Tokens of every cell, int64 (B,).
    keys
        Which tokens may be attended to, bool (T,); ``None``: all.
    slopes
        What is added to the embedding of the level, in levels, (T,), zero but for its gradient;
        ``None`` where nobody differentiates by expression.
    """

    tokens: torch.Tensor
    genes: torch.Tensor
    lengths: torch.Tensor
    keys: torch.Tensor | None = None
    slopes: torch.Tensor | None = None

    @property
    def cells(self) -> torch.Tensor:
        """Cell of every token, int64 (T,)."""
        return rows_of(self.lengths)

    def of_cells(self, cells: torch.Tensor) -> Sequences:
        """Return the sequences of some cells, int64 (n,), in their order."""
        at = places_of(self.lengths, cells)
        return Sequences(
            self.tokens[at],
            self.genes[at],
            self.lengths[cells],
            None if self.keys is None else self.keys[at],
            None if self.slopes is None else self.slopes[at],
        )


def rows_of(lengths: torch.Tensor) -> torch.Tensor:
    """Return the row of every entry of rows of some lengths, int64 (T,)."""
    return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)


def starts_of(lengths: torch.Tensor) -> torch.Tensor:
    """Return where every row begins, int64 (B,)."""
    return lengths.cumsum(0) - lengths


def places_of(lengths: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return where the entries of some rows are, int64, row after row."""
    chosen = lengths[rows]
    shift = starts_of(lengths)[rows] - starts_of(chosen)
    n = int(chosen.sum())
    return torch.arange(n, device=rows.device) + torch.repeat_interleave(shift, chosen)


def level_tokens(cells: CSRParts, n_bins: int, binning: Binning = "log2") -> torch.Tensor:
    """Return the level of every stored value, int64 (nnz,), between 0 and ``n_bins``.

    Parameters
    ----------
    cells
        Values after log1p, natural logarithm.
    n_bins
        Levels above zero.
    binning
        ``"log2"``: the whole part of log2(1 + x), at most ``n_bins``: every level is a doubling,
        and what is below one count is zero. ``"rank"``: expressed genes of a cell are put in
        ``n_bins`` groups of one size by their rank; equal values are equal levels.
    """
    values = cells.values.detach()
    if binning == "log2":
        levels = torch.floor(values / _LN2 + _ROUNDING)
        return levels.clamp_(0, n_bins).to(torch.int64)
    return _rank_levels(values, cells.rows(), cells.indptr, n_bins)


def _rank_levels(
    values: torch.Tensor, rows: torch.Tensor, indptr: torch.Tensor, n_bins: int
) -> torch.Tensor:
    """Levels by the mean rank of equal values among the expressed genes of a cell."""
    expressed = values > 0
    out = torch.zeros(len(values), dtype=torch.int64, device=values.device)
    at = expressed.nonzero()[:, 0]
    if not len(at):
        return out
    by_value = torch.argsort(values[at], stable=True)
    order = at[by_value[torch.argsort(rows[at][by_value], stable=True)]]
    row, value = rows[order], values[order]
    counts = torch.bincount(row, minlength=len(indptr) - 1)
    position = torch.arange(len(order), device=values.device) - starts_of(counts)[row]
    fresh = torch.ones_like(row, dtype=torch.bool)
    fresh[1:] = (row[1:] != row[:-1]) | (value[1:] != value[:-1])
    run = fresh.cumsum(0) - 1
    size = torch.bincount(run)
    # Rank in the middle of the equal ones, between 0 and 1.
    middle = position[fresh][run] + 0.5 * size[run]
    share = middle.double() / counts[row]
    level = 1 + torch.floor(share * n_bins).to(torch.int64)
    out[order] = level.clamp_(1, n_bins)
    return out


def expressed_sequences(
    cells: CSRParts, n_bins: int, binning: Binning, *, slopes: bool = False
) -> Sequences:
    """Return the expressed genes of every cell: those whose level is above zero.

    Parameters
    ----------
    cells
        Values after log1p.
    n_bins, binning
        Of :func:`level_tokens`.
    slopes
        Whether gradients by the values are wanted.
    """
    tokens = level_tokens(cells, n_bins, binning)
    kept = tokens > 0
    lengths = torch.bincount(cells.rows()[kept], minlength=cells.n_rows)
    found = Sequences(tokens[kept], cells.indices.long()[kept], lengths)
    return found._replace(slopes=_slopes(cells.values[kept])) if slopes else found


def whole_sequences(
    cells: CSRParts,
    n_genes: int,
    n_bins: int,
    binning: Binning,
    *,
    appended: bool = False,
    attend_appended: bool = False,
    slopes: bool = False,
) -> Sequences:
    """Return all genes of every cell in their order, those that are not expressed as level zero.

    Parameters
    ----------
    cells
        Values after log1p.
    n_genes
        Genes of the model.
    n_bins, binning, slopes
        Of :func:`expressed_sequences`.
    appended
        Whether a token of level zero, which is no gene, follows.
    attend_appended
        Whether it may be attended to.
    """
    length, n = n_genes + appended, cells.n_rows
    device = cells.values.device
    tokens = torch.zeros(n, length, dtype=torch.int64, device=device)
    at = cells.rows(), cells.indices.long()
    tokens[at] = level_tokens(cells, n_bins, binning)
    genes = torch.arange(length, device=device).repeat(n)
    keys = None
    if appended and not attend_appended:
        keys = genes < n_genes
    lengths = torch.full((n,), length, dtype=torch.int64, device=device)
    found = Sequences(tokens.flatten(), genes, lengths, keys)
    if slopes:
        values = cells.values.new_zeros(n, length).index_put(at, cells.values)
        found = found._replace(slopes=_slopes(values.flatten()))
    return found


def _slopes(values: torch.Tensor) -> torch.Tensor:
    """Zero, whose gradient by the value is that of its level."""
    return (values - values.detach()) / _LN2


def at_most(
    sequences: Sequences, n_tokens: int | None, generator: torch.Generator | None = None
) -> Sequences:
    """Return sequences of at most so many tokens, drawn without replacement from longer ones.

    Parameters
    ----------
    sequences
        Of the cells.
    n_tokens
        Largest length; ``None``: as they are.
    generator
        Of the draws.
    """
    if n_tokens is None or not bool((sequences.lengths > n_tokens).any()):
        return sequences
    tokens, cells = sequences.tokens, sequences.cells
    score = torch.rand(len(tokens), generator=generator, device=tokens.device)
    kept = rank_in_row(score, cells, sequences.lengths) < n_tokens
    return Sequences(
        tokens[kept],
        sequences.genes[kept],
        sequences.lengths.clamp(max=n_tokens),
        None if sequences.keys is None else sequences.keys[kept],
        None if sequences.slopes is None else sequences.slopes[kept],
    )


def rank_in_row(score: torch.Tensor, rows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the place of every entry of a row by its score, largest first, int64 (T,)."""
    order = torch.argsort(score, descending=True, stable=True)
    order = order[torch.argsort(rows[order], stable=True)]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - starts_of(lengths)[rows[order]]
    return rank
