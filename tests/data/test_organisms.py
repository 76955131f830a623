"""Organisms that cells name, and cells of another one than a model's."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from episome.data import (
    AnnDataSource,
    FeatureSpace,
    InputRule,
    ScannedSource,
    organisms_of,
    prepare_query,
)
from episome.data._organisms import foreign_cells
from episome.errors import EpisomeWarning

HUMAN, MOUSE = "NCBITaxon:9606", "NCBITaxon:10090"


def cells(n=6, **obs):
    frame = pd.DataFrame(obs, index=[f"cell{i}" for i in range(n)])
    counts = sparse.csr_matrix(np.ones((n, 3), dtype=np.float32))
    return anndata.AnnData(counts, obs=frame, var=pd.DataFrame(index=["CD4", "LYZ", "B2M"]))


def source(**obs):
    return AnnDataSource(cells(**obs))


# -- what cells name -----------------------------------------------------------------------------


def test_the_first_column_that_names_some_is_read():
    values = pd.Categorical([HUMAN] * 4 + [MOUSE] * 2, categories=[HUMAN, MOUSE, "unused"])

    both = organisms_of(source(organism=["human"] * 6, organism_ontology_term_id=values))
    empty = organisms_of(
        source(organism=["Homo sapiens"] * 5 + [None], organism_ontology_term_id=["unknown"] * 6)
    )

    assert (both.where, dict(both.counts)) == (
        "obs['organism_ontology_term_id']",
        {HUMAN: 4, MOUSE: 2},
    )
    assert both.names == (MOUSE, HUMAN)
    assert (empty.where, dict(empty.counts)) == ("obs['organism']", {"Homo sapiens": 5})
    assert organisms_of(source(cell_type=["B"] * 6)) is None


def test_what_is_said_of_all_cells_counts_where_no_column_does():
    adata = cells()
    adata.uns["organism_ontology_term_id"] = MOUSE

    found = organisms_of(ScannedSource(AnnDataSource(adata)))

    assert found.where == "uns['organism_ontology_term_id']"
    assert dict(found.counts) == {MOUSE: 6}


# -- a model's -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "theirs", "other"),
    [
        ((HUMAN,), HUMAN, False),
        ((HUMAN,), "Homo sapiens", False),
        (("homo_sapiens",), "human", False),
        ((HUMAN,), MOUSE, True),
        ((HUMAN,), "Mus musculus", True),
        ((HUMAN, MOUSE), MOUSE, False),
        ((HUMAN,), "NCBITaxon:9615", True),
        (("NCBITaxon:9615",), "NCBITaxon:9615", False),
        # They may be names of one organism: nobody here can tell.
        ((HUMAN,), "Canis lupus familiaris", False),
        (("dog",), "NCBITaxon:9615", False),
        (("dog",), "Canis lupus familiaris", False),
        ((), MOUSE, False),
    ],
)
def test_organisms_are_compared_where_they_can_be(known, theirs, other):
    problem = foreign_cells(known, source(organism=[theirs] * 6))

    assert (problem is not None) == other


def test_how_many_cells_are_of_another_organism_is_said():
    problem = foreign_cells((HUMAN,), source(organism=["Homo sapiens"] * 4 + ["mouse"] * 2))

    assert problem.text.startswith(
        "cells of another organism than the model's in adata.X, obs['organism']: 2 of 6, first: "
        "mouse. the model was trained on NCBITaxon:9606 (human)"
    )
    assert problem.details == {"organisms": {"mouse": 2}}


def test_a_query_warns_unless_a_table_translates_its_genes(recwarn):
    query, features = cells(organism=["Mus musculus"] * 6), FeatureSpace(("CD4", "LYZ", "B2M"))
    rule = InputRule("counts", organisms=(HUMAN,))

    with pytest.warns(EpisomeWarning, match=r"6 of 6, first: Mus musculus \(mouse\).*E-G26"):
        prepare_query(query, features, rule)
    recwarn.clear()
    prepare_query(query, features, rule, gene_map={"Cd4": "CD4"})
    prepare_query(query, features, InputRule("counts"))

    assert not [w for w in recwarn if "E-G26" in str(w.message)]


def test_organisms_are_saved_beside_a_rule_and_do_not_tell_two_apart():
    rule = InputRule("counts", organisms=(HUMAN,))

    assert rule == InputRule("counts")
    assert "organisms" not in rule.to_json()
