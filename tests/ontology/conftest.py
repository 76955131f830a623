"""Fixtures of the tests of `episome.ontology`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from episome.ontology import CellOntology, Term, cell_ontology

#: The release that the figures in these tests are of.
RELEASE = "2026-03-26"


@pytest.fixture(scope="session")
def ontology() -> CellOntology:
    """The release that the figures in the tests are of."""
    return cell_ontology(RELEASE)


@pytest.fixture(scope="session")
def resource() -> Callable[[str], Path]:
    """Path of a public table by its name; skips where the folder is not given."""
    folder = os.environ.get("EPISOME_TEST_DATA")
    if not folder:
        pytest.skip("EPISOME_TEST_DATA is not set: the public tables are elsewhere")
    return lambda name: Path(folder) / "data" / "resources" / name


@pytest.fixture(scope="session")
def small() -> CellOntology:
    """A diamond, a chain of replacements, a cycle of them, and names in several cases."""
    terms = {
        "CL:0000000": Term("cell"),
        "CL:1": Term("left", ("CL:0000000",), ("sinister", "shared", "DC1")),
        "CL:2": Term("right", ("CL:0000000",), ("shared", "dc1")),
        "CL:3": Term("both", ("CL:1", "CL:2"), ("fly",)),
        "CL:4": Term("twin", ("CL:3",)),
        "CL:5": Term("Twin", ("CL:3",)),
        "CL:10": Term("obsolete first", obsolete=True, replaced_by="CL:11"),
        "CL:11": Term("obsolete second", obsolete=True, replaced_by="CL:3"),
        "CL:12": Term("obsolete cat", obsolete=True, replaced_by="CL:13"),
        "CL:13": Term("obsolete tail", obsolete=True, replaced_by="CL:12"),
        "CL:14": Term("obsolete leaf", (), ("old leaf",), True, "PO:7"),
        "CL:15": Term("obsolete dead end", obsolete=True, consider=("CL:1", "CL:99")),
        "CL:16": Term("", obsolete=True),
    }
    return CellOntology("test", terms, former_names=[("sinistral", "CL:1"), ("moved", "CL:10")])
