"""Uncertainty and calibration, against scikit-learn, scipy and recorded numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import log_loss, roc_auc_score

from episome.errors import UsageError
from episome.metrics import (
    _calibration,
    brier_score,
    disagreement,
    error_auroc,
    expected_calibration_error,
    negative_log_likelihood,
    uncertainty,
)


def probabilities(n=50, n_classes=4, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(n_classes, 0.5), n)


# -- uncertainty ---------------------------------------------------------------------------------


def test_uncertainty_is_that_of_the_formula():
    p = probabilities()

    np.testing.assert_allclose(uncertainty(p), 1 - p.max(1), atol=1e-15)
    entropy = -(p * np.log(p)).sum(1) / np.log(4)
    np.testing.assert_allclose(uncertainty(p, "entropy"), entropy, atol=1e-14)


@pytest.mark.parametrize("kind", ["max", "entropy"])
def test_uncertainty_has_its_ends(kind):
    p = np.array([[0.25] * 4, [0, 1, 0, 0]])

    got = uncertainty(p, kind)

    np.testing.assert_allclose(got, [0.75 if kind == "max" else 1, 0], atol=1e-15)
    assert got.dtype == np.float64
    assert uncertainty(p.astype(np.float32), kind).dtype == np.float64
    assert uncertainty(np.ones((2, 1)), kind).tolist() == [0, 0]
    assert uncertainty(np.empty((0, 3)), kind).shape == (0,)


@pytest.mark.parametrize("kind", ["max", "entropy"])
def test_uncertainty_does_not_depend_on_blocks_or_classes_in_order(kind, monkeypatch):
    p = probabilities()
    whole = uncertainty(p, kind)

    monkeypatch.setattr(_calibration, "BLOCK", 7)

    np.testing.assert_array_equal(uncertainty(p, kind), whole)
    np.testing.assert_allclose(uncertainty(p[:, ::-1], kind), whole, atol=1e-15)


@pytest.mark.parametrize("kind", ["max", "entropy"])
def test_uncertainty_golden_matches(golden, kind):
    case = golden("10b_evaluation_metrics")
    key = f"uncertainty_{kind}"

    got = uncertainty(case.arrays["probabilities"], kind)

    np.testing.assert_allclose(got, case.arrays[key], **case.tolerance(key))


def test_disagreement_of_two_is_the_jensen_shannon_divergence():
    a, b = probabilities(seed=1), probabilities(seed=2)

    got = disagreement(np.stack([a, b]))

    wanted = jensenshannon(a, b, axis=1) ** 2 / np.log(4)
    np.testing.assert_allclose(got, wanted, atol=1e-12)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_disagreement_is_from_zero_to_one_and_zero_where_all_agree(n_members, n_classes, seed):
    members = np.random.default_rng(seed).dirichlet(np.ones(n_classes), (n_members, 6))

    got = disagreement(members)

    assert got.shape == (6,)
    assert ((got >= 0) & (got <= 1)).all()
    np.testing.assert_allclose(disagreement(np.stack([members[0]] * 3)), 0, atol=1e-12)
    np.testing.assert_allclose(disagreement(members[::-1]), got, atol=1e-12)


def test_members_that_are_sure_of_different_classes_disagree_fully():
    assert disagreement(np.eye(3)[:, None]).tolist() == pytest.approx([1.0])


def test_disagreement_does_not_depend_on_blocks(monkeypatch):
    members = np.stack([probabilities(seed=s) for s in range(3)])
    whole = disagreement(members)

    monkeypatch.setattr(_calibration, "BLOCK", 7)

    np.testing.assert_array_equal(disagreement(members), whole)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones(3), r"probabilities have shape \(3,\).*\(n_cells, n_classes\)"),
        (np.ones((3, 0)), r"shape \(3, 0\)"),
        ([[0.5, 0.6], [0.5, 0.5]], "no probabilities: 1 of 2, first: sum 1.1"),
        ([[np.nan, 1.0]], "no probabilities: 1 of 1, first: sum nan"),
        ([[np.inf, -np.inf]], "no probabilities: 1 of 1"),
        ([[1.5, -0.5]], "hold missing or negative values"),
        ([[3, -2]], "pass probabilities, not logits"),
    ],
)
@pytest.mark.parametrize(
    "call",
    [
        uncertainty,
        lambda p: uncertainty(p, "entropy"),
        lambda p: negative_log_likelihood(p, np.zeros(len(p), int)),
        lambda p: brier_score(p, np.zeros(len(p), int)),
    ],
)
def test_values_that_are_no_probabilities_are_refused(call, values, message):
    with pytest.raises(UsageError, match=message) as caught:
        call(values)

    assert caught.value.code == "E-U44"


def test_rows_may_miss_one_by_a_thousandth():
    assert uncertainty([[0.6, 0.4009]]).tolist() == pytest.approx([0.4])


def test_members_that_are_no_probabilities_are_refused():
    for values in (np.ones((2, 2)), np.empty((0, 2, 2))):
        with pytest.raises(UsageError, match=r"\(n_members, n_cells, n_classes\)"):
            disagreement(values)
    with pytest.raises(UsageError, match="2 of 6"):
        disagreement(np.concatenate([np.full((2, 2, 2), 0.5), np.ones((1, 2, 2))]))


def test_unknown_kind_is_refused():
    with pytest.raises(UsageError, match="kind='margin' is unknown") as caught:
        uncertainty([[1.0]], "margin")

    assert caught.value.code == "E-U30"


# -- likelihood and Brier score ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_likelihood_and_brier_score_are_those_of_the_formula(dtype, monkeypatch):
    p, codes = probabilities().astype(dtype), np.random.default_rng(1).integers(0, 4, 50)
    monkeypatch.setattr(_calibration, "BLOCK", 7)

    exact = p.astype(np.float64)
    wanted = log_loss(codes, exact / exact.sum(1, keepdims=True), labels=range(4))
    squares = ((exact - np.eye(4)[codes]) ** 2).sum(1).mean()
    assert negative_log_likelihood(p, codes) == pytest.approx(wanted, rel=1e-6)
    assert brier_score(p, codes) == pytest.approx(squares, rel=1e-9)


def test_impossible_cell_has_a_finite_likelihood():
    assert negative_log_likelihood([[1.0, 0.0]], [1]) == pytest.approx(-np.log(1e-12))
    assert brier_score([[1.0, 0.0]], [1]) == 2
    assert brier_score([[1.0, 0.0]], [0]) == 0


@pytest.mark.parametrize("score", [negative_log_likelihood, brier_score])
@pytest.mark.parametrize(
    ("codes", "message", "code"),
    [
        ([0, 4], "whole numbers from 0 to 3", "E-U44"),
        ([0, -1], "whole numbers from 0 to 3", "E-U44"),
        ([0.5, 1.0], "whole numbers from 0 to 3", "E-U44"),
        ([0], "2 rows of probabilities for 1 codes", "E-U41"),
    ],
)
def test_codes_that_do_not_fit_are_refused(score, codes, message, code):
    with pytest.raises(UsageError, match=message) as caught:
        score(np.full((2, 4), 0.25), codes)

    assert caught.value.code == code


# -- calibration error ---------------------------------------------------------------------------


def test_calibration_error_by_hand():
    # two bins of two cells: |0.65 - 0.5| and |0.9 - 1|
    got = expected_calibration_error([0.6, 0.7, 0.9, 0.9], [True, False, True, True], n_bins=2)

    assert got == pytest.approx(0.5 * 0.15 + 0.5 * 0.1)


def test_cells_of_one_confidence_stay_together():
    rng = np.random.default_rng(0)
    sure = np.round(rng.random(200), 1)
    right = rng.random(200) < sure
    order = rng.permutation(200)

    got = expected_calibration_error(sure, right, n_bins=7)

    assert expected_calibration_error(sure[order], right[order], n_bins=7) == pytest.approx(got)
    # one bin per distinct value at most
    each = [abs((sure[sure == v] - right[sure == v]).sum()) for v in np.unique(sure)]
    many = expected_calibration_error(sure, right, n_bins=200)
    assert many == pytest.approx(sum(each) / 200)


def test_calibrated_calls_have_a_small_error_and_sure_wrong_ones_a_large_one():
    rng = np.random.default_rng(0)
    sure = rng.random(20_000)

    assert expected_calibration_error(sure, rng.random(20_000) < sure) < 0.02
    assert expected_calibration_error(np.ones(10), np.zeros(10)) == 1


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30))
def test_calibration_error_is_between_that_of_one_bin_and_one(cells):
    sure, right = np.array(cells, dtype=float).T

    got = expected_calibration_error(sure, right)

    assert abs(sure.mean() - right.mean()) - 1e-12 <= got <= 1


@pytest.mark.parametrize(
    ("sure", "right", "bins", "message", "code"),
    [
        ([0.5], [1], 0, "n_bins=0 is too small", "E-U22"),
        ([1.5], [1], 5, "confidence holds values outside 0 and 1", "E-U44"),
        ([np.nan], [1], 5, "confidence holds values outside 0 and 1", "E-U44"),
        ([0.5], [2], 5, "correct holds values that are neither", "E-U44"),
        ([0.5, 0.5], [1], 5, "2 confidences for 1 calls", "E-U41"),
        ([[0.5]], [1], 5, "confidence has 2 axes", "E-U41"),
        ([], [], 5, "no cells to score", "E-U43"),
    ],
)
def test_calibration_error_of_what_does_not_fit_is_refused(sure, right, bins, message, code):
    with pytest.raises(UsageError, match=message) as caught:
        expected_calibration_error(sure, right, n_bins=bins)

    assert caught.value.code == code


# -- finding errors ------------------------------------------------------------------------------


def test_error_auroc_equals_scikit_learn():
    rng = np.random.default_rng(0)
    unsure = np.round(rng.random(100), 1)
    right = rng.random(100) > unsure

    assert error_auroc(unsure, right) == pytest.approx(roc_auc_score(~right, unsure))
    assert error_auroc([0.1, 0.9], [True, False]) == 1


@pytest.mark.parametrize("right", [[1, 1], [0, 0]])
def test_error_auroc_of_one_kind_of_call_is_nan(right):
    assert np.isnan(error_auroc([0.1, 0.2], right))


@pytest.mark.parametrize(
    ("unsure", "right", "message", "code"),
    [
        ([np.nan, 1.0], [0, 1], "uncertainty holds values that are not finite", "E-U44"),
        ([0.1, 0.2], [0, 3], "correct holds values that are neither", "E-U44"),
        ([0.1], [0, 1], "1 uncertainties for 2 calls", "E-U41"),
        ([], [], "no cells to score", "E-U43"),
    ],
)
def test_error_auroc_of_what_does_not_fit_is_refused(unsure, right, message, code):
    with pytest.raises(UsageError, match=message) as caught:
        error_auroc(unsure, right)

    assert caught.value.code == code


# -- the names of the cells ----------------------------------------------------------------------


def in_series(score):
    """Two values per cell that the score takes, as a frame or series with named cells."""
    p = probabilities(30)
    cells = [f"cell{i}" for i in range(30)]
    codes = np.random.default_rng(1).integers(0, 4, 30)
    if score in (negative_log_likelihood, brier_score):
        return pd.DataFrame(p, index=cells), pd.Series(codes, index=cells)
    return pd.Series(p.max(axis=1), index=cells), pd.Series(codes == p.argmax(axis=1), index=cells)


PAIRED = [negative_log_likelihood, brier_score, expected_calibration_error, error_auroc]


@pytest.mark.parametrize("score", PAIRED)
def test_values_with_named_cells_are_aligned(score):
    values, others = in_series(score)
    shuffled = others.sample(frac=1, random_state=0)

    assert score(values, shuffled) == score(values.to_numpy(), others.to_numpy())
    assert score(values.to_numpy(), shuffled) == score(values.to_numpy(), shuffled.to_numpy())


@pytest.mark.parametrize("score", PAIRED)
def test_values_of_different_cells_are_refused(score):
    values, others = in_series(score)

    with pytest.raises(UsageError, match="29 cells in common") as caught:
        score(values, others.rename({"cell3": "x"}))

    assert caught.value.code == "E-U45"
