"""The scale of all scores: log1p of 10,000 molecules a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Molecules of a cell.
SIZE = 1e4


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
