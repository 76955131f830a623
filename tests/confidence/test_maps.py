"""Richer maps: only with enough cells, and only where they are better on other cells."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from episome.confidence import CalibrationMap, fit_map
from episome.confidence._maps import folds_of
from episome.metrics import expected_calibration_error, negative_log_likelihood


def drawn(shares, rng):
    return (shares.cumsum(axis=1) > rng.random((len(shares), 1))).argmax(axis=1)


def cells(n=6000, n_classes=4, seed=0, twist=None):
    """Logits of a model, and labels that follow them, or what `twist` makes of them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, n_classes))
    truth = softmax(logits if twist is None else twist(logits), axis=1)
    return logits, drawn(truth, rng)


def one_class_is_too_sure(logits):
    twisted = logits.copy()
    twisted[:, 0] = twisted[:, 0] / 3 - 2
    return twisted


def test_a_model_that_is_right_keeps_one_temperature():
    found = fit_map(*cells())

    assert found.map.kind == "temperature"
    assert found.map.temperature == pytest.approx(1.0, abs=0.05)
    assert set(found.losses) == {"temperature", "isotonic", "dirichlet"}


def test_a_richer_map_is_taken_where_one_temperature_cannot_help():
    logits, codes = cells(twist=one_class_is_too_sure)
    new, truth = cells(seed=1, twist=one_class_is_too_sure)

    fitted = fit_map(logits, codes)
    found, plain = fitted.map, CalibrationMap("temperature", fitted.map.temperature)

    assert found.kind in {"isotonic", "dirichlet"}
    assert fitted.losses[found.kind] < fitted.losses["temperature"]
    rich, poor = found.probabilities(new), plain.probabilities(new)
    assert negative_log_likelihood(rich, truth) < negative_log_likelihood(poor, truth)
    right = rich.argmax(axis=1) == truth
    assert expected_calibration_error(rich.max(axis=1), right) < 0.03


def test_few_cells_get_one_temperature():
    logits, codes = cells(999, twist=one_class_is_too_sure)

    found = fit_map(logits, codes)

    assert found.map.kind == "temperature"
    assert set(found.losses) == {"temperature"}


def test_a_class_without_calibration_cells_gets_one_temperature():
    logits, codes = cells(4000, twist=one_class_is_too_sure)
    codes[codes == 3] = 2

    assert fit_map(logits, codes).map.kind == "temperature"


@pytest.mark.parametrize("kind", ["temperature", "isotonic", "dirichlet"])
def test_every_map_gives_probabilities(kind):
    from episome.confidence._maps import _fit

    logits, codes = cells(2000, twist=one_class_is_too_sure)
    found = _fit(kind, logits, codes)

    shares = found.probabilities(np.vstack([logits, np.full((1, 4), 50.0), 80 * np.eye(4)]))

    assert shares.dtype == np.float32
    assert (shares >= 0).all()
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-5)


def test_folds_keep_donors_together():
    donors = np.repeat(np.arange(10), 30)
    codes = np.zeros(300, dtype=int)

    for fitted, held in folds_of(codes, donors, 0):
        assert not set(donors[fitted]) & set(donors[held])


def test_the_same_seed_gives_the_same_map():
    data = cells(twist=one_class_is_too_sure)

    first, second = fit_map(*data, seed=3).map, fit_map(*data, seed=3).map

    assert first.kind == second.kind
    assert all(np.array_equal(first.arrays[k], second.arrays[k]) for k in first.arrays)


def test_held_out_probabilities_come_from_the_other_folds():
    logits, codes = cells(500)
    _, held = folds_of(codes, None, 0)[0]
    moved = codes.copy()
    moved[held] = (moved[held] + 1) % 4

    found, other = fit_map(logits, codes), fit_map(logits, moved)

    # Labels of a fold change the maps of the others, not its own.
    rest = np.setdiff1d(np.arange(500), held)
    assert np.array_equal(found.held_out[held], other.held_out[held])
    assert not np.array_equal(found.held_out[rest], other.held_out[rest])
    assert np.allclose(found.held_out.sum(axis=1), 1, atol=1e-5)
