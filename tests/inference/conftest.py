"""A folder that a plugin's model wrote, and the live model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from episome.data import simulate_cells
from episome.plugins import get_spec, load_class


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders, live models and a query, by name of the model."""
    root = tmp_path_factory.mktemp("models")
    cells = simulate_cells(260, 40, n_types=3, n_donors=5)
    reference, query = cells[:200].copy(), cells[200:].copy()
    found = {}
    for name in ("centroid", "sctab"):
        cls = load_class(get_spec(name))
        adata = reference.copy()
        cls.setup_anndata(adata, labels_key="cell_type")
        model = cls(adata)
        model.train(**({"max_epochs": 2, "accelerator": "cpu"} if name == "sctab" else {}))
        model.save(root / name)
        found[name] = SimpleNamespace(folder=root / name, model=model)
    return SimpleNamespace(**found, query=query)
