"""LDVAE beside scvi-tools, what it says of cells, and its errors."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scvi.model import SCVI, LinearSCVI

from episome import settings
from episome.errors import InputDataError, ModelMismatchError, UsageError
from episome.nn import CSRParts
from episome_datamix import LDVAE, cell_correlations, reconstruction_r2, residuals, simulated
from episome_datamix.core import LDVAECore
from episome_datamix.draws import normal_draws
from episome_datamix.layers import normalised_product

SMALL = {"n_hidden": 16, "n_latent": 4}


def trained(cells, *, epochs=3, batch_key=None, **init):
    LDVAE.setup_anndata(cells, batch_key=batch_key)
    model = LDVAE(cells, **{**SMALL, **init})
    model.train(max_epochs=epochs, accelerator="cpu")
    return model


@pytest.fixture(scope="module")
def cells():
    found = simulated.pool({"a": 0.5, "b": 0.5}, 240, seed=5)
    found.obs["run"] = np.where(np.arange(240) % 2, "one", "two")
    return found


@pytest.fixture(scope="module")
def model(cells):
    return trained(cells.copy())


def test_statistics_of_a_product_are_those_of_a_batch_norm():
    torch.manual_seed(0)
    x, weight = torch.randn(30, 5), torch.randn(40, 5, requires_grad=True)
    ours, theirs = (torch.nn.BatchNorm1d(40, eps=1e-3, momentum=0.01) for _ in range(2))

    for training in (True, False):
        ours.train(training)
        theirs.train(training)
        found, wanted = normalised_product(x, weight, ours), theirs(x @ weight.t())
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        grads = [torch.autograd.grad(v.square().sum(), weight)[0] for v in (found, wanted)]
        torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    assert int(ours.num_batches_tracked) == 1


def test_draws_belong_to_cells_and_are_normal():
    numbers = torch.arange(5000)

    drawn = normal_draws(numbers, 2, 3, seed=4)

    assert torch.equal(drawn[[7, 3]], normal_draws(numbers[[7, 3]], 2, 3, seed=4))
    assert not torch.equal(drawn, normal_draws(numbers, 2, 3, seed=5))
    assert abs(float(drawn.mean())) < 0.03
    assert abs(float(drawn.std()) - 1) < 0.03
    assert (
        abs(float(torch.corrcoef(drawn.reshape(5000, 6).T).fill_diagonal_(0).abs().max())) < 0.06
    )


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
@pytest.mark.parametrize("batch_key", [None, "run"])
def test_tensors_go_to_scvi_tools_and_back(cells, likelihood, batch_key):
    model = trained(cells.copy(), batch_key=batch_key, gene_likelihood=likelihood)

    theirs = model.to_scvi()
    back = LDVAE.from_scvi(theirs)

    bounds = []
    for one in (model, theirs, back):
        torch.manual_seed(0)
        bounds.append(float(one.get_elbo()))
    assert isinstance(theirs, LinearSCVI)
    np.testing.assert_allclose(bounds, bounds[0], rtol=1e-5)
    np.testing.assert_allclose(
        back.get_latent_representation(cells),
        theirs.get_latent_representation(),
        rtol=1e-4,
        atol=1e-5,
    )
    np.testing.assert_allclose(
        model.get_loadings().to_numpy(), theirs.get_loadings().to_numpy(), rtol=1e-4, atol=1e-6
    )


def test_the_loss_of_a_batch_is_that_of_scvi_tools(model):
    x = torch.from_numpy(model.adata.X[:32].toarray())
    codes = torch.zeros(32, dtype=torch.int64)
    noise = normal_draws(torch.arange(32), 1, 5, seed=0)[:, 0]
    module = model.to_scvi().module
    found = module.inference(x, codes[:, None])
    found["z"] = found["qz"].loc + found["qz"].scale * noise[:, :-1]
    found["library"] = found["ql"].loc + found["ql"].scale * noise[:, -1:]
    said = module.generative(found["z"], found["library"], codes[:, None])
    given = {"X": x, "batch": codes[:, None], "labels": codes[:, None]}

    theirs = module.loss(given, found, said)
    terms = model.module.elbo_terms(CSRParts.from_dense(x), codes, noise)

    ours = terms["reconstruction"] + terms["kl_z"] + terms["kl_l"]
    torch.testing.assert_close(ours.mean(), theirs.loss, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(
        terms["reconstruction"],
        theirs.reconstruction_loss["reconstruction_loss"],
        rtol=1e-5,
        atol=1e-3,
    )


def test_loadings_times_the_latent_mean_are_the_logits_but_for_a_constant(model, cells):
    latent = torch.from_numpy(model.get_latent_representation(cells))

    product = latent.numpy() @ model.get_loadings().to_numpy().T

    with torch.no_grad():
        logits = model.module.logits(latent).numpy()
    constant = logits - product
    np.testing.assert_allclose(
        constant, np.broadcast_to(constant[:1], constant.shape), rtol=0, atol=1e-4
    )


def test_reconstruction_without_draws_and_with_them(model, cells):
    plain = model.reconstruction_r2(cells, n_top_genes=50)
    drawn = [
        model.reconstruction_r2(cells, n_top_genes=50, n_samples=1, seed=s) for s in (1, 1, 2)
    ]

    assert plain.seed is None
    assert len(plain.genes) == 50
    assert plain.r2 == model.reconstruction_r2(cells, n_top_genes=50).r2
    assert drawn[0].r2 == drawn[1].r2 != drawn[2].r2
    order = np.random.default_rng(0).permutation(cells.n_vars)
    turned = model.reconstruction_r2(cells[:, order].copy(), n_top_genes=50)
    assert turned.r2 == pytest.approx(plain.r2, rel=1e-6)
    fewer = model.reconstruction_r2(cells[:, :150].copy(), n_top_genes=50)
    assert fewer.n_missing == 50


def test_seeds_change_weights_and_the_same_seed_gives_the_same(cells):
    scores = []
    for seed in (0, 0, 1):
        with settings.using_seed(seed):
            scores.append(trained(cells.copy()).reconstruction_r2(cells, n_top_genes=50).r2)

    assert scores[0] == scores[1] != scores[2]


def test_residuals_are_differences_of_means(model, cells):
    found = residuals(model, cells, by="cell_type")

    part = found[found["cell_type"] == "type a"]
    of = cells[cells.obs["cell_type"] == "type a"]
    shares = of.X.multiply(1e4 / of.X.sum(axis=1)).mean(axis=0).A.ravel()
    np.testing.assert_allclose(part.loc[cells.var_names, "measured"], shares, rtol=1e-4)
    expected = model.get_normalized_expression(of, library_size=1e4).mean()
    np.testing.assert_allclose(part.loc[cells.var_names, "expected"], expected, rtol=1e-4)


def test_batches_are_told_and_can_be_chosen(cells):
    model = trained(cells.copy(), batch_key="run")

    one, two, both = (
        model.get_normalized_expression(cells, transform_batch=b, return_numpy=True)
        for b in ("one", "two", None)
    )

    assert model.batches == ("one", "two")
    np.testing.assert_allclose((one + two) / 2, both, rtol=1e-4, atol=1e-7)
    assert np.abs(one - two).max() > 0
    with pytest.raises(UsageError, match=r"no batch 'three'.*E-U110"):
        model.get_normalized_expression(cells, transform_batch="three")


def test_differential_expression_is_scvi_tools_own(model):
    model.adata.obs["kind"] = model.adata.obs["cell_type"].astype(str)

    found = model.differential_expression(groupby="kind", group1="type a", group2="type b")

    assert len(found) == 200
    assert "bayes_factor" in found
    assert model.get_normalized_expression(return_numpy=True).shape == (240, 200)


def test_training_in_steps_of_the_prior(cells):
    LDVAE.setup_anndata(cells_ := cells.copy())
    model = LDVAE(cells_, **SMALL)

    model.train(max_epochs=3, accelerator="cpu", plan_kwargs={"n_epochs_kl_warmup": 2})

    assert model.module.kl_weight == 1.0
    assert {"train_loss", "validation_reconstruction", "validation_kl_z"} <= set(model.history)
    with pytest.raises(UsageError, match=r"n_epochs_kl_warmup=0.*E-U22"):
        model.train(max_epochs=1, plan_kwargs={"n_epochs_kl_warmup": 0})


def test_what_cannot_be_is_refused(model, cells):
    logged = cells.copy()
    logged.X = logged.X.log1p()
    with pytest.raises(InputDataError, match="E-D07"):
        LDVAE.setup_anndata(logged)
    LDVAE.setup_anndata(again := cells.copy())
    for wrong in ({"gene_likelihood": "normal"}, {"n_latent": 0}, {"dropout_rate": 1.0}):
        with pytest.raises(UsageError, match=r"cannot be built.*E-U31"):
            LDVAE(again, **wrong)
    with pytest.raises(UsageError, match=r"n_samples=-1.*E-U22"):
        model.get_normalized_expression(cells, n_samples=-1)
    with pytest.raises(UsageError, match=r"n_top_genes=1.*E-U22"):
        model.reconstruction_r2(cells, n_top_genes=1)
    with pytest.raises(UsageError, match=r"reconstructs no expression.*E-U12"):
        reconstruction_r2(object(), cells)
    with pytest.raises(ModelMismatchError, match=r"is no LinearSCVI.*E-M06"):
        LDVAE.from_scvi(SCVI)
    SCVI.setup_anndata(given := cells.copy())
    LinearSCVI.setup_anndata(given)
    theirs = LinearSCVI(given, dispersion="gene-cell")
    with pytest.raises(UsageError, match="E-M20"):
        LDVAE.from_scvi(theirs)
    theirs.is_trained_ = True
    with pytest.raises(ModelMismatchError, match=r"dispersion='gene-cell'.*E-M06"):
        LDVAE.from_scvi(theirs)


def test_correlations_forgive_scale_and_offset_and_count_constants():
    rng = np.random.default_rng(0)
    x = rng.random((4, 30))
    x[3] = 1.0

    found = cell_correlations(3 * x + 5, x)

    np.testing.assert_allclose(found["r"][:3], 1.0)
    assert found.iloc[3].isna().all()
    assert cell_correlations(np.ones((1, 30)), x[:1]).isna().all(axis=None)
    y = rng.random((3, 30))
    wanted = [np.corrcoef(a, b)[0, 1] for a, b in zip(x[:3], y, strict=True)]
    np.testing.assert_allclose(cell_correlations(y, x[:3])["r"], wanted)


def test_the_core_predicts_without_scvi_tools(model, cells, tmp_path):
    model.save(tmp_path / "model")
    cells.write_h5ad(tmp_path / "cells.h5ad")
    script = (
        "import sys\n"
        "from episome.inference import Predictor\n"
        f"p = Predictor.from_folder({str(tmp_path / 'model')!r}, device='cpu')\n"
        f"q = p.prepare({str(tmp_path / 'cells.h5ad')!r})\n"
        "out = p.collect(q, ['latent', 'mean'])\n"
        "assert 'scvi' not in sys.modules, 'scvi'\n"
        "print(out['latent'].sum(), type(p.core).__name__)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    total, core = done.stdout.split()
    assert core == LDVAECore.__name__
    assert float(total) == pytest.approx(
        float(model.get_latent_representation(cells).sum()), rel=1e-4
    )
