"""Intervals, against standard errors, plain loops and each other."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from episome.errors import LabelError, UsageError
from episome.metrics import (
    _bootstrap,
    accuracy,
    balanced_accuracy,
    bootstrap,
    bootstrap_mean,
    class_intervals,
    class_table,
    classification_scores,
    macro_f1,
    median_f1,
    weighted_f1,
)
from episome.ontology import ClassHierarchy

FUNCTIONS = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "f1_macro_union": lambda t, p: macro_f1(t, p, classes="union"),
    "weighted_f1": weighted_f1,
    "f1_median": median_f1,
    "f1_median_union": lambda t, p: median_f1(t, p, classes="union"),
}
PAIR = ClassHierarchy(("a", "b", "c"), np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]], bool))


def cells(n=300, n_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, n_classes, n)
    called = np.where(rng.random(n) < 0.7, truth, rng.integers(0, n_classes + 1, n))
    return truth, called


def test_interval_holds_the_score_and_follows_the_seed():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 200)
    called = np.where(rng.random(200) < 0.8, truth, 0)

    first, second, other = (
        bootstrap(accuracy, truth, called, seed=s, n_draws=200) for s in (0, 0, 1)
    )

    assert first == second != other
    assert first.low < first.value < first.high
    assert first.value == accuracy(truth, called)
    # binomial standard error of 200 cells
    error = np.sqrt(first.value * (1 - first.value) / 200)
    assert first.high - first.low == pytest.approx(2 * 1.96 * error, rel=0.25)


def test_interval_over_donors_is_wider_when_cells_of_a_donor_agree():
    truth = np.zeros(400, dtype=int)
    donors = np.repeat(np.arange(8), 50)
    called = (donors % 2).astype(int)

    cells = bootstrap(accuracy, truth, called, n_draws=200)
    grouped = bootstrap(accuracy, truth, called, groups=donors, n_draws=200)

    assert grouped.high - grouped.low > 3 * (cells.high - cells.low)


def test_interval_prints_as_one_line():
    assert str(bootstrap(accuracy, [1, 1], [1, 1], n_draws=10)) == "1.000 (1.000 to 1.000)"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_named_score_has_the_distribution_of_its_function(name):
    truth, called = cells()

    fast = bootstrap(name, truth, called, n_draws=2000)
    slow = bootstrap(FUNCTIONS[name], truth, called, n_draws=2000)

    assert fast.value == pytest.approx(slow.value, abs=1e-12)
    assert fast.n_units == slow.n_units == 300
    # ends of the percentiles of 2,000 draws lie within a tenth of the width
    width = slow.high - slow.low
    assert fast.low == pytest.approx(slow.low, abs=0.1 * width)
    assert fast.high == pytest.approx(slow.high, abs=0.1 * width)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_named_score_over_donors_has_the_distribution_of_its_function(name):
    truth, called = cells()
    donors = np.array([f"d{d}" for d in np.random.default_rng(1).integers(0, 12, len(truth))])

    fast = bootstrap(name, truth, called, groups=donors, n_draws=2000)
    slow = bootstrap(FUNCTIONS[name], truth, called, groups=donors, n_draws=2000)

    width = slow.high - slow.low
    assert fast.value == pytest.approx(slow.value, abs=1e-12)
    assert fast.n_units == slow.n_units == 12
    assert fast.low == pytest.approx(slow.low, abs=0.1 * width)
    assert fast.high == pytest.approx(slow.high, abs=0.1 * width)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_draws_of_counts_are_the_scores_of_the_drawn_cells(name, monkeypatch):
    """The same donors, drawn as weights and as cells, give the same numbers."""
    truth, called = cells(120)
    donors = np.random.default_rng(1).integers(0, 6, 120)
    weights = np.random.default_rng(2).multinomial(6, np.full(6, 1 / 6), size=20)
    monkeypatch.setattr(_bootstrap, "weights", lambda *_: iter([weights.astype(float)]))

    _, got = _bootstrap._draw_counts(
        _bootstrap.score_named(name), _bootstrap.paired(truth, called), donors, 20, None
    )

    for draw, weight in zip(got, weights, strict=True):
        rows = np.concatenate([np.flatnonzero(donors == d) for d in np.repeat(range(6), weight)])
        assert draw == pytest.approx(FUNCTIONS[name](truth[rows], called[rows]), abs=1e-12)


def test_draws_do_not_depend_on_how_many_are_held_at_once(monkeypatch):
    truth, called = cells()
    whole = bootstrap("macro_f1", truth, called, n_draws=50)

    monkeypatch.setattr(_bootstrap, "MAX_DRAWN", 1)

    assert bootstrap("macro_f1", truth, called, n_draws=50) == whole


def test_order_of_the_cells_does_not_matter_over_donors():
    truth, called = cells()
    donors = np.random.default_rng(1).integers(0, 12, len(truth))
    order = np.random.default_rng(2).permutation(len(truth))

    first = bootstrap("f1_macro", truth, called, groups=donors)
    second = bootstrap("f1_macro", truth[order], called[order], groups=donors[order])

    assert first.value == pytest.approx(second.value, abs=1e-12)
    assert first.low == pytest.approx(second.low, abs=1e-12)


@pytest.mark.parametrize("score", ["accuracy", accuracy])
def test_hierarchy_corrects_before_drawing(score):
    truth, called = ["a", "a", "c", "c"] * 5, ["b", "a", "c", "a"] * 5

    got = bootstrap(score, truth, called, hierarchy=PAIR, n_draws=100)

    assert bootstrap(score, truth, called, n_draws=100).value == 0.5
    assert got.value == 0.75
    assert got.high > got.value > got.low


@pytest.mark.parametrize("score", ["accuracy", accuracy])
@pytest.mark.parametrize("none", [None, np.nan])
def test_cells_of_no_donor_are_left_out_and_counted(score, none):
    donors = np.array(["x", "y", none, "z"] * 10, dtype=object)
    called = np.array([0, 1, 1, 0] * 10)

    got = bootstrap(score, np.zeros(40, int), called, groups=donors, n_draws=50)

    kept = donors != none if none is None else ~pd.isna(donors)
    assert got.value == accuracy(np.zeros(30, int), called[kept])
    assert (got.n_units, got.n_left_out) == (3, 10)


def test_donors_may_be_a_category_with_empty_ones():
    donors = pd.Series(pd.Categorical(["b", "a", "b", "a"], categories=["a", "b", "c"]))

    assert bootstrap("accuracy", [1, 1, 1, 1], [1, 0, 1, 1], groups=donors).n_units == 2


@pytest.mark.parametrize(
    ("donors", "message"), [(["a", "a"], "there is one"), ([None, None], "there is none")]
)
@pytest.mark.parametrize("score", ["accuracy", accuracy])
def test_fewer_than_two_donors_are_refused(score, donors, message):
    with pytest.raises(UsageError, match=message) as caught:
        bootstrap(score, [1, 2], [1, 2], groups=donors)

    assert caught.value.code == "E-U43"


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        ({"n_draws": 0}, "n_draws=0 is too small", "E-U22"),
        ({"level": 95}, "level=95 is not between 0 and 1", "E-U44"),
        ({"groups": ["a"]}, r"groups have shape \(1,\) for 2 cells", "E-U41"),
        ({"score": "f2"}, "there is no score 'f2'.*accuracy, balanced_accuracy", "E-U30"),
    ],
)
def test_impossible_argument_is_refused(arguments, message, code):
    with pytest.raises(UsageError, match=message) as caught:
        bootstrap(**{"score": "accuracy", "y_true": [1, 2], "y_pred": [1, 2], **arguments})

    assert caught.value.code == code


def test_label_that_the_hierarchy_lacks_is_refused_with_its_cells():
    with pytest.raises(LabelError, match="no class: 3 of 4, first: 'x'"):
        bootstrap("accuracy", ["x", "x", "x", "a"], ["a"] * 4, hierarchy=PAIR)


def test_every_listed_score_can_be_drawn():
    truth, called = cells()

    for name, value in classification_scores(truth, called).items():
        assert bootstrap(name, truth, called, n_draws=2).value == value


# -- means ----------------------------------------------------------------------------------------


def test_interval_of_a_mean_holds_it_and_has_the_width_of_its_error():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)

    found = bootstrap_mean(values, n_draws=2000)

    assert found.value == pytest.approx(values.mean())
    assert found.low < found.value < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert (found.n_units, found.n_left_out) == (400, 0)
    assert found == bootstrap_mean(values, n_draws=2000) != bootstrap_mean(values, seed=3)


def test_interval_of_a_mean_over_donors_equals_a_plain_loop():
    rng = np.random.default_rng(1)
    donors = rng.integers(0, 6, 200).astype(str).astype(object)
    values = rng.normal(size=200) + donors.astype(int)
    donors[:9] = None

    found = bootstrap_mean(values, groups=donors, n_draws=4000)

    known = pd.DataFrame({"v": values, "d": donors}).dropna()
    parts = [g["v"].to_numpy() for _, g in known.groupby("d")]
    drawn = [np.concatenate([parts[i] for i in rng.integers(0, 6, 6)]).mean() for _ in range(4000)]
    assert found.value == pytest.approx(known["v"].mean())
    assert (found.n_units, found.n_left_out) == (6, 9)
    np.testing.assert_allclose(
        [found.low, found.high], np.percentile(drawn, [2.5, 97.5]), rtol=0.1
    )


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), st.floats(-5, 5))
@settings(max_examples=30)
def test_interval_of_a_mean_moves_with_its_values(values, by):
    one = bootstrap_mean(values, n_draws=50)
    other = bootstrap_mean(np.array(values) + by, n_draws=50)

    assert one.low <= one.high
    np.testing.assert_allclose(
        [other.value, other.low, other.high],
        np.array([one.value, one.low, one.high]) + by,
        atol=1e-8,
    )


def test_interval_of_a_mean_refuses_what_it_cannot_draw():
    with pytest.raises(UsageError, match=r"not finite.*1 of 3.*E-U44"):
        bootstrap_mean([1.0, np.nan, 2.0])
    with pytest.raises(UsageError, match=r"needs two cells.*E-U43"):
        bootstrap_mean([1.0])
    with pytest.raises(UsageError, match=r"needs two of them.*E-U43"):
        bootstrap_mean([1.0, 2.0], groups=["a", "a"])
    with pytest.raises(UsageError, match="E-U41"):
        bootstrap_mean([1.0, 2.0], groups=["a", "b", "c"])
    with pytest.raises(UsageError, match="E-U22"):
        bootstrap_mean([1.0, 2.0], n_draws=0)
    with pytest.raises(UsageError, match="E-U44"):
        bootstrap_mean([1.0, 2.0], level=1.0)


def test_intervals_of_classes_are_those_of_drawn_cells():
    rng = np.random.default_rng(3)
    truth = rng.choice(["a", "b", "c"], 300, p=[0.6, 0.37, 0.03])
    called = np.where(rng.random(300) < 0.7, truth, "a")

    found = class_intervals(truth, called, n_draws=2000, seed=1)

    drawn = []
    for _ in range(2000):
        rows = rng.integers(0, 300, 300)
        table = class_table(truth[rows], called[rows])["f1"]
        drawn.append(table.reindex(["a", "b", "c"]))
    known = np.nanpercentile(np.array(drawn), [2.5, 97.5], axis=0).T
    assert list(found.index) == ["a", "b", "c"]
    np.testing.assert_allclose(found.loc[["a", "b"]], known[:2], atol=0.02)
    np.testing.assert_allclose(found.loc["c"], known[2], atol=0.15)


def test_intervals_of_classes_over_donors_are_wider_where_donors_differ():
    donors = np.repeat(np.arange(6), 50)
    truth = np.tile(["a", "b"], 150)
    called = np.where(donors < 3, truth, "a")

    cells = class_intervals(truth, called, n_draws=300)
    whole = class_intervals(truth, called, groups=donors, n_draws=300)

    width = [t["f1_high"] - t["f1_low"] for t in (cells, whole)]
    assert (width[1] > 2 * width[0]).all()
    with pytest.raises(UsageError, match="E-U22"):
        class_intervals(truth, called, n_draws=0)
    with pytest.raises(UsageError, match="E-U43"):
        class_intervals(truth, called, groups=np.zeros(300))
