"""Labels and donors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from episome.data import Labels, check_classes, class_terms, clean_labels, definite_donors
from episome.errors import LabelError


def column(values, **kwargs):
    return pd.Series(values, name="cell_type", **kwargs)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([1, 2, 1], ["1", "2", "1"]),
        ([1.0, 2.0, 1.5], ["1", "2", "1.5"]),
        ([True, False, True], ["True", "False", "True"]),
        (pd.Categorical(["b", "a", "b"], categories=["a", "b", "never"]), ["b", "a", "b"]),
        (["β-cell", "細胞", "line\nbreak"], ["β-cell", "細胞", "line\nbreak"]),
    ],
)
def test_labels_of_any_kind_become_text(values, wanted):
    assert clean_labels(column(values)).tolist() == wanted


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_missing_labels_are_refused_or_kept(missing):
    values = column(["a", missing, "b", missing], dtype=object, index=list("wxyz"))

    with pytest.raises(
        LabelError, match=r"cell_type.*2 of 4, first: x, z.*unlabeled=\"keep\".*E-L01"
    ):
        clean_labels(values)
    assert clean_labels(values, unlabeled="keep", unlabeled_category="?").tolist() == [
        "a",
        "?",
        "b",
        "?",
    ]


def test_missing_integers_do_not_turn_the_others_into_floats():
    assert clean_labels(column([1, None, 3]), unlabeled="keep").tolist() == ["1", "unknown", "3"]


def test_labels_that_differ_by_blanks_or_case_are_kept():
    values = clean_labels(column(["B cell", "b cell ", "T cell"]))

    assert len(set(values)) == 3


def test_cleaning_leaves_the_column_alone():
    values = column(["a", None])

    clean_labels(values, unlabeled="keep")

    assert values.isna().tolist() == [False, True]


def test_classes_are_sorted_and_exclude_the_unlabelled():
    values = np.array(["b", "unknown", "a", "b"], dtype=object)

    assert check_classes(values, "unknown", "here") == ["a", "b"]


@pytest.mark.parametrize("values", [["a", "a"], ["unknown", "a"], ["unknown"]])
def test_fewer_than_two_classes_are_refused(values):
    with pytest.raises(LabelError, match=r"in obs: .*a classifier needs two.*E-L03"):
        check_classes(np.array(values, dtype=object), "unknown", "obs")


def test_a_column_of_cell_names_is_refused():
    with pytest.raises(LabelError, match=r"20 of 30.*E-L05"):
        check_classes(np.array([f"c{i % 20}" for i in range(30)], dtype=object), "unknown", "obs")


def test_codes_of_unknown_names_are_the_unlabelled_code():
    labels = Labels(("b", "a"), ("", ""), "?")

    assert labels.codes(np.array(["a", "b", "?", "new"], dtype=object)).tolist() == [1, 0, 2, 2]


def test_terms_of_a_class_need_to_agree():
    values = np.array(["a", "a", "b", "b", "c"], dtype=object)
    terms = pd.Series(["CL:1", "CL:1", "CL:2", "CL:3", "unknown"])

    assert class_terms(values, terms, ["a", "b", "c"]) == ("CL:1", "", "")
    assert class_terms(values, None, ["a", "b"]) == ("", "")


def test_donors_that_name_nobody_are_none():
    donors = definite_donors(pd.Series(["d1", "unknown", " NA ", "pooled", None, 7, "Doublet"]))

    assert donors.tolist() == ["d1", None, None, None, None, "7", None]
