"""Votes of clusters, and the columns of the CELLxGENE schema."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from episome.data import Labels
from episome.errors import EpisomeWarning
from episome.inference import (
    VOTE_COLUMNS,
    cluster_votes,
    completed_calls,
    warn_unless_clusters,
)
from episome.ontology import cell_ontology

CLASSES = ("b", "a", "c")


def votes(labels, clusters, **kwargs):
    column = clusters if isinstance(clusters, pd.Series) else pd.Series(clusters, dtype=object)
    return cluster_votes(labels, column, classes=CLASSES, **kwargs)


def test_every_cell_gets_the_commonest_label_of_its_cluster():
    labels = ["a", "a", "b", "c", "unknown", "a"]

    found = votes(labels, ["1", "1", "1", "2", "2", None])

    assert list(found.columns) == list(VOTE_COLUMNS)
    assert found["cluster_label"].tolist() == ["a", "a", "a", "c", "c", ""]
    np.testing.assert_allclose(found["cluster_agreement"], [2 / 3] * 3 + [0.5] * 2 + [np.nan])
    assert found[["cluster_low", "cluster_high"]].iloc[-1].isna().all()
    assert [str(t) for t in found.dtypes[1:]] == ["float32"] * 3


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([f"cell {i}" for i in range(40)], True),
        (np.linspace(0, 1, 40), True),
        (np.arange(40) % 21, True),
        (np.arange(40) % 20, False),
        ([None, *["a"] * 39], False),
        (range(19), False),
    ],
)
def test_a_column_of_about_as_many_values_as_cells_is_no_clustering(values, said):
    column = pd.Series(values, name="barcode")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_unless_clusters(column)

    assert [w.message.code for w in caught] == ["E-L39"] * said
    if said:
        assert "column 'barcode' has about as many values as cells" in str(caught[0].message)
        assert f"of {len(column)}" in str(caught[0].message)


def test_the_interval_is_that_of_wilson():
    labels = ["a"] * 37 + ["b"] * 3 + ["c"] * 5
    found = votes(labels, ["x"] * 40 + ["y"] * 5)

    for row, hits, n in ((0, 37, 40), (44, 5, 5)):
        wanted = binomtest(hits, n).proportion_ci(0.95, method="wilson")
        np.testing.assert_allclose(
            found.iloc[row][["cluster_low", "cluster_high"]].astype(float), wanted, atol=1e-6
        )


def test_a_tie_is_decided_by_the_order_of_the_model():
    assert set(votes(["a", "b", "c", "b", "a"], ["1"] * 5)["cluster_label"]) == {"b"}


def test_a_cluster_without_a_call_is_unlabelled():
    found = votes(["none", "none", "a"], ["1", "1", "2"], unlabeled="none")

    assert found["cluster_label"].tolist() == ["none", "none", "a"]
    assert found["cluster_agreement"].tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "clusters",
    [
        pd.Series(pd.Categorical(["0", "1", None, "0"], categories=["unused", "1", "0"])),
        pd.Series([0, 1, np.nan, 0]),
        pd.Series([0, 1, None, 0], dtype="Int64"),
        pd.Series(["0", "1", "", "0"]),
        pd.Series([False, True, None, False], dtype="boolean"),
    ],
)
def test_clusters_of_every_type_are_text(clusters):
    found = votes(["a", "b", "c", "a"], clusters)

    assert found["cluster_label"].tolist() == ["a", "b", "", "a"]


def test_numbers_and_their_text_are_one_cluster():
    assert votes(["a", "a", "b"], [1, "1", 1.0])["cluster_label"].tolist() == ["a"] * 3


def test_no_cells_give_an_empty_table_of_the_same_kind():
    found = votes([], pd.Series([], dtype=object))

    assert found.shape == (0, 4)
    assert found.dtypes.equals(votes(["a"], ["1"]).dtypes)


some_cells = st.tuples(st.sampled_from([*CLASSES, "unknown"]), st.sampled_from("xyz "))


@given(st.lists(some_cells, max_size=40))
def test_votes_equal_a_count_by_hand(cells):
    labels, clusters = [c[0] for c in cells], [c[1].strip() for c in cells]

    found = votes(labels, clusters)

    for i, cluster in enumerate(clusters):
        members = [label for label, c in zip(labels, clusters, strict=True) if c == cluster]
        counts = [members.count(c) for c in CLASSES]
        best = CLASSES[int(np.argmax(counts))] if max(counts) else "unknown"
        assert found["cluster_label"].iloc[i] == (best if cluster else "")
        share = max(counts) / len(members) if cluster else np.nan
        np.testing.assert_allclose(found["cluster_agreement"].iloc[i], share, rtol=1e-6)


# -- the schema ----------------------------------------------------------------------------------

LABELS = Labels(
    ("B cell", "cell", "own", "none", "old"),
    ("CL:0000236", "CL:0000255", "LAB:1", "", "CL:9999999"),
)


def calls(labels: Labels = LABELS) -> pd.DataFrame:
    names = [*labels.names, labels.unlabeled]
    terms = [*labels.term_ids, ""]
    return pd.DataFrame({"label": names, "label_ontology_term_id": terms}).astype("str")


def test_only_terms_that_the_schema_allows_are_written():
    found = completed_calls(calls(), LABELS, cellxgene=True)

    assert found["cell_type_ontology_term_id"].tolist() == ["CL:0000236"] + ["unknown"] * 5
    assert found["cell_type"].tolist() == ["B cell"] + ["unknown"] * 5
    assert list(found.columns)[:2] == ["label", "label_ontology_term_id"]


@pytest.mark.parametrize("term", ["CL:0000255", "CL:0000257", "CL:0000548"])
def test_terms_that_the_schema_refuses_are_unknown_and_said(term):
    labels = Labels(("x", "y"), (term, ""))

    with pytest.warns(EpisomeWarning, match=r"2 of 2, first: x, y.*E-L30"):
        found = completed_calls(calls(labels), labels, cellxgene=True)

    assert set(found["cell_type_ontology_term_id"]) == {"unknown"}


def test_obsolete_terms_are_written_as_their_successor():
    ontology = cell_ontology()
    old = next(
        t for t in ontology
        if ontology.is_obsolete(t) and ontology.current(t) not in (None, t)
    )  # fmt: skip
    labels = Labels(("x", "y"), (old, ""))

    found = completed_calls(calls(labels), labels, cellxgene=True)

    assert found["cell_type_ontology_term_id"].iloc[0] == ontology.current(old)
    assert found["cell_type"].iloc[0] == ontology.label(ontology.current(old))


def test_nothing_is_added_unasked_and_nothing_changed():
    table = calls()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert completed_calls(table, LABELS) is table
        completed_calls(table, LABELS, clusters=pd.Series(["1"] * 6), cellxgene=True)

    pd.testing.assert_frame_equal(table, calls())
