"""Label sets hold what they promise on cells like the calibration cells, and no more than that."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax

from episome.confidence import ConformalScores, coverage
from episome.errors import UsageError


def cells(n, n_classes=5, seed=0):
    rng = np.random.default_rng(seed)
    shares = softmax(rng.normal(0, 1.5, (n, n_classes)), axis=1).astype(np.float32)
    codes = (shares.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return shares, codes


def band(n_calibration, n_test, error_rate):
    """Central 99 % of the share of test cells that are covered, for exchangeable cells."""
    rank = int(np.ceil((n_calibration + 1) * (1 - error_rate)))
    law = stats.betabinom(n_test, rank, n_calibration + 1 - rank)
    return law.ppf(0.005) / n_test, law.ppf(0.995) / n_test


@pytest.mark.parametrize("error_rate", [0.01, 0.05, 0.2])
def test_coverage_is_what_was_asked_for(error_rate):
    inside = 0
    for seed in range(40):
        shares, codes = cells(1500, seed=seed)
        scores = ConformalScores.of(shares[:500], codes[:500])
        sets = scores.sets(shares[500:], error_rate, by_class=False)
        covered = sets[np.arange(1000), codes[500:]].mean()
        low, high = band(500, 1000, error_rate)
        inside += low <= covered <= high

    assert inside >= 37


def test_every_class_is_covered_where_it_has_cells_enough():
    rng = np.random.default_rng(0)
    shares, codes = cells(20_000)
    # A class whose cells are seldom recognised.
    hard = codes == 0
    shares[hard] = softmax(rng.normal(0, 0.3, (hard.sum(), 5)) - 3 * np.eye(5)[0], axis=1)
    scores = ConformalScores.of(shares[:10_000], codes[:10_000])

    own = scores.sets(shares[10_000:], 0.1)
    pooled = scores.sets(shares[10_000:], 0.1, by_class=False)
    test = codes[10_000:]
    covered = {
        name: [sets[test == c, c].mean() for c in range(5)]
        for name, sets in (("own", own), ("pooled", pooled))
    }

    assert min(covered["own"]) > 0.87
    assert min(covered["pooled"]) < 0.87


def test_a_class_of_few_cells_shares_the_limit_of_all():
    shares, codes = cells(600)
    codes[codes == 4] = 3
    codes[:20] = 4

    limits = ConformalScores.of(shares, codes).limits(0.1)
    pooled = ConformalScores.of(shares, codes).limits(0.1, by_class=False)

    assert limits[4] == pooled[4]
    assert limits[3] != pooled[3]


def test_smaller_errors_give_larger_sets():
    shares, codes = cells(3000)
    scores = ConformalScores.of(shares[:1000], codes[:1000])

    sizes = [scores.sets(shares[1000:], e).sum(axis=1).mean() for e in (0.3, 0.1, 0.02)]

    assert sizes == sorted(sizes)


def test_too_few_cells_for_the_rate_give_every_class():
    shares, codes = cells(200)

    sets = ConformalScores.of(shares[:10], codes[:10]).sets(shares[10:], 0.05)

    assert sets.all()


def test_many_scores_are_thinned_and_say_the_same():
    shares, codes = cells(60_000)

    found = ConformalScores.of(shares, codes)

    assert len(found.scores) == 20_000
    whole = np.quantile(1 - shares[np.arange(60_000), codes], 0.95)
    assert found.limits(0.05, by_class=False)[0] == pytest.approx(whole, abs=0.01)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 2])
def test_rates_that_are_none_are_refused(rate):
    shares, codes = cells(50)

    with pytest.raises(UsageError, match="E-U65"):
        ConformalScores.of(shares, codes).limits(rate)


def test_coverage_is_measured_by_limits_of_other_cells():
    shares, codes = cells(4000)
    donors = np.array([None, *(f"donor {i % 8}" for i in range(3999))], dtype=object)

    found = coverage(shares, codes, donors=donors, error_rate=0.1)

    n_classes = shares.shape[1]
    assert found["overall"] == pytest.approx(0.9, abs=0.02)
    assert [n for _, n in found["by_class"]] == np.bincount(codes, minlength=n_classes).tolist()
    assert sum(n for _, n in found["by_donor"].values()) == 3999
    assert len(found["by_donor"]) == 8
    kept = [share * n for share, n in found["by_class"] if n]
    assert sum(kept) / 4000 == pytest.approx(found["overall"])
    assert 1.0 <= found["size"] <= n_classes


def test_coverage_of_donors_unlike_the_others_is_low():
    """Two thirds of each class are certain; the cells of one donor are all wrong."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2, 1200)
    donors = np.array([f"d{i % 6}" for i in range(1200)], dtype=object)
    said = np.where(donors == "d0", 1 - codes, codes)
    shares = np.full((1200, 2), 0.05)
    shares[np.arange(1200), said] = 0.95

    found = coverage(shares, codes, donors=donors, error_rate=0.2)

    assert found["by_donor"]["d0"] == [0.0, 200]
    assert found["by_donor"]["d1"][0] == 1.0


def test_coverage_says_which_classes_have_no_cells():
    shares, codes = cells(300)
    wider = np.pad(shares, ((0, 0), (0, 1)))

    found = coverage(wider, codes, error_rate=0.1)

    assert found["by_class"][-1] == [None, 0]
    assert found["by_donor"] == {}
