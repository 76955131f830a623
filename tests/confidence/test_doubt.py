"""Doubt about labels: the share of wrong ones is found, and the chance of error holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from episome.confidence import confident_errors, doubt_threshold, label_doubt
from episome.errors import UsageError


def cells(n=6000, n_classes=5, wrong=0.05, sharpness=4.0, seed=0):
    """Probabilities of the true class, labels of which some are replaced, and which those are."""
    rng = np.random.default_rng(seed)
    shares = softmax(rng.normal(0, sharpness, (n, n_classes)), axis=1)
    truth = (shares.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    codes, bad = truth.copy(), rng.random(n) < wrong
    codes[bad] = (truth[bad] + rng.integers(1, n_classes, bad.sum())) % n_classes
    return shares, codes, bad


@pytest.mark.parametrize("wrong", [0.0, 0.02, 0.05, 0.2])
def test_the_share_of_wrong_labels_is_found(wrong):
    shares, codes, _ = cells(20_000, wrong=wrong)

    assert label_doubt(shares, codes).noise == pytest.approx(wrong, abs=0.012)


@given(st.floats(0.02, 0.3), st.integers(3, 8), st.integers(0, 30))
def test_of_cells_with_a_doubt_so_many_are_wrong(wrong, n_classes, seed):
    shares, codes, bad = cells(8000, n_classes, wrong, seed=seed)

    found = label_doubt(shares, codes).wrong

    for low, high in ((0.0, 0.2), (0.2, 0.8), (0.8, 1.01)):
        some = (found >= low) & (found < high)
        if some.sum() > 50:
            spread = 4 * np.sqrt(0.25 / some.sum())
            assert bad[some].mean() == pytest.approx(found[some].mean(), abs=spread + 0.03)


@given(st.floats(0.03, 0.3), st.sampled_from([0.05, 0.1, 0.2, 0.4]), st.integers(0, 30))
def test_the_expected_share_of_false_discoveries_holds(wrong, rate, seed):
    shares, codes, bad = cells(8000, wrong=wrong, seed=seed)

    found = label_doubt(shares, codes).wrong
    threshold = doubt_threshold(found, rate)
    flagged = found >= threshold

    assert threshold >= 0.5
    if flagged.sum() > 50:
        assert (1 - found[flagged]).mean() <= rate
        assert (~bad[flagged]).mean() <= rate + 4 * np.sqrt(
            rate * (1 - rate) / flagged.sum()
        ) + 0.03


@given(st.integers(0, 100))
def test_order_of_cells_and_names_of_classes_change_nothing(seed):
    shares, codes, _ = cells(200, 4, seed=seed)
    rng = np.random.default_rng(seed)
    rows, classes = rng.permutation(200), rng.permutation(4)

    one = label_doubt(shares, codes)
    other = label_doubt(shares[rows][:, classes], np.argsort(classes)[codes[rows]])

    assert other.noise == pytest.approx(one.noise)
    assert np.allclose(other.wrong, one.wrong[rows])
    kept = confident_errors(shares, codes)
    moved = confident_errors(shares[rows][:, classes], np.argsort(classes)[codes[rows]])
    assert (moved == kept[rows]).all()


@given(st.integers(0, 100))
def test_a_less_likely_label_is_doubted_more(seed):
    shares, codes, _ = cells(300, 4, seed=seed)
    given_share = shares[np.arange(300), codes]

    found = label_doubt(shares, codes).wrong

    assert (np.diff(found[np.argsort(given_share)]) <= 1e-12).all()


def test_kinds_of_a_label_speak_for_it():
    kinds = np.eye(3, dtype=bool)
    kinds[0, 1] = kinds[1, 0] = True
    shares = np.tile([0.01, 0.98, 0.01], (100, 1))
    codes = np.repeat([0, 1, 2], [5, 90, 5])

    found = label_doubt(shares, codes, kinds).wrong

    assert (found[:95] < 0.01).all()
    assert (found[95:] > 0.5).all()
    assert confident_errors(shares, codes).sum() == 10
    assert confident_errors(shares, codes, kinds).sum() == 5


def test_confident_learning_is_the_papers_count():
    shares = np.array(
        [[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9], [0.6, 0.4], [0.15, 0.85], [np.nan] * 2]
    )
    codes = np.array([0, 0, 0, 1, 1, 1, 0])

    # Thresholds are 0.6 and 0.7166...: cell 2 reaches that of class 1, cell 4 that of class 0.
    assert confident_errors(shares, codes).tolist() == [
        False, False, True, False, True, False, False,
    ]  # fmt: skip


def test_cells_of_which_nothing_is_known_get_no_doubt():
    shares, codes, _ = cells(100)
    shares[:10] = np.nan

    found = label_doubt(shares, codes)

    assert np.isnan(found.wrong[:10]).all()
    assert np.isfinite(found.wrong[10:]).all()
    assert np.isnan(label_doubt(shares[:10], codes[:10]).wrong).all()
    assert label_doubt(shares[:10], codes[:10]).noise == 0
    assert doubt_threshold(found.wrong[:10], 0.1) == np.inf


def test_cells_of_one_doubt_are_flagged_together():
    doubts = np.array([0.99, 0.8, 0.8, 0.8, 0.3])

    assert doubt_threshold(doubts, 0.1) == 0.99
    assert doubt_threshold(doubts, 0.2) == 0.8
    assert doubt_threshold(doubts, 0.9) == 0.8


@pytest.mark.parametrize("rate", [0, 1, -0.1, 2])
def test_shares_of_false_discoveries_outside_of_zero_and_one_are_refused(rate):
    with pytest.raises(UsageError, match=r"share of the flagged cells.*\[E-U65\]"):
        doubt_threshold([0.9], rate)


def test_shapes_that_do_not_fit_are_refused():
    shares, codes, _ = cells(10)

    with pytest.raises(UsageError, match="E-U67"):
        label_doubt(shares, codes[:5])
    with pytest.raises(UsageError, match="E-U67"):
        label_doubt(shares, codes + 5)
    with pytest.raises(UsageError, match="E-U67"):
        confident_errors(shares[:, :1], np.zeros(10, dtype=int))
    with pytest.raises(UsageError, match="kinds have shape.*E-U67"):
        label_doubt(shares, codes, np.eye(3))
