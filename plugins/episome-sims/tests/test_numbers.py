"""The numbers of SIMS: recorded ones, the formula in float64, and what goes in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from episome.data import simulate_cells
from episome.models import SIMS
from episome.nn import CSRParts, TabNet, rename_reference_state
from episome.train import ClassifierPlan
from episome_sims.core import SIMSCore

if TYPE_CHECKING:
    from anndata import AnnData

SIZES = {"n_d": 8, "n_a": 4}
SCALINGS = ("none", "l2", "zscore_train")


def normalised(adata: AnnData) -> torch.Tensor:
    counts = torch.from_numpy(adata.X.toarray())
    return torch.log1p(1e4 * counts / counts.sum(1, keepdim=True))


def batch(core: SIMSCore, n: int = 40) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, int(core.config["n_features"]), generator=generator)
    labels = torch.randint(0, int(core.config["n_classes"]), (n,), generator=generator)
    return {"X": x * (x > 0.7), "labels": labels}


@pytest.mark.parametrize("mask", ["entmax", "sparsemax"])
def test_training_step_golden_matches(golden: Callable, mask: str) -> None:
    case = golden(f"03_sims_tabnet_steps3_{mask}")
    c = case.config
    core = SIMSCore(
        c["input_dim"],
        c["output_dim"],
        mask={"entmax": "entmax15"}.get(mask, mask),
        ghost_rounding="ceil",
        **{k: c[k] for k in ("n_d", "n_a", "n_steps", "n_shared", "n_independent", "gamma")},
        **{k: c[k] for k in ("momentum", "virtual_batch_size", "lambda_sparse")},
    ).double()
    state = {
        k.removeprefix("tabnet."): v
        for k, v in case.state(torch.float64).items()
        if k.startswith("tabnet.")
    }
    core.net.load_state_dict(rename_reference_state(state))

    weights = case.tensor("class_weights", torch.float64)
    out = core.train()({"X": case.tensor("train/x", torch.float64)})
    loss = F.cross_entropy(out["logits"], case.tensor("train/y"), weight=weights) + out["penalty"]
    loss.backward()

    case.check("train_f64/loss", loss)
    case.check("train_f64/probs", out["logits"].softmax(1))
    prefix = "grad_f64/" if "grad_f64/tabnet.final_mapping.weight" in case.arrays else "grad/"
    case.check(f"{prefix}tabnet.final_mapping.weight", core.net.head.weight.grad)
    case.check(f"{prefix}tabnet.encoder.initial_bn.weight", core.net.input_norm.weight.grad)


@pytest.mark.parametrize("mask", ["entmax", "sparsemax"])
def test_masks_golden_match_in_float64(golden: Callable, mask: str) -> None:
    case = golden(f"03_sims_tabnet_steps3_{mask}")
    c = case.config
    net = TabNet(
        c["input_dim"],
        c["output_dim"],
        mask={"entmax": "entmax15"}.get(mask, mask),
        **{k: c[k] for k in ("n_d", "n_a", "n_steps", "n_shared", "n_independent", "gamma")},
    ).double()
    state = {k.removeprefix("tabnet."): v for k, v in case.state(torch.float64).items()}
    net.load_state_dict(rename_reference_state(state))
    x = case.tensor("eval/x", torch.float64)

    with torch.no_grad():
        out = net.eval()(x, return_masks=True)

    case.check("eval_f64/logits_raw", out.logits)
    case.check("eval_f64/M_loss", -out.sparsity)
    case.check("eval_f64/M_explain", net.explain(x))
    for t, found in enumerate(out.masks):
        case.check(f"eval_f64/mask{t}", found)


def by_hand(core: SIMSCore, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Logits, explanation and masks of sparsemax steps in numpy and float64, as the card says."""
    s = {k: v.double().numpy() for k, v in core.net.state_dict().items()}
    n_d, n_shared = core.net.n_d, core.net.n_shared
    root = np.sqrt(0.5)

    def norm(z: np.ndarray, at: str, eps: float = 1e-5) -> np.ndarray:
        z = (z - s[f"{at}.running_mean"]) / np.sqrt(s[f"{at}.running_var"] + eps)
        return z * s[f"{at}.weight"] + s[f"{at}.bias"]

    def transformer(z: np.ndarray, k: int) -> np.ndarray:
        own = [f"transformers.{k}.specific.{i}" for i in range(core.net.n_independent)]
        weights = [f"shared.{i}" for i in range(n_shared - 1)] + own
        h = None
        for i, name in enumerate([None, *weights]):
            u = z @ s["first.0"] if name is None else h @ s[name].T
            left, right = np.split(norm(u, f"transformers.{k}.norms.{i}"), 2, axis=1)
            gated = left / (1 + np.exp(-right))
            h = gated if h is None else (h + gated) * root
        return h

    def sparsemax(z: np.ndarray) -> np.ndarray:
        down = -np.sort(-z, axis=1)
        total, n = np.cumsum(down, axis=1), np.arange(1, z.shape[1] + 1)
        size = (1 + n * down > total).sum(1)
        tau = (total[np.arange(len(z)), size - 1] - 1) / size
        return np.maximum(z - tau[:, None], 0)

    x0 = norm(x, "input_norm", core.net.input_norm.eps)
    a = transformer(x0, 0)[:, n_d:]
    prior, total, explained, masks = np.ones_like(x0), 0, 0, []
    for t in range(core.net.n_steps):
        scores = norm(a @ s[f"attentions.{t}.weight"].T, f"attentions.{t}.norm")
        mask = sparsemax(prior * scores)
        prior = prior * (core.net.gamma - mask)
        h = transformer(mask * x0, t + 1)
        d, a = np.maximum(h[:, :n_d], 0), h[:, n_d:]
        total, explained = total + d, explained + mask * d.sum(1, keepdims=True)
        masks.append(mask)
    return total @ s["head.weight"].T, explained, masks


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("n_top", [None, 30])
def test_numbers_equal_the_formula_in_float64(scaling: str, n_top: int | None) -> None:
    torch.manual_seed(0)
    core = SIMSCore(40, 5, **SIZES, input_scaling=scaling, n_top_genes=n_top)
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(40)[:n_top]) if n_top else np.arange(40)
    core.select_genes(chosen)
    mean, deviation = rng.random(40), rng.random(40) + 0.5
    if scaling == "zscore_train":
        core.set_statistics(mean, deviation)
    for _ in range(3):
        core.train()(batch(core))
    core.double().eval()
    x = batch(core)["X"].double()

    values = x.numpy()[:, chosen]
    if scaling == "l2":
        values = values / np.linalg.norm(values, axis=1, keepdims=True)
    elif scaling == "zscore_train":
        values = (values - core.mean.numpy()) / core.deviation.numpy()
    logits, explained, masks = by_hand(core, values)

    cells = {"X": CSRParts.from_dense(x)}
    limits = {"rtol": 1e-9, "atol": 1e-9}
    np.testing.assert_allclose(core({"X": x})["logits"].detach(), logits, **limits)
    np.testing.assert_allclose(core.inference()(cells)["logits"], logits, **limits)
    found = core.explaining()(cells).to_dense(40).numpy()
    np.testing.assert_allclose(found[:, chosen], explained, **limits)
    assert np.allclose([m.sum(1) for m in masks], 1)
    if scaling == "zscore_train":
        np.testing.assert_allclose(core.mean, mean[chosen], rtol=1e-6)
        np.testing.assert_allclose(core.deviation, deviation[chosen], rtol=1e-6)


def test_mask_that_takes_a_gene_fully_leaves_it_gamma_less_one() -> None:
    torch.manual_seed(0)
    net = TabNet(12, 3, **SIZES, n_steps=3, mask="sparsemax", gamma=1.3).eval()
    with torch.no_grad():
        for t in range(3):
            net.attention(t).weight.zero_()
            net.attention(t).norm.bias.copy_(torch.arange(12.0))  # the last gene wins by one

    masks = net(torch.rand(5, 12), return_masks=True).masks

    assert torch.equal(masks[0][:, 11], torch.ones(5))
    # Its score of 11 counts 0.3 times in the second step: 3.3 against 10 * 1.3 and 9 * 1.3.
    assert torch.equal(masks[1][:, 11], torch.zeros(5))
    assert torch.equal(masks[1][:, 10], torch.ones(5))
    # The third: 0.3 * 1.3 * 11 and 1.3 * 0.3 * 10 against 9 * 1.3 ** 2.
    assert torch.equal(masks[2][:, 9], torch.ones(5))


@pytest.mark.parametrize("mask", ["entmax15", "sparsemax"])
def test_mask_rows_sum_to_one_at_every_step(mask: str) -> None:
    torch.manual_seed(0)
    net = TabNet(40, 3, **SIZES, n_steps=3, mask=mask)

    masks = net(torch.rand(20, 40), return_masks=True).masks

    assert len(masks) == 3
    for found in masks:
        assert (found >= 0).all()
        torch.testing.assert_close(found.sum(1), torch.ones(20))


def test_loss_is_weighted_cross_entropy_and_mask_entropy() -> None:
    torch.manual_seed(0)
    core = SIMSCore(30, 3, **SIZES, lambda_sparse=0.1).eval()
    weights = np.array([0.5, 1.0, 2.0], dtype=np.float32)
    plan = ClassifierPlan(core, class_weights=weights)
    plan.log = lambda *args, **kwargs: None
    cells = batch(core)

    loss = plan.batch_loss(cells)

    logits = core(cells)["logits"]
    masks = core.net(cells["X"], return_masks=True).masks
    entropy = -torch.stack([(m * torch.log(m + 1e-15)).sum(1).mean() for m in masks]).mean()
    wanted = F.cross_entropy(logits, cells["labels"], weight=torch.tensor(weights))
    torch.testing.assert_close(loss, wanted + 0.1 * entropy, rtol=1e-4, atol=1e-5)


# --- scaling of the input -------------------------------------------------------------------


def test_scaling_by_length_makes_calls_independent_of_a_constant() -> None:
    torch.manual_seed(0)
    core = SIMSCore(30, 3, **SIZES, input_scaling="l2").eval()
    x = batch(core)["X"]

    plain, scaled = core({"X": x})["logits"], core({"X": 7 * x})["logits"]

    torch.testing.assert_close(plain, scaled, rtol=1e-4, atol=1e-4)
    empty = core({"X": torch.zeros(2, 30)})["logits"]
    assert torch.isfinite(empty).all()


def test_statistics_are_those_of_training_cells_and_in_the_folder(tmp_path: Path) -> None:
    adata = simulate_cells(200, 60, seed=0)
    model = SIMS(adata, **SIZES, input_scaling="zscore_train")
    parts = [list(range(100)), list(range(100, 150)), list(range(150, 200))]
    kept = {"external_indexing": parts}

    model.train(1, datasplitter_kwargs=kept, refit=False, accelerator="cpu")

    x = normalised(adata)[:100].double()
    deviation = x.std(0, correction=0).float()
    core = model.module
    torch.testing.assert_close(core.mean, x.mean(0).float(), rtol=1e-5, atol=1e-5)
    varies, limits = deviation > 0, {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(core.deviation[varies], deviation[varies], **limits)
    assert (core.deviation[deviation == 0] == 1).all()
    model.save(tmp_path / "model")
    loaded = SIMS.load(tmp_path / "model")
    assert torch.equal(loaded.module.mean, core.mean)
    assert np.array_equal(loaded.predict_proba(adata), model.predict_proba(adata))


def test_statistics_stay_when_a_model_is_trained_further() -> None:
    adata = simulate_cells(120, 60, seed=0)
    model = SIMS(adata, **SIZES, input_scaling="zscore_train")
    model.train(1, accelerator="cpu")
    before = model.module.mean.clone()

    tuned = model.fine_tune(simulate_cells(80, 60, seed=5), max_epochs=1, accelerator="cpu")

    assert torch.equal(tuned.module.mean, before)
