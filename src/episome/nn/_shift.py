"""Augmentation by sparse vectors, on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from episome.nn._csr import CSRParts

__all__ = ["shift_expression"]


def shift_expression(
    x: torch.Tensor,
    vectors: CSRParts,
    index: torch.Tensor,
    sign: torch.Tensor,
    *,
    low: float = 0.0,
    high: float = 9.0,
) -> torch.Tensor:
    """Return ``clamp(x + sign * vectors[index], low, high)``.

    Parameters
    ----------
    x
        Log1p expression, (B, G); not changed.
    vectors
        Rows to add, (n_vectors, G).
    index
        Row of every cell, (B,) int64.
    sign
        Its factor, (B,), 1 or -1.
    low, high
        Bounds; 9 is just below log1p of the usual library size of 10,000.

    References
    ----------
    Fischer et al. (2024), Methods, data augmentation.
    """
    drawn = vectors.take(index)
    rows = drawn.rows()
    out = x.clone()
    # Entries of a row are unique, so a plain indexed addition does.
    out[rows, drawn.indices.long()] += drawn.values.to(x.dtype) * sign.to(x.dtype)[rows]
    return out.clamp_(low, high)
