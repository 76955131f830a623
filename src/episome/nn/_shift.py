"""Augmentation by sparse vectors, on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch

from episome.nn import _csr_kernels as kernels
from episome.nn._csr import CSRParts
from episome.nn._numba import numba_enabled, run_rows

if TYPE_CHECKING:
    Cells = TypeVar("Cells", torch.Tensor, CSRParts)

__all__ = ["shift_expression"]


def shift_expression(
    x: Cells,
    vectors: CSRParts,
    index: torch.Tensor,
    sign: torch.Tensor,
    *,
    high: float = 9.0,
) -> Cells:
    """Return ``clamp(x + sign * vectors[index], 0, high)``, in the form of ``x``.

    Sparse cells stay sparse: what is taken away from a zero stays zero, so that only genes which a
    vector adds to are new.

    Parameters
    ----------
    x
        Log1p expression, (B, G), dense or CSR; not changed.
    vectors
        Rows to add, (n_vectors, G), columns ascending within a row.
    index
        Row of every cell, (B,) int64.
    sign
        Its factor, (B,), 1 or -1.
    high
        Upper bound; 9 is just below log1p of the usual library size of 10,000.

    References
    ----------
    Fischer et al. (2024), Methods, data augmentation.
    """
    if isinstance(x, CSRParts):
        if x.values.device.type == "cpu" and numba_enabled():
            return _shifted(x, vectors, index, sign, high)
        width = int(torch.cat([x.indices, vectors.indices]).max()) + 1
        return CSRParts.from_dense(
            shift_expression(x.to_dense(width), vectors, index, sign, high=high)
        )
    drawn = vectors.take(index)
    rows = drawn.rows()
    out = x.clone()
    # Entries of a row are unique, so a plain indexed addition does.
    out[rows, drawn.indices.long()] += drawn.values.to(x.dtype) * sign.to(x.dtype)[rows]
    return out.clamp_(0.0, high)


def _shifted(
    x: CSRParts, vectors: CSRParts, index: torch.Tensor, sign: torch.Tensor, high: float
) -> CSRParts:
    dtype = x.values.dtype
    table = vectors._replace(values=vectors.values.to(dtype))
    args = (*x.numpy(), *table.numpy(), index.numpy(), sign.to(dtype).numpy())
    counts = torch.empty(x.n_rows, dtype=torch.int64)
    # Every stored entry of a cell and of its vector is read.
    work = len(x.values) + x.n_rows * len(vectors.values) // max(vectors.n_rows, 1)
    run_rows(kernels.shifted_counts, x.n_rows, *args, counts.numpy(), work=work)
    indptr = torch.zeros(x.n_rows + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=indptr[1:])
    out = CSRParts(
        indptr,
        torch.empty(int(indptr[-1]), dtype=torch.int32),
        torch.empty(int(indptr[-1]), dtype=dtype),
    )
    bound = out.values.new_tensor(high).numpy()[()]  # of this type, so that sums are too
    run_rows(kernels.shift_rows, x.n_rows, *args, bound, *out.numpy(), work=work)
    return out
