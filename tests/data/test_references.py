"""Several references as one: labels by a table, by terms, by synonyms, and what is said of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from episome.data import merge_references, simulate_cells
from episome.data._common_labels import common_labels
from episome.errors import UsageError
from episome.ontology import cell_ontology

CD4, T, B = "CL:0000624", "CL:0000084", "CL:0000236"
SYNONYM = cell_ontology().synonyms(CD4)[0]


def part(types: list[str], seed: int, **columns):
    found = simulate_cells(60, 30, n_types=len(types), n_donors=2, seed=seed)
    names = dict(zip(sorted(set(found.obs["cell_type"].astype(str))), types, strict=True))
    found.obs["cell_type"] = found.obs["cell_type"].astype(str).map(names)
    for column, values in columns.items():
        found.obs[column] = found.obs["cell_type"].map(values)
    return found


@pytest.fixture
def two():
    a = part(["B lymphocyte", SYNONYM, "odd"], 0)
    b = part(["B cell", "CD4-positive, alpha-beta T cell", "strange"], 1)
    return {"a": a, "b": b}


def test_labels_stay_as_they_are_unless_something_is_asked(two):
    merged = merge_references(two, "cell_type")

    assert set(merged.obs["cell_type"]) == {
        *two["a"].obs["cell_type"],
        *two["b"].obs["cell_type"],
    }
    assert (merged.uns["merge_labels"]["merged"] == merged.uns["merge_labels"]["label"]).all()


def test_synonyms_are_one_type_by_their_term(two):
    before = {n: x.obs.copy() for n, x in two.items()}

    merged = merge_references(two, "cell_type", by_term=True)

    assert set(merged.obs["cell_type"]) == {
        "B cell",
        "CD4-positive, alpha-beta T cell",
        "odd",
        "strange",
    }
    table = merged.uns["merge_labels"].set_index(["reference", "label"])
    assert table.loc[("a", "B lymphocyte"), "term"] == B
    assert table["n_cells"].sum() == merged.n_obs
    report = "\n".join(merged.uns["merge_report"])
    assert f"B cell ({B}): a: B lymphocyte, b: B cell" in report
    assert "2 of 4 types are in one reference only: odd, strange" in report
    for name, x in two.items():
        pd.testing.assert_frame_equal(x.obs, before[name])


def test_a_table_of_the_user_wins(two, tmp_path):
    names = {"odd": "rare", "strange": "rare", "B lymphocyte": "my B", "B cell": "my B"}
    names["CD8T "] = "CD8"
    file = tmp_path / "names.csv"
    pd.DataFrame(names.items(), columns=["label", "common"]).to_csv(file, index=False)

    merged = merge_references(two, "cell_type", names=names, by_term=True)
    read = merge_references(two, "cell_type", names=file, by_term=True)

    assert set(merged.obs["cell_type"]) == {"my B", "rare", "CD4-positive, alpha-beta T cell"}
    assert read.obs["cell_type"].tolist() == merged.obs["cell_type"].tolist()
    assert "names of your table that are no label: CD8T " in merged.uns["merge_report"]
    terms = dict(
        zip(merged.obs["cell_type"], merged.obs["cell_type_ontology_term_id"], strict=True)
    )
    assert terms == {"my B": B, "rare": "unknown", "CD4-positive, alpha-beta T cell": CD4}


def test_given_terms_count_more_than_names():
    a = part(["x", "y"], 0, term={"x": B, "y": CD4})
    b = part(["B cell", "z"], 1, term={"B cell": B, "z": CD4})

    merged = merge_references(
        {"a": a, "b": b}, "cell_type", by_term=True, ontology_term_key="term"
    )

    assert set(merged.obs["cell_type"]) == {"B cell", "CD4-positive, alpha-beta T cell"}


def test_two_types_of_one_reference_stay_two():
    found, report = common_labels(
        {"a": {"T naive": 5, "T memory": 4}, "b": {"T cell": 9}},
        terms={"a": {"T naive": T, "T memory": T}},
        by_term=True,
    )

    assert set(found["merged"]) == {"T naive", "T memory", "T cell"}
    assert report == [
        f"{T} is the term of several labels of a, not merged: a: T naive, a: T memory, b: T cell"
    ]


def test_coarser_labels_are_said():
    found, report = common_labels(
        {"a": {"T cell": 5}, "b": {"CD4-positive, alpha-beta T cell": 4, "B cell": 3}},
        by_term=True,
    )

    assert report == [
        "T cell of a is above b: CD4-positive, alpha-beta T cell in the ontology: some of its "
        "cells may be of these types"
    ]
    assert (found["merged"] == found["label"]).all()


def test_names_of_a_table_that_are_two_are_not_forced_together():
    found, report = common_labels(
        {"a": {"B lymphocyte": 5}, "b": {"B cell": 4}},
        names={"B lymphocyte": "B one", "B cell": "B two"},
        terms={"a": {"B lymphocyte": B}, "b": {"B cell": B}},
        by_term=True,
    )

    assert found["merged"].tolist() == ["B one", "B two"]
    assert "several names in your table" in report[0]


def test_every_label_has_one_name_and_terms_do_not_depend_on_order():
    ontology = cell_ontology()
    labels = [ontology.label(t) for t in list(ontology)[100:140] if not ontology.is_obsolete(t)]
    counts = {"a": dict.fromkeys(labels, 3), "b": dict.fromkeys(labels[::-1], 2)}

    found, _ = common_labels(counts, by_term=True)
    back, _ = common_labels(dict(reversed(counts.items())), by_term=True)

    key = ["reference", "label"]
    assert not found.duplicated(key).any()
    one, two = (t.sort_values(key)["merged"].tolist() for t in (found, back))
    assert one == two
    assert (found["merged"] == found["label"]).all()


@pytest.mark.parametrize("text", ["label\nB\n", "label,common\nB,x\nB,y\n"])
def test_tables_that_are_none_are_refused(two, tmp_path, text):
    file = tmp_path / "names.csv"
    file.write_text(text)

    with pytest.raises(UsageError, match="E-U105"):
        merge_references(two, "cell_type", names=file)
    with pytest.raises(UsageError, match="E-U105"):
        merge_references(two, "cell_type", names=tmp_path / "gone.csv")


def test_a_merged_reference_is_saved_with_what_was_done(two, tmp_path):
    import anndata

    merged = merge_references(two, "cell_type", by_term=True)
    merged.write_h5ad(tmp_path / "m.h5ad")

    found = anndata.read_h5ad(tmp_path / "m.h5ad").uns
    assert list(found["merge_labels"]["merged"]) == list(merged.uns["merge_labels"]["merged"])
    assert np.asarray(found["merge_report"]).tolist() == list(merged.uns["merge_report"])


def test_a_list_of_references_is_refused(two):
    with pytest.raises(UsageError, match="references are a list.*E-U24"):
        merge_references(list(two.values()), "cell_type")


def test_terms_of_a_merged_reference_are_those_of_a_model(two):
    import episome

    names = {"B lymphocyte": "my B", "B cell": "my B"}
    merged = merge_references(two, "cell_type", names=names, by_term=True)
    model_cls = episome.get_model("centroid")
    model_cls.setup_anndata(
        merged, labels_key="cell_type", ontology_term_key="cell_type_ontology_term_id"
    )

    labels = model_cls(merged).labels
    terms = dict(zip(labels.names, labels.term_ids, strict=True))
    assert (terms["my B"], terms["odd"]) == (B, "")
