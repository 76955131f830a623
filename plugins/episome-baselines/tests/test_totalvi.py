"""totalVI against scvi-tools' own with the same weights; what its encoder is not shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scvi.model import TOTALVI

from episome.data import as_mudata, variable_genes
from episome.errors import InputDataError, UsageError
from episome.inference import Predictor
from episome.metrics import modality_scores
from episome.models import load
from episome.testing import synthetic_mudata
from episome_baselines import FeatureMean, TOTALVIAdapter
from episome_baselines.totalvi_prior import background_prior, measured_in

if TYPE_CHECKING:
    from mudata import MuData

SMALL = {"n_hidden": 16, "n_latent": 4}
QUICK = {"max_epochs": 3, "batch_size": 32, "accelerator": "cpu"}


def pairs(n_cells=150, seed=0) -> MuData:
    data = synthetic_mudata(n_cells, seed=seed)
    data.mod["rna"].obs["batch"] = np.where(np.arange(n_cells) % 3 == 0, "2", "10")
    return data


def fitted(data=None, train=None, **kwargs) -> TOTALVIAdapter:
    data = pairs() if data is None else data
    TOTALVIAdapter.setup_mudata(data, target_modality="prot", batch_key="batch")
    model = TOTALVIAdapter(data, **{**SMALL, **kwargs})
    model.train(**{**QUICK, **(train or {})})
    return model


@pytest.fixture(scope="module")
def model():
    return fitted()


def their_model(model, data, *, proteins):
    """Return scvi-tools' own model of cells with the same weights, shown these proteins."""
    rna = data.mod["rna"]
    adata = anndata.AnnData(rna.X.copy(), obs=rna.obs[["batch"]].copy(), var=rna.var[[]])
    adata.obsm["proteins"] = pd.DataFrame(proteins, index=adata.obs_names).add_prefix("p")
    TOTALVI.setup_anndata(adata, "proteins", batch_key="batch")
    theirs = TOTALVI(
        adata,
        n_latent=SMALL["n_latent"],
        n_hidden=SMALL["n_hidden"],
        encode_covariates=False,
        override_missing_proteins=True,
    )
    own = {"genes", "weights"}
    state = {k: v for k, v in model.module.state_dict().items() if k not in own}
    theirs.module.load_state_dict(state)
    theirs.module.eval()
    theirs.is_trained_ = True
    return theirs, adata


# -- the same as scvi-tools ----------------------------------------------------------------------


def test_the_latent_space_is_that_of_scvi_tools_without_proteins(model):
    query = pairs(40, seed=1)
    theirs, adata = their_model(model, query, proteins=np.zeros((40, 8)))

    found = model.predictor().collect(model.prepare(query), ["latent"])["latent"]

    np.testing.assert_allclose(found, theirs.get_latent_representation(adata), atol=1e-5)


def test_expected_counts_are_those_of_scvi_tools_averaged_over_batches(model):
    query = pairs(40, seed=1)
    theirs, adata = their_model(model, query, proteins=np.zeros((40, 8)))
    weights, wanted = model.module.weights.numpy(), 0.0
    with torch.no_grad():
        # The posterior and the background as narrow as they go: scvi-tools draws from both.
        for layer in (theirs.module.encoder.z_var_encoder,):
            layer.weight.zero_()
            layer.bias.fill_(-30.0)
        beta = model.module.decoder.py_back_mean_log_beta.fc_layers[0][0]
        kept = beta.weight.clone(), beta.bias.clone()
        for net in (theirs.module, model.module):
            layer = net.decoder.py_back_mean_log_beta.fc_layers[0][0]
            layer.weight.zero_()
            layer.bias.fill_(-30.0)
        efficiency = torch.exp(model.module.log_per_batch_efficiency).numpy()
    for code, name in enumerate(("10", "2")):
        _, normalized = theirs.get_normalized_expression(
            adata,
            transform_batch=name,
            include_protein_background=True,
            n_samples=200,
            return_mean=True,
        )
        wanted = wanted + weights[code] * efficiency[:, code] * normalized.to_numpy()

    found = np.expm1(model.predict_modality(query.mod["rna"]).X)

    with torch.no_grad():
        beta.weight.copy_(kept[0])
        beta.bias.copy_(kept[1])
    # The posterior keeps a standard deviation of 0.01.
    np.testing.assert_allclose(found, wanted, rtol=0.02)
    np.testing.assert_allclose(weights[:, 0], [2 / 3, 1 / 3], atol=0.05)


def test_the_mean_of_the_background_is_that_of_its_draws(model):
    latent = torch.zeros((1, SMALL["n_latent"]))
    batch = torch.zeros((1, 1), dtype=torch.long)
    draws = []
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for _ in range(4000):
            _, found, _ = model.module.decoder(latent, torch.ones((1, 1)), batch)
            share = torch.sigmoid(found["mixing"])
            draws.append(share * found["rate_back"] + (1 - share) * found["rate_fore"])
        efficiency = torch.exp(model.module.log_per_batch_efficiency[:, 0])
        wanted = efficiency * torch.cat(draws).mean(dim=0)

        got = model.module.expected_in(latent, batch)[0]

    torch.testing.assert_close(got, wanted, rtol=0.15, atol=0.0)


# -- what is not shown ---------------------------------------------------------------------------


def test_proteins_of_a_query_change_nothing(model):
    query = pairs(40, seed=1)
    other = query.copy()
    other.mod["prot"].X[:] = 400.0

    wanted = model.predict_modality(query.mod["rna"]).X

    np.testing.assert_array_equal(model.predict_modality(query).X, wanted)
    np.testing.assert_array_equal(model.predict_modality(other).X, wanted)


def test_the_encoder_is_shown_proteins_of_a_share_of_the_training_cells(model):
    tensors = {
        "X": torch.ones((4000, 60)),
        "proteins": torch.ones((4000, 8)),
        "batch": torch.zeros((4000, 1)),
    }
    shown = {}
    for training in (True, False):
        model.module.train(training)
        found = model.module._get_inference_input(tensors)["y"]
        shown[training] = float(found.mean())
        assert set(found.mean(dim=1).tolist()) <= {0.0, 1.0}
    model.module.eval()

    assert shown[True] == pytest.approx(0.5, abs=0.05)
    assert shown[False] == 0.0
    assert (tensors["proteins"] == 1).all()


def test_the_batch_of_a_query_is_not_needed_and_changes_nothing(model):
    query = pairs(40, seed=1).mod["rna"]
    wanted = model.predict_modality(query).X
    other = query.copy()
    other.obs["batch"] = "never seen"

    np.testing.assert_array_equal(model.predict_modality(other).X, wanted)
    del other.obs["batch"]
    np.testing.assert_array_equal(model.predict_modality(other).X, wanted)


@pytest.mark.slow
def test_cells_outside_the_training_part_change_no_weight():
    rows = [np.arange(100), np.arange(100, 120), np.arange(120, 150)]
    splitter = {"datasplitter_kwargs": {"external_indexing": rows}}
    other = pairs()
    other.mod["prot"].X[120:] = 300.0
    first, second = (fitted(d, splitter, n_top_genes=30) for d in (pairs(), other))

    for name, value in first.module.state_dict().items():
        assert torch.equal(second.module.state_dict()[name], value), name
    counts = pairs().mod["rna"].X[:100]
    size = np.asarray(counts.sum(axis=1))
    target = float(first.input_rule.target_sum)
    values = counts.multiply(target / size).tocsr().log1p().astype(np.float32)
    np.testing.assert_array_equal(first.module.genes.numpy(), variable_genes(values, 30))


# -- batches -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_protein_that_a_batch_lacks_is_expected_by_the_others():
    data = pairs()
    lacks = (data.mod["rna"].obs["batch"] == "2").to_numpy()
    data.mod["prot"].X[lacks, 3] = 0.0
    model = fitted(data)

    assert model.module.weights[:, 3].tolist() == [1.0, 0.0]
    assert 0 < model.module.weights[1, 2] < 0.5
    mask = model.module.protein_batch_mask
    assert (mask["0"].all(), mask["1"].tolist().index(False)) == (True, 3)
    assert np.isfinite(model.predict_modality(pairs(30, seed=1)).X).all()


def test_what_no_batch_measured_is_still_given_a_number():
    data = pairs()
    data.mod["prot"].X[:, 3] = 0.0

    assert np.isfinite(fitted(data).predict_modality(pairs(30, seed=1)).X).all()


def test_a_background_is_read_off_large_panels():
    rng = np.random.default_rng(0)
    high = rng.random((300, 20)) < 0.3
    proteins = np.where(high, rng.poisson(200, (300, 20)), rng.poisson(6, (300, 20)))
    codes = np.repeat([0, 1, 2], 100)
    proteins[codes == 1] *= 3
    proteins[codes == 2, :] = 0
    measured = measured_in(proteins, codes, 4)

    mean, spread = background_prior(proteins, codes, measured, seed=0)

    assert mean.shape == spread.shape == (20, 4)
    assert (mean == mean[0]).all()
    np.testing.assert_allclose(mean[0, :2], [np.log1p(6), np.log1p(18)], atol=0.25)
    assert mean[0, 2:].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(spread[0, 2:], 0.05)
    assert (spread > 0).all()
    again, _ = background_prior(proteins, codes, measured, seed=0)
    np.testing.assert_array_equal(mean, again)


# -- arguments and folders -----------------------------------------------------------------------


def test_what_is_no_count_is_refused():
    data = pairs()
    data.mod["prot"].X = np.log1p(data.mod["prot"].X)
    with pytest.raises(InputDataError, match="proteins that are no counts.*E-D53"):
        TOTALVIAdapter.setup_mudata(data, target_modality="prot")
    data = pairs()
    data.mod["rna"].X = data.mod["rna"].X.log1p()
    with pytest.raises(InputDataError, match="E-D07"):
        TOTALVIAdapter.setup_mudata(data, target_modality="prot")
    with pytest.raises(InputDataError, match="E-D53"):
        TOTALVIAdapter.setup_mudata(pairs(), target_modality="prot", input_kind="log1p")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"rna_only": 1.5}, "rna_only=1.5.*E-U15"),
        ({"rna_only": float("nan")}, "rna_only=nan.*E-U15"),
        ({"n_top_genes": 0}, "n_top_genes=0.*E-U22"),
        ({"n_latent": -1}, "E-U31"),
    ],
)
def test_impossible_settings_are_refused(arguments, match):
    data = pairs()
    TOTALVIAdapter.setup_mudata(data, target_modality="prot")

    with pytest.raises(UsageError, match=match):
        TOTALVIAdapter(data, **arguments)


def test_batches_have_to_be_there():
    with pytest.raises(UsageError, match="E-U04"):
        TOTALVIAdapter.setup_mudata(pairs(), target_modality="prot", batch_key="lane")
    data = pairs()
    data.mod["rna"].obs["batch"] = data.mod["rna"].obs["batch"].where(np.arange(150) > 3)
    with pytest.raises(UsageError, match="names no batch.*E-U82"):
        TOTALVIAdapter.setup_mudata(data, target_modality="prot", batch_key="batch")


def test_a_folder_predicts_alike_and_takes_data(model, tmp_path):
    query = pairs(30, seed=1).mod["rna"]
    wanted = model.predict_modality(query)
    model.save(tmp_path / "model")

    loaded = load(tmp_path / "model", adata=pairs())
    alone = Predictor.from_folder(tmp_path / "model", device="cpu")

    assert wanted.uns["scale"] == "log1p"
    found = loaded.predict_modality(query)
    assert found.uns["scale"] == "log1p"
    np.testing.assert_array_equal(found.X, wanted.X)
    got = alone.collect(alone.prepare(query), ["target"])["target"]
    np.testing.assert_array_equal(got, wanted.X)
    assert loaded.predict_modality().shape == (150, 8)


# -- real cells ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_proteins_of_real_cells_are_expected():
    folder = os.environ.get("EPISOME_TEST_DATA")
    if not folder:
        pytest.skip("EPISOME_TEST_DATA is not set: the real files are elsewhere")
    cells = anndata.read_h5ad(Path(folder) / "data" / "citeseq_pbmc10k.h5ad")
    cells = cells[np.random.default_rng(0).permutation(cells.n_obs)[:1500]].copy()
    values = cells.obsm["protein_counts"].astype(np.float32)
    rna = anndata.AnnData(cells.X, obs=cells.obs[[]], var=cells.var)
    names = pd.DataFrame(index=cells.uns["protein_names"].astype(str))
    rest = anndata.AnnData(values, obs=rna.obs[[]].copy(), var=names)
    data = as_mudata({"rna": rna[500:].copy(), "prot": rest[500:].copy()})
    scores = {}

    for cls, more in ((FeatureMean, {}), (TOTALVIAdapter, {"n_top_genes": 500})):
        cls.setup_mudata(data, target_modality="prot")
        found = cls(data, **more)
        epochs = {"max_epochs": 30, "batch_size": 64} if cls is TOTALVIAdapter else {}
        found.train(accelerator="cpu", **epochs)
        said = found.predict_modality(rna[:500].copy()).X
        scores[cls] = modality_scores(said, np.log1p(values[:500]))

    mean, found = scores[FeatureMean], scores[TOTALVIAdapter]
    assert found["pearson_features"] > 0.5
    assert found["pearson_flat"] > mean["pearson_flat"] + 0.1
    assert found["mse_flat"] < 0.7 * mean["mse_flat"]
