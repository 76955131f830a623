"""Which class is a kind of which, and calls that are finer than the truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from episome.errors import LabelError, UsageError
from episome.ontology import ClassHierarchy

NAMES = ("T", "CD4 T", "CD8 T", "naive CD4", "B")
#: T above all but B, CD4 T above naive CD4.
CHILDREN = np.eye(5, dtype=bool)
CHILDREN[0, [1, 2, 3]] = CHILDREN[1, 3] = True
TRUTH = np.array([0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
CALLED = np.array([1, 3, 4, 0, 3, 2, 1, 3, 1, 4, 0])
CORRECTED = [0, 0, 4, 0, 1, 2, 1, 3, 1, 4, 0]


@pytest.fixture(scope="module")
def five():
    return ClassHierarchy(NAMES, CHILDREN)


def names(codes):
    return np.array(NAMES, dtype=object)[codes]


def test_finer_call_becomes_the_truth_and_a_coarser_one_stays(five):
    assert five.correct_codes(TRUTH, CALLED).tolist() == CORRECTED
    assert five.correct(names(TRUTH), names(CALLED)).tolist() == names(CORRECTED).tolist()


@pytest.mark.parametrize("form", [list, np.asarray, pd.Series, pd.Categorical, pd.Index, str])
def test_labels_come_in_any_form(five, form):
    truth, called = names(TRUTH), names(CALLED)
    if form is str:
        truth, called = truth.astype(str), called.astype(str)
    else:
        truth, called = form(list(truth)), form(list(called))
    if form is pd.Series:
        truth.index = range(100, 111)

    got = five.correct(truth, called)

    assert got.dtype == object
    assert got.tolist() == names(CORRECTED).tolist()


def test_calls_of_no_class_stay_as_they_are(five):
    assert five.correct(["T", "B"], ["unknown", "unknown"]).tolist() == ["unknown"] * 2
    got = five.correct(["T", "T"], ["none", "CD4 T"], unassigned=("none",))
    assert got.tolist() == ["none", "T"]
    assert five.correct_codes(np.array([4, 4]), np.array([-1, -7])).tolist() == [-1, -1]


def test_missing_calls_are_refused(five):
    with pytest.raises(LabelError, match="unassigned: 1 of 2, first: nan"):
        five.correct(["T", "B"], [None, "B"])


def test_inputs_are_not_changed(five):
    truth, called = names(TRUTH), names(CALLED)
    before = called.copy()

    five.correct(truth, called)
    five.correct_codes(TRUTH, CALLED)

    assert called.tolist() == before.tolist()
    assert CALLED.tolist() == [1, 3, 4, 0, 3, 2, 1, 3, 1, 4, 0]


def test_codes_are_positions_and_minus_one(five):
    assert five.codes(["B", "T", "?", None]).tolist() == [4, 0, -1, -1]
    assert five.codes([]).dtype == np.int64


@pytest.mark.parametrize("values", [["T", "X", "X", "Y"], pd.Categorical(["T", "X", "X", "Y"])])
def test_true_label_of_no_class_is_refused(five, values):
    with pytest.raises(LabelError, match="true labels that are no class: 3 of 4, first: 'X', 'Y'"):
        five.correct(values, ["T"] * 4)


def test_predicted_label_of_no_class_is_refused(five):
    message = "neither a class nor unassigned: 1 of 3, first: 'X'"
    with pytest.raises(LabelError, match=message) as caught:
        five.correct(["T"] * 3, ["T", "unknown", "X"])

    assert caught.value.code == "E-L28"


def test_codes_outside_the_classes_are_refused(five):
    with pytest.raises(LabelError, match="true labels that are no class: 2 of 3, first: 5, -1"):
        five.correct_codes(np.array([0, 5, -1]), np.array([0, 0, 0]))
    with pytest.raises(LabelError, match="neither a class nor unassigned: 1 of 1, first: 5"):
        five.correct_codes(np.array([0]), np.array([5]))


def test_different_lengths_are_refused(five):
    with pytest.raises(UsageError, match="2 true labels and 1 predicted ones"):
        five.correct(["T", "B"], ["T"])
    with pytest.raises(UsageError, match="1 true labels and 2 predicted ones"):
        five.correct_codes(np.array([0]), np.array([0, 1]))


def test_no_cells_give_no_calls(five):
    assert five.correct([], []).shape == (0,)
    assert five.correct_codes(np.array([], int), np.array([], int)).shape == (0,)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 4)), max_size=30))
def test_correction_is_that_of_every_cell_and_repeating_it_changes_nothing(pairs):
    truth, called = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    five = ClassHierarchy(NAMES, CHILDREN)

    got = five.correct_codes(truth, called)

    assert got.tolist() == [t if p >= 0 and CHILDREN[t, p] else p for t, p in pairs]
    assert five.correct_codes(truth, got).tolist() == got.tolist()
    words = np.array([*NAMES, "unknown"], dtype=object)
    assert five.correct(words[truth], words[called]).tolist() == words[got].tolist()


@pytest.mark.parametrize(
    ("children", "message"),
    [
        (np.ones((5, 4)), r"shape \(5, 4\) for 5 classes"),
        (np.eye(4), r"shape \(4, 4\) for 5 classes"),
        (np.eye(5) * 2, "neither true nor false"),
        (np.zeros((5, 5)), "not a child of itself"),
        (np.eye(5) + np.eye(5, k=1), "a child of a child is no child"),
    ],
)
def test_matrix_that_is_no_hierarchy_is_refused(children, message):
    with pytest.raises(UsageError, match=message) as caught:
        ClassHierarchy(NAMES, children)

    assert caught.value.code == "E-U42"


def test_class_twice_is_refused():
    with pytest.raises(LabelError, match="class names repeat: 1 of 3, first: 'T'") as caught:
        ClassHierarchy(("T", "B", "T"), np.eye(3))

    assert caught.value.code == "E-L24"


def test_hierarchy_keeps_its_own_copy():
    given = CHILDREN.copy()
    five = ClassHierarchy(NAMES, given)

    given[0, 4] = True

    assert not five.children[0, 4]
    assert not five.children.flags.writeable
    assert len(five) == 5


def test_hierarchy_of_labels_is_that_of_their_terms(ontology):
    labels = ["T cell", "B cells", "CD4-positive, alpha-beta T cell", "mystery", "T lymphocyte"]

    got = ClassHierarchy.from_labels(labels, ontology=ontology)

    assert got.names == tuple(labels)
    assert got.release == ontology.release
    assert got.children.astype(int).tolist() == [
        [1, 0, 1, 0, 1],
        [0, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [1, 0, 1, 0, 1],
    ]


def test_hierarchy_takes_given_terms_and_the_newest_release():
    got = ClassHierarchy.from_labels(["a", "T cell"], term_ids=["CL:0000624", ""])

    assert got.children.tolist() == [[True, False], [True, True]]
    assert got.release
