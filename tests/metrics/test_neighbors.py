"""Votes of nearest neighbours, against brute force and recorded ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.neighbors import KNeighborsRegressor

from episome.errors import UsageError
from episome.metrics import knn_mean, knn_probabilities


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


def test_uniform_tie_goes_to_the_smallest_class():
    # the nearest neighbour is of class 2, and of equal votes the smallest class wins
    reference = np.array([[1.0], [2.0], [3.0], [4.0]])

    got = knn_probabilities(
        reference,
        np.array([2, 1, 2, 1]),
        np.zeros((1, 1)),
        n_classes=3,
        n_neighbors=4,
        weights="uniform",
    )

    assert got.tolist() == [[0, 0.5, 0.5]]
    assert got.argmax(1).tolist() == [1]


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("k", [1, 5, 59, 200])
def test_excluded_cell_has_no_vote(k, weights):
    rng = np.random.default_rng(0)
    reference, codes = rng.normal(size=(60, 3)), rng.integers(0, 4, 60)

    got = knn_probabilities(
        reference,
        codes,
        reference,
        n_classes=4,
        n_neighbors=k,
        weights=weights,
        exclude=np.arange(60),
        block=7,
    )

    for i in range(60):
        others = np.delete(np.arange(60), i)
        wanted = vote(
            reference[others], codes[others], reference[i], min(k, 59), weights, "euclidean"
        )
        np.testing.assert_allclose(got[i], wanted, atol=2e-6)


def test_negative_row_excludes_none():
    rng = np.random.default_rng(1)
    reference, codes, query = (
        rng.normal(size=(9, 2)),
        rng.integers(0, 3, 9),
        rng.normal(size=(4, 2)),
    )

    got = knn_probabilities(
        reference, codes, query, n_classes=3, n_neighbors=3, exclude=np.full(4, -1)
    )

    wanted = knn_probabilities(reference, codes, query, n_classes=3, n_neighbors=3)
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("n_reference", "exclude", "message", "code"),
    [
        (3, [0], r"exclude has shape \(1,\) for 2 query cells", "E-U41"),
        (3, [0, 3], "exclude names row 3 of a reference of 3 cells", "E-U44"),
        (1, [0, 0], "a reference of 1 cells leaves no neighbour", "E-U43"),
    ],
)
def test_rows_that_cannot_be_excluded_are_refused(n_reference, exclude, message, code):
    with pytest.raises(UsageError, match=message) as caught:
        knn_probabilities(
            np.eye(n_reference),
            np.zeros(n_reference, int),
            np.zeros((2, n_reference)),
            n_classes=1,
            exclude=np.array(exclude),
        )

    assert caught.value.code == code


@pytest.mark.parametrize("k", [1, 5])
def test_votes_golden_match(golden, k):
    case = golden("10b_evaluation_metrics")
    reference, query = case.arrays["reference_embedding"], case.arrays["query_embedding"]
    codes = case.arrays["reference_labels"]
    distance = ((query[:, None].astype(float) - reference[None]) ** 2).sum(2)
    n_classes = codes.max() + 1

    def called(cells, exclude):
        votes = knn_probabilities(
            reference,
            codes,
            cells,
            n_classes=n_classes,
            n_neighbors=k,
            weights="uniform",
            exclude=exclude,
        )
        return votes.argmax(1)

    plain, own = called(query, None), called(reference, np.arange(len(reference)))
    without_nearest = called(query, distance.argmin(1))
    np.testing.assert_array_equal(plain, case.arrays[f"knn_k{k}/query_plain"])
    np.testing.assert_array_equal(own, case.arrays[f"knn_k{k}/self"])
    np.testing.assert_array_equal(without_nearest, case.arrays[f"knn_k{k}/query"])


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("as_matrix", [np.asarray, sparse.csr_matrix])
def test_means_of_neighbours_are_those_of_scikit_learn(weights, as_matrix):
    rng = np.random.default_rng(0)
    reference, query = rng.normal(size=(60, 5)), rng.normal(size=(20, 5))
    values = rng.poisson(1.0, (60, 7)).astype(float)
    regressor = KNeighborsRegressor(n_neighbors=7, weights=weights).fit(reference, values)

    got = knn_mean(reference, as_matrix(values), query, n_neighbors=7, weights=weights, block=6)

    assert got.dtype == np.float32
    np.testing.assert_allclose(got, regressor.predict(query), rtol=1e-5)


def test_means_leave_a_cell_out_of_its_own():
    reference = np.array([[0.0], [1.0], [5.0]])

    got = knn_mean(
        reference, np.array([[1.0], [2], [3]]), reference, n_neighbors=1, exclude=np.arange(3)
    )

    assert got.ravel().tolist() == [2, 1, 2]


def test_means_need_values_of_every_cell():
    with pytest.raises(UsageError, match=r"2 rows of values for 3 reference cells.*E-U41"):
        knn_mean(np.eye(3), np.eye(2), np.eye(3))
