"""Trained models that tests share; tests must not change them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def model(toy):
    """A small network trained on counts."""
    return toy.trained()


@pytest.fixture
def query(toy):
    """Other cells of the same types, labels included."""
    return toy.query()


@pytest.fixture
def correct():
    """Share of right labels."""
    return lambda model, adata, **kwargs: (
        model.predict(adata, **kwargs) == adata.obs["cell_type"].to_numpy(dtype=object)
    ).mean()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real sets, where this machine has them."""
    folder = os.environ.get("EPISOME_TEST_DATA")
    if not folder:
        pytest.skip("EPISOME_TEST_DATA is not set: the real files are elsewhere")
    return Path(folder, "data")
