"""Intervals of predicted values hold as many cells as they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from episome.confidence import Intervals
from episome.errors import UsageError


def cells(n: int, seed: int = 0, width: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Predictions, and measured values whose spread grows with them."""
    rng = np.random.default_rng(seed)
    said = rng.gamma(2.0, 1.0, (n, width)).astype(np.float32)
    return said, (said + rng.normal(0, 0.2 + 0.5 * said)).astype(np.float32)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_coverage_is_within_what_chance_allows(level):
    n = 1000
    found = Intervals.fit(*cells(n))
    said, measured = cells(40_000, seed=1)

    lower, upper = found.bounds(said, level)

    inside = (measured >= lower) & (measured <= upper)
    # Of a bin of n cells the coverage is a beta variable; five bins, whose mean varies less.
    per_bin = n // 5
    k = int(np.ceil((per_bin + 1) * (1 - (1 - level) / 2))) - int(
        np.floor((per_bin + 1) * (1 - level) / 2)
    )
    low, high = beta.ppf([1e-5, 1 - 1e-5], k, per_bin + 1 - k)
    assert (inside.mean(axis=0) > low).all()
    assert (inside.mean(axis=0) < high).all()


def test_intervals_follow_the_height_of_the_prediction():
    found = Intervals.fit(*cells(2000))
    lower, upper = found.bounds(np.array([[0.2] * 3, [5.0] * 3], dtype=np.float32))

    assert ((upper - lower)[1] > 2 * (upper - lower)[0]).all()


def test_few_cells_give_bounds_that_are_infinite_and_not_wrong():
    found = Intervals.fit(*cells(15))
    said, _ = cells(5, seed=1)

    lower, upper = found.bounds(said, 0.95)

    assert np.isneginf(lower).all()
    assert np.isposinf(upper).all()
    assert np.isfinite(found.bounds(said, 0.5)[0]).all()


def test_cells_that_were_not_measured_take_no_part():
    said, measured = cells(400)
    half = measured.copy()
    half[200:, 1] = np.nan

    whole, part = Intervals.fit(said, measured), Intervals.fit(said, half)
    alone = Intervals.fit(said[:200], measured[:200])

    np.testing.assert_array_equal(part.upper[:, [0, 2]], whole.upper[:, [0, 2]])
    assert np.isfinite(part.upper[:, 1]).any()
    assert not np.array_equal(part.upper[:, 1], whole.upper[:, 1])
    # As many bins as of all cells, and the order statistics of the first 200.
    assert part.upper[0, 1].mean() == pytest.approx(alone.upper[0, 1].mean(), rel=0.5)


def test_bounds_do_not_go_below_what_there_can_be():
    said, measured = cells(300)
    found = Intervals.fit(said, np.maximum(measured, 0), minimum=0.0)

    lower, upper = found.bounds(said, 0.9)

    assert (lower >= 0).all()
    assert (upper >= lower).all()


@settings(max_examples=25, deadline=None)
@given(n=st.integers(5, 260), level=st.sampled_from([0.5, 0.8, 0.9]), seed=st.integers(0, 99))
def test_every_calibration_cell_but_the_tails_is_inside(n, level, seed):
    said, measured = cells(n, seed=seed, width=2)
    found = Intervals.fit(said, measured)

    lower, upper = found.bounds(said, level)

    # Bounds are order statistics of the cells themselves: at least the level of them are inside.
    inside = (measured >= lower - 1e-4) & (measured <= upper + 1e-4)
    assert (inside.mean(axis=0) >= level - 1e-9).all()


def test_chosen_features_have_their_own_bounds():
    found = Intervals.fit(*cells(500))
    said, _ = cells(9, seed=3)
    whole = found.bounds(said, 0.8)

    part = found.bounds(said[:, [2, 0]], 0.8, np.array([2, 0]))

    for a, b in zip(whole, part, strict=True):
        np.testing.assert_array_equal(a[:, [2, 0]], b)


def test_they_come_back_from_their_parts():
    found = Intervals.fit(*cells(120), minimum=0.0)
    back = Intervals.from_parts(*found.to_parts())
    said, _ = cells(9, seed=3)

    for a, b in zip(found.bounds(said, 0.9), back.bounds(said, 0.9), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (back.n_cells, back.minimum) == (120, 0.0)


def test_another_level_is_refused():
    found = Intervals.fit(*cells(120))
    with pytest.raises(UsageError, match=r"interval=0\.99.*use one of 0\.5, 0\.8, 0\.9, 0\.95"):
        found.bounds(np.zeros((1, 3), dtype=np.float32), 0.99)
