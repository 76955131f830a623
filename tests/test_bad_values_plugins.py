"""Rows of bad values on every installed annotator: what the host promises holds for each."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from _bad_cells import cells, query
from _plugin_rows import ROWS
from scipy import sparse

from episome import get_model, plugins
from episome.errors import InputDataError
from episome.testing import Subject

ANNOTATORS = sorted(
    name
    for name, spec in plugins.models().items()
    if "annotation" in spec.capabilities and tuple(spec.modalities) == ("rna",)
)


@functools.cache
def trained(name: str):
    """One model of each class, trained once."""
    return Subject(name).train(cells())


def test_there_are_rows_and_annotators():
    assert len(ROWS) == 26
    assert {"centroid", "sctab"} <= set(ANNOTATORS)


#: Models of counts, whose likelihood has the depth of a cell in it and refuses what is no count.
OF_COUNTS = sorted(n for n in ANNOTATORS if "scvi" in plugins.get_spec(n).needs)
#: Rows about values after log1p and about depth, which say what holds for the others only.
NOT_OF_COUNTS = {"D11", "D36"}


@pytest.mark.parametrize("name", sorted(ROWS))
@pytest.mark.parametrize("method", ANNOTATORS)
def test_bad_values_of_every_annotator(method, name):
    if method in OF_COUNTS and name in NOT_OF_COUNTS:
        pytest.skip("a model of counts: see test_models_of_counts")
    ROWS[name](get_model(method), trained(method))


@pytest.mark.parametrize("method", OF_COUNTS)
def test_models_of_counts(method):
    twice = cells()
    twice.X = sparse.csr_matrix(np.log1p(np.log1p(twice.X.toarray())))
    with pytest.raises(InputDataError, match=r"take another model.*E-D07"):
        get_model(method).setup_anndata(twice, "cell_type")
    deep = query().copy()
    deep.X = sparse.csr_matrix(deep.X.toarray() * 100)
    assert np.isfinite(trained(method).predict_proba(deep)).all(axis=None)
