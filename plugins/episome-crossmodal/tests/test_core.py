"""Likelihoods and outputs of the core."""

from __future__ import annotations

import pytest
import torch
from scvi.distributions import NegativeBinomialMixture

from episome.data import GenePanels
from episome.nn import CSRParts
from episome_crossmodal.core import LIKELIHOODS, CrossModalCore
from episome_crossmodal.likelihoods import background_mixture_log_likelihood

N_CELLS, N_GENES, N_TARGETS = 7, 12, 5


def core_of(**options) -> CrossModalCore:
    torch.manual_seed(0)
    given = {"hidden": (6,), "n_latent": 4, "decoder": (), "dropout": 0.0, **options}
    return CrossModalCore(N_GENES, n_targets={"protein": N_TARGETS}, **given)


def batch_of(values: torch.Tensor | None = None, **more: object) -> dict[str, object]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N_CELLS, N_GENES, generator=generator).clamp_min(0)
    if values is None:
        values = torch.poisson(torch.full((N_CELLS, N_TARGETS), 1.5), generator=generator)
    return {
        "X": CSRParts.from_dense(x),
        "protein": CSRParts.from_dense(values),
        "protein_panel": torch.zeros(N_CELLS, dtype=torch.int64),
        "ind_x": torch.arange(N_CELLS),
        "values": values,
        **more,
    }


@pytest.mark.parametrize("likelihood", ["mse", "bernoulli", "poisson"])
@pytest.mark.parametrize("rank", [None, 3])
def test_the_loss_of_sparse_targets_is_that_of_the_whole_matrix(likelihood, rank, monkeypatch):
    core = core_of(likelihood=likelihood, head_rank=rank)
    batch = batch_of()
    values = batch["values"]
    if likelihood != "mse":
        core.start_from(torch.full((N_TARGETS,), 0.5))
    # As of an output of many features, of which the matrix is never formed.
    monkeypatch.setattr(CrossModalCore, "_standardised", False)

    loss = core.loss(batch)["loss"]
    loss.backward()
    found = {k: p.grad.clone() for k, p in core.named_parameters() if p.grad is not None}
    core.zero_grad()
    raw = core.out(core._hidden(core._embed(batch["X"], None), None))
    if likelihood == "mse":
        whole = (raw - values).square().mean()
    elif likelihood == "bernoulli":
        whole = torch.nn.functional.binary_cross_entropy_with_logits(raw, (values > 0).float())
    else:
        mean = torch.nn.functional.softplus(raw)
        whole = -torch.distributions.Poisson(mean).log_prob(values).mean()
    whole.backward()

    torch.testing.assert_close(loss, whole, rtol=1e-4, atol=1e-6)
    for name, parameter in core.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_the_mixture_is_that_of_scvi_tools():
    generator = torch.Generator().manual_seed(2)
    counts = torch.poisson(torch.full((6, 4), 4.0), generator=generator)
    low, high, theta = torch.rand(6, 4) + 0.5, torch.rand(6, 4) + 3, torch.rand(4) + 0.5
    logits = torch.randn(6, 4, generator=generator)

    found = background_mixture_log_likelihood(counts, low, high, logits, theta)

    reference = NegativeBinomialMixture(
        mu1=low, mu2=high, theta1=theta.expand(6, 4), mixture_logits=logits
    )
    torch.testing.assert_close(found, reference.log_prob(counts), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_features_that_were_not_measured_take_no_part(likelihood):
    core = core_of(likelihood=likelihood)
    measured = torch.ones(3, N_TARGETS, dtype=torch.bool)
    measured[1, 2:] = False
    measured[2] = False
    core.set_panels(GenePanels(measured.numpy(), None))
    panel = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    values = batch_of()["values"]
    other = torch.where(measured[panel], values, values + 9)

    losses, grads = [], []
    for given in (values, other):
        core.zero_grad()
        loss = core.loss(batch_of(given, protein_panel=panel))["loss"]
        loss.backward()
        losses.append(loss)
        grads.append(core.out.weight.grad.clone())

    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(grads[0], grads[1])
    # What was measured does.
    core.zero_grad()
    changed = core.loss(batch_of(values + 1.0, protein_panel=panel))["loss"]
    assert not torch.isclose(changed, losses[0])


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_predictions_begin_at_the_mean_of_training(likelihood):
    core = core_of(likelihood=likelihood, decoder=(6,), n_latent=3)
    mean = torch.tensor([0.1, 0.5, 0.9, 0.3, 0.7])
    core.start_from(mean, torch.full((N_TARGETS,), 2.0))
    with torch.no_grad():
        for part in (core.out, getattr(core, "mixing", core.out)):
            part.weight.zero_()

    found = core.eval()(batch_of())["target"]

    wanted = torch.log1p(mean) if likelihood in {"nb", "nb_mixture"} else mean
    # Of a mixture: half of the cells are background, the others 1 + softplus(0) times as high.
    atol = 0.2 if likelihood == "nb_mixture" else 1e-5
    torch.testing.assert_close(found, wanted.expand_as(found), rtol=0, atol=atol)


def test_cells_of_no_known_batch_are_told_none():
    core = core_of(n_batch=3, decoder=(6,)).eval()
    batch = batch_of()
    known = [
        core({**batch, "batch": torch.full((N_CELLS,), b)})["target"].detach() for b in range(3)
    ]

    unseen = core({**batch, "batch": torch.full((N_CELLS,), -1)})["target"].detach()
    unsaid = core(batch)["target"].detach()

    torch.testing.assert_close(unseen, unsaid)
    assert torch.isfinite(unseen).all()
    for one in known:
        assert not torch.allclose(one, unseen)


def test_in_training_some_cells_are_told_no_batch():
    core = core_of(n_batch=2, batch_dropout=0.5)
    batch = batch_of(batch=torch.ones(N_CELLS, dtype=torch.int64))
    torch.manual_seed(0)

    told = core.train()._told(batch)

    assert 0 < float(told.sum()) < N_CELLS
    assert float(core.eval()._told(batch).sum()) == N_CELLS


@pytest.mark.parametrize(
    "options",
    [
        {"likelihood": "normal"},
        {"encoder": "big"},
        {"activation": "tanh"},
        {"dropout": 1.0},
        {"input_dropout": -0.1},
        {"head_rank": 0},
        {"hidden": ()},
        {"rna_weight": 1.0},
        {"rna_weight": -1.0, "encoder": "masked"},
    ],
)
def test_impossible_cores_are_refused(options):
    with pytest.raises(ValueError, match=r"must be|use one of|by encoder"):
        core_of(**options)


def test_a_core_comes_back_from_its_configuration():
    core = core_of(likelihood="nb_mixture", n_batch=2, head_rank=2, encoder="masked")
    other = CrossModalCore.from_config(core.config)
    other.load_state(*core.state())
    batch = batch_of(batch=torch.zeros(N_CELLS, dtype=torch.int64))

    torch.testing.assert_close(core.eval()(batch)["target"], other.eval()(batch)["target"])
