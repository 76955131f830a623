"""The baselines against scikit-learn, scanpy and plain numpy."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import scanpy as sc
from scipy.special import softmax
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression as Reference

from episome.data import simulate_cells
from episome.errors import UsageError
from episome.models import TrainingCells
from episome_baselines import KNNClassifier, LogisticRegression, MajorityClass, NearestCentroid

N_TRAIN = 160


def cells(n_types=3, fold_change=2.5):
    everything = simulate_cells(220, 50, n_types=n_types, n_donors=6, fold_change=fold_change)
    return everything[:N_TRAIN].copy(), everything[N_TRAIN:].copy()


def logged(adata) -> np.ndarray:
    """The host's rule, written out."""
    counts = adata.X.toarray().astype(np.float64)
    return np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)


def codes(adata) -> np.ndarray:
    return adata.obs["cell_type"].cat.codes.to_numpy()


def fitted(cls, adata, setup=None, **kwargs):
    adata = adata.copy()
    cls.setup_anndata(adata, labels_key="cell_type", **(setup or {}))
    model = cls(adata, **kwargs)
    model.train()
    return model


# -- logistic regression -------------------------------------------------------------------------


@pytest.mark.parametrize("n_types", [2, 3, 5])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_logistic_regression_equals_scikit_learn(n_types, class_weight):
    train, query = cells(n_types)
    train = train[np.r_[0:140]].copy()
    reference = Reference(C=0.7, max_iter=500, class_weight=class_weight)
    # float32, as the model sees the values: the solver stops at a gradient, not at the optimum
    reference.fit(logged(train).astype(np.float32), codes(train))

    model = fitted(
        LogisticRegression,
        train,
        penalties=[0.7],
        n_top_genes=None,
        max_iter=500,
        class_weight=class_weight,
    )

    got = model.predict_proba(query, calibrated=False)
    np.testing.assert_allclose(got, reference.predict_proba(logged(query)), atol=2e-3)
    assert (got.to_numpy().argmax(1) == reference.predict(logged(query))).all()
    assert model.fit_["penalty"] == 0.7


def test_logistic_regression_sees_the_variable_genes_of_the_training_cells():
    train, query = cells()
    values = anndata.AnnData(logged(train).astype(np.float32))
    values.uns["log1p"] = {"base": None}
    chosen = sc.pp.highly_variable_genes(values, n_top_genes=20, flavor="seurat", inplace=False)
    genes = np.flatnonzero(chosen["highly_variable"])
    reference = Reference(C=1.0, max_iter=200).fit(
        logged(train)[:, genes].astype(np.float32), codes(train)
    )

    model = fitted(LogisticRegression, train, penalties=[1.0], n_top_genes=20)

    assert model.module.arrays["genes"].tolist() == genes.tolist()
    np.testing.assert_allclose(
        model.predict_proba(query, calibrated=False),
        reference.predict_proba(logged(query)[:, genes]),
        atol=2e-3,
    )


def test_penalty_is_the_best_on_training_cells_or_near_one():
    train, _ = cells()

    model = fitted(LogisticRegression, train, penalties=[1e-6, 1.0, 100.0])

    scores = model.fit_["cv_macro_f1"]
    assert set(scores) == {"1e-06", "1", "100"}
    assert scores["1e-06"] < scores["1"]
    assert model.fit_["penalty"] == 1.0


def test_absolute_penalties_leave_genes_out():
    train, query = cells()
    given = {"penalties": [0.05], "n_top_genes": None, "max_iter": 2000}

    squared, absolute = (fitted(LogisticRegression, train, norm=n, **given) for n in ("l2", "l1"))

    zeros = [(np.abs(m.module.arrays["coefficients"]) < 1e-8).mean() for m in (squared, absolute)]
    assert zeros[0] < 0.05
    assert zeros[1] > 0.3
    assert (absolute.predict(query) == query.obs["cell_type"].astype(str)).mean() > 0.6
    with pytest.raises(UsageError, match=r"norm='l3'.*E-U30"):
        LogisticRegression(train, norm="l3")


def training_cells(labels, donors=None):
    return TrainingCells(None, np.asarray(labels), donors, int(np.max(labels)) + 1, 0)


def test_a_class_of_one_cell_trains():
    train, query = cells()
    train = train[
        [*np.flatnonzero(codes(train) != 0), np.flatnonzero(codes(train) == 0)[0]]
    ].copy()

    model = fitted(LogisticRegression, train)

    assert len(model.fit_["cv_macro_f1"]) == 3
    assert model.predict_proba(query).shape == (60, 3)


# -- centroid ------------------------------------------------------------------------------------


def test_centroid_equals_numpy():
    train, query = cells(4, fold_change=1.3)
    values, labels = logged(train), codes(train)
    means = np.array([values[labels == c].mean(0) for c in range(4)])
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731 - a formula

    model = fitted(NearestCentroid, train)

    scale = model.fit_["scale"]
    wanted = softmax(scale * unit(logged(query)) @ unit(means).T, axis=1)
    np.testing.assert_allclose(model.predict_proba(query, calibrated=False), wanted, atol=1e-3)
    similarity = unit(values) @ unit(means).T
    loss = [
        -np.log(softmax(s * similarity, axis=1)[np.arange(N_TRAIN), labels]).mean()
        for s in (scale * 0.9, scale, scale * 1.1)
    ]
    assert loss[1] == min(loss)


# -- nearest neighbours --------------------------------------------------------------------------


@pytest.fixture
def neighbours():
    train, query = cells()
    model = fitted(KNNClassifier, train, n_neighbors=9, n_components=8, n_top_genes=None)
    return model, train, query


def test_components_are_those_of_scikit_learn_up_to_sign(neighbours):
    model, train, query = neighbours
    pca = PCA(8, svd_solver="full").fit(logged(train))
    wanted = pca.transform(logged(query))

    latent = model.predictor().collect(model.prepare(query), ["latent"])["latent"]

    sign = np.sign((latent * wanted).sum(0))
    np.testing.assert_allclose(latent * sign, wanted, atol=1e-3)


def test_training_cells_are_projected_onto_the_reference(neighbours):
    model, train, _ = neighbours

    latent = model.predictor().collect(model.prepare(train), ["latent"])["latent"]

    np.testing.assert_allclose(latent, model.module.arrays["reference"], atol=1e-4)


def test_votes_equal_brute_force(neighbours):
    model, train, query = neighbours
    reference = model.module.arrays["reference"].astype(np.float64)
    latent = model.predictor().collect(model.prepare(query), ["latent"])["latent"]
    wanted = np.zeros((60, 3))
    for cell, row in zip(latent, wanted, strict=True):
        distance = np.linalg.norm(reference - cell, axis=1)
        for i in np.argsort(distance)[:9]:
            row[codes(train)[i]] += 1 / distance[i]

    np.testing.assert_allclose(
        model.predict_proba(query, calibrated=False),
        wanted / wanted.sum(1, keepdims=True),
        atol=1e-4,
    )


def test_more_components_than_cells_or_genes_are_cut():
    train, query = cells()

    model = fitted(KNNClassifier, train[:20].copy(), n_components=500, n_neighbors=500)

    assert model.fit_["n_components"] == 19
    assert np.isfinite(model.predict_proba(query)).all().all()


def test_latent_is_offered_as_the_capability_says(neighbours):
    from episome import plugins

    assert "embedding" in KNNClassifier.capabilities
    assert set(plugins.get_spec("knn").capabilities) == set(KNNClassifier.capabilities)


# -- majority and training -----------------------------------------------------------------------


def test_majority_gives_the_training_frequencies():
    train, query = cells()

    proba = fitted(MajorityClass, train).predict_proba(query, calibrated=False)

    assert np.allclose(proba, np.bincount(codes(train)) / N_TRAIN, atol=1e-6)


def test_only_the_given_rows_are_used():
    train, query = cells()
    rows = np.arange(0, N_TRAIN, 2)
    half = fitted(NearestCentroid, train[rows].copy())
    train = train.copy()
    NearestCentroid.setup_anndata(train, labels_key="cell_type")
    model = NearestCentroid(train)

    model.train(datasplitter_kwargs={"external_indexing": [rows, np.arange(1, N_TRAIN, 2)]})

    assert np.array_equal(model.train_indices_, rows)
    np.testing.assert_allclose(model.predict_proba(query), half.predict_proba(query), atol=1e-6)


def test_rows_without_a_class_are_refused():
    train, _ = cells()
    NearestCentroid.setup_anndata(train, labels_key="cell_type")

    with pytest.raises(UsageError, match=r"1 of 3, first: type 0.*E-U20"):
        NearestCentroid(train).train(
            datasplitter_kwargs={"external_indexing": [np.flatnonzero(codes(train) > 0)]}
        )


@pytest.mark.parametrize(
    "kwargs", [{"max_epochs": 3}, {"plan_kwargs": {}}, {"datasplitter_kwargs": {"a": 1}}]
)
def test_arguments_without_meaning_are_refused(kwargs):
    train, _ = cells()
    MajorityClass.setup_anndata(train, labels_key="cell_type")

    with pytest.raises(UsageError, match=r"fitted at once.*E-U16"):
        MajorityClass(train).train(**kwargs)


def test_logistic_regression_explains_by_its_coefficients():
    train, query = cells()
    model = fitted(LogisticRegression, train)
    arrays = model.module.arrays
    weights = np.zeros((len(model.labels), train.n_vars))
    weights[:, arrays["genes"]] = arrays["coefficients"]
    called = model.predict_proba(query).to_numpy().argmax(axis=1)

    found = model.explain(query).toarray()

    wanted = logged(query) * (weights[called] - weights.mean(axis=0))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert set(model.top_genes(query, k=3)["group"]) <= set(model.labels.names)
