"""Principal components against scikit-learn, and what `PCAEmbedding` promises."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import PCA

from episome.data import simulate_cells
from episome_baselines import KNNClassifier, PCAEmbedding, components
from episome_baselines.components import fit_components, moments, project


def low_rank(n: int, n_genes: int, rank: int = 6, seed: int = 0) -> sparse.csr_matrix:
    """Sparse values with a few directions that stand out, each twice as strong as the next."""
    rng = np.random.default_rng(seed)
    strength = 2.0 ** -np.arange(rank)
    signal = rng.normal(size=(n, rank)) * strength @ rng.normal(size=(rank, n_genes))
    noise = rng.normal(size=(n, n_genes)) * 0.05
    values = (signal + noise + 1.0) * (rng.random((n, n_genes)) < 0.7)
    return sparse.csr_matrix(values.astype(np.float32))


# The three ways: few genes, few cells, and the randomised search.
SHAPES = [(900, 60), (60, 900), (700, 600)]


@pytest.mark.parametrize("shape", SHAPES)
def test_components_are_those_of_scikit_learn(shape):
    values = low_rank(*shape)
    dense = values.toarray().astype(np.float64)
    reference = PCA(4, svd_solver="full").fit(dense)

    found = fit_components(values, 4, n_top_genes=None, seed=0)

    sign = np.sign((found.loadings * reference.components_).sum(1))
    np.testing.assert_allclose(
        found.loadings,
        reference.components_ * sign[:, None],
        atol=2e-3 if min(shape) > 500 else 1e-4,
    )
    np.testing.assert_allclose(
        found.project(values), reference.transform(dense) * sign, rtol=1e-2, atol=2e-2
    )
    np.testing.assert_allclose(
        found.explained_variance_ratio, reference.explained_variance_ratio_, rtol=1e-3
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_scaled_components_are_those_of_standardised_values(shape):
    values = low_rank(*shape)
    dense = values.toarray().astype(np.float64)
    standard = (dense - dense.mean(0)) / dense.std(0, ddof=1)
    reference = PCA(3, svd_solver="full").fit(standard)

    found = fit_components(values, 3, n_top_genes=None, seed=0, scale=True)

    sign = np.sign((found.loadings * reference.components_).sum(1))
    np.testing.assert_allclose(found.loadings, reference.components_ * sign[:, None], atol=2e-3)
    np.testing.assert_allclose(
        found.project(values), reference.transform(standard) * sign, rtol=1e-2, atol=3e-2
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_largest_loading_is_positive(shape):
    loadings = fit_components(low_rank(*shape), 5, n_top_genes=None, seed=0).loadings

    largest = np.abs(loadings).argmax(axis=1)

    assert (loadings[np.arange(5), largest] > 0).all()
    np.testing.assert_allclose(loadings @ loadings.T, np.eye(5), atol=1e-5)


def test_randomised_search_follows_its_seed():
    values = low_rank(700, 600)
    first, again, other = (
        fit_components(values, 3, n_top_genes=None, seed=s).loadings for s in (0, 0, 1)
    )

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_allclose(other, first, atol=2e-3)


def test_values_are_never_made_dense(monkeypatch):
    values = low_rank(700, 600)

    def refuse(*args: object, **kwargs: object) -> None:
        msg = "the values were made dense"
        raise AssertionError(msg)

    for name in ("toarray", "todense"):
        monkeypatch.setattr(sparse.csr_matrix, name, refuse)
    found = fit_components(values, 5, n_top_genes=None, seed=0, scale=True)

    assert found.loadings.shape == (5, 600)


def test_values_are_left_as_they_are():
    values = low_rank(700, 600)
    before = values.copy()

    fit_components(values, 5, n_top_genes=None, seed=0, scale=True)

    assert (values != before).nnz == 0


def test_genes_that_never_vary_do_no_harm():
    values = low_rank(900, 60).tolil()
    values[:, 3], values[:, 4] = 0.0, 2.0

    found = fit_components(sparse.csr_matrix(values), 5, n_top_genes=None, seed=0, scale=True)

    assert np.isfinite(found.loadings).all()
    np.testing.assert_allclose(found.loadings[:, [3, 4]], 0.0, atol=1e-3)


def test_moments_equal_numpy():
    values = low_rank(50, 20)
    dense = values.toarray().astype(np.float64)

    mean, variance = moments(values)

    np.testing.assert_allclose(mean, dense.mean(0), rtol=1e-6)
    np.testing.assert_allclose(variance, dense.var(0, ddof=1), rtol=1e-6)


# -- the model -----------------------------------------------------------------------------------


def cells():
    everything = simulate_cells(240, 60, n_types=4, n_donors=6, fold_change=2.0)
    return everything[:180].copy(), everything[180:].copy()


def fitted(adata, **kwargs) -> PCAEmbedding:
    adata = adata.copy()
    PCAEmbedding.setup_anndata(adata)
    model = PCAEmbedding(adata, **kwargs)
    model.train()
    return model


def logged(adata) -> np.ndarray:
    counts = adata.X.toarray().astype(np.float64)
    return np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)


def reconstructed(model, adata) -> np.ndarray:
    return model.predictor().collect(model.prepare(adata), ["mean"])["mean"]


def test_labels_are_not_needed():
    train, query = cells()
    del train.obs["cell_type"]

    model = fitted(train, n_components=5)

    assert model.get_latent_representation(query).shape == (60, 5)


def test_fit_facts_hold_the_shares_of_variance():
    train, _ = cells()
    reference = PCA(10, svd_solver="full").fit(logged(train))

    model = fitted(train, n_components=10, n_top_genes=None)

    found = model.fit_["explained_variance_ratio"]
    np.testing.assert_allclose(found, reference.explained_variance_ratio_, atol=1e-5)
    assert model.fit_["n_components"] == 10
    assert model.fit_["n_genes"] == 60


@pytest.mark.parametrize("scale", [False, True])
def test_query_is_projected_as_the_formula_says(scale):
    train, query = cells()
    model = fitted(train, n_components=6, n_top_genes=30, scale=scale)
    a = model.module.arrays
    centred = (logged(query)[:, a["genes"]] - a["mean"]) / a["deviation"]

    found = model.get_latent_representation(query)

    assert (a["deviation"] == 1).all() == (not scale)
    np.testing.assert_allclose(found, centred @ a["loadings"].T, atol=2e-4)


def test_training_cells_are_where_the_fit_put_them():
    train, _ = cells()
    model = fitted(train, n_components=6, n_top_genes=None)
    reference = PCA(6, svd_solver="full").fit(logged(train))

    found = model.get_latent_representation()

    wanted = reference.transform(logged(train))
    sign = np.sign((found * wanted).sum(0))
    np.testing.assert_allclose(found * sign, wanted, atol=2e-3)


def test_projection_does_not_depend_on_the_other_cells_of_the_query():
    train, query = cells()
    model = fitted(train, n_components=6)
    whole = model.get_latent_representation(query)

    assert np.array_equal(model.get_latent_representation(query[7:20]), whole[7:20])
    assert np.array_equal(model.get_latent_representation(query, batch_size=7), whole)


def test_error_does_not_grow_with_components():
    train, _ = cells()
    values = logged(train)

    errors = [
        (
            (reconstructed(fitted(train, n_components=k, n_top_genes=None), train) - values) ** 2
        ).mean()
        for k in (1, 2, 5, 20, 59)
    ]

    assert (np.diff(errors) <= 1e-9).all()
    assert errors[-1] < errors[0] / 100


@pytest.mark.parametrize("scale", [False, True])
def test_genes_of_the_components_are_reconstructed_as_by_scikit_learn(scale):
    train, query = cells()
    values, new = logged(train), logged(query)
    mean, deviation = values.mean(0), values.std(0, ddof=1) if scale else np.ones(60)
    reference = PCA(6, svd_solver="full").fit((values - mean) / deviation)
    scores = reference.transform((new - mean) / deviation)

    model = fitted(train, n_components=6, n_top_genes=None, scale=scale)

    wanted = reference.inverse_transform(scores) * deviation + mean
    np.testing.assert_allclose(reconstructed(model, query), wanted, atol=5e-3)


def test_other_genes_are_expected_by_regression_on_the_components():
    train, query = cells()
    model = fitted(train, n_components=6, n_top_genes=20)
    scores = np.column_stack([np.ones(180), model.get_latent_representation(train)])
    slopes = np.linalg.lstsq(scores, logged(train), rcond=None)[0]

    found = reconstructed(model, query)

    new = np.column_stack([np.ones(60), model.get_latent_representation(query)])
    np.testing.assert_allclose(found, new @ slopes, atol=2e-3)


def test_more_components_than_cells_or_genes_are_cut():
    train, query = cells()

    model = fitted(train[:20].copy(), n_components=500)

    assert model.fit_["n_components"] == 19
    assert np.isfinite(model.get_latent_representation(query)).all()


def test_neighbours_are_searched_among_the_same_components():
    train, _ = cells()
    wanted = fitted(train, n_components=8, n_top_genes=30).module.arrays
    KNNClassifier.setup_anndata(train, labels_key="cell_type")
    model = KNNClassifier(train, n_components=8, n_top_genes=30)

    model.train()

    for name in ("genes", "mean", "loadings"):
        assert np.array_equal(model.module.arrays[name], wanted[name])


def test_one_row_is_projected_as_in_a_batch():
    values = low_rank(40, 30)
    mean, loadings = np.ones(30, np.float32), np.eye(4, 30, dtype=np.float32)

    whole = project(values, mean, loadings)

    assert np.array_equal(np.vstack([project(v, mean, loadings) for v in values]), whole)
    np.testing.assert_allclose(whole, values.toarray()[:, :4] - 1.0, atol=1e-6)


def test_exact_and_randomised_components_agree(monkeypatch):
    values = low_rank(400, 300)
    exact = fit_components(values, 4, n_top_genes=None, seed=0)

    monkeypatch.setattr(components, "EXACT_UP_TO", 10)
    found = fit_components(values, 4, n_top_genes=None, seed=0)

    np.testing.assert_allclose(found.loadings, exact.loadings, atol=2e-3)
