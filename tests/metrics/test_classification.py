"""Scores, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from episome.metrics import accuracy, bootstrap, knn_probabilities, macro_f1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_macro_f1_equals_scikit_learn_over_the_true_classes(pairs):
    truth, called = np.array(pairs).T

    wanted = f1_score(truth, called, labels=np.unique(truth), average="macro", zero_division=0)

    assert macro_f1(truth, called) == pytest.approx(wanted)
    assert accuracy(truth, called) == pytest.approx(np.mean(truth == called))


def test_macro_f1_has_no_term_for_a_class_that_is_only_called():
    # a: precision 1, recall 1/2; b: 1
    assert macro_f1(["a", "a", "b"], ["a", "new", "b"]) == pytest.approx((2 / 3 + 1) / 2)


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


# -- nearest neighbours --------------------------------------------------------------------------


def vote(reference, codes, cell, k, weights, metric):
    """One cell, by sorting all distances."""
    if metric == "euclidean":
        distance = np.sqrt(((reference - cell) ** 2).sum(1))
    else:
        lengths = np.linalg.norm(reference, axis=1) * np.linalg.norm(cell)
        distance = 1 - reference @ cell / lengths
    nearest = np.argsort(distance, kind="stable")[:k]
    weight = np.ones(k) if weights == "uniform" else 1 / distance[nearest]
    votes = np.bincount(codes[nearest], weight, minlength=4)
    return votes / votes.sum()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_votes_equal_brute_force(weights, metric):
    rng = np.random.default_rng(0)
    reference, query = rng.normal(size=(60, 5)), rng.normal(size=(20, 5))
    codes = rng.integers(0, 4, 60)

    got = knn_probabilities(
        reference,
        codes,
        query,
        n_classes=4,
        n_neighbors=7,
        weights=weights,
        metric=metric,
        block=6,
    )

    wanted = np.array([vote(reference, codes, q, 7, weights, metric) for q in query])
    np.testing.assert_allclose(got, wanted, atol=2e-6)
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-6)


def test_a_neighbour_at_distance_zero_decides():
    reference = np.array([[0.0, 0], [0.1, 0], [0.1, 0.1]])

    got = knn_probabilities(
        reference, np.array([1, 0, 0]), reference[:1], n_classes=2, n_neighbors=3
    )

    assert got.tolist() == [[0, 1]]


def test_more_neighbours_than_cells_takes_all_cells():
    got = knn_probabilities(
        np.eye(3),
        np.array([0, 1, 1]),
        np.zeros((1, 3)),
        n_classes=2,
        n_neighbors=50,
        weights="uniform",
    )

    np.testing.assert_allclose(got, [[1 / 3, 2 / 3]], atol=1e-6)


def test_no_query_gives_no_votes():
    assert knn_probabilities(np.eye(3), np.arange(3), np.empty((0, 3)), n_classes=3).shape == (
        0,
        3,
    )
