"""Rows of bad values on every installed annotator: what the host promises holds for each."""

from __future__ import annotations

import functools

import pytest
from _bad_cells import cells
from _plugin_rows import ROWS

from episome import get_model, plugins
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


@pytest.mark.parametrize("name", sorted(ROWS))
@pytest.mark.parametrize("method", ANNOTATORS)
def test_bad_values_of_every_annotator(method, name):
    ROWS[name](get_model(method), trained(method))
