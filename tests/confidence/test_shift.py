"""Confidence of queries that lack genes or counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from episome.confidence import (
    DEPTHS,
    REMOVED,
    ShiftGrid,
    ShiftPoint,
    mean_grid,
    shift_point,
    softened,
)
from episome.errors import ModelFileError


def shares(n_obs: int = 400, n_classes: int = 4, sharpness: float = 3.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, sharpness, (n_obs, n_classes))
    found = np.exp(logits)
    return found / found.sum(axis=1, keepdims=True)


def grid(*points: tuple[float, float]) -> ShiftGrid:
    return ShiftGrid(tuple(ShiftPoint(r, 1.0, 0.7, 0.8, t, 100) for r, t in points))


@pytest.mark.parametrize("accuracy", [0.3, 0.5, 0.8, 0.9])
def test_a_point_makes_the_mean_confidence_the_accuracy(accuracy):
    found = shares()
    codes = found.argmax(axis=1)
    wrong = np.random.default_rng(1).random(len(codes)) >= accuracy
    codes = np.where(wrong, (codes + 1) % 4, codes)

    point = shift_point(found, codes, removed=0.4, depth=1.0)

    assert point.accuracy == pytest.approx((~wrong).mean())
    assert softened(found, point.temperature).max(axis=1).mean() == pytest.approx(
        point.accuracy, abs=1e-3
    )


def test_nothing_removed_changes_nothing():
    found = shares()
    table = grid((0.0, 1.7), (0.2, 1.5), (0.4, 3.0))

    assert table.temperature(0.0) == 1.0
    assert table.temperature(0.005) == 1.0
    assert softened(found, table.temperature(0.0)) is found


def test_temperatures_are_interpolated_and_stay_beyond_the_last():
    table = grid((0.0, 1.0), (0.2, 1.5), (0.4, 3.0))

    assert table.temperature(0.2) == pytest.approx(1.5)
    assert table.temperature(0.3) == pytest.approx(np.sqrt(1.5 * 3.0))
    assert table.temperature(0.9) == table.temperature(0.4) == pytest.approx(3.0)
    assert 1.0 < table.temperature(0.1) < 1.5


@given(st.floats(0.2, 20.0), st.integers(0, 100))
def test_softening_keeps_the_order_of_classes(temperature, seed):
    found = shares(n_obs=20, seed=seed)

    soft = softened(found, temperature)

    np.testing.assert_allclose(soft.sum(axis=1), 1.0, atol=1e-6)
    assert (soft.argmax(axis=1) == found.argmax(axis=1)).all()


def test_the_table_is_plain_data():
    table = ShiftGrid((ShiftPoint(0.2, 0.5, 0.8, 0.9, 1.5, 300), ShiftPoint(0, 1, 0.9, 0.9, 1, 9)))

    assert ShiftGrid.from_json(table.to_json()) == table


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"removed": 2.0},
        {"temperature": "warm"},
    ],
)
def test_a_broken_table_is_refused(broken):
    point = grid((0.2, 1.5)).to_json()[0]
    plain = [{**point, **broken}] if broken else [{"removed": 0.2}]

    with pytest.raises(ModelFileError, match="E-M06"):
        ShiftGrid.from_json(plain)


def test_an_ensemble_has_the_mean_of_its_members():
    mean = mean_grid([grid((0.0, 1.0), (0.2, 1.0)), grid((0.0, 1.0), (0.2, 4.0))])

    assert mean is not None
    assert mean.temperature(0.2) == pytest.approx(2.0)
    assert mean_grid([grid((0.0, 1.0)), None]) is None


def test_the_levels_start_with_a_complete_query():
    assert REMOVED[0] == 0.0
    assert DEPTHS[0] == 1.0


def test_missing_genes_never_make_a_call_surer():
    points = [(0.0, 1.0), (0.2, 0.8), (0.4, 1.5), (0.6, 1.2)]
    grid = ShiftGrid(tuple(ShiftPoint(r, 1.0, 0.5, 0.5, t, 100) for r, t in points))

    assert grid.temperature(0.2) == 1.0
    assert grid.temperature(0.4) == pytest.approx(1.5)
    assert grid.temperature(0.6) == pytest.approx(1.5)
