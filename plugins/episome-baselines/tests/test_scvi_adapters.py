"""The adapters against scvi-tools' own models with the same weights."""

from __future__ import annotations

import json
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from scvi.model import SCANVI, SCVI

from episome import settings
from episome.data import (
    AnnDataSource,
    read_split,
    simulate_cells,
    split_by_groups,
    variable_genes,
)
from episome.errors import InputDataError, UsageError
from episome.inference import Predictor
from episome.nn import restored_counts as counts
from episome_baselines import SCANVIAdapter, SCVIAdapter
from episome_baselines.scvi_training import heuristic_epochs, joined_history

SMALL = {"n_hidden": 16, "n_latent": 4}
QUICK = {"max_epochs": 2, "batch_size": 32}


def cells(n_cells=150, seed=0):
    adata = simulate_cells(n_cells, 60, n_types=3, n_donors=5, fold_change=4.0, seed=seed)
    adata.obs["batch"] = np.where(np.arange(n_cells) % 3 == 0, 2, 10)
    return adata


def fitted(cls, adata=None, setup=None, **kwargs):
    adata = cells() if adata is None else adata
    arguments = {k: kwargs.pop(k) for k in list(kwargs) if k not in _OF_TRAIN}
    labels = {"labels_key": "cell_type"} if cls is SCANVIAdapter else {}
    cls.setup_anndata(adata, **labels, **(setup or {}))
    model = cls(adata, **{**SMALL, **arguments})
    model.train(**{**QUICK, **kwargs})
    return model


_OF_TRAIN = {
    "max_epochs",
    "datasplitter_kwargs",
    "semisupervised",
    "scanvi_epochs",
    "early_stopping",
    "plan_kwargs",
    "train_size",
}


@pytest.fixture(scope="module")
def scvi_model():
    return fitted(SCVIAdapter, setup={"batch_key": "batch"})


@pytest.fixture(scope="module")
def scanvi_model():
    return fitted(SCANVIAdapter, setup={"batch_key": "batch"})


def their_model(cls, model, adata):
    """Return scvi-tools' own model of the same data with the same weights."""
    adata = adata.copy()
    adata.obs["batch"] = adata.obs["batch"].astype(str)
    sizes = {**SMALL, "n_layers": 2}
    if cls is SCANVI:
        cls.setup_anndata(adata, "cell_type", "unknown", batch_key="batch")
    else:
        cls.setup_anndata(adata, batch_key="batch")
    theirs = cls(adata, **sizes)
    state = {k: v for k, v in model.module.state_dict().items() if k != "genes"}
    theirs.module.load_state_dict(state)
    theirs.module.eval()
    theirs.is_trained_ = True
    return theirs, adata


# -- the same answers ----------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["scvi_model", "scanvi_model"])
def test_the_embedding_is_that_of_scvi_tools(which, request):
    model = request.getfixturevalue(which)
    theirs, adata = their_model(SCVI if which == "scvi_model" else SCANVI, model, cells())

    wanted = theirs.get_latent_representation(adata)

    np.testing.assert_allclose(model.get_latent_representation(cells()), wanted, atol=1e-5)


def test_probabilities_and_calls_are_those_of_scvi_tools(scanvi_model):
    theirs, adata = their_model(SCANVI, scanvi_model, cells())

    wanted = theirs.predict(adata, soft=True)

    got = scanvi_model.predict_proba(cells(), calibrated=False)
    np.testing.assert_allclose(got, wanted[got.columns], atol=1e-5)
    assert (got.idxmax(axis=1).to_numpy() == theirs.predict(adata)).all()


def test_expected_expression_is_decoded_in_the_first_batch(scvi_model):
    theirs, adata = their_model(SCVI, scvi_model, cells())
    latent = torch.as_tensor(theirs.get_latent_representation(adata))
    first = torch.zeros((len(latent), 1))

    with torch.no_grad():
        decoded = theirs.module.generative(z=latent, library=first, batch_index=first.long())

    got = scvi_model.get_normalized_expression(cells(), return_numpy=True)
    np.testing.assert_allclose(got, decoded["px"].scale.numpy(), atol=1e-6)
    assert list(
        scvi_model.registry["field_registries"]["batch"]["state_registry"]["categorical_mapping"]
    ) == ["10", "2"]


def test_training_is_that_of_scvi_tools():
    adata = cells()
    parts = [np.arange(100), np.arange(100, 130), np.arange(130, 150)]
    SCVIAdapter.setup_anndata(adata, batch_key="batch")
    model = SCVIAdapter(adata, **SMALL)
    theirs, _ = their_model(SCVI, model, adata)
    splitter = {"external_indexing": parts}
    model.train(**QUICK, datasplitter_kwargs=splitter, early_stopping=False)

    with torch.random.fork_rng():
        torch.manual_seed(settings.stream_seed("train"))
        theirs.module.train()
        theirs.train(
            2,
            batch_size=32,
            datasplitter_kwargs={**splitter, "drop_last": True},
            enable_progress_bar=False,
            check_val_every_n_epoch=1,
            accelerator="cpu",
        )

    got = model.module.state_dict()
    for name, value in theirs.module.state_dict().items():
        torch.testing.assert_close(got[name], value, atol=1e-5, rtol=1e-4)


def test_methods_of_scvi_tools_answer_for_any_order_of_genes(scvi_model):
    query = cells(40, seed=1)
    order = np.random.default_rng(0).permutation(query.n_vars)

    own = SCVI.get_latent_representation(scvi_model, query)
    turned = SCVI.get_latent_representation(scvi_model, query[:, order].copy())

    np.testing.assert_allclose(own, scvi_model.get_latent_representation(query), atol=1e-5)
    np.testing.assert_array_equal(turned, own)
    assert np.isfinite(float(scvi_model.get_elbo(query)))


def test_differential_expression_is_that_of_scvi_tools():
    model = fitted(SCVIAdapter, n_top_genes=None)
    expected = model.get_normalized_expression(return_numpy=True)
    names = model.adata.obs["cell_type"].astype(str)
    first, second = sorted(set(names))[:2]

    found = model.differential_expression(
        idx1=(names == first).to_numpy(), idx2=(names == second).to_numpy()
    )

    assert len(found) == model.adata.n_vars
    assert np.isfinite(found["bayes_factor"]).all()
    # The host's own method is back.
    np.testing.assert_array_equal(model.get_normalized_expression(return_numpy=True), expected)


# -- batches -------------------------------------------------------------------------------------


def test_batches_of_a_query_change_nothing(scanvi_model):
    query = cells(40, seed=1)
    other = query.copy()
    other.obs["batch"] = "never seen"
    bare = anndata.AnnData(query.X, var=query.var, obs=query.obs[[]])

    wanted = scanvi_model.predict_proba(query)

    np.testing.assert_array_equal(scanvi_model.predict_proba(other), wanted)
    np.testing.assert_array_equal(scanvi_model.predict_proba(bare), wanted)
    latent = SCANVI.get_latent_representation(scanvi_model, other)
    np.testing.assert_allclose(latent, scanvi_model.get_latent_representation(bare), atol=1e-5)


def test_batches_reach_the_decoder():
    adata = cells()
    one = fitted(SCVIAdapter, adata.copy())
    two = fitted(SCVIAdapter, adata.copy(), {"batch_key": "batch"})

    assert one.module.n_batch == 1
    assert two.module.n_batch == 2
    assert two.module.decoder.px_decoder.n_cat_list == [2]


@pytest.mark.parametrize(("key", "code"), [("no such column", "E-U04"), ("holes", "E-U82")])
def test_columns_that_name_no_batch_are_refused(key, code):
    adata = cells()
    adata.obs["holes"] = pd.Series([None, *["a"] * 149], index=adata.obs_names, dtype=object)

    with pytest.raises(UsageError) as caught:
        SCVIAdapter.setup_anndata(adata, batch_key=key)

    assert caught.value.code == code
    assert not any(str(k).startswith("_scvi") for k in (*adata.obs, *adata.uns))


# -- counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [SCVIAdapter, SCANVIAdapter])
def test_log_values_are_refused(cls):
    adata = cells()
    labels = {"labels_key": "cell_type"} if cls is SCANVIAdapter else {}

    with pytest.raises(InputDataError, match="numbers of molecules") as said:
        cls.setup_anndata(adata, **labels, input_kind="log1p")
    adata.X = adata.X.log1p()
    with pytest.raises(InputDataError) as found:
        cls.setup_anndata(adata, **labels)

    assert (said.value.code, found.value.code) == ("E-D53", "E-D07")
    assert "_scvi_uuid" not in adata.uns


def batch_of(values, size=None):
    values = np.asarray(values, dtype=np.float64)
    size = values.sum(axis=1) if size is None else np.asarray(size, dtype=np.float64)
    scaled = values * (1e4 / np.where(size > 0, size, 1))[:, None]
    return {
        "X": torch.as_tensor(np.log1p(scaled), dtype=torch.float32),
        "size_factor": torch.as_tensor(size),
    }


def test_counts_come_back_exactly():
    wanted = np.random.default_rng(0).poisson(3.0, (50, 200)) * np.array([1, 40] * 100)

    np.testing.assert_array_equal(counts(batch_of(wanted), 1e4), wanted)
    # of fewer genes than made up the size
    size = wanted.sum(axis=1)
    np.testing.assert_array_equal(counts(batch_of(wanted[:, :90], size), 1e4), wanted[:, :90])


@pytest.mark.parametrize("smallest", [1, 2, 3])
def test_counts_come_back_from_normalised_cells(smallest):
    wanted = np.array([[smallest, smallest + 1, 0, 7, 60], [0, smallest, 11, 500, smallest + 1]])
    normalised = wanted * (1e4 / wanted.sum(axis=1, keepdims=True))

    np.testing.assert_array_equal(counts(batch_of(normalised), 1e4), wanted)


def test_fractions_and_empty_cells_stay():
    wanted = np.array([[0.37, 1.91, 2.23, 5.77], [0.0, 0.0, 0.0, 0.0]])

    np.testing.assert_allclose(counts(batch_of(wanted), 1e4), wanted, rtol=1e-5)


# -- genes, layers, labels -----------------------------------------------------------------------


@pytest.mark.parametrize("cls", [SCVIAdapter, SCANVIAdapter])
def test_a_written_split_says_which_cells_train(cls, tmp_path):
    adata, path = cells(), tmp_path / "split.json"
    path.write_text(json.dumps(split_by_groups(AnnDataSource(adata), ["donor_id"])))
    kept = read_split(path, AnnDataSource(adata))

    model = fitted(cls, adata, datasplitter_kwargs={"split": path})

    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(model, f"{name}_indices_"), getattr(kept, name))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"datasplitter_kwargs": {"sampling": "balanced"}}, r"sampling \(--sampling\).*E-U21"),
        ({"datasplitter_kwargs": {"split": "s", "external_indexing": [[0]]}}, "E-U27"),
        ({"refit": True}, r"refit \(--refit\).*E-U16"),
    ],
)
def test_arguments_are_looked_at_before_the_cells(arguments, match):
    with pytest.raises(UsageError, match=match):
        SCVIAdapter.check_train_arguments(arguments)


def test_variable_genes_are_chosen_on_training_cells():
    adata = cells()
    train = np.arange(0, 110)
    splitter = {"external_indexing": [train, np.arange(110, 150)]}

    model = fitted(SCVIAdapter, adata, n_top_genes=20, datasplitter_kwargs=splitter)

    dense = adata.X.toarray()[train]
    logged = np.log1p(dense / dense.sum(1, keepdims=True) * 1e4).astype(np.float32)
    chosen = variable_genes(sparse.csr_matrix(logged), 20)
    assert model.module.genes.tolist() == chosen.tolist()
    assert model.module.n_input == 20
    found = model.get_normalized_expression(cells(30, seed=1), return_numpy=True)
    rest = np.setdiff1d(np.arange(60), chosen)
    assert np.isnan(found[:, rest]).all()
    np.testing.assert_allclose(found[:, chosen].sum(axis=1), 1.0, rtol=1e-5)
    # what is not read changes nothing
    other = cells(30, seed=1)
    x = other.X.toarray()
    x[:, rest] = x[:, rest][::-1]
    other.X = sparse.csr_matrix(x)
    np.testing.assert_allclose(
        model.get_latent_representation(other),
        model.get_latent_representation(cells(30, seed=1)),
        atol=1e-5,
    )


def test_layers_and_genes_that_are_there_twice_reach_the_training():
    adata = cells()
    plain = fitted(SCVIAdapter, adata.copy())
    halves = sparse.hstack([adata.X, sparse.csr_matrix((150, 1))], format="csr")
    twice = anndata.AnnData(
        sparse.csr_matrix(halves.shape, dtype=np.float32),
        obs=adata.obs,
        var=pd.DataFrame(index=[*adata.var_names, adata.var_names[0]]),
        layers={"counts": halves},
    )

    model = fitted(SCVIAdapter, twice, {"layer": "counts", "duplicates": "sum"})

    query = cells(30, seed=1)
    np.testing.assert_array_equal(
        model.get_latent_representation(query), plain.get_latent_representation(query)
    )


def test_cells_without_a_label_train_only_when_asked():
    adata = cells()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.loc[adata.obs_names[:30], "cell_type"] = None
    setup = {"unlabeled": "keep"}

    without = fitted(SCANVIAdapter, adata.copy(), setup)
    with_them = fitted(SCANVIAdapter, adata.copy(), setup, semisupervised=True)

    assert (without.fit_["n_unlabeled"], with_them.fit_["n_unlabeled"]) == (0, 30)
    assert with_them.fit_["n_train"] == without.fit_["n_train"] + 30
    assert (with_them.train_indices_ >= 30).all()
    query = cells(30, seed=1)
    assert not np.allclose(without.predict_proba(query), with_them.predict_proba(query))


# -- confidence, history -------------------------------------------------------------------------


def test_confidence_is_fitted_on_cells_that_did_not_train(scanvi_model):
    held = scanvi_model._held_out

    assert scanvi_model.confidence_.is_calibrated == (len(held.rows) >= 20)
    assert not set(held.rows) & set(scanvi_model.train_indices_)


def test_a_large_reference_keeps_cells_for_calibration_alone():
    model = fitted(SCANVIAdapter, cells(2100), max_epochs=1, setup={"donor_key": "donor_id"})

    used = np.concatenate([model.train_indices_, model.validation_indices_])
    assert len(model.calibration_indices_) >= 200
    assert not set(model.calibration_indices_) & set(used)
    assert model.confidence_.is_calibrated
    assert model._held_out.source == "held out"


def test_history_has_both_runs(scanvi_model):
    losses = scanvi_model.history["train_loss"]

    assert len(losses) == scanvi_model.fit_["n_epochs"] == 4
    assert list(losses.index) == [0, 1, 2, 3]
    # the classifier is trained in the second run alone
    assert len(scanvi_model.history["train_classification_loss"]) == 2


def test_histories_are_joined_by_epoch():
    first = {"a": pd.DataFrame({"a": [1.0, 2.0]})}
    second = {"a": pd.DataFrame({"a": [3.0]}), "b": pd.DataFrame({"b": [4.0]})}

    found = joined_history(first, second)

    assert found["a"]["a"].tolist() == [1.0, 2.0, 3.0]
    assert found["b"].index.tolist() == [2]


@pytest.mark.parametrize(("n", "epochs"), [(100, 400), (20_000, 400), (40_000, 200), (10**8, 1)])
def test_epochs_are_those_of_scvi_tools(n, epochs):
    from scvi.model._utils import get_max_epochs_heuristic

    assert heuristic_epochs(n) == epochs == max(get_max_epochs_heuristic(n), 1)


def test_unknown_settings_of_the_plan_are_named():
    adata = cells()
    SCANVIAdapter.setup_anndata(adata, labels_key="cell_type")
    model = SCANVIAdapter(adata, **SMALL)

    with pytest.raises(UsageError, match="classification_ratio"):
        model.train(**QUICK, plan_kwargs={"learning_rate": 1.0})
    model.train(**QUICK, plan_kwargs={"classification_ratio": 10, "lr": 0.002})
    assert model.is_trained_


@pytest.mark.slow
def test_scanvi_learns_types_that_differ():
    adata = simulate_cells(400, 80, n_types=4, n_donors=5, fold_change=5.0, depth=2000.0)
    reference, rest = adata[:300].copy(), adata[300:].copy()

    model = fitted(SCANVIAdapter, reference, max_epochs=40, scanvi_epochs=20)

    right = model.predict(rest) == rest.obs["cell_type"].to_numpy().astype(str)
    assert right.mean() > 0.9


# -- folders -------------------------------------------------------------------------------------


def test_the_core_imports_scvi_tools_only_when_it_is_built(scanvi_model, tmp_path):
    line = (
        "import sys, episome_baselines.scvi_core; "
        "print([m for m in ('scvi', 'lightning') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", line], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.strip() == "[]"

    scanvi_model.save(tmp_path / "model")
    alone = Predictor.from_folder(tmp_path / "model", device="cpu")
    query = cells(30, seed=1)
    got = alone.predict_proba(alone.prepare(query))
    np.testing.assert_array_equal(got, scanvi_model.predict_proba(query))


def test_a_loaded_model_takes_its_data_back(scanvi_model, tmp_path):
    scanvi_model.save(tmp_path / "model")

    loaded = SCANVIAdapter.load(tmp_path / "model", cells())

    assert loaded.setup_args["batch_key"] == "batch"
    np.testing.assert_array_equal(loaded.predict_proba(), scanvi_model.predict_proba(cells()))
