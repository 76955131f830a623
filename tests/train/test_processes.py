"""Several processes: the batches, the losses and the weights of one."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from episome.data import FeatureSpace, InputRule, Split, prepare_query
from episome.errors import EpisomeWarning, ResourceError, TrainingError
from episome.nn import TorchCore
from episome.train import CellDataModule, ClassifierPlan, RunFolder, fit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")


class LinearCore(TorchCore):
    """One layer and no statistics of a batch."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.config = {"n_features": n_features, "n_classes": n_classes}
        self.head = nn.Linear(n_features, n_classes)

    def forward(self, batch):
        return {"logits": self.head(batch["X"])}


@pytest.fixture
def data(toy):
    adata = toy.cells(131)
    query = prepare_query(adata, FeatureSpace.from_var(adata.var), InputRule())
    codes = adata.obs["cell_type"].cat.codes.to_numpy().astype(np.int64)
    rows = np.arange(131)

    def make(**kwargs):
        split = Split(rows[32:], rows[:32], rows[:0], "given", 0)
        return CellDataModule(
            query.source,
            query.alignment,
            rule=query.rule,
            kind=query.kind,
            labels=codes,
            seed=0,
            split=split,
            **{"batch_size": 16, **kwargs},
        )

    return make


def trained(data, core=LinearCore, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plan = ClassifierPlan(core(40, 3), lr=0.02)
    options = {"max_epochs": 3, "accelerator": "cpu", "seed": 0, **kwargs}
    return plan, fit(plan, data, **options)


TWO = {"strategy": "ddp", "devices": 2}


def test_two_processes_train_as_one(data):
    seen = []
    one, result = trained(data())
    two, again = trained(data(), **TWO, progress=lambda *a: seen.append((os.getpid(), *a[:2])))

    assert seen == [(os.getpid(), n, 3) for n in (1, 2, 3)]
    torch.testing.assert_close(two.core.head.weight, one.core.head.weight)
    assert (again.n_updates, again.best_epoch, again.n_epochs) == (18, result.best_epoch, 3)
    for name, frame in result.history.items():
        np.testing.assert_allclose(again.history[name], frame, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("devices", [1, "auto"])
@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="there are several devices")
def test_one_process_shares_nothing_out_and_says_so(data, devices):
    with pytest.warns(EpisomeWarning, match=r"nothing is shared out.*--devices 2.*E-U33"):
        one, _ = trained(data(), strategy="ddp", devices=devices, max_epochs=1)

    alone, _ = trained(data(), max_epochs=1)
    assert torch.equal(one.core.head.weight, alone.core.head.weight)


def test_early_stopping_comes_back(data):
    early = {"early_stopping_patience": 2, "max_epochs": 30, "early_stopping_min_delta": 10.0}
    _, one = trained(data(), **early)
    _, two = trained(data(), **early, **TWO)

    assert two.stopped_early
    assert (two.n_epochs, two.best_epoch) == (one.n_epochs, one.best_epoch)


def test_shares_make_up_the_batches_of_one(data):
    from types import SimpleNamespace

    module = data(batch_size=14, drop_last=False)
    whole = [b["ind_x"].tolist() for b in module.train_dataloader()]
    shares = []
    for rank in (0, 1):
        module.trainer = SimpleNamespace(current_epoch=0, world_size=2, global_rank=rank)
        loader = module.train_dataloader()
        shares.append([b["ind_x"].tolist() for b in loader])
        assert len(loader) == len(shares[-1])

    assert len(whole) == len(shares[0]) + 1  # the last would be no cell for one of them
    for batch, first, second in zip(whole, *shares, strict=False):
        assert len(first) == len(second)
        assert sorted(first + second) == sorted(batch)


def test_a_finished_epoch_is_resumed_in_two_processes(data, tmp_path):
    class Die(Callback):
        def on_train_epoch_start(self, trainer, plan):
            if trainer.current_epoch == 2 and os.environ.get("EPISOME_TEST_DIES"):
                os.kill(os.getpid(), signal.SIGKILL)

    whole, _ = trained(data(), **TWO)
    keeps = {"checkpoint_every_minutes": 0, "callbacks": [Die()]}
    with RunFolder(tmp_path).opened({}, resume="auto") as run:
        os.environ["EPISOME_TEST_DIES"] = "1"
        try:
            text = r"process \d of the training ended with signal 9.*E-R03"
            with pytest.raises(TrainingError, match=text):
                trained(data(), **TWO, checkpoints=run.part(1), **keeps)
        finally:
            del os.environ["EPISOME_TEST_DIES"]
        state = run.part(1).state()
        resumed, result = trained(data(), **TWO, checkpoints=run.part(1), **keeps)

    assert (state["epoch"], state["batch"]) == (1, 0)
    assert result.n_epochs == 3
    assert torch.equal(resumed.core.head.weight, whole.core.head.weight)


def test_what_a_process_raises_is_raised_here(data):
    with pytest.raises(TrainingError, match=r"the loss is not finite at epoch 0.*lr=.*E-T01"):
        trained(data(), **TWO, gradient_clip_val=None, core=BrokenCore)


class BrokenCore(LinearCore):
    def forward(self, batch):
        return {"logits": super().forward(batch)["logits"] * torch.nan}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_shards_want_a_gpu(data):
    with pytest.raises(ResourceError, match=r"strategy='fsdp'.*E-R04"):
        trained(data(), strategy="fsdp", devices=2)
