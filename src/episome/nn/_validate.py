"""Checks of sparse input that compiled kernels rely on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from episome.nn._csr import CSRParts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["csr_input"]


def csr_input(
    parts: tuple[torch.Tensor | NDArray[np.generic], ...], n_columns: int, like: torch.Tensor
) -> CSRParts:
    """Bring the parts of a CSR matrix to one form: sorted columns, device and dtype of `like`.

    Parameters
    ----------
    parts
        ``(indptr, indices, values)``, tensors or arrays.
    n_columns
        Number of columns.
    like
        Tensor whose device and dtype the values get.

    Raises
    ------
    ValueError
        If the parts do not fit together, a column is out of range or stored twice in a row.
    """
    indptr, indices, values = (torch.as_tensor(p).to(like.device) for p in parts)
    indptr, indices = indptr.long(), indices.long()
    _check_pointers(indptr, indices, values)
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= n_columns):
        msg = (
            f"Columns run from {int(indices.min())} to {int(indices.max())}; expected 0 to "
            f"{n_columns - 1}. Align the genes to the model's first."
        )
        raise ValueError(msg)
    out = CSRParts(indptr, indices.to(torch.int32), values.to(like.dtype).contiguous())
    key = out.rows() * n_columns + indices
    gaps = key.diff()
    if bool((gaps < 0).any()):
        order = torch.argsort(key)
        key = key[order]
        out = out._replace(indices=out.indices[order], values=out.values[order])
        gaps = key.diff()
    if bool((gaps == 0).any()):
        msg = (
            f"{int((gaps == 0).sum())} entries have the row and column of another one. "
            "Sum duplicates first (scipy: x.sum_duplicates())."
        )
        raise ValueError(msg)
    return out


def _check_pointers(indptr: torch.Tensor, indices: torch.Tensor, values: torch.Tensor) -> None:
    fits = (
        indptr.ndim == indices.ndim == values.ndim == 1
        and len(indptr) > 0
        and int(indptr[0]) == 0
        and int(indptr[-1]) == len(indices) == len(values)
        and not bool((indptr.diff() < 0).any())
    )
    if not fits:
        msg = (
            f"CSR parts have lengths {len(indptr)}, {len(indices)} and {len(values)} and do not "
            "fit together. Give (indptr, indices, values) of one CSR matrix, in this order."
        )
        raise ValueError(msg)
