"""Temperatures: the minimum of the likelihood, on raw logits, and nothing of the order changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from episome.confidence import as_logits, fit_temperature, scaled
from episome.errors import UsageError
from episome.metrics import negative_log_likelihood


def cells(n=4000, n_classes=5, sharpness=1.0, seed=0):
    """Logits, sharpened, and labels that were drawn from the unsharpened ones."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, n_classes))
    shares = softmax(logits, axis=1)
    codes = (shares.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return logits * sharpness, codes


def nll(logits, codes, temperature):
    return -log_softmax(logits / temperature, axis=1)[np.arange(len(codes)), codes].mean()


@pytest.mark.parametrize("sharpness", [0.25, 1.0, 3.0])
def test_the_sharpness_is_found(sharpness):
    logits, codes = cells(20_000, sharpness=sharpness)

    assert fit_temperature(logits, codes) == pytest.approx(sharpness, rel=0.05)


@given(st.floats(0.3, 3.0), st.integers(0, 50))
def test_no_other_temperature_is_better(sharpness, seed):
    logits, codes = cells(300, sharpness=sharpness, seed=seed)

    found = fit_temperature(logits, codes)

    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 400))
    best = min(nll(logits, codes, t) for t in grid)
    assert nll(logits, codes, found) <= best + 1e-6
    assert nll(logits, codes, found) <= nll(logits, codes, 1.0) + 1e-12


def test_the_call_stays_and_rows_sum_to_one():
    logits, codes = cells()

    for temperature in (0.1, 1.0, 7.0):
        shares = scaled(logits, temperature)
        assert shares.dtype == np.float32
        assert np.allclose(shares.sum(axis=1), 1, atol=1e-6)
        assert (shares.argmax(axis=1) == logits.argmax(axis=1)).all()


def test_cells_that_are_always_right_leave_the_model_as_it_is_or_surer():
    logits = np.eye(3)[np.arange(30) % 3] * 4.0

    assert fit_temperature(logits, np.arange(30) % 3) <= 1.0


def test_few_cells_that_are_all_right_leave_room_for_doubt():
    from episome.confidence import fit_map

    for n in (30, 300):
        logits = np.eye(3)[np.arange(n) % 3] * 4.0
        sure = fit_map(logits, np.arange(n) % 3).map.probabilities(logits).max(axis=1)
        assert 1 - 2 / n < sure.min() <= sure.max() < 1


def test_logits_of_votes_give_the_votes_back():
    votes = np.array([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])

    assert np.allclose(scaled(as_logits(votes), 1.0), votes, atol=1e-5)


def test_likelihood_of_the_host_agrees():
    logits, codes = cells(500)
    found = fit_temperature(logits, codes)

    assert negative_log_likelihood(scaled(logits, found), codes) == pytest.approx(
        nll(logits, codes, found), rel=1e-4
    )


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_temperatures_that_are_none_are_refused(temperature):
    with pytest.raises(UsageError, match="E-U64"):
        scaled(np.zeros((2, 2)), temperature)


def test_nothing_to_calibrate_on_is_refused():
    with pytest.raises(UsageError, match="E-U43"):
        fit_temperature(np.empty((0, 3)), np.empty(0, dtype=int))
    with pytest.raises(UsageError, match="E-U41"):
        fit_temperature(np.zeros((3, 2)), [0, 1])


@pytest.mark.parametrize("part", ["overconfident", "underconfident"])
def test_the_recorded_cases_are_calibrated_on_raw_logits(golden, part):
    case = golden("09_sims_temperature_scaling")
    logits, codes = case[f"{part}/logits"].astype(np.float64), case["labels"]

    found = fit_temperature(logits, codes)

    assert nll(logits, codes, 1.0) == pytest.approx(float(case[f"{part}/nll_before"]), abs=1e-5)
    assert nll(logits, codes, found) == pytest.approx(float(case[f"{part}/nll_optimal"]), abs=1e-5)
    assert found == pytest.approx(float(case[f"{part}/T_optimal"]), rel=1e-3)
    # The reference divides by its first guess when it collects logits, and then fits another.
    assert nll(logits, codes, found) <= float(case[f"{part}/nll_reference"])
