"""Folds of labelled cells."""

import numpy as np
import pytest

from episome.data import folds


def test_folds_of_few_cells_predict_each_once_by_a_fit_that_knows_its_class():
    codes = np.array([0] * 50 + [1] * 30 + [2] * 2 + [3])

    parts = list(folds(codes, seed=0))

    held = np.concatenate([h for _, h in parts])
    assert len(held) == len(set(held)) == len(codes) - 1
    for fitted, out in parts:
        assert set(codes[fitted]) == {0, 1, 2, 3}
        assert not set(fitted) & set(out)


def test_folds_keep_donors_together_where_no_class_is_lost():
    rng = np.random.default_rng(0)
    donors = rng.integers(0, 12, 600).astype(str).astype(object)
    codes = rng.integers(0, 3, 600)

    for fitted, held in folds(codes, donors, seed=0):
        assert not set(donors[fitted]) & set(donors[held])
    # A class of one donor: the folds go by class.
    codes[donors == "3"] = 3
    codes[(donors != "3") & (codes == 3)] = 0
    shared = [set(donors[f]) & set(donors[h]) for f, h in folds(codes, donors, seed=0)]
    assert any(shared)


def test_cells_without_a_donor_are_never_held_out():
    rng = np.random.default_rng(0)
    donors = np.array([f"d{i}" for i in rng.integers(0, 6, 120)], dtype=object)
    donors[:10] = None

    parts = list(folds(np.arange(120) % 3, donors, seed=0, n_folds=3))

    assert len(parts) == 3
    for train, test in parts:
        assert not (set(donors[train]) & set(donors[test]))
        assert None not in set(donors[test])
        assert len(train) + len(test) == 120


@pytest.mark.parametrize("codes", [[0, 0, 1, 1], [0, 1, 2], [0, 0, 0, 1], [0, 1] * 5])
def test_the_only_cell_of_a_class_is_never_held_out(codes):
    codes = np.array(codes)

    parts = list(folds(codes, seed=0, n_folds=3))

    held = sorted(int(i) for _, h in parts for i in h)
    assert held == [i for i, c in enumerate(codes) if (codes == c).sum() > 1]
