"""Small files of cells, and the request that trains on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from episome.data import simulate_cells


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """A folder with ``reference.h5ad`` (labelled) and ``query.h5ad`` (not)."""
    folder = tmp_path_factory.mktemp("files")
    cells = simulate_cells(200, 40, n_types=3, n_donors=5)
    cells[:150].copy().write_h5ad(folder / "reference.h5ad")
    query = cells[150:].copy()
    query.obs = query.obs[["batch"]]
    query.write_h5ad(folder / "query.h5ad")
    cells[150:].obs.to_csv(folder / "truth.csv")
    return folder
