"""What a run does when the loss is not finite, or memory is not enough."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from episome import resources
from episome.data import FeatureSpace, InputRule, Split, prepare_query
from episome.errors import EpisomeWarning, ResourceError, TrainingError
from episome.nn import TorchCore
from episome.train import CellDataModule, ClassifierPlan, RunFolder, fit
from episome.train._memory import training_need


class LinearCore(TorchCore):
    """One layer: every update is that of the whole batch, however it is split."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.config = {"n_features": n_features, "n_classes": n_classes}
        self.head = nn.Linear(n_features, n_classes)

    def forward(self, batch):
        return {"logits": self.head(batch["X"])}


class HungryCore(LinearCore):
    """Has room for so many cells in training."""

    room = 10**9
    error: type[Exception] = MemoryError

    def forward(self, batch):
        if self.training and len(batch["X"]) > self.room:
            msg = "Unable to allocate 137. MiB for an array"
            raise self.error(msg)
        return super().forward(batch)


class FragileCore(LinearCore):
    """Diverges in chosen calls."""

    calls = 0
    bad: tuple[int, ...] = ()

    def forward(self, batch):
        out = super().forward(batch)
        if self.training:
            self.calls += 1
            if self.calls in self.bad:
                out["logits"] = out["logits"] * torch.nan
        return out


@pytest.fixture
def data(toy):
    adata = toy.cells(128)
    query = prepare_query(adata, FeatureSpace.from_var(adata.var), InputRule())
    codes = adata.obs["cell_type"].cat.codes.to_numpy().astype(np.int64)
    rows = np.arange(128)
    split = Split(rows[32:], rows[:32], rows[:0], "given", 0)

    def make(batch_size=32):
        return CellDataModule(
            query.source,
            query.alignment,
            rule=query.rule,
            kind=query.kind,
            labels=codes,
            batch_size=batch_size,
            seed=0,
            split=split,
        )

    return make


def trained(core, data, lr=0.02, **kwargs):
    # As many cells of every class count alike: the mean of means is the mean.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plan = ClassifierPlan(core(40, 3), lr=lr)
    options = {"max_epochs": 3, "accelerator": "cpu", "seed": 0, **kwargs}
    return plan, fit(plan, data, **options)


def quietly(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EpisomeWarning)
        return trained(*args, **kwargs)


# -- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [MemoryError, torch.cuda.OutOfMemoryError])
def test_batches_that_do_not_fit_are_split_and_the_updates_stay(data, error, monkeypatch):
    monkeypatch.setattr(HungryCore, "error", error)
    whole, result = trained(HungryCore, data())
    monkeypatch.setattr(HungryCore, "room", 8)

    text = r"batches of 32 cells.*137.*batches of 16.*2 of them make one update as before.*E-T07"
    with pytest.warns(EpisomeWarning, match=text):
        split, again = trained(HungryCore, data())

    assert again.n_updates == result.n_updates == 9
    torch.testing.assert_close(split.core.head.weight, whole.core.head.weight)
    for name, frame in result.history.items():
        np.testing.assert_allclose(again.history[name], frame, rtol=1e-4, atol=1e-6, err_msg=name)


def test_memory_that_ends_in_the_middle_of_an_epoch_repeats_nothing(data, monkeypatch):
    class Shrink(Callback):
        """Leaves less memory after some batches."""

        seen = 0

        def on_train_batch_end(self, *args):
            self.seen += 1
            if self.seen == 4:
                monkeypatch.setattr(HungryCore, "room", 16)

    whole, _ = trained(HungryCore, data())
    shrink = Shrink()
    split, result = quietly(HungryCore, data(), callbacks=[shrink])

    assert shrink.seen == 4 + 2 * 5
    assert result.n_updates == 9
    torch.testing.assert_close(split.core.head.weight, whole.core.head.weight)


def test_a_batch_of_one_that_does_not_fit_is_the_end(data, monkeypatch):
    monkeypatch.setattr(HungryCore, "room", 0)

    text = r"memory is not enough for Unable to allocate 137.*are needed.*are free.*E-R01"
    with pytest.raises(ResourceError, match=text):
        quietly(HungryCore, data())


def test_a_batch_norm_keeps_two_cells(toy, data, monkeypatch):
    def forward(self, batch):
        assert len(batch["X"]) >= 2
        raise MemoryError

    monkeypatch.setattr(toy.ToyCore, "forward", forward)

    with pytest.raises(ResourceError, match="E-R01"):
        quietly(toy.ToyCore, data())


def test_a_split_batch_is_resumed_as_one(data, monkeypatch, tmp_path):
    class Stop(Callback):
        seen = 0

        def on_train_batch_end(self, *args):
            self.seen += 1
            if self.seen == 7:
                raise KeyboardInterrupt

    class NoStop(Stop):
        def on_train_batch_end(self, *args):
            pass

    monkeypatch.setattr(HungryCore, "room", 16)
    whole, _ = quietly(HungryCore, data())
    keeps = {"checkpoint_every_minutes": 0}
    with RunFolder(tmp_path).opened({}, resume="auto") as run:
        with pytest.raises(KeyboardInterrupt):
            quietly(HungryCore, data(), checkpoints=run.part(1), callbacks=[Stop()], **keeps)
        stop = NoStop()
        stop.__class__ = Stop  # the same callback by name
        stop.seen = 10**6
        resumed, result = trained(
            HungryCore, data(), checkpoints=run.part(1), callbacks=[stop], **keeps
        )

    assert result.n_updates == 9
    assert torch.equal(resumed.core.head.weight, whole.core.head.weight)


def test_a_network_over_the_machine_is_refused_before_the_start(data, monkeypatch):
    monkeypatch.setattr(resources, "available_memory", lambda: 2000)
    monkeypatch.setattr(LinearCore, "forward", lambda *_: pytest.fail("training began"))

    text = r"123 parameters.*about 0.0 MB are needed, 0.0 MB are free.*E-R01"
    with pytest.raises(ResourceError, match=text):
        quietly(LinearCore, data())


def test_a_batch_is_chosen_that_fits(data, monkeypatch, caplog):
    module = data()
    need = training_need(ClassifierPlan(LinearCore(40, 3)))
    assert need.n_parameters == 123
    assert need.of(10) - need.of(9) == need.per_cell == 4 * (4 * 40 + 2 * 3)
    monkeypatch.setattr(resources, "available_memory", lambda: int(need.of(10) / 0.8))

    with caplog.at_level("INFO", "episome"):
        _, result = quietly(LinearCore, module)

    assert (module.batch_size, module.parts, result.n_updates) == (32, 4, 9)
    assert "batches of 8 cells with 40 genes" in caplog.text


# -- losses --------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_says_where_and_why(data, monkeypatch):
    module = data()
    names = module.source.obs_names

    with pytest.raises(TrainingError) as raised:
        trained(LinearCore, module, lr=1e30, gradient_clip_val=None)

    problem = raised.value.problems[0]
    assert "epoch 0, batch" in problem.what
    assert "step" in problem.what
    assert len(problem.examples) == 3
    assert set(problem.examples) <= set(names)
    assert "the rate is too high" in problem.why
    assert "lr=1e+30" in problem.why


def test_values_that_are_not_finite_are_the_cause_where_they_are(data, monkeypatch):
    real = ClassifierPlan.on_after_batch_transfer

    def spoilt(self, batch, index):
        ready = real(self, batch, index)
        ready["X"][0, 0] = torch.inf
        return ready

    monkeypatch.setattr(ClassifierPlan, "on_after_batch_transfer", spoilt)

    with pytest.raises(TrainingError, match="the values of the batch are not finite.*E-T01"):
        trained(LinearCore, data())


def test_retry_trains_the_epoch_again_with_half_the_rate(data, monkeypatch):
    monkeypatch.setattr(FragileCore, "bad", (5, 7))  # in the second epoch, and when it is repeated

    with pytest.warns(EpisomeWarning, match=r"epoch 1 is trained again with half the rate.*lr="):
        plan, result = trained(FragileCore, data(), on_nan="retry")

    rates = result.history["lr"]["lr"].tolist()
    assert plan.lr == 0.02 / 4
    assert result.n_epochs == 3
    assert result.n_updates == 9
    assert rates[-1] == pytest.approx(0.02 * 0.9**2 / 4)
    assert np.isfinite(result.history["train_loss"]).all(axis=None)


def test_the_fourth_time_is_the_end(data, monkeypatch):
    monkeypatch.setattr(FragileCore, "bad", tuple(range(4, 1000)))

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(TrainingError, match="E-T01"):
            trained(FragileCore, data(), on_nan="retry")

    assert sum(issubclass(w.category, EpisomeWarning) for w in said) == 3


def test_weights_that_are_not_finite_are_no_checkpoint(data, tmp_path):
    class Break(Callback):
        seen = 0

        def on_train_batch_end(self, trainer, plan, *args):
            self.seen += 1
            if self.seen == 4:
                plan.core.head.weight.data.fill_(torch.nan)

    with RunFolder(tmp_path).opened({}, resume="auto") as run:
        with pytest.raises(TrainingError, match="weights are not finite.*E-T01"):
            trained(
                LinearCore,
                data(),
                checkpoints=run.part(1),
                checkpoint_every_minutes=0,
                callbacks=[Break()],
            )
        state = run.part(1).state()

    assert (state["epoch"], state["batch"]) == (1, 0)
    assert torch.isfinite(state["plan"]["core.head.weight"]).all()
