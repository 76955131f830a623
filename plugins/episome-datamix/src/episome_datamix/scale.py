"""The scale of all scores: log1p of 10,000 molecules a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from episome.data import log_counts

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

#: Molecules of a cell.
SIZE = 1e4
#: Cells that are read at once.
BLOCK = 8192


def mean_molecules(counts: object) -> NDArray[np.float64]:
    """Return the mean of 10,000 molecules a cell of every gene, (n_genes,).

    Parameters
    ----------
    counts
        (n_cells, n_genes).
    """
    found = log_counts(counts).astype(np.float64)
    found.data = np.expm1(found.data)
    return np.asarray(found.mean(axis=0)).ravel()


def mean_of_source(read: Callable[[int, int], object], n_cells: int) -> NDArray[np.float64]:
    """Return the mean of 10,000 molecules a cell of every gene, block by block, (n_genes,).

    Parameters
    ----------
    read
        Returns the counts of the cells from one number up to another.
    n_cells
        How many there are; at least one.
    """
    total: NDArray[np.float64] | float = 0.0
    for start in range(0, n_cells, BLOCK):
        stop = min(start + BLOCK, n_cells)
        total = total + mean_molecules(read(start, stop)) * (stop - start)
    return np.asarray(total) / n_cells
