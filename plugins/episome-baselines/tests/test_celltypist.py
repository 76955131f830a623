"""CellTypist against the package: the same models, the same scores, no code from its files."""

from __future__ import annotations

import importlib
import pickle
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from episome.data import simulate_cells
from episome.errors import (
    EpisomeWarning,
    InputFileError,
    ModelFileError,
    UntrustedModelError,
    UsageError,
)
from episome_baselines import CellTypist
from episome_baselines.celltypist_core import CellTypistCore


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The package, imported without its folder at home and its global warning filters."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("CELLTYPIST_FOLDER", str(tmp_path_factory.mktemp("celltypist")))
        yield pytest.importorskip("celltypist")


def cells(n_types=4, n_genes=80):
    everything = simulate_cells(320, n_genes, n_types=n_types, n_donors=6, fold_change=2.5)
    return everything[:240].copy(), everything[240:].copy()


def logged(adata) -> anndata.AnnData:
    counts = adata.X.toarray().astype(np.float64)
    values = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4).astype(np.float32)
    return anndata.AnnData(
        sparse.csr_matrix(values),
        obs=pd.DataFrame(index=adata.obs_names),
        var=pd.DataFrame(index=adata.var_names),
    )


def names(adata) -> np.ndarray:
    return adata.obs["cell_type"].astype(str).to_numpy()


def fitted(adata, setup=None, **kwargs):
    adata = adata.copy()
    CellTypist.setup_anndata(adata, labels_key="cell_type", **(setup or {}))
    model = CellTypist(adata, **kwargs)
    model.train()
    return model


def own_values(model) -> sparse.csr_matrix:
    """Return the training values as the model sees them."""
    return sparse.vstack([b["X"] for b in model.predictor().batches(model.prepare())]).tocsr()


def trained_by_package(package, model, train, **kwargs):
    values = own_values(model)
    np.random.seed(0)  # noqa: NPY002 - the package draws from the global generator
    return package.train(
        values, labels=names(train), genes=train.var_names.to_numpy(), random_state=0, **kwargs
    )


def require_same(model, theirs):
    arrays, wanted = model.module.arrays, theirs.classifier
    ids = np.array(model.features.ids)
    assert ids[arrays["genes"]].tolist() == list(wanted.features)
    np.testing.assert_allclose(arrays["scale"], theirs.scaler.scale_, rtol=1e-6)
    coefficients = (
        wanted.coef_ if len(wanted.coef_) > 1 else np.vstack([-wanted.coef_, wanted.coef_])
    )
    np.testing.assert_allclose(arrays["coefficients"], coefficients, rtol=1e-4, atol=1e-5)
    assert list(model.labels.names) == list(wanted.classes_)


@pytest.mark.parametrize("with_mean", [True, False])
@pytest.mark.parametrize("feature_selection", [True, False])
def test_descent_gives_the_coefficients_of_the_package(package, feature_selection, with_mean):
    train, _ = cells()
    settings = {
        "use_SGD": True,
        "feature_selection": feature_selection,
        "top_genes": 15,
        "with_mean": with_mean,
    }
    model = fitted(train, **settings)

    require_same(model, trained_by_package(package, model, train, **settings))

    n_kept = len(model.module.arrays["genes"])
    assert (n_kept < 80) == feature_selection


@pytest.mark.parametrize("balance_cell_type", [True, False])
def test_mini_batches_are_those_of_the_package(package, balance_cell_type):
    train, _ = cells()
    settings = {
        "use_SGD": True,
        "feature_selection": False,
        "mini_batch": True,
        "batch_size": 50,
        "batch_number": 3,
        "epochs": 4,
        "balance_cell_type": balance_cell_type,
    }
    model = fitted(train, **settings)

    require_same(model, trained_by_package(package, model, train, **settings))


def test_two_classes_have_a_row_each(package):
    train, _ = cells(2)
    settings = {"use_SGD": True, "feature_selection": False}
    model = fitted(train, **settings)

    require_same(model, trained_by_package(package, model, train, **settings))
    assert model.module.arrays["coefficients"].shape[0] == 2


class OneAgainstRest(LogisticRegression):
    """What ``multi_class="ovr"`` was."""

    def __init__(
        self,
        C=1.0,
        solver="lbfgs",
        max_iter=100,
        multi_class="ovr",
        n_jobs=None,
        random_state=None,
    ):
        super().__init__(C=C, solver=solver, max_iter=max_iter, random_state=random_state)
        self.multi_class = multi_class

    def fit(self, x, y):
        self.classes_ = np.unique(y)
        plain = {"C": self.C, "solver": self.solver, "max_iter": self.max_iter, "random_state": 0}
        fits = [LogisticRegression(**plain).fit(x, y == c) for c in self.classes_]
        self.coef_ = np.vstack([f.coef_ for f in fits])
        self.intercept_ = np.concatenate([f.intercept_ for f in fits])
        return self


def test_the_default_way_is_the_package_s_with_an_estimator_that_exists(package, monkeypatch):
    train, query = cells()
    settings = {"feature_selection": True, "top_genes": 15}
    model = fitted(train, **settings)
    training = importlib.import_module("celltypist.train")
    monkeypatch.setattr(training, "LogisticRegression", OneAgainstRest)

    theirs = trained_by_package(package, model, train, **settings)

    require_same(model, theirs)
    called = package.annotate(logged(query), model=theirs)
    got = model.own_probabilities(query)
    np.testing.assert_allclose(got, called.probability_matrix[got.columns], atol=1e-4)
    labels = called.predicted_labels["predicted_labels"].astype(str)
    assert (got.idxmax(axis=1).to_numpy() == labels.to_numpy()).all()


@pytest.mark.parametrize("n_types", [2, 4])
def test_a_file_of_the_package_predicts_what_the_package_does(package, tmp_path, n_types):
    train, query = cells(n_types)
    values = logged(train)
    theirs = package.train(
        values, labels=names(train), use_SGD=True, feature_selection=True, top_genes=20
    )
    theirs.write(str(tmp_path / "model.pkl"))
    called = package.annotate(logged(query), model=theirs)

    model = CellTypist.from_file(tmp_path / "model.pkl", trust=True)
    model.save(tmp_path / "folder")
    loaded = CellTypist.load(tmp_path / "folder")

    for mine in (model, loaded):
        got = mine.own_probabilities(query)
        np.testing.assert_allclose(got, called.probability_matrix[got.columns], atol=1e-5)
        labels = called.predicted_labels["predicted_labels"].astype(str)
        assert (mine.predict(query) == labels.to_numpy()).all()
    assert not model.confidence_.is_calibrated
    assert model.fit_["source"] == "celltypist file"


class Bomb:
    """A pickle that writes a file when it is opened."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_file_is_not_opened_without_trust(tmp_path):
    sign = tmp_path / "it-was-run"
    file = tmp_path / "model.pkl"
    file.write_bytes(pickle.dumps(Bomb(sign)))

    with pytest.raises(UntrustedModelError, match="trust=True") as caught:
        CellTypist.from_file(file)

    assert caught.value.code == "E-M36"
    assert not sign.exists()


def test_files_that_are_no_models_are_refused(tmp_path):
    cut, other = tmp_path / "cut.pkl", tmp_path / "other.pkl"
    cut.write_bytes(b"\x80\x05cut")
    other.write_bytes(pickle.dumps({"Model": 1, "Scaler_": 2, "description": {}}))

    with pytest.raises(InputFileError, match="no such file"):
        CellTypist.from_file(tmp_path / "missing.pkl", trust=True)
    with pytest.raises(ModelFileError, match=r"E-M31"):
        CellTypist.from_file(cut, trust=True)
    with pytest.raises(ModelFileError, match=r"E-M34"):
        CellTypist.from_file(other, trust=True)


def test_regressions_are_fitted_one_against_the_rest():
    train, _ = cells()
    model = fitted(train, feature_selection=False, with_mean=False)
    values = own_values(model)
    a = model.module.arrays

    scaled = values[:, a["genes"]].toarray() / a["scale"]
    scaled = np.minimum(scaled, 10).astype(np.float32)
    for code, name in enumerate(model.labels.names):
        plain = LogisticRegression(C=1.0, max_iter=1000).fit(scaled, names(train) == name)
        # Both stop at a gradient, of float32 and of float64 values, and not at the optimum.
        np.testing.assert_allclose(a["coefficients"][code], plain.coef_[0], atol=2e-2)


def test_scaled_values_are_cut_at_ten():
    core = CellTypistCore.from_config({"n_features": 2, "n_classes": 2})
    core.fill(
        genes=np.array([1]),
        mean=np.array([1.0]),
        scale=np.array([0.1]),
        coefficients=np.array([[1.0], [-1.0]]),
        intercept=np.array([0.5, 0.0]),
    )

    scores = core.forward({"X": sparse.csr_matrix([[9.0, 0.0], [9.0, 1.5], [9.0, 7.0]])})

    np.testing.assert_allclose(scores["logits"], [[-9.5, 10.0], [5.5, -5.0], [10.5, -10.0]])


def test_genes_that_no_training_cell_has_are_left_out():
    train, query = cells()
    dense = train.X.toarray()
    dense[:, 5] = 0
    train.X = sparse.csr_matrix(dense)

    model = fitted(train, feature_selection=False)

    assert 5 not in model.module.arrays["genes"]
    assert np.isfinite(model.predict_proba(query)).all(axis=None)


def test_log_values_of_another_scale_are_said():
    train, _ = cells()
    values = logged(train)[:, :60].copy()
    values.obs["cell_type"] = names(train)

    with pytest.warns(EpisomeWarning, match="10,000") as caught:
        fitted(values, {"input_kind": "log1p"}, use_SGD=True)

    assert any(w.message.code == "E-D52" for w in caught if hasattr(w.message, "code"))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [({"C": 0.0}, "E-U15"), ({"alpha": -1}, "E-U15"), ({"top_genes": 0}, "E-U22")],
)
def test_impossible_settings_are_refused(arguments, code):
    train, _ = cells()
    CellTypist.setup_anndata(train, labels_key="cell_type")

    with pytest.raises(UsageError) as caught:
        CellTypist(train, **arguments)
    assert caught.value.code == code


def test_own_probabilities_take_rows_and_no_cells():
    train, query = cells()
    model = fitted(train, use_SGD=True)

    whole = model.own_probabilities(query)
    assert list(whole.columns) == list(model.labels.names)
    np.testing.assert_allclose(
        model.own_probabilities(query, indices=[7, 2]), whole.iloc[[7, 2]], atol=1e-12
    )
    assert model.own_probabilities(query[:0]).shape == (0, 4)
