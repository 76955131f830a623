"""Compressed sparse rows as three tensors, and the few products that networks need."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from episome.nn import _csr_kernels as kernels
from episome.nn._numba import run_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "CSRParts",
    "csr_from_dense",
    "csr_times",
    "csr_transpose_times",
    "csr_values_at",
    "csr_values_from_dense",
    "sampled_dots",
]

_DENSE_ABOVE = 0.25
_BLOCK_BYTES = 512 * 1024


class CSRParts(NamedTuple):
    """A sparse matrix (n, d) by rows.

    Parameters
    ----------
    indptr
        Where each row starts, (n + 1,) int64.
    indices
        Columns, (nnz,) int32, ascending within a row.
    values
        Values, (nnz,), float32 or float64.
    """

    indptr: torch.Tensor
    indices: torch.Tensor
    values: torch.Tensor

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.indptr) - 1

    def to(self, device: torch.device | str) -> CSRParts:
        """Move all parts to a device."""
        return CSRParts(*(part.to(device, non_blocking=True) for part in self))

    def select(self, positions: torch.Tensor) -> CSRParts:
        """Keep some columns.

        Parameters
        ----------
        positions
            New position of every column, or -1 to leave it out, int32 (d,); positions that are
            kept must ascend.
        """
        columns = positions[self.indices.long()]
        keep = columns >= 0
        kept = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])
        return CSRParts(kept[self.indptr], columns[keep], self.values[keep])

    def take(self, rows: torch.Tensor) -> CSRParts:
        """Return the given rows, (n,) int64, in their order; a row may come more than once."""
        counts = self.indptr.diff()[rows]
        indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        shift = torch.repeat_interleave(self.indptr[rows] - indptr[:-1], counts)
        at = torch.arange(len(shift), device=shift.device) + shift
        return CSRParts(indptr, self.indices[at], self.values[at])

    def thinned(self, rate: float) -> CSRParts:
        """Leave out every stored entry with a probability, and scale up the others.

        What ``dropout`` does to the dense matrix, without the zeros; draws are torch's own.

        Parameters
        ----------
        rate
            Probability, at least 0 and below 1.
        """
        keep = torch.rand(len(self.values), device=self.values.device) >= rate
        kept = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])
        values = self.values[keep].mul_(1 / (1 - rate))
        return CSRParts(kept[self.indptr], self.indices[keep], values)

    def rows(self) -> torch.Tensor:
        """Return the row of every stored entry, (nnz,) int64."""
        counts = self.indptr.diff()
        return torch.repeat_interleave(torch.arange(self.n_rows, device=counts.device), counts)

    @classmethod
    def from_dense(cls, x: torch.Tensor) -> CSRParts:
        """Take the non-zero entries of dense `x` (n, d), on any device."""
        rows, columns = x.nonzero(as_tuple=True)
        counts = torch.bincount(rows, minlength=len(x))
        indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(indptr, columns.to(torch.int32), x[rows, columns])

    def to_dense(self, n_columns: int) -> torch.Tensor:
        """Return the dense matrix (n, n_columns); differentiable in the values."""
        # Stored entries are unique, so a plain scatter does; accumulating would be slower.
        out = self.values.new_zeros((self.n_rows, n_columns))
        return out.index_put((self.rows(), self.indices.long()), self.values)

    def numpy(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.floating]]:
        """Return the three parts as numpy arrays on the CPU."""
        return (
            self.indptr.detach().cpu().numpy(),
            self.indices.detach().cpu().numpy(),
            self.values.detach().cpu().numpy(),
        )

    def is_dense(self, n_columns: int) -> bool:
        """Whether so many entries are stored that dense products are quicker."""
        return len(self.indices) > _DENSE_ABOVE * self.n_rows * n_columns


def _block(width: int, itemsize: int) -> int:
    return max(_BLOCK_BYTES // max(width * itemsize, 1), 1)


def csr_from_dense(x: torch.Tensor, *, max_density: float = 1.0) -> CSRParts | None:
    """Take the non-zero entries of dense `x` (n, d) on the CPU, or None if there are too many."""
    counts = torch.empty(len(x), dtype=torch.int64)
    run_rows(kernels.count_nonzero, len(x), x.numpy(), counts.numpy(), work=x.numel())
    indptr = torch.zeros(len(x) + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=indptr[1:])
    nnz = int(indptr[-1])
    if nnz > max_density * x.numel():
        return None
    indices = torch.empty(nnz, dtype=torch.int32)
    values = torch.empty(nnz, dtype=x.dtype)
    parts = (indptr.numpy(), indices.numpy(), values.numpy())
    run_rows(kernels.take_nonzero, len(x), x.numpy(), *parts, work=x.numel())
    return CSRParts(indptr, indices, values)


def _filled(a: CSRParts, n_columns: int) -> torch.Tensor:
    """Dense form of a matrix on the CPU that nobody differentiates."""
    out = a.values.new_empty((a.n_rows, n_columns))
    run_rows(kernels.scatter_rows, a.n_rows, *a.numpy(), out.numpy(), work=out.numel())
    return out


def csr_times(a: CSRParts, w: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Compute ``a @ w + bias`` for sparse `a` (n, G) and dense `w` (G, H); result (n, H)."""
    if a.is_dense(len(w)):
        out = _filled(a, len(w)) @ w
        return out if bias is None else out + bias
    out = w.new_zeros((a.n_rows, w.shape[1]))
    if bias is not None:
        out += bias
    block = _block(w.shape[1], w.itemsize)
    work = len(a.indices) * w.shape[1]
    args = (*a.numpy(), w.numpy(), block, out.numpy())
    run_rows(kernels.rows_times, a.n_rows, *args, work=work, even=True)
    return out


def csr_transpose_times(a: CSRParts, g: torch.Tensor, n_columns: int) -> torch.Tensor:
    """Compute ``a.T @ g`` for sparse `a` (n, G) and dense `g` (n, H); result (G, H)."""
    if a.is_dense(n_columns):
        return _filled(a, n_columns).T @ g
    out = g.new_zeros((n_columns, g.shape[1]))
    block = _block(g.shape[1], g.itemsize)
    run_rows(
        kernels.transpose_times,
        n_columns,
        *a.numpy(),
        g.contiguous().numpy(),
        block,
        out.numpy(),
        work=len(a.indices) * g.shape[1],
    )
    return out


def sampled_dots(a: CSRParts, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Compute ``left @ right.T`` at the stored positions of `a`, (nnz,)."""
    if a.is_dense(len(right)):
        return (left @ right.T)[a.rows(), a.indices.long()]
    out = left.new_empty(len(a.indices))
    args = (a.indptr.numpy(), a.indices.numpy(), left.contiguous().numpy(), right.numpy())
    run_rows(kernels.row_dots, a.n_rows, *args, out.numpy(), work=len(out) * left.shape[1])
    return out


def csr_values_from_dense(x: torch.Tensor, at: CSRParts) -> torch.Tensor:
    """Entries of dense `x` (n, G) at the stored positions of `at`, (nnz,)."""
    out = x.new_empty(len(at.indices))
    args = (x.numpy(), at.indptr.numpy(), at.indices.numpy(), out.numpy())
    run_rows(kernels.gather_dense, at.n_rows, *args, work=len(out))
    return out


def csr_values_at(x: CSRParts, at: CSRParts) -> torch.Tensor:
    """Entries of sparse `x` at the stored positions of `at`, (nnz,)."""
    out = x.values.new_empty(len(at.indices))
    parts = (at.indptr.numpy(), at.indices.numpy())
    run_rows(kernels.lookup_sorted, at.n_rows, *x.numpy(), *parts, out.numpy(), work=8 * len(out))
    return out
