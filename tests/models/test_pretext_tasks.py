"""Pretext tasks of other plugins train the host's encoders."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from episome import plugins
from episome.data import simulate_cells
from episome.errors import PluginError, UsageError
from episome.io import read_model_folder
from episome.models import SSLEncoder, load

SIZES = {"hidden": (24, 16), "n_latent": 6}
QUICK = {"max_epochs": 2, "accelerator": "cpu", "batch_size": 64}


def cells(n=300, seed=0):
    return simulate_cells(n, 60, n_types=3, n_donors=5, seed=seed)


PLUGIN = """
from episome.plugins import PretextSpec, hookimpl

EPISOME_API = (1, 0)

@hookimpl
def episome_register_pretext_tasks():
    return (PretextSpec(name="sorted-genes", target="fake_sorted_task:Sorted", summary="toy"),)
"""
TASK = """
import torch
from torch import nn

from episome.nn import PretextOutput, PretextTask


class Sorted(PretextTask):
    '''The sum of a cell is told from its embedding.'''

    needs_decoder = False

    def __init__(self, n_latent, factor):
        super().__init__()
        self.factor = factor
        self.head = nn.Linear(n_latent, 1)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @classmethod
    def build(cls, setting, *, factor=1.0):
        if factor <= 0:
            raise ValueError("factor must be above 0")
        return cls(setting.n_latent, factor)

    def loss(self, net, batch):
        latent = net.encode(batch.cells)
        total = batch.cells.to_dense(net.n_features).sum(1, keepdim=True)
        error = (self.head(latent) - self.factor * total).square().mean()
        return PretextOutput(error, latent, {"total": total.mean()})

    def after_update(self, net, done):
        assert 0 < done <= 1
        self.updates += 1
"""


def test_a_task_of_another_plugin_trains_the_encoder(install, tmp_path):
    site = install("sorted", PLUGIN)
    (site / "fake_sorted_task.py").write_text(TASK)
    adata = cells()
    SSLEncoder.setup_anndata(adata)
    model = SSLEncoder(adata, pretext="sorted-genes", pretext_kwargs={"factor": 0.1}, **SIZES)
    head = model.module.task.head.weight.detach().clone()

    model.pretrain(**QUICK)

    assert not torch.equal(model.module.task.head.weight, head)
    assert int(model.module.task.updates) == model.fit_["n_updates"] > 0
    assert "train_total" in model.history
    model.save(tmp_path / "m")
    names = read_model_folder(tmp_path / "m").tensors
    assert all(k.startswith(("net.", "_indices/")) for k in names)
    with pytest.raises(UsageError, match=r"factor must be above 0.*E-U31"):
        SSLEncoder(adata, pretext="sorted-genes", pretext_kwargs={"factor": 0}, **SIZES)


def test_a_model_of_a_task_that_is_no_longer_installed_still_answers(install, tmp_path):
    """Its folder holds the encoder; only training needs the task."""
    site = install("sorted", PLUGIN)
    (site / "fake_sorted_task.py").write_text(TASK)
    adata = cells()
    SSLEncoder.setup_anndata(adata)
    model = SSLEncoder(adata, pretext="sorted-genes", **SIZES)
    model.pretrain(**QUICK)
    model.save(tmp_path / "m")
    query = cells(10, seed=1)
    wanted = model.get_latent_representation(query)

    for info in site.glob("*.dist-info"):
        (info / "entry_points.txt").unlink()
    plugins.reset_manager()

    assert "sorted-genes" not in plugins.pretext_tasks()
    assert np.array_equal(load(tmp_path / "m").get_latent_representation(query), wanted)


def test_a_task_that_returns_something_else_is_named_and_not_the_host(install):
    site = install("sorted", PLUGIN)
    other = TASK.replace("return PretextOutput(error", "return (error")
    (site / "fake_sorted_task.py").write_text(other)
    adata = cells()
    SSLEncoder.setup_anndata(adata)
    model = SSLEncoder(adata, pretext="sorted-genes", **SIZES)

    with pytest.raises(PluginError, match=r"the loss of Sorted is a tuple.*PretextOutput.*E-P06"):
        model.pretrain(**QUICK)
