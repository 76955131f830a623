"""Counts of a batch that was normalised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["restored_counts"]

#: How far a number may be from a whole one that it is taken for, absolute and by its size.
NEARLY, NEARLY_OF = 1e-3, 1e-5
#: Largest count that the smallest of a normalised cell is taken for.
LARGEST_SMALLEST = 20


def restored_counts(batch: Mapping[str, Any], target_sum: float) -> torch.Tensor:
    """Return the counts of a normalised batch.

    Parameters
    ----------
    batch
        ``"X"``: log1p values, float32 (B, G); ``"size_factor"``: size of each cell (B,).
    target_sum
        What cells were scaled to.

    Returns
    -------
    float32 (B, G). Numbers that are whole but for rounding are made whole. A cell that came
    normalised is scaled so that its smallest value is 1, 2, ... where that makes all of them
    whole: no other scale was that of its counts. Numbers that no scale makes whole stay.
    """
    size = batch["size_factor"].to(torch.float64)[:, None]
    values = torch.expm1(batch["X"].to(torch.float64)) * (size / target_sum)
    # Sizes such as 1,000 leave whole numbers after scaling too.
    scaled_to = (size - target_sum).abs() <= NEARLY_OF * target_sum
    found, done = values, _whole(values) & ~scaled_to
    if not bool(done.all()):
        smallest = torch.where(values > 0, values, torch.inf).amin(dim=1, keepdim=True)
        for count in range(1, LARGEST_SMALLEST + 1):
            scaled = values * (count / smallest)
            fits = _whole(scaled) & ~done
            found, done = torch.where(fits, scaled, found), done | fits
    rounded = found.round()
    return torch.where(_near(found, rounded), rounded, found).to(batch["X"].dtype)


def _near(values: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    return (values - rounded).abs() <= NEARLY + NEARLY_OF * values.abs()


def _whole(values: torch.Tensor) -> torch.Tensor:
    """Whether all numbers of a row are whole, (B, 1)."""
    return _near(values, values.round()).all(dim=1, keepdim=True)
