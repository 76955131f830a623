"""scVI with the joint embedding loss, against scvi-tools' own; and what is said without it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scvi
import torch
from click.testing import CliRunner
from scvi import external

from episome import plugins, settings
from episome.cli._app import app
from episome.data import simulate_cells
from episome.errors import MissingDependencyError, UsageError
from episome.inference import Predictor
from episome.models import load
from episome.testing import parametrize_with_checks
from episome_baselines import JointEmbeddingAdapter

NAME = "JointEmbeddingSCVI"
is_there = pytest.mark.skipif(
    not hasattr(external, NAME), reason=f"scvi-tools {scvi.__version__} has no {NAME}"
)
is_not_there = pytest.mark.skipif(hasattr(external, NAME), reason=f"scvi-tools has {NAME}")

SMALL = {"n_hidden": 16, "n_latent": 4}
#: Weights that are not the defaults of scvi-tools.
WEIGHTS = {
    "joint_embedding_weight": 30.0,
    "lambda_off_diag": 0.05,
    "min_library_size": 5.0,
    "reconstruction_weight": 0.5,
    "variance_weight": 2.0,
}
#: Weights of the layer that the embedding comes from.
MEAN = "z_encoder.mean_encoder.weight"
QUICK = {"max_epochs": 2, "batch_size": 32}
MESSAGE = (
    rf"scvi-tools {re.escape(scvi.__version__)} has no {NAME}\. JointEmbeddingAdapter .*"
    r"needs scvi-tools 1\.5.*pip install \"scvi-tools>=1\.5\", with Python 3\.12 or later.*E-P02"
)


def cells(n_cells=150, seed=0):
    adata = simulate_cells(n_cells, 60, n_types=3, n_donors=5, fold_change=4.0, seed=seed)
    adata.obs["batch"] = np.where(np.arange(n_cells) % 3 == 0, "2", "10")
    return adata


def untrained(adata, **kwargs):
    JointEmbeddingAdapter.setup_anndata(adata, batch_key="batch")
    return JointEmbeddingAdapter(adata, **{**SMALL, **kwargs})


@pytest.fixture(scope="module")
def model():
    found = untrained(cells(), **WEIGHTS)
    found.train(**QUICK)
    return found


def their_model(model, adata):
    """Return scvi-tools' own model of the same data with the same weights."""
    adata = adata.copy()
    external.JointEmbeddingSCVI.setup_anndata(adata, batch_key="batch")
    theirs = external.JointEmbeddingSCVI(adata, n_layers=2, **SMALL, **WEIGHTS)
    state = {k: v for k, v in model.module.state_dict().items() if k != "genes"}
    theirs.module.load_state_dict(state)
    theirs.module.eval()
    theirs.is_trained_ = True
    return theirs, adata


@is_there
@parametrize_with_checks(["jointembedding"])
def test_conformance(check, model_cls):
    check(model_cls)


# -- the same as scvi-tools ----------------------------------------------------------------------


@is_there
def test_the_embedding_is_that_of_scvi_tools(model):
    query = cells(40, seed=1)
    theirs, adata = their_model(model, query)
    order = np.random.default_rng(0).permutation(query.n_vars)

    wanted = theirs.get_latent_representation(adata)

    np.testing.assert_allclose(model.get_latent_representation(query), wanted, atol=1e-5)
    turned = model.get_latent_representation(query[:, order].copy())
    np.testing.assert_allclose(turned, wanted, atol=1e-5)


@is_there
def test_expected_expression_is_decoded_in_the_first_batch(model):
    theirs, adata = their_model(model, cells())
    latent = torch.as_tensor(theirs.get_latent_representation(adata))
    first = torch.zeros((len(latent), 1))

    with torch.no_grad():
        decoded = theirs.module.generative(z=latent, library=first, batch_index=first.long())

    got = model.get_normalized_expression(cells(), return_numpy=True)
    np.testing.assert_allclose(got, decoded["px"].scale.numpy(), atol=1e-6)


@is_there
def test_training_is_that_of_scvi_tools():
    adata = cells()
    splitter = {
        "external_indexing": [np.arange(100), np.arange(100, 130), np.arange(130, 150)],
    }
    model = untrained(adata, **WEIGHTS)
    theirs, _ = their_model(model, adata)
    before = {k: v.clone() for k, v in theirs.module.state_dict().items()}
    model.train(**QUICK, datasplitter_kwargs=splitter, early_stopping=False)

    with torch.random.fork_rng():
        torch.manual_seed(settings.stream_seed("train"))
        theirs.module.train()
        theirs.is_trained_ = False
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
    assert not torch.equal(got[MEAN], before[MEAN])
    for name in ("cco_loss_train", "elbo_validation"):
        wanted = theirs.history[name].astype(float).to_numpy()
        np.testing.assert_allclose(model.history[name].to_numpy(), wanted, rtol=1e-4)


# -- the loss ------------------------------------------------------------------------------------


@is_there
def test_its_weight_brings_the_new_loss_down():
    found = {}
    for weight in (0.0, 100.0):
        model = untrained(cells(300), joint_embedding_weight=weight)
        model.train(max_epochs=20, batch_size=64, early_stopping=False)
        found[weight] = model.history["cco_loss_train"]["cco_loss_train"]

    # the same draws and first weights: only what is trained differs
    assert found[0.0].iloc[0] == pytest.approx(found[100.0].iloc[0], rel=0.1)
    assert found[100.0].iloc[-3:].mean() < 0.9 * found[0.0].iloc[-3:].mean()


@is_there
def test_the_chosen_genes_alone_are_thinned_and_embedded():
    adata = cells()
    model = untrained(adata, n_top_genes=20)

    model.train(**QUICK)

    rest = np.setdiff1d(np.arange(60), model.module.genes.numpy())
    assert len(rest) == 40
    query = cells(30, seed=1)
    other = query.copy()
    x = other.X.toarray()
    x[:, rest] = x[:, rest][::-1]
    other.X = x
    np.testing.assert_allclose(
        model.get_latent_representation(other), model.get_latent_representation(query), atol=1e-5
    )


@is_there
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"reconstruction_weight": 0.0}, "reconstruction_weight=0.0.*above zero.*E-U15"),
        ({"min_library_size": 0}, "min_library_size=0.*above zero.*E-U15"),
        ({"joint_embedding_weight": -1.0}, "joint_embedding_weight=-1.0.*zero or more.*E-U15"),
        ({"variance_weight": float("nan")}, "variance_weight=nan.*E-U15"),
        ({"n_top_genes": 0}, "n_top_genes=0.*E-U22"),
        ({"gene_likelihood": "normal"}, "count.*E-U31"),
    ],
)
def test_impossible_settings_are_refused(arguments, match):
    adata = cells()
    with pytest.raises(UsageError, match=match):
        untrained(adata, **arguments)


# -- folders -------------------------------------------------------------------------------------


@is_there
def test_a_folder_holds_the_weights_of_the_loss(model, tmp_path):
    model.save(tmp_path / "model")
    query = cells(30, seed=1)

    loaded = load(tmp_path / "model")
    alone = Predictor.from_folder(tmp_path / "model", device="cpu")

    assert type(loaded) is JointEmbeddingAdapter
    assert {k: loaded.module.config[k] for k in WEIGHTS} == WEIGHTS
    assert loaded.module.lambda_off_diag == WEIGHTS["lambda_off_diag"]
    wanted = model.get_latent_representation(query)
    np.testing.assert_array_equal(loaded.get_latent_representation(query), wanted)
    found = alone.collect(alone.prepare(query), ["latent"])
    np.testing.assert_array_equal(found["latent"], wanted)


@is_there
def test_the_command_line_trains_and_embeds(tmp_path):
    cells().write_h5ad(tmp_path / "cells.h5ad")
    data, folder = str(tmp_path / "cells.h5ad"), str(tmp_path / "model")
    words = ["train", "jointembedding", data, "--max-epochs", "1", "-o", folder]

    done = CliRunner().invoke(app, words)

    assert done.exit_code == 0, done.stderr
    out = str(tmp_path / "latent.csv")
    done = CliRunner().invoke(app, ["embed", data, "-m", folder, "-o", out])
    assert done.exit_code == 0, done.stderr


# -- without it ----------------------------------------------------------------------------------


def test_it_is_listed_with_what_it_needs():
    spec = plugins.get_spec("jointembedding")

    assert "needs scvi-tools 1.5" in spec.summary
    done = CliRunner().invoke(app, ["plugins", "list"])
    assert "JointEmbeddingAdapter: " + spec.summary in done.stdout


def test_an_older_scvi_tools_is_named(monkeypatch):
    monkeypatch.delattr(external, NAME, raising=False)
    spec = plugins.get_spec("jointembedding")

    for call in (
        lambda: JointEmbeddingAdapter(cells()),
        lambda: JointEmbeddingAdapter.check_train_arguments({}),
        lambda: plugins.load_core(spec).from_config({}),
    ):
        with pytest.raises(MissingDependencyError, match=MESSAGE):
            call()


@is_not_there
def test_the_command_line_says_that_scvi_tools_is_too_old(tmp_path):
    cells().write_h5ad(tmp_path / "cells.h5ad")
    words = ["train", "jointembedding", str(tmp_path / "cells.h5ad"), "-o", str(tmp_path / "m")]

    done = CliRunner().invoke(app, words)

    assert done.exit_code == MissingDependencyError.exit_code
    assert re.search(MESSAGE, done.stderr.replace("\n", " "))
