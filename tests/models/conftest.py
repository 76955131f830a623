"""Trained models that tests share; tests must not change them."""

from __future__ import annotations

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
