"""Checkpoints in the form of the published code, and recorded numbers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.preprocessing import LabelEncoder

from episome.nn import TabNet

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
GENES = [f"ENSG{i:011d}" for i in range(47)]
LABELS = [f"type {i}" for i in range(6)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: barriers of tiny operations take seconds on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def network() -> Callable[..., TabNet]:
    """Build a small network whose norms have seen cells."""

    def build(n_genes: int = 47, n_classes: int = 6, **sizes: object) -> TabNet:
        torch.manual_seed(0)
        options = {"n_d": 8, "n_a": 4, "n_steps": 3, "n_shared": 2, "n_independent": 2}
        options |= {"virtual_batch_size": 16, "mask": "sparsemax", **sizes}
        net = TabNet(n_genes, n_classes, **options)
        for _ in range(3):
            net.train()(torch.rand(40, n_genes))
        return net.eval()

    return build


@pytest.fixture
def export() -> Callable[[TabNet], dict[str, torch.Tensor]]:
    """Return tensors of a network as the published module names them."""
    return published_state


def published_state(net: TabNet) -> dict[str, torch.Tensor]:
    ours, n_shared = net.state_dict(), net.n_shared
    out: dict[str, torch.Tensor] = {"final_mapping.weight": ours["head.weight"]}

    def norm(theirs: str, mine: str) -> None:
        out.update({f"{theirs}.{part}": ours[f"{mine}.{part}"].clone() for part in NORM})

    norm("initial_bn", "input_norm")  # registered there, and never used
    norm("encoder.initial_bn", "input_norm")
    for k in range(net.n_steps + 1):
        block = "encoder.initial_splitter" if k == 0 else f"encoder.feat_transformers.{k - 1}"
        for i in range(n_shared):
            weight = ours[f"shared.{i - 1}"] if i else ours["first.0"].T.contiguous()
            out[f"{block}.shared.shared_layers.{i}.weight"] = weight
            out[f"{block}.shared.glu_layers.{i}.fc.weight"] = weight
            norm(f"{block}.shared.glu_layers.{i}.bn.bn", f"transformers.{k}.norms.{i}")
        for i in range(net.n_independent):
            weight = ours[f"transformers.{k}.specific.{i}"]
            out[f"{block}.specifics.glu_layers.{i}.fc.weight"] = weight
            mine = f"transformers.{k}.norms.{n_shared + i}"
            norm(f"{block}.specifics.glu_layers.{i}.bn.bn", mine)
    for t in range(net.n_steps):
        out[f"encoder.att_transformers.{t}.fc.weight"] = ours[f"attentions.{t}.weight"]
        norm(f"encoder.att_transformers.{t}.bn.bn", f"attentions.{t}.norm")
    return {f"network.tabnet.{k}": v for k, v in out.items()}


@pytest.fixture
def settings_of() -> Callable[[TabNet], dict[str, object]]:
    """Return the settings of a network as the published module names them."""

    def settings(net: TabNet) -> dict[str, object]:
        return {
            "input_dim": net.n_features,
            "output_dim": net.n_classes,
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
            "lambda_sparse": np.float64(1e-3),
        }

    return settings


@pytest.fixture
def lightning_file(tmp_path: Path) -> Callable[..., Path]:
    """Write what a Lightning trainer of the published module leaves."""

    def write(
        state: dict[str, torch.Tensor],
        settings: dict[str, object],
        *,
        genes: list[str] | None = GENES,
        labels: list[str] | None = LABELS,
        **more: object,
    ) -> Path:
        parameter = torch.nn.Parameter(torch.ones(2))
        optimiser = torch.optim.Adam([parameter])
        parameter.sum().backward()
        optimiser.step()
        said: dict[str, object] = {
            "optim_params": {"optimizer": torch.optim.Adam, "lr": 0.01},
            "scheduler_params": {"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau},
            "cells": [f"BARCODE-{i}" for i in range(5)],
            **settings,
        }
        if genes is not None:
            said["genes"] = genes
        if labels is not None:
            said["label_encoder"] = LabelEncoder().fit(np.array(labels, dtype=object))
        content = {
            "epoch": 41,
            "global_step": 3_080,
            "pytorch-lightning_version": "2.1.0",
            "state_dict": OrderedDict({**state, "temperature": torch.tensor([1.5])}),
            "callbacks": {},
            "optimizer_states": [optimiser.state_dict()],
            "lr_schedulers": [],
            "hparams_name": "kwargs",
            "hyper_parameters": said,
            **more,
        }
        torch.save(content, tmp_path / "published.ckpt")
        return tmp_path / "published.ckpt"

    return write
