"""SCTab's own promises; what every model must keep is in the conformance kit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from episome.data import simulate_cells
from episome.errors import UsageError
from episome.models import SCTab
from episome.train import ClassifierPlan
from episome_sctab.core import SCTabCore
from episome_sctab.presets import PAPER, SMALL_BELOW, training_defaults, values_for


@pytest.fixture(scope="module")
def trained() -> SCTab:
    model = SCTab(simulate_cells(200, 120, seed=0), n_top_genes=50)
    model.train(max_epochs=3)
    return model


def batch(core: SCTabCore, n: int = 40) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, int(core.config["n_features"]), generator=generator)
    labels = torch.randint(0, int(core.config["n_classes"]), (n,), generator=generator)
    return {"X": x * (x > 0.7), "labels": labels}


def loss_of(core: SCTabCore, weights: np.ndarray | None) -> tuple[torch.Tensor, dict]:
    plan = ClassifierPlan(core, class_weights=weights)
    plan.log = lambda *args, **kwargs: None
    cells = batch(core)
    return plan.batch_loss(cells), core(cells)


def test_loss_without_sparsity_weight_is_weighted_cross_entropy() -> None:
    core = SCTabCore(30, 3, n_d=8, n_a=4, lambda_sparse=0.0).eval()
    weights = np.array([0.5, 1.0, 2.0], dtype=np.float32)

    loss, out = loss_of(core, weights)

    wanted = F.cross_entropy(out["logits"], batch(core)["labels"], weight=torch.tensor(weights))
    torch.testing.assert_close(loss, wanted)


def test_loss_with_doubled_class_weights_is_the_same() -> None:
    core = SCTabCore(30, 3, n_d=8, n_a=4).eval()
    weights = np.array([0.5, 1.0, 2.0], dtype=np.float32)

    torch.testing.assert_close(loss_of(core, weights)[0], loss_of(core, 2 * weights)[0])


def test_sparsity_weight_adds_mask_entropy_to_the_loss() -> None:
    torch.manual_seed(0)
    core = SCTabCore(30, 3, n_d=8, n_a=4, lambda_sparse=0.0).eval()
    without, _ = loss_of(core, None)
    core.lambda_sparse = 0.1
    with_term, _ = loss_of(core, None)

    masks = core.net(batch(core)["X"], return_masks=True).masks
    entropy = -torch.stack([(m * torch.log(m + 1e-15)).sum(1).mean() for m in masks]).mean()

    assert entropy > 0
    torch.testing.assert_close(with_term - without, 0.1 * entropy, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n_top", [None, 12])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_inference_on_sparse_cells_equals_forward_on_dense(
    n_top: int | None, n_steps: int
) -> None:
    from episome.nn import CSRParts

    torch.manual_seed(0)
    core = SCTabCore(30, 4, n_d=8, n_a=4, n_steps=n_steps, n_top_genes=n_top)
    if n_top:
        core.select_genes(np.sort(np.random.default_rng(0).permutation(30)[:n_top]))
    for _ in range(3):
        core.train()(batch(core))
    cells = batch(core)

    wanted = core.eval()(cells)
    got = core.inference()({"X": CSRParts.from_dense(cells["X"])})

    for key in ("logits", "latent"):
        torch.testing.assert_close(got[key], wanted[key], rtol=1e-4, atol=1e-4)


def test_feature_mask_rows_sum_to_one_on_chosen_genes_only(trained: SCTab) -> None:
    query = simulate_cells(30, 120, seed=0)

    mask = trained.get_feature_mask(query[:, ::-1], batch_size=7)

    assert mask.shape == (30, 120)
    np.testing.assert_allclose(np.asarray(mask.sum(axis=1)).ravel(), 1.0, atol=1e-5)
    assert set(mask.indices) <= set(trained.module.genes.tolist())
    assert abs(mask - trained.get_feature_mask(query)).max() < 1e-6
    assert trained.get_feature_mask(query[:0]).shape == (0, 120)


def test_embedding_has_the_width_of_the_decision(trained: SCTab) -> None:
    latent = trained.get_latent_representation(simulate_cells(30, 120, seed=0))

    assert latent.shape == (30, trained.module.config["n_d"])
    assert latent.dtype == np.float32
    assert (latent >= 0).all()


def test_preset_auto_follows_the_number_of_cells() -> None:
    assert values_for("auto", SMALL_BELOW - 1, 2000)[0] == "small"
    assert values_for("auto", SMALL_BELOW, 2000) == ("paper", PAPER)


def test_preset_small_spares_the_genes_of_a_panel() -> None:
    dropouts = [values_for("small", 1000, n)[1]["dropout"] for n in (100, 200, 2000, 20_000)]

    assert dropouts == [0.0, 0.25, 0.7, 0.85]


def test_preset_paper_has_the_published_values() -> None:
    sizes = {k: PAPER[k] for k in ("n_d", "n_a", "n_steps", "n_shared", "n_independent", "mask")}
    defaults = training_defaults("paper", 1_000_000)

    assert list(sizes.values()) == [128, 64, 1, 3, 5, "entmax15"]
    assert defaults["batch_size"] == 2048
    assert defaults["plan_kwargs"] == {
        "lr": 5e-3,
        "weight_decay": 0.05,
        "lr_schedule": "step",
        "lr_decay": 0.9,
    }


@pytest.mark.parametrize(
    ("preset", "sizes", "n_parameters"),
    [
        ("paper-xs", (16, 16), 1_653_052),
        ("paper-s", (32, 32), 3_277_932),
        ("paper-m", (64, 64), 6_675_148),
        ("paper", (128, 64), 9_655_628),
        ("paper-xl", (256, 64), 16_206_412),
    ],
)
def test_preset_of_the_grid_has_the_published_parameters(
    preset: str, sizes: tuple[int, int], n_parameters: int
) -> None:
    name, values = values_for(preset, 1_000, 19_331)
    with torch.device("meta"):
        core = SCTabCore(19_331, 164, **values)

    assert name == preset
    assert (core.config["n_d"], core.config["n_a"]) == sizes
    assert sum(p.numel() for p in core.parameters()) == n_parameters
    assert {**values, "n_d": 128, "n_a": 64} == PAPER
    assert training_defaults(preset, 1_000) == training_defaults("paper", 1_000)


def test_preset_is_kept_by_the_model_and_its_folder(tmp_path: Path) -> None:
    model = SCTab(simulate_cells(40, 30), preset="paper-s")
    model.train(max_epochs=1, batch_size=20, accelerator="cpu")
    model.save(tmp_path / "model")

    loaded = SCTab.load(tmp_path / "model")

    assert loaded.preset == "paper-s"
    assert (loaded.module.config["n_d"], loaded.module.config["n_a"]) == (32, 32)


def test_preset_unknown_is_refused_with_the_names() -> None:
    with pytest.raises(UsageError, match=r"preset='huge'.*\"paper-xl\".*E-U23"):
        SCTab(simulate_cells(40, 30), preset="huge")


def test_single_sizes_win_over_the_preset() -> None:
    model = SCTab(simulate_cells(40, 30), preset="paper", n_d=16, n_a=8, n_steps=3)

    config = model.module.config
    assert (config["n_d"], config["n_a"], config["n_steps"]) == (16, 8, 3)
    assert config["n_shared"] == PAPER["n_shared"]


@pytest.mark.slow
@pytest.mark.parametrize(("n_cells", "floor"), [(1000, 0.95), (200, 0.95)])
def test_learning_check_is_no_worse_than_the_reference(n_cells: int, floor: float) -> None:
    # sctab card, section 9: the reference network reached 0.95 with 1,000 cells and 0.97 with 200.
    cells = simulate_cells(
        n_cells + 1000, 2000, n_types=5, n_donors=1, marker_share=0.05, depth=3000.0, seed=3
    )
    model = SCTab(cells[:n_cells].copy())
    model.train()
    query = cells[n_cells:]

    assert (model.predict(query) == query.obs["cell_type"].to_numpy()).mean() >= floor
