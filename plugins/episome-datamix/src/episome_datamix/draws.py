"""Draws that belong to a cell: the same in every batch, order and process."""

from __future__ import annotations

import math

import numpy as np
import torch

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def normal_draws(cells: torch.Tensor, n_draws: int, width: int, *, seed: int) -> torch.Tensor:
    """Return standard normal numbers that are a function of seed, cell, draw and dimension.

    Parameters
    ----------
    cells
        Numbers of the cells, int64 (B,).
    n_draws, width
        Draws of every cell, and dimensions of each.
    seed
        Of all of them.

    Returns
    -------
    float32 (B, n_draws, width), on the CPU.

    Examples
    --------
    >>> import torch
    >>> both = normal_draws(torch.tensor([5, 9]), 2, 3, seed=1)
    >>> torch.equal(both[1:], normal_draws(torch.tensor([9]), 2, 3, seed=1))
    True
    """
    with np.errstate(over="ignore"):
        rows = _mixed(cells.cpu().numpy().astype(np.uint64) * _STEP + _mixed(np.uint64(seed)))
        places = np.arange(2 * n_draws * width, dtype=np.uint64) * _STEP
        bits = _mixed(_mixed(rows)[:, None] + _mixed(places)[None])
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    first, second = uniform[:, ::2], uniform[:, 1::2]
    # Box and Muller: two uniform numbers make a normal one.
    normal = np.sqrt(-2 * np.log(first)) * np.cos(2 * math.pi * second)
    return torch.from_numpy(normal.astype(np.float32).reshape(len(rows), n_draws, width))


def _mixed(values: np.ndarray | np.uint64) -> np.ndarray:
    """Spread the bits of numbers over all 64 of them."""
    found = np.atleast_1d(np.asarray(values, dtype=np.uint64))
    found = (found ^ (found >> np.uint64(30))) * _MIX[0]
    found = (found ^ (found >> np.uint64(27))) * _MIX[1]
    return found ^ (found >> np.uint64(31))
