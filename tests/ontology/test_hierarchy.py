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
        truth.index = called.index = range(100, 111)

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


# -- names of one type ---------------------------------------------------------------------------

#: A, B and C are one type, above D; E is another.
SYNONYMS = ("A", "B", "C", "D", "E")
ONE_TYPE = np.eye(5, dtype=bool)
ONE_TYPE[:3, :4] = True


@pytest.mark.parametrize(
    ("truth", "called", "wanted"),
    [
        ("EEBB", "CCCC", "BBBB"),  # the one name that the truth has
        ("EEBC", "CBAC", "CBBC"),  # names that the truth has stay, others take the first of them
        ("EECB", "AAAA", "BBCB"),
        ("EEE", "CBC", "BBB"),  # the truth has none: one name of those that are called
        ("EDD", "ACC", "AAA"),
        ("BE", "D?", "B?"),  # a right call becomes the truth, no call stays none
        ("EE", "DB", "DB"),  # a kind of the type is another type
    ],
)
def test_wrong_call_takes_the_name_that_the_truth_has_for_its_type(truth, called, wanted):
    hierarchy = ClassHierarchy(SYNONYMS, ONE_TYPE)
    positions = {n: i for i, n in enumerate(SYNONYMS)} | {"?": -1}

    words = hierarchy.correct(list(truth), list(called), unassigned="?")
    codes = hierarchy.correct_codes(
        np.array([positions[t] for t in truth]), np.array([positions[c] for c in called])
    )

    assert "".join(words) == wanted
    assert codes.tolist() == [positions[w] for w in wanted]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 4)), max_size=30))
def test_correction_with_names_of_one_type_is_that_of_every_cell(pairs):
    truth, called = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    hierarchy = ClassHierarchy(SYNONYMS, ONE_TYPE)

    def name(call):
        same = [n for n in range(5) if ONE_TYPE[n, call] and ONE_TYPE[call, n]]
        in_truth, in_calls = set(same) & {*truth}, set(same) & {*called}
        return call if call < 0 or call in in_truth else min(in_truth or in_calls)

    got = hierarchy.correct_codes(truth, called)

    right = [p >= 0 and ONE_TYPE[t, p] for t, p in pairs]
    assert got.tolist() == [t if r else name(p) for (t, p), r in zip(pairs, right, strict=True)]
    assert hierarchy.correct_codes(truth, got).tolist() == got.tolist()
    words = np.array([*SYNONYMS, "unknown"], dtype=object)
    assert hierarchy.correct(words[truth], words[called]).tolist() == words[got].tolist()


# -- the names of the cells ----------------------------------------------------------------------


def test_series_are_aligned_by_their_cells(five):
    cells = [f"cell{i}" for i in range(11)]
    truth = pd.Series(names(TRUTH), index=cells)
    called = pd.Series(names(CALLED), index=pd.CategoricalIndex(cells)).sample(
        frac=1, random_state=0
    )
    codes = pd.Series(CALLED, index=cells).loc[called.index.astype(str)]

    assert five.correct(truth, called).tolist() == names(CORRECTED).tolist()
    assert five.correct(truth, called.to_numpy()).tolist() != names(CORRECTED).tolist()
    got = five.correct_codes(pd.Series(TRUTH, index=cells), codes)
    assert got.tolist() == CORRECTED


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (["a", "b", "x"], r"y_true \(3\) and y_pred \(3\) differ, with 2 cells in common"),
        (["a", "b"], r"y_true \(3\) and y_pred \(2\) differ, with 2 cells in common"),
        (["a", "c", "a"], "2 cells in common. names repeat in y_pred.*pass arrays"),
        ([0, 1, 2], "0 cells in common"),
        (pd.MultiIndex.from_tuples([("a", 1), ("b", 1), ("c", 1)]), "0 cells in common"),
    ],
)
def test_series_of_different_cells_are_refused(five, index, message):
    truth = pd.Series(["T"] * 3, index=["a", "b", "c"])

    with pytest.raises(UsageError, match=message) as caught:
        five.correct(truth, pd.Series(["T"] * len(index), index=index))

    assert caught.value.code == "E-U45"


def test_series_with_the_same_repeated_names_go_by_position(five):
    truth, called = (pd.Series(v, index=["a", "a"]) for v in (["T", "B"], ["CD4 T", "B"]))

    assert five.correct(truth, called).tolist() == ["T", "B"]
    called.index = called.index.astype("string")
    assert five.correct(truth, called).tolist() == ["T", "B"]


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


@pytest.mark.parametrize(
    ("term_ids", "message"),
    [
        (["CL:0000542", "B cell"], r"no term 'B cell'.*CL:0000236 \(B cell\)"),
        (["CL:00005421", ""], r"no term 'CL:00005421'.*such as CL:0000542 \(lymphocyte\)"),
    ],
)
def test_given_term_that_does_not_exist_is_refused(term_ids, message):
    with pytest.raises(LabelError, match=message) as caught:
        ClassHierarchy.from_labels(["a", "b"], term_ids=term_ids)

    assert caught.value.code == "E-L25"


def test_given_terms_may_be_missing_foreign_or_of_another_form():
    terms = ["CL_0000542", float("nan"), "FBbt:00000001", "unknown", None]

    got = ClassHierarchy.from_labels(["a", "B cell", "c", "d", "e"], term_ids=terms)

    wanted = np.eye(5, dtype=bool)
    wanted[0, 1] = True
    assert got.children.tolist() == wanted.tolist()


def test_one_name_is_a_list_of_one(five):
    got = ClassHierarchy.from_labels("T cell", term_ids="CL:0000084")

    assert got.names == ("T cell",)
    assert ClassHierarchy("T cell", np.eye(1)).names == ("T cell",)
    assert five.correct(["T"], ["none"], unassigned="none").tolist() == ["none"]
