"""Scores, against scikit-learn, by hand, and recorded ones."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, classification_report, f1_score

from episome.errors import LabelError, UsageError
from episome.metrics import (
    accuracy,
    balanced_accuracy,
    bootstrap,
    by_group,
    class_table,
    classification_scores,
    macro_f1,
    median_f1,
    weighted_f1,
)
from episome.ontology import ClassHierarchy, cell_ontology

#: T, CD4 T, CD8 T, naive CD4, B: the worked example of the method's description.
FIVE = ("T", "CD4 T", "CD8 T", "naive CD4", "B")
CHILDREN = np.eye(5, dtype=bool)
CHILDREN[0, [1, 2, 3]] = CHILDREN[1, 3] = True
TRUTH = np.array(FIVE)[[0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4]]
CALLED = np.array(FIVE)[[1, 3, 4, 0, 3, 2, 1, 3, 1, 4, 0]]

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def five():
    return ClassHierarchy(FIVE, CHILDREN, "test")


# -- plain scores --------------------------------------------------------------------------------


@settings(max_examples=40)
@given(PAIRS)
def test_scores_equal_scikit_learn(pairs):
    truth, called = np.array(pairs).T
    true = np.unique(truth)

    def f1(labels, average):
        return f1_score(truth, called, labels=labels, average=average, zero_division=0)

    each = f1(true, None)
    union = f1(np.union1d(truth, called), None)
    assert accuracy(truth, called) == pytest.approx(np.mean(truth == called))
    assert macro_f1(truth, called) == pytest.approx(f1(true, "macro"))
    assert macro_f1(truth, called, classes="union") == pytest.approx(f1(None, "macro"))
    assert weighted_f1(truth, called) == pytest.approx(f1(true, "weighted"))
    assert median_f1(truth, called) == pytest.approx(np.median(each))
    assert median_f1(truth, called, classes="union") == pytest.approx(np.median(union))
    recall = [np.mean(called[truth == c] == c) for c in true]
    assert balanced_accuracy(truth, called) == pytest.approx(np.mean(recall))


def test_balanced_accuracy_equals_scikit_learn():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 200)
    called = np.where(rng.random(200) < 0.6, truth, rng.integers(0, 4, 200))

    assert balanced_accuracy(truth, called) == pytest.approx(
        balanced_accuracy_score(truth, called)
    )


def test_macro_f1_has_no_term_for_a_class_that_is_only_called():
    # a: precision 1, recall 1/2; b: 1
    truth, called = ["a", "a", "b"], ["a", "new", "b"]

    assert macro_f1(truth, called) == pytest.approx((2 / 3 + 1) / 2)
    assert macro_f1(truth, called, classes="union") == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert median_f1(truth, called) == pytest.approx((2 / 3 + 1) / 2)
    assert median_f1(truth, called, classes="union") == pytest.approx(2 / 3)


@given(PAIRS, st.randoms(use_true_random=False))
def test_order_of_cells_and_names_of_classes_do_not_matter(pairs, random):
    truth, called = np.array(pairs).T
    order, names = list(range(len(pairs))), list("abcde")
    random.shuffle(order)
    random.shuffle(names)
    names = np.array(names)

    before = classification_scores(truth, called)
    after = classification_scores(names[truth[order]], names[called[order]])

    assert after == pytest.approx(before)


@given(PAIRS)
def test_scores_are_from_zero_to_one_and_one_for_perfect_calls(pairs):
    truth, called = np.array(pairs).T

    assert all(0 <= v <= 1 for v in classification_scores(truth, called).values())
    assert set(classification_scores(truth, truth).values()) == {1.0}


@pytest.mark.parametrize("form", [list, pd.Series, pd.Categorical, pd.Index])
def test_labels_come_in_any_form(form, five):
    wanted = classification_scores(TRUTH, CALLED, hierarchy=five)

    got = classification_scores(form(list(TRUTH)), form(list(CALLED)), hierarchy=five)

    assert got == wanted


# -- with a hierarchy ----------------------------------------------------------------------------


def test_worked_example_of_the_correction(five):
    got = classification_scores(TRUTH, CALLED, hierarchy=five)
    table = class_table(TRUTH, CALLED, hierarchy=five)

    assert got["f1_macro"] == pytest.approx(0.313333, abs=1e-6)
    assert got["f1_macro_ontology"] == pytest.approx(0.560952, abs=1e-6)
    np.testing.assert_allclose(
        table.loc[list(FIVE), "f1_ontology"], [0.5714, 0.4, 0.6667, 0.6667, 0.5], atol=5e-5
    )
    assert macro_f1(TRUTH, CALLED, hierarchy=five) == got["f1_macro_ontology"]


@settings(max_examples=40)
@given(PAIRS)
def test_identity_hierarchy_gives_the_plain_scores(pairs):
    truth, called = np.array(FIVE)[np.array(pairs).T]
    alone = ClassHierarchy(FIVE, np.eye(5))

    got = classification_scores(truth, called, hierarchy=alone)

    for name, value in classification_scores(truth, called).items():
        assert got[name] == got[f"{name}_ontology"] == value


@settings(max_examples=40)
@given(PAIRS)
def test_correction_lowers_no_score_where_every_type_has_one_name(pairs):
    """A corrected cell adds a hit to its class, and takes a false alarm from another.

    So neither recall nor F1 of a class that is true can fall. The mean over the union may lose a
    class that was only called, whose F1 was 0, and cannot fall either.
    """
    truth, called = np.array(FIVE)[np.array(pairs).T]
    five = ClassHierarchy(FIVE, CHILDREN)

    got = classification_scores(truth, called, hierarchy=five)
    table = class_table(truth, called, hierarchy=five)

    for name in [n for n in got if not n.endswith("_ontology")]:
        assert got[f"{name}_ontology"] >= got[name] - 1e-12
    true = table[table["n_true"] > 0]
    assert (true["f1_ontology"] >= true["f1"] - 1e-12).all()
    assert (true["recall_ontology"] >= true["recall"]).all()


@settings(max_examples=40)
@given(PAIRS)
def test_every_score_with_a_hierarchy_is_that_of_the_corrected_calls(pairs):
    truth, called = np.array(FIVE)[np.array(pairs).T]
    five = ClassHierarchy(FIVE, CHILDREN)
    after = five.correct(truth, called)

    got = classification_scores(truth, called, hierarchy=five)

    wanted = classification_scores(truth, after)
    assert {f"{k}_ontology": v for k, v in wanted.items()}.items() <= got.items()
    assert accuracy(truth, called, hierarchy=five) == wanted["accuracy"]
    assert balanced_accuracy(truth, called, hierarchy=five) == wanted["balanced_accuracy"]
    assert weighted_f1(truth, called, hierarchy=five) == wanted["f1_weighted"]
    assert median_f1(truth, called, hierarchy=five) == wanted["f1_median"]
    union = macro_f1(truth, called, hierarchy=five, classes="union")
    assert union == wanted["f1_macro_union"]


# -- names of one type ---------------------------------------------------------------------------

B_CELLS = ["B cell", "B cells", "T cell"]


@pytest.fixture(scope="module")
def b_cells():
    return ClassHierarchy.from_labels(B_CELLS)


@pytest.mark.parametrize("called", ["B cell", "B cells"])
def test_wrong_call_under_another_name_of_its_type_counts_against_the_type(b_cells, called):
    truth, calls = ["B cell"] * 10 + ["T cell"] * 90, [called] * 100

    table = class_table(truth, calls, hierarchy=b_cells)

    # 10 of 100 calls are right: F1 is 20 / 110 for B cells and 0 for T cells
    assert macro_f1(truth, calls, hierarchy=b_cells) == pytest.approx(10 / 110)
    assert table.loc["B cell", "precision_ontology"] == pytest.approx(0.1)
    assert bootstrap("macro_f1", truth, calls, hierarchy=b_cells, n_draws=2).value == (
        pytest.approx(10 / 110)
    )
    if called == "B cells":
        row = table.loc[called]
        assert row["n_predicted"] == 100
        assert row[["precision_ontology", "recall_ontology", "f1_ontology"]].isna().all()


#: a and b are one type, above c; d and e are another.
ONE_TYPE = np.eye(5, dtype=bool)
ONE_TYPE[:2, :3] = ONE_TYPE[3:, 3:] = True
NAMES = np.array(list("abcde"))
#: Truth that has one name of each type, and calls that have all.
ONE_NAME = st.lists(
    st.tuples(st.sampled_from([1, 2, 3]), st.integers(0, 4)), min_size=1, max_size=40
)


@settings(max_examples=40)
@given(ONE_NAME, st.data())
def test_scores_do_not_depend_on_the_name_of_a_type_in_the_calls(pairs, data):
    truth, called = np.array(pairs).T
    hierarchy = ClassHierarchy(tuple(NAMES), ONE_TYPE)
    swap = data.draw(st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs)))
    renamed = np.where(swap, np.array([1, 0, 2, 4, 3])[called], called)

    before = classification_scores(NAMES[truth], NAMES[called], hierarchy=hierarchy)
    after = classification_scores(NAMES[truth], NAMES[renamed], hierarchy=hierarchy)

    for name in [n for n in before if n.endswith("_ontology")]:
        assert after[name] == pytest.approx(before[name])


@settings(max_examples=40)
@given(PAIRS)
def test_correction_lowers_no_score_of_calls_in_the_names_of_the_truth(pairs):
    """Calls in a name that the truth lacks have no F1 of their own before the correction.

    They get one by it, which may lower a mean of F1; against the same calls in the names of the
    truth the correction lowers none. Accuracy and recall do not look at such names at all.
    """
    truth, called = NAMES[np.array(pairs).T]
    hierarchy = ClassHierarchy(tuple(NAMES), ONE_TYPE)
    one = {"a": "ab", "b": "ab", "c": "c", "d": "de", "e": "de"}
    in_truth = {n: next((o for o in one[n] if o in truth), n) for n in one}
    named = [c if c in truth else in_truth[c] for c in called]

    plain = classification_scores(truth, called)
    got = classification_scores(truth, called, hierarchy=hierarchy)

    assert got["accuracy_ontology"] >= plain["accuracy"]
    assert got["balanced_accuracy_ontology"] >= plain["balanced_accuracy"] - 1e-12
    for name, value in classification_scores(truth, named).items():
        assert got[f"{name}_ontology"] >= value - 1e-12


@settings(max_examples=40)
@given(PAIRS, st.sampled_from(["macro_f1", "f1_macro_union"]))
def test_score_of_a_group_is_that_of_its_cells_alone(pairs, score):
    truth, called = NAMES[np.array(pairs).T]
    hierarchy = ClassHierarchy(tuple(NAMES), ONE_TYPE)
    groups = np.arange(len(pairs)) % 3
    classes = "union" if score.endswith("union") else "true"

    got = by_group(truth, called, groups, score, hierarchy=hierarchy)

    for group, value in zip(got["group"], got["value"], strict=True):
        rows = groups == group
        alone = macro_f1(truth[rows], called[rows], hierarchy=hierarchy, classes=classes)
        assert value == pytest.approx(alone)


def test_word_for_no_call_is_wrong_and_no_class_of_the_truth(five):
    truth, called = ["T", "B"], ["unknown", "B"]

    assert accuracy(truth, called, hierarchy=five) == 0.5
    assert macro_f1(truth, called, hierarchy=five) == 0.5


# -- tables --------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(PAIRS)
def test_class_table_equals_the_report_of_scikit_learn(pairs):
    truth, called = np.array(FIVE)[np.array(pairs).T]
    report = classification_report(truth, called, output_dict=True, zero_division=np.nan)

    table = class_table(truth, called)

    assert list(table.index) == sorted({*truth, *called})
    assert list(table) == ["n_true", "n_predicted", "precision", "recall", "f1"]
    for name, row in table.iterrows():
        wanted = report[name]
        np.testing.assert_allclose(row["precision"], wanted["precision"])
        np.testing.assert_allclose(row["recall"], wanted["recall"])
        np.testing.assert_allclose(row["f1"], wanted["f1-score"])
        assert row["n_true"] == wanted["support"]
        assert row["n_predicted"] == (called == name).sum()


def test_class_table_says_nan_where_there_is_nothing_to_divide(five):
    # naive CD4 is only called, and only where CD4 T is true; CD8 T is true and never called
    table = class_table(
        ["CD4 T", "CD4 T", "CD8 T", "B"], ["naive CD4", "CD4 T", "B", "unknown"], hierarchy=five
    )

    assert json.loads(table.to_json(orient="index", double_precision=4)) == {
        "B": row(1, 1, 0, 0, 0) | ontology(0, 0, 0),
        "CD4 T": row(2, 1, 1, 0.5, 0.6667) | ontology(1, 1, 1),
        "CD8 T": row(1, 0, None, 0, 0) | ontology(None, 0, 0),
        "naive CD4": row(0, 1, 0, None, 0) | ontology(None, None, None),
        "unknown": row(0, 1, 0, None, 0) | ontology(0, None, 0),
    }
    assert table["n_true"].dtype.kind == "i"


def row(n_true, n_predicted, precision, recall, f1):
    return {
        "n_true": n_true,
        "n_predicted": n_predicted,
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }


def ontology(precision, recall, f1):
    return {"precision_ontology": precision, "recall_ontology": recall, "f1_ontology": f1}


@pytest.mark.parametrize("score", ["macro_f1", macro_f1])
def test_groups_are_scored_by_themselves(score, five):
    groups = ["lung", "gut"] * 5 + [None]

    got = by_group(TRUTH, CALLED, groups, score, hierarchy=five)

    assert list(got) == ["group", "n_cells", "value"]
    assert got["group"].tolist() == ["gut", "lung"]
    assert got["n_cells"].tolist() == [5, 5]
    for start, value in zip((1, 0), got["value"], strict=True):
        rows = slice(start, 10, 2)
        assert value == pytest.approx(macro_f1(TRUTH[rows], CALLED[rows], hierarchy=five))


def test_small_groups_have_no_value():
    got = by_group([1, 1, 1], [1, 1, 0], ["a", "a", "b"], "accuracy", min_cells=2)

    assert got["n_cells"].tolist() == [2, 1]
    np.testing.assert_array_equal(got["value"], [1, np.nan])


def test_no_groups_give_an_empty_frame():
    for score in ("accuracy", accuracy):
        assert len(by_group([1, 2], [1, 2], [None, None], score)) == 0


# -- what cannot be scored -----------------------------------------------------------------------

SCORERS = [
    accuracy,
    balanced_accuracy,
    macro_f1,
    weighted_f1,
    median_f1,
    classification_scores,
    class_table,
]


def grouped(y_true, y_pred, *, groups=("a", "b", "a", "b") * 3, **kwargs):
    return by_group(y_true, y_pred, groups[: len(y_true)], **kwargs)


def drawn(y_true, y_pred, **kwargs):
    return bootstrap("macro_f1", y_true, y_pred, n_draws=20, **kwargs)


@pytest.mark.parametrize("score", SCORERS)
@pytest.mark.parametrize(
    ("truth", "called", "error", "message", "code"),
    [
        (["a", "b"], ["a"], UsageError, "2 true labels and 1 predicted ones", "E-U41"),
        ([["a"]], [["a"]], UsageError, "y_true has 2 axes", "E-U41"),
        ([], [], UsageError, "no cells to score", "E-U43"),
        (["a", None], ["a", "a"], LabelError, "missing labels in y_true: 1 of 2", "E-L26"),
        ([1.0, 2.0], [np.nan, 1.0], LabelError, "missing labels in y_pred: 1 of 2", "E-L26"),
        ([1, 2], ["a", "b"], LabelError, "different types.*1 in y_true, 'a' in y_pred", "E-L29"),
    ],
)
def test_labels_that_cannot_be_scored_are_refused(score, truth, called, error, message, code):
    with pytest.raises(error, match=message) as caught:
        score(truth, called)

    assert caught.value.code == code


@pytest.mark.parametrize("score", SCORERS)
def test_labels_that_the_hierarchy_lacks_are_refused_with_their_cells(score, five):
    with pytest.raises(LabelError, match="true labels that are no class: 2 of 3, first: 'X'"):
        score(["X", "X", "T"], ["T"] * 3, hierarchy=five)
    with pytest.raises(LabelError, match="nor unassigned: 3 of 3, first: 'X'"):
        score(["T"] * 3, ["X"] * 3, hierarchy=five)


@pytest.mark.parametrize("score", [*SCORERS, grouped, drawn])
@pytest.mark.parametrize(
    ("hierarchy", "name"),
    [(cell_ontology(), "CellOntology"), (["T"], "list"), (ClassHierarchy, "type")],
)
def test_hierarchy_that_is_none_is_refused(score, hierarchy, name):
    message = (
        f"hierarchy is a {name} where a ClassHierarchy belongs.*"
        r"ClassHierarchy\.from_labels\(names\), or model\.class_hierarchy\(\)"
    )
    with pytest.raises(UsageError, match=message) as caught:
        score(TRUTH, CALLED, hierarchy=hierarchy)

    assert caught.value.code == "E-U46"


@pytest.mark.parametrize("score", [*SCORERS, grouped, drawn])
@pytest.mark.parametrize("hierarchy", [False, True])
def test_series_are_aligned_by_their_cells(score, hierarchy, five):
    chosen = {"hierarchy": five} if hierarchy else {}
    cells = [f"cell{i}" for i in range(len(TRUTH))]
    truth, called = pd.Series(TRUTH, index=cells), pd.Series(CALLED, index=cells)
    other = pd.Series(["a", "b", "a"] * 4, index=[*cells, "x"]).loc[cells[::-1]]
    groups = {"groups": other} if score in (grouped, drawn) else {}
    plain = {k: v.loc[cells].to_numpy() for k, v in groups.items()}

    got = score(truth, called.sample(frac=1, random_state=0), **groups, **chosen)

    wanted = score(TRUTH, CALLED, **plain, **chosen)
    if isinstance(got, pd.DataFrame):
        pd.testing.assert_frame_equal(got, wanted)
    else:
        assert got == wanted


@pytest.mark.parametrize("score", [*SCORERS, grouped, drawn])
def test_series_of_different_cells_are_refused(score):
    cells = list(range(len(TRUTH)))
    truth = pd.Series(TRUTH, index=cells)

    message = r"y_true \(11\) and y_pred \(11\) differ, with 10 cells in common.*pass arrays"
    with pytest.raises(UsageError, match=message) as caught:
        score(truth, pd.Series(CALLED, index=[*cells[:-1], 99]))

    assert caught.value.code == "E-U45"


def test_groups_of_different_cells_are_refused():
    cells = pd.Series([1, 2], index=["a", "b"])

    for labels in ((cells, cells), ([1, 2], cells)):
        with pytest.raises(UsageError, match="and groups .2. differ, with 1 cells in common"):
            by_group(*labels, cells.rename({"b": "c"}), "accuracy")
        with pytest.raises(UsageError, match="and groups .2. differ, with 1 cells in common"):
            bootstrap("accuracy", *labels, groups=cells.rename({"b": "c"}))


@pytest.mark.parametrize("score", [macro_f1, median_f1])
def test_unknown_choice_of_classes_is_refused(score):
    with pytest.raises(UsageError, match="classes='all' is unknown") as caught:
        score([1], [1], classes="all")

    assert caught.value.code == "E-U30"


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match=r"groups have shape \(1,\) for 2 cells"):
        by_group([1, 2], [1, 2], ["a"])
    with pytest.raises(UsageError, match="there is no score 'f3'"):
        by_group([1, 2], [1, 2], ["a", "a"], "f3")


# -- recorded scores -----------------------------------------------------------------------------


@pytest.fixture
def case(golden):
    return golden("04_sctab_ontology_correction")


@pytest.fixture
def recorded(case):
    """Hierarchy, truth and calls of the recorded case, as names."""
    names = tuple(case.config["labels"])
    words = np.array(names, dtype=object)
    children = case.arrays["child_matrix"].astype(bool)
    truth, called = words[case.arrays["y_true"]], words[case.arrays["y_pred"]]
    return ClassHierarchy(names, children), truth, called


def close(case, key, value):
    np.testing.assert_allclose(value, case.arrays[key], err_msg=key, **case.tolerance(key))


def test_correction_golden_matches(case, recorded):
    hierarchy, truth, called = recorded
    y_true, y_pred = case.arrays["y_true"], case.arrays["y_pred"]

    got = hierarchy.correct_codes(y_true, y_pred)

    close(case, "pred_corrected", got)
    close(case, "pred_corrected", hierarchy.codes(hierarchy.correct(truth, called)))
    # the mirror image: the call where it is a kind of the truth
    close(case, "target_corrected", np.where(hierarchy.children[y_true, y_pred], y_pred, y_true))


def test_scores_golden_match(case, recorded):
    hierarchy, truth, called = recorded

    got = classification_scores(truth, called, hierarchy=hierarchy)

    close(case, "score/accuracy", got["accuracy_ontology"])
    close(case, "score/accuracy_uncorrected", got["accuracy"])
    close(case, "score/macro_f1", got["f1_macro_union_ontology"])
    close(case, "score/macro_f1_uncorrected", got["f1_macro_union"])
    close(case, "score/weighted_f1", got["f1_weighted_ontology"])
    close(case, "score/torchmetrics_macro_f1", got["f1_macro_union_ontology"])
    close(case, "score/torchmetrics_micro_f1", got["accuracy_ontology"])


def test_class_table_golden_matches(case, recorded):
    hierarchy, truth, called = recorded
    names = [hierarchy.names[i] for i in case.arrays["per_class_ids"]]

    table = class_table(truth, called, hierarchy=hierarchy).loc[names]

    close(case, "per_class_f1", table["f1_ontology"])
    close(case, "per_class_support", table["n_true"])
    close(case, "score/macro_precision", table["precision_ontology"].fillna(0).mean())
    close(case, "score/macro_recall", table["recall_ontology"].fillna(0).mean())


def test_groups_golden_match(case, recorded):
    hierarchy, truth, called = recorded
    for name, tissues in case.meta["grouping"].items():
        inside = np.isin(case.arrays["group"], tissues)

        got = by_group(truth, called, np.where(inside, name, "other"), hierarchy=hierarchy)

        value = got.loc[got["group"] == name, "value"].item()
        close(case, f"group_macro_f1/{name}", value)


def test_hierarchy_of_the_recorded_case_agrees_with_the_ontology(case, recorded):
    """The recorded graph is simplified by hand: it says less, and one thing more."""
    hierarchy, _, _ = recorded
    ours = ClassHierarchy.from_labels(
        hierarchy.names, term_ids=case.config["cl_ids"], ontology=cell_ontology("2026-03-26")
    )

    missing = np.argwhere(hierarchy.children & ~ours.children)

    assert [(hierarchy.names[p], hierarchy.names[c]) for p, c in missing] == [
        ("myeloid cell", "plasmacytoid dendritic cell")
    ]
