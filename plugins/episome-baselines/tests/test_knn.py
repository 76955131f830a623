"""Nearest neighbours: brute force, ties, and the approximate index."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
from scipy import sparse

from episome.data import simulate_cells
from episome.errors import MissingDependencyError, UsageError
from episome.metrics import knn_probabilities
from episome_baselines import KNNClassifier, nearest
from episome_baselines.nearest import ApproximateIndex, exact_neighbors, wants_approximate


def cells(n_train: int = 1000, n_query: int = 150, fold_change: float = 1.6):
    everything = simulate_cells(n_train + n_query, 50, n_types=4, fold_change=fold_change)
    return everything[:n_train].copy(), everything[n_train:].copy()


def fitted(adata, **kwargs) -> KNNClassifier:
    adata = adata.copy()
    KNNClassifier.setup_anndata(adata, labels_key="cell_type")
    model = KNNClassifier(adata, **kwargs)
    model.train()
    return model


def dense(adata) -> anndata.AnnData:
    return anndata.AnnData(adata.X.toarray(), obs=adata.obs, var=adata.var)


def distances(reference: np.ndarray, cell: np.ndarray, metric: str) -> np.ndarray:
    if metric == "euclidean":
        return np.sqrt(((reference - cell) ** 2).sum(1))
    lengths = np.linalg.norm(reference, axis=1) * np.linalg.norm(cell)
    return 1 - reference @ cell / lengths


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_votes_of_a_thousand_cells_equal_brute_force(weights, metric):
    train, query = cells()
    model = fitted(train, n_neighbors=7, n_components=10, weights=weights, metric=metric)
    reference = model.module.arrays["reference"].astype(np.float64)
    codes = model.module.arrays["codes"]
    latent = model.get_latent_representation(query).astype(np.float64)
    wanted = np.zeros((150, 4))
    for row, cell in zip(wanted, latent, strict=True):
        d = distances(reference, cell, metric)
        for i in np.argsort(d, kind="stable")[:7]:
            row[codes[i]] += 1.0 if weights == "uniform" else 1 / d[i]

    found = model.predict_proba(query, calibrated=False)

    assert len(reference) == 1000
    wanted /= wanted.sum(1, keepdims=True)
    np.testing.assert_allclose(found, wanted, atol=2e-6 if weights == "uniform" else 1e-3)


def test_dense_and_sparse_cells_give_the_same():
    train, query = cells(300, 60)
    sparse_model, dense_model = fitted(train), fitted(dense(train))

    wanted = sparse_model.predict_proba(query)

    assert sparse.issparse(train.X)
    np.testing.assert_array_equal(sparse_model.predict_proba(dense(query)), wanted)
    np.testing.assert_array_equal(dense_model.predict_proba(query), wanted)


# -- ties ----------------------------------------------------------------------------------------


def shares(codes: list[int], ties: str, weights: str = "uniform") -> np.ndarray:
    """Votes of cells at 1, 2, 3, ... for one at 0."""
    return knn_probabilities(
        np.arange(1.0, len(codes) + 1)[:, None],
        np.array(codes),
        np.zeros((2, 1)),
        n_classes=4,
        n_neighbors=len(codes),
        weights=weights,
        ties=ties,
    )


@pytest.mark.parametrize(
    ("codes", "winner"),
    [
        ([2, 1, 2, 1], 2),  # 1 + 3 against 2 + 4
        ([1, 2, 2, 1], 1),  # 5 against 5: the smaller code
        ([3, 2, 2, 3, 2, 3], 2),  # 2 + 3 + 5 against 1 + 4 + 6
        ([3, 2, 1], 3),
        ([0, 2, 1, 2, 1], 2),  # the nearest class has fewer votes
    ],
)
def test_tie_goes_to_the_smaller_sum_of_distances(codes, winner):
    found = shares(codes, "distance")

    np.testing.assert_array_equal(found.argmax(1), winner)
    assert (np.sort(found[0])[-1] > np.sort(found[0])[-2]).all()
    np.testing.assert_allclose(found, shares(codes, "code"), atol=2e-6)
    np.testing.assert_allclose(found.sum(1), 1.0, atol=1e-6)


def test_without_a_tie_shares_are_plain_votes():
    np.testing.assert_array_equal(shares([2, 1, 1], "distance"), shares([2, 1, 1], "code"))


def test_weights_by_distance_have_no_ties_to_settle():
    found = shares([2, 1, 2, 1], "distance", "distance")

    np.testing.assert_array_equal(found, shares([2, 1, 2, 1], "code", "distance"))


def test_model_settles_ties_by_distance():
    train, query = cells(300, 60, fold_change=1.2)
    model = fitted(train, n_neighbors=4, weights="uniform")
    reference, codes = (model.module.arrays[k] for k in ("reference", "codes"))
    latent = model.get_latent_representation(query)
    d, rows = exact_neighbors(reference, latent, 4, "euclidean")
    votes = np.zeros((60, 4))
    sums = np.zeros((60, 4))
    np.add.at(votes, (np.arange(60)[:, None], codes[rows]), 1)
    np.add.at(sums, (np.arange(60)[:, None], codes[rows]), d)
    tied = (votes == votes.max(1, keepdims=True)).sum(1) > 1
    wanted = np.where(votes == votes.max(1, keepdims=True), sums, np.inf).argmin(1)

    found = model.predict_proba(query, calibrated=False).to_numpy().argmax(1)

    assert tied.sum() >= 5
    np.testing.assert_array_equal(found, wanted)


# -- search --------------------------------------------------------------------------------------


def test_given_search_finds_the_neighbours():
    asked = []

    def search(query, k):
        asked.append((len(query), k))
        return np.ones((len(query), k)), np.tile([2, 0], (len(query), 1))

    found = knn_probabilities(
        np.zeros((3, 1), np.float32),
        np.array([0, 1, 2]),
        np.zeros((5, 1), np.float32),
        n_classes=3,
        n_neighbors=2,
        search=search,
        block=4,
    )

    assert asked == [(4, 2), (1, 2)]
    np.testing.assert_array_equal(found, np.tile([0.5, 0, 0.5], (5, 1)))


@pytest.mark.parametrize("name", ["index", "metric", "weights"])
def test_unknown_word_is_refused(name):
    train, _ = cells(60, 10)
    KNNClassifier.setup_anndata(train, labels_key="cell_type")

    with pytest.raises(UsageError, match=rf"{name}='nearly'.*E-U30"):
        KNNClassifier(train, **{name: "nearly"})


def test_missing_package_is_named_only_where_it_was_asked_for(monkeypatch):
    monkeypatch.setattr(nearest, "find_spec", lambda name: None)
    train, query = cells(60, 10)
    model = fitted(train)
    KNNClassifier.setup_anndata(train, labels_key="cell_type")

    with pytest.raises(MissingDependencyError, match=r"pynndescent.*E-P02") as caught:
        KNNClassifier(train, index="approximate")

    assert "episome-baselines[ann]" in str(caught.value)
    assert model.predict_proba(query).shape == (10, 4)
    assert not wants_approximate("auto", 10**7)


@pytest.mark.parametrize(
    ("index", "n", "wanted"),
    [
        ("auto", 200_000, False),
        ("auto", 200_001, True),
        ("exact", 10**7, False),
        ("approximate", 1_000, True),
        ("approximate", 999, False),
    ],
)
def test_index_follows_the_number_of_cells(monkeypatch, index, n, wanted):
    monkeypatch.setattr(nearest, "find_spec", lambda name: name)

    assert wants_approximate(index, n) is wanted


def test_exact_search_is_said():
    train, _ = cells(60, 10)

    model = fitted(train)

    assert model.fit_["index"] == "exact"
    assert "recall" not in model.fit_


@pytest.mark.slow
def test_approximate_index_finds_nearly_all_neighbours(tmp_path):
    # Compiling the search takes half a minute in every process: one test for all of it.
    pytest.importorskip("pynndescent")
    train, query = cells(2000, 300)
    exact = fitted(train, n_components=10, index="exact")

    model = fitted(train, n_components=10, index="approximate")

    assert model.fit_["index"] == "approximate"
    assert model.fit_["recall"] > 0.95
    found = model.predict_proba(query)
    wanted = exact.predict_proba(query)
    assert (found.to_numpy().argmax(1) == wanted.to_numpy().argmax(1)).mean() > 0.98
    # the same for every batch, a second training, and after loading
    np.testing.assert_array_equal(model.predict_proba(query, batch_size=7), found)
    again = fitted(train, n_components=10, index="approximate")
    np.testing.assert_array_equal(again.predict_proba(query), found)
    model.save(tmp_path / "folder")
    loaded = KNNClassifier.load(tmp_path / "folder")
    np.testing.assert_array_equal(loaded.predict_proba(query), found)
    check_recall_is_counted()


def check_recall_is_counted() -> None:
    """The recall is that of other cells, by comparison with all distances."""
    reference = np.random.default_rng(0).normal(size=(1500, 8)).astype(np.float32)
    index = ApproximateIndex(reference, n_neighbors=5, metric="euclidean")

    assert index.recall(5, seed=0) > 0.9
    index._index.query = lambda query, k, epsilon: (
        np.tile(np.arange(k), (len(query), 1)),
        np.zeros((len(query), k)),
    )
    assert index.recall(5, seed=0) < 0.05
    # rows that were not found are searched among all
    index._index.query = lambda query, k, epsilon: (
        np.full((len(query), k), -1),
        np.zeros((len(query), k)),
    )
    assert index.recall(5, seed=0) == 1.0
