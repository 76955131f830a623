"""Checkpoints in the form of the published implementation, made of networks of episome."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from episome.nn import TabNet

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def reference_state(net: TabNet) -> dict[str, torch.Tensor]:
    """Give a network's tensors under the reference's names, shared ones under all of theirs."""
    ours, n_shared = net.state_dict(), net.n_shared
    out: dict[str, torch.Tensor] = {"final_mapping.weight": ours["head.weight"]}

    def norm(theirs: str, mine: str) -> None:
        out.update({f"encoder.{theirs}.{part}": ours[f"{mine}.{part}"] for part in NORM})

    norm("initial_bn", "input_norm")
    for k in range(net.n_steps + 1):
        block = "initial_splitter" if k == 0 else f"feat_transformers.{k - 1}"
        first = ours[f"first.{0 if n_shared else k}"].T.contiguous()
        for i in range(n_shared):
            weight = ours[f"shared.{i - 1}"] if i else first
            out[f"encoder.{block}.shared.shared_layers.{i}.weight"] = weight
            out[f"encoder.{block}.shared.glu_layers.{i}.fc.weight"] = weight
            norm(f"{block}.shared.glu_layers.{i}.bn.bn", f"transformers.{k}.norms.{i}")
        for i in range(net.n_independent):
            j = i if n_shared else i - 1
            weight = first if j < 0 else ours[f"transformers.{k}.specific.{j}"]
            out[f"encoder.{block}.specifics.glu_layers.{i}.fc.weight"] = weight
            mine = f"transformers.{k}.norms.{n_shared + i}"
            norm(f"{block}.specifics.glu_layers.{i}.bn.bn", mine)
    for t in range(net.n_steps):
        out[f"encoder.att_transformers.{t}.fc.weight"] = ours[f"attentions.{t}.weight"]
        norm(f"att_transformers.{t}.bn.bn", f"attentions.{t}.norm")
    return out


@pytest.fixture
def network() -> Callable[..., TabNet]:
    """Build a small network whose norms have seen cells."""

    def build(n_genes: int = 47, n_classes: int = 9, **sizes: object) -> TabNet:
        torch.manual_seed(0)
        options = {"n_d": 8, "n_a": 4, "virtual_batch_size": 16, **sizes}
        net = TabNet(n_genes, n_classes, **options)
        for _ in range(3):
            net.train()(torch.rand(40, n_genes) * 5)
        return net.eval()

    return build


@pytest.fixture
def lightning_file(tmp_path: Path) -> Callable[..., Path]:
    """Write what a Lightning trainer of the published script leaves."""

    def write(state: dict[str, torch.Tensor], settings: dict[str, object], **more: object) -> Path:
        weights = OrderedDict({f"classifier.{k}": v for k, v in state.items()})
        n_classes, n_genes = settings["type_dim"], settings["gene_dim"]
        weights["class_weights"] = torch.ones(n_classes)
        weights["child_lookup"] = torch.eye(n_classes)
        weights["augmentations"] = torch.zeros(10, n_genes)
        parameter = torch.nn.Parameter(torch.ones(2))
        optimiser = torch.optim.AdamW([parameter])
        parameter.sum().backward()
        optimiser.step()
        schedule = torch.optim.lr_scheduler.StepLR(optimiser, 1, 0.9)
        content = {
            "epoch": 41,
            "global_step": 308_000,
            "pytorch-lightning_version": "1.9.0",
            "state_dict": weights,
            "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 1}}}},
            "callbacks": {"ModelCheckpoint{'monitor': 'val_f1_macro'}": {
                "best_model_score": torch.tensor(0.84), "best_model_path": "/a/b.ckpt"}},
            "optimizer_states": [optimiser.state_dict()],
            "lr_schedulers": [schedule.state_dict()],
            "hparams_name": "kwargs",
            "hyper_parameters": {
                "learning_rate": np.float64(0.005),
                "optimizer": torch.optim.AdamW,
                "lr_scheduler": torch.optim.lr_scheduler.StepLR,
                "lr_scheduler_kwargs": {"step_size": np.int64(1), "gamma": 0.9},
                **settings,
            },
            **more,
        }  # fmt: skip
        torch.save(content, tmp_path / "reference.ckpt")
        return tmp_path / "reference.ckpt"

    return write


@pytest.fixture
def export() -> Callable[[TabNet], dict[str, torch.Tensor]]:
    """Return tensors of a network under the reference's names."""
    return reference_state


@pytest.fixture
def settings_of() -> Callable[[TabNet], dict[str, object]]:
    """Return the settings of a network as the published script names them."""

    def settings(net: TabNet) -> dict[str, object]:
        return {
            "gene_dim": net.n_features,
            "type_dim": net.n_classes,
            "n_d": net.n_d,
            "n_a": net.n_a,
            "n_steps": net.n_steps,
            "gamma": net.gamma,
            "n_independent": net.n_independent,
            "n_shared": net.n_shared,
            "epsilon": 1e-15,
            "virtual_batch_size": 16,
            "momentum": 0.02,
            "mask_type": net.mask.removesuffix("15"),
            "lambda_sparse": 1e-5,
        }

    return settings
