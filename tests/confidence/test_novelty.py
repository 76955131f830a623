"""Novelty: unseen types score higher; known cells exceed the threshold as often as said."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score

from episome.confidence import Novelty, TypeSpace
from episome.errors import UsageError


def cells(n, n_types=4, n_genes=80, seed=0):
    """Normalised values of types that differ in ten genes each, and their codes."""
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % n_types
    mean = np.ones((n_types, n_genes))
    for t in range(n_types):
        mean[t, 10 * t : 10 * t + 10] = 4.0
    counts = rng.poisson(mean[codes])
    values = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    return sparse.csr_matrix(values.astype(np.float32)), codes


def probabilities(values, space_codes):
    """A softmax of the mean of every known type's genes."""
    scores = np.stack(
        [np.asarray(values[:, 10 * t : 10 * t + 10].mean(axis=1)).ravel() for t in range(3)], 1
    )
    shares = np.exp(2 * scores)
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def fitted():
    values, codes = cells(1200)
    known = codes < 3
    train, held = np.flatnonzero(known)[:600], np.flatnonzero(known)[600:]
    space = TypeSpace.fit(values[train], codes[train], np.arange(80))
    return Novelty.fit(space, probabilities(values[held], codes), space.distances(values[held]))


def test_an_unseen_type_scores_higher_than_known_ones(fitted):
    values, codes = cells(800, seed=1)
    shares = probabilities(values, codes)

    found = fitted.score(shares, values)

    assert found.dtype == np.float32
    assert 0 <= found.min() <= found.max() <= 1
    new = codes == 3
    assert roc_auc_score(new, found) > 0.95


@pytest.mark.parametrize("false_alarms", [0.01, 0.05, 0.2])
def test_known_cells_exceed_the_threshold_as_often_as_said(fitted, false_alarms):
    values, codes = cells(8000, n_types=3, seed=2)

    found = fitted.score(probabilities(values, codes), values)

    share = (found > fitted.threshold(false_alarms)).mean()
    assert share == pytest.approx(false_alarms, abs=0.03)


def test_distances_are_those_of_mahalanobis():
    values, codes = cells(400, n_types=3)
    space = TypeSpace.fit(values, codes, np.arange(5, 60))
    places = values[:, 5:60].toarray() @ space.loadings.T - space.offset
    precision = (space.whitening @ space.whitening.T).astype(np.float64)

    slow = np.min(
        [
            [(p - c) @ precision @ (p - c) for c in space.centres.astype(np.float64)]
            for p in places.astype(np.float64)
        ],
        axis=1,
    )

    assert np.allclose(space.distances(values), slow, rtol=1e-3, atol=1e-2)


def test_cells_of_the_space_lie_farther_out_than_others():
    values, codes = cells(300, n_types=3, n_genes=200)
    new, _ = cells(300, n_types=3, n_genes=200, seed=5)
    space = TypeSpace.fit(values, codes, np.arange(200))

    # Why calibration cells must be others than those of the space.
    assert np.median(space.distances(new)) < 0.9 * np.median(space.distances(values))


def test_the_arrays_of_a_folder_give_the_same(fitted):
    values, codes = cells(100, seed=4)
    shares = probabilities(values, codes)

    back = Novelty.from_tensors(fitted.tensors())

    assert np.array_equal(back.score(shares, values), fitted.score(shares, values))
    assert back.threshold() == fitted.threshold()


def test_the_same_seed_gives_the_same_space():
    values, codes = cells(600)

    first = TypeSpace.fit(values, codes, np.arange(80), seed=1)
    second = TypeSpace.fit(values, codes, np.arange(80), seed=1)

    assert np.array_equal(first.loadings, second.loadings)


def test_a_class_without_cells_has_no_place():
    values, codes = cells(300, n_types=3)

    space = TypeSpace.fit(values, 2 * codes, np.arange(80))

    assert space.centres.shape[0] == 3
    assert np.isfinite(space.distances(values)).all()


@pytest.mark.parametrize("share", [0.0, 1.0, -1])
def test_shares_that_are_none_are_refused(fitted, share):
    with pytest.raises(UsageError, match="E-U65"):
        fitted.threshold(share)
