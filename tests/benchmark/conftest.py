"""Small studies on simulated cells."""

from __future__ import annotations

from pathlib import Path

import pytest

from episome.data import simulate_cells


@pytest.fixture(scope="session")
def cells():
    """300 cells of four types and six donors."""
    found = simulate_cells(300, 60, n_types=4, n_donors=6, fold_change=2.5, seed=0)
    found.obs["site"] = found.obs["donor_id"].astype(str).str[-1]
    return found


@pytest.fixture(scope="session")
def folder(cells, tmp_path_factory) -> Path:
    """The cells as a file."""
    place = tmp_path_factory.mktemp("cells")
    cells.write_h5ad(place / "cells.h5ad")
    return place
