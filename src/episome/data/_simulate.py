"""Simulated cells for tests, benchmarks and documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from anndata import AnnData


def simulate_cells(
    n_cells: int = 300,
    n_genes: int = 60,
    *,
    n_types: int = 4,
    n_donors: int = 3,
    marker_share: float = 0.1,
    fold_change: float = 6.0,
    depth: float = 1000.0,
    donor_shift: float = 0.1,
    seed: int = 0,
) -> AnnData:
    """Simulate Poisson counts of several cell types and donors.

    Gene means are log-normal; every type raises its own random share of genes; donors shift all
    genes a little; depth varies between cells.

    Parameters
    ----------
    n_cells, n_genes, n_types, n_donors
        Sizes.
    marker_share
        Share of genes that each type raises.
    fold_change
        By how much.
    depth
        Median counts per cell.
    donor_shift
        Standard deviation of the log of a donor's effect on a gene.
    seed
        Seed of everything.

    Returns
    -------
    AnnData with CSR float32 counts in ``X``, ``obs["cell_type"]``, ``obs["donor_id"]``,
    ``obs["batch"]``, ``layers["counts"]`` absent, gene names ``GENE0...``.
    """
    import anndata

    rng = np.random.default_rng(seed)
    base = rng.lognormal(0.0, 1.0, n_genes)
    raised = np.ones((n_types, n_genes))
    for row in raised:
        row[rng.choice(n_genes, max(1, int(marker_share * n_genes)), replace=False)] = fold_change
    types = rng.permutation(np.arange(n_cells) % n_types)
    donors = rng.integers(0, n_donors, n_cells)
    shift = np.exp(rng.normal(0.0, donor_shift, (n_donors, n_genes)))
    mean = base * raised[types] * shift[donors]
    library = depth * rng.lognormal(0.0, 0.3, (n_cells, 1))
    counts = rng.poisson(mean / mean.sum(1, keepdims=True) * library).astype(np.float32)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([f"type {t}" for t in types]),
            "donor_id": pd.Categorical([f"donor {d}" for d in donors]),
            "batch": pd.Categorical([f"batch {d % 2}" for d in donors]),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)])
    return anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=var)
