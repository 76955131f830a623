"""The scale of all scores: log1p of 10,000 molecules a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

#: Molecules of a cell.
SIZE = 1e4
#: Cells that are read at once.
BLOCK = 8192


def log_counts(counts: object) -> sparse.csr_matrix:
    """Return log1p of 10,000 molecules a cell, CSR float32.

    Parameters
    ----------
    counts
        (n_cells, n_genes).
    """
    found = sparse.csr_matrix(counts, dtype=np.float32).copy()
    sums = np.asarray(found.sum(axis=1)).ravel()
    scale = SIZE / np.where(sums > 0, sums, 1)
    found.data = np.log1p(found.data * np.repeat(scale, np.diff(found.indptr))).astype(np.float32)
    return found


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
