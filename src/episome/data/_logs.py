"""The usual scale of expression: log1p of 10,000 molecules a cell."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from episome.data._rule import DEFAULT_TARGET_SUM


def log_counts(counts: object) -> sparse.csr_matrix:
    """Return log1p of 10,000 molecules a cell, CSR float32.

    Parameters
    ----------
    counts
        (n_cells, n_genes); not modified.
    """
    found = sparse.csr_matrix(counts, dtype=np.float32).copy()
    sums = np.asarray(found.sum(axis=1)).ravel()
    scale = DEFAULT_TARGET_SUM / np.where(sums > 0, sums, 1)
    found.data = np.log1p(found.data * np.repeat(scale, np.diff(found.indptr))).astype(np.float32)
    return found
