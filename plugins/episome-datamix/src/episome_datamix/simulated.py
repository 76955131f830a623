"""Pools of cells with known programmes, for the smallest scale and for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from anndata import AnnData

N_GENES, N_PROGRAMMES = 200, 8
#: Programmes that the types of a pool use.
_TYPES = {
    "a": (0, 1),
    "b": (2, 3),
    "c": (4, 5),
    "d": (6, 7),
}


def pool(
    shares: dict[str, float],
    n_cells: int,
    *,
    seed: int,
    donors: str = "donor",
    n_donors: int = 4,
    n_genes: int = N_GENES,
    depth: float = 800.0,
) -> AnnData:
    """Simulate cells of types that each vary along two programmes of their own.

    Parameters
    ----------
    shares
        Type (``"a"`` to ``"d"``) -> share of the cells.
    n_cells, n_genes, n_donors, depth
        Sizes; ``depth`` is the median number of molecules.
    seed
        Of the cells; programmes are the same for all.
    donors
        Beginning of the names of donors.

    Returns
    -------
    AnnData of counts, ``obs["cell_type"]`` and ``obs["donor_id"]``.
    """
    import anndata

    fixed = np.random.default_rng(7)
    base = fixed.lognormal(0.0, 1.0, n_genes)
    # Every programme raises a block of genes of its own; blocks of a pool's types are known.
    programmes = np.zeros((N_PROGRAMMES, n_genes))
    for block, genes in enumerate(np.array_split(fixed.permutation(n_genes), N_PROGRAMMES + 2)):
        if block < N_PROGRAMMES:
            programmes[block, genes] = fixed.uniform(1.0, 2.5, len(genes))
    rng = np.random.default_rng(seed)
    names = sorted(shares)
    weights = np.array([shares[n] for n in names])
    types = np.array(names)[rng.choice(len(names), n_cells, p=weights / weights.sum())]
    activity = np.zeros((n_cells, N_PROGRAMMES))
    for name in names:
        of = np.flatnonzero(types == name)
        for programme in _TYPES[name]:
            activity[of, programme] = rng.beta(0.6, 0.6, len(of))
    mean = base * np.exp(activity @ programmes)
    library = depth * rng.lognormal(0.0, 0.3, (n_cells, 1))
    counts = rng.poisson(mean / mean.sum(axis=1, keepdims=True) * library).astype(np.float32)
    of_donor = rng.integers(0, n_donors, n_cells)
    obs = pd.DataFrame(
        {
            "cell_type": [f"type {t}" for t in types],
            "donor_id": [f"{donors} {d}" for d in of_donor],
        },
        index=[f"{donors}-{seed}-{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)])
    return anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=var)


def near() -> AnnData:
    """Return cells of the types of the target: a and b."""
    return pool({"a": 0.5, "b": 0.5}, 500, seed=1, donors="near")


def far() -> AnnData:
    """Return cells of types that the target has none of: c and d."""
    return pool({"c": 0.5, "d": 0.5}, 500, seed=2, donors="far")


def mixed() -> AnnData:
    """Return cells of one type of the target and one other: a and c."""
    return pool({"a": 0.5, "c": 0.5}, 500, seed=3, donors="mixed")


def target() -> AnnData:
    """Return cells of the types a and b, of other donors."""
    return pool({"a": 0.5, "b": 0.5}, 300, seed=4, donors="target")
