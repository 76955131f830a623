"""Cells of the smallest scale of studies: simulated, so that nothing has to be there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from episome.data import simulate_cells

if TYPE_CHECKING:
    from anndata import AnnData


def simulated_types() -> AnnData:
    """Return 300 cells of four types (``cell_type``), six donors (``donor_id``) and two organs.

    Types 0 and 1 are of one ``lineage``, types 2 and 3 of another.
    """
    cells = simulate_cells(300, 60, n_types=4, n_donors=6, fold_change=2.5, seed=0)
    types = cells.obs["cell_type"].astype(str)
    cells.obs["lineage"] = np.where(types.isin(["type 0", "type 1"]), "lineage 0", "lineage 1")
    cells.obs["organ"] = np.where(np.arange(cells.n_obs) % 2, "organ 0", "organ 1")
    return cells


def simulated_cite() -> AnnData:
    """Return the cells of :func:`simulated_types` with eight proteins, ``obsm["protein"]``.

    Every type has two of its own; the counts of the others are background.
    """
    cells = simulated_types()
    codes = cells.obs["cell_type"].astype("category").cat.codes.to_numpy()
    mean = np.where(codes[:, None] == np.arange(8) % 4, 30.0, 3.0)
    counts = np.random.default_rng(0).poisson(mean).astype(np.float32)
    names = [f"protein {i}" for i in range(8)]
    cells.obsm["protein"] = pd.DataFrame(counts, index=cells.obs_names, columns=names)
    return cells
