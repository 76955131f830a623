"""Masks of genes: which values of a cell a network may not see, and which its loss counts.

A mask is a rule, not a matrix: what it says about a cell and a gene is computed where it is used,
so that no tensor of cells by genes is kept. Random masks are a function of a seed, the cell and
the gene, and therefore the same on every device, in every block and in every epoch that wants it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from episome.nn import _masked_kernels as kernels
from episome.nn._csr import CSRParts
from episome.nn._numba import numba_enabled, run_rows

__all__ = ["GeneMask", "MeasuredMask", "RandomMask", "TableMask"]

_LOW = 0xFFFFFFFF
_SPREAD = 0x9E3779B1  # 2**32 over the golden ratio, odd
_MIX = (0x85EBCA6B, 0xC2B2AE35)


class GeneMask(Protocol):
    """What a masked autoencoder asks of a mask, for a batch of B cells."""

    def visible(self, cells: CSRParts) -> CSRParts:
        """Return the stored values that the encoder may see, scaled as the mask wants."""
        ...

    def scored(self, n_rows: int, genes: torch.Tensor) -> torch.Tensor:
        """Return whether the loss counts these genes (S,) of each cell, (n_rows, S) uint8."""
        ...


@dataclass(frozen=True, eq=False)
class RandomMask:
    """Every value of every cell is hidden with the same probability, and scored when hidden.

    Visible values are divided by the share that is visible, so that their expectation stays.

    Parameters
    ----------
    rate
        Probability to be hidden, at least 0 and below 1. With 0 nothing is hidden and everything
        is scored: a plain autoencoder.
    seed
        Of the draws.
    cells
        Numbers of the cells, (B,) int64; a cell with the same number and seed is always masked
        alike. Default: their places in the batch.

    Raises
    ------
    ValueError
        The rate is outside [0, 1).

    Examples
    --------
    >>> import torch
    >>> mask = RandomMask(0.5, seed=1)
    >>> mask.scored(2, torch.arange(6)).dtype
    torch.uint8
    """

    rate: float
    seed: int = 0
    cells: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            msg = f"mask rate is {self.rate}; it must be at least 0 and below 1."
            raise ValueError(msg)

    def visible(self, cells: CSRParts) -> CSRParts:
        """Return the stored values that are not hidden, over the share that is visible."""
        if self.rate == 0:
            return cells
        hidden = self._hidden_at(cells)
        return _kept(cells, hidden == 0, 1 / (1 - self.rate))

    def scored(self, n_rows: int, genes: torch.Tensor) -> torch.Tensor:
        """Return whether the genes (S,) of each cell are hidden, (n_rows, S) uint8."""
        if self.rate == 0:
            return torch.ones(n_rows, len(genes), dtype=torch.uint8, device=genes.device)
        add, times = self._keys(n_rows, genes.device)
        if genes.device.type != "cpu" or not numba_enabled():
            return self._below(genes[None].long(), add[:, None], times[:, None])
        out = torch.empty(n_rows, len(genes), dtype=torch.uint8)
        parts = (t.numpy() for t in (add, times, genes.int(), out))
        run_rows(kernels.hidden_rows, n_rows, self._bound, *parts, work=4 * out.numel())
        return out

    @property
    def _bound(self) -> int:
        return round(self.rate * 2**32)

    def _hidden_at(self, cells: CSRParts) -> torch.Tensor:
        add, times = self._keys(cells.n_rows, cells.values.device)
        if cells.values.device.type != "cpu" or not numba_enabled():
            rows = cells.rows()
            return self._below(cells.indices.long(), add[rows], times[rows])
        out = torch.empty(len(cells.indices), dtype=torch.uint8)
        parts = (t.numpy() for t in (add, times, cells.indptr, cells.indices, out))
        run_rows(kernels.hidden_at, cells.n_rows, self._bound, *parts, work=4 * len(out))
        return out

    def _keys(self, n_rows: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Two numbers below 2**32 for every cell; the second is odd."""
        cells = torch.arange(n_rows) if self.cells is None else self.cells
        cells = cells.to(device).long()
        low, high = (_mixed(half & _LOW) for half in (cells, cells >> 32))
        seeds = torch.tensor([self.seed & _LOW, (self.seed >> 32) & _LOW], device=device)
        first, second = _mixed((_mixed(seeds) + _SPREAD) & _LOW)
        # Sums of mixed numbers, so that a seed and a cell cannot change places.
        add = _mixed((low + _SPREAD * _mixed((high + first) & _LOW)) & _LOW)
        add = _mixed((add + _SPREAD * second) & _LOW)
        times = _mixed((add ^ _MIX[0]) & _LOW) | 1
        return add, times

    def _below(self, genes: torch.Tensor, add: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """Return what the kernels return, by torch operations; int64 products wrap as wanted."""
        h = (genes * _SPREAD + add) & _LOW
        h = ((h ^ (h >> 16)) * times) & _LOW
        h = ((h ^ (h >> 13)) * _MIX[1]) & _LOW
        return ((h ^ (h >> 16)) < self._bound).to(torch.uint8)


def _mixed(h: torch.Tensor) -> torch.Tensor:
    """Spread the bits of numbers below 2**32."""
    h = ((h ^ (h >> 16)) * _MIX[0]) & _LOW
    h = ((h ^ (h >> 13)) * _MIX[1]) & _LOW
    return h ^ (h >> 16)


@dataclass(frozen=True, eq=False)
class TableMask:
    """Every cell is masked as one row of a table says: sets of genes rather than single ones.

    Parameters
    ----------
    hidden
        Genes that the encoder may not see, (P, G) bool or uint8.
    scored_genes
        Genes that the loss counts, (P, G).
    rows
        Row of every cell, (B,) int64.
    scale
        Factor of what is visible, (P,); default one.

    Raises
    ------
    ValueError
        The tables differ in shape, or a row hides every gene.

    Examples
    --------
    >>> import torch
    >>> hidden = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]], dtype=torch.uint8)
    >>> mask = TableMask(hidden, hidden, rows=torch.tensor([1, 0, 1]))
    >>> mask.scored(3, torch.tensor([0, 3])).tolist()
    [[0, 1], [1, 0], [0, 1]]
    """

    hidden: torch.Tensor
    scored_genes: torch.Tensor
    rows: torch.Tensor
    scale: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.hidden.shape != self.scored_genes.shape or self.hidden.ndim != 2:
            msg = (
                f"tables of hidden and scored genes have shapes {tuple(self.hidden.shape)} and "
                f"{tuple(self.scored_genes.shape)}; expected the same (rows, genes)."
            )
            raise ValueError(msg)
        full = self.hidden.bool().all(1)
        if bool(full.any()):
            msg = (
                f"{int(full.sum())} of {len(full)} rows of the mask hide every gene, so that "
                "nothing is left to see. Leave these rows out, or hide fewer genes."
            )
            raise ValueError(msg)

    def visible(self, cells: CSRParts) -> CSRParts:
        """Return the stored values that are not hidden, times the factor of the cell's row."""
        of = self.rows[cells.rows()]
        keep = self.hidden[of, cells.indices.long()] == 0
        return _kept(cells, keep, 1.0 if self.scale is None else self.scale[of])

    def scored(self, n_rows: int, genes: torch.Tensor) -> torch.Tensor:
        """Return whether the loss counts the genes (S,) of each cell, (n_rows, S) uint8."""
        if len(self.rows) != n_rows:
            msg = f"the mask has {len(self.rows)} cells; the batch has {n_rows}."
            raise ValueError(msg)
        return self.scored_genes[:, genes.long()][self.rows].to(torch.uint8)


@dataclass(frozen=True, eq=False)
class MeasuredMask:
    """Another mask, whose loss counts only genes that were measured in the cell.

    Cells of several studies stand over the genes of all; what a study did not look for is zero
    there, and to ask for it would teach that zeros tell where a cell comes from.

    Parameters
    ----------
    mask
        What is hidden and scored otherwise.
    measured
        Genes that were measured, by origin, (P, G) bool or uint8.
    origins
        Origin of every cell of the batch, (B,) int64.

    Examples
    --------
    >>> import torch
    >>> measured = torch.tensor([[1, 1, 0], [1, 1, 1]], dtype=torch.uint8)
    >>> mask = MeasuredMask(RandomMask(0.0), measured, torch.tensor([0, 1]))
    >>> mask.scored(2, torch.arange(3)).tolist()
    [[1, 1, 0], [1, 1, 1]]
    """

    mask: GeneMask
    measured: torch.Tensor
    origins: torch.Tensor

    def visible(self, cells: CSRParts) -> CSRParts:
        """Return what the other mask leaves visible."""
        return self.mask.visible(cells)

    def scored(self, n_rows: int, genes: torch.Tensor) -> torch.Tensor:
        """Return whether the loss counts the genes (S,) of each cell, (n_rows, S) uint8."""
        known = self.measured[:, genes.long()].to(torch.uint8)[self.origins]
        return self.mask.scored(n_rows, genes).mul_(known)


def _kept(cells: CSRParts, keep: torch.Tensor, scale: float | torch.Tensor) -> CSRParts:
    counts = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])
    factor = scale[keep] if isinstance(scale, torch.Tensor) else scale
    return CSRParts(counts[cells.indptr], cells.indices[keep], cells.values[keep] * factor)
