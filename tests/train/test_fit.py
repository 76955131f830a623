"""One run: best weights, early stopping, history, seeds, and what happens when it fails."""

from __future__ import annotations

import random
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from episome.data import FeatureSpace, InputRule, Split, prepare_query
from episome.errors import ResourceError, TrainingError, UsageError
from episome.train import (
    MONITOR,
    BestWeights,
    CellDataModule,
    ClassifierPlan,
    History,
    check_trainer_kwargs,
    fit,
)


def split_of(n, validation=0):
    rows = np.arange(n)
    return Split(rows[validation:], rows[:validation], rows[:0], "given", 0)


@pytest.fixture
def data(toy):
    adata = toy.cells(120)
    features = FeatureSpace.from_var(adata.var)
    query = prepare_query(adata, features, InputRule())
    codes = adata.obs["cell_type"].cat.codes.to_numpy().astype(np.int64)

    def make(validation=30, **kwargs) -> CellDataModule:
        options = {"batch_size": 30, "seed": 0, "split": split_of(120, validation), **kwargs}
        return CellDataModule(
            query.source,
            query.alignment,
            rule=query.rule,
            kind=query.kind,
            labels=codes,
            **options,
        )

    return make


@pytest.fixture
def plan(toy):
    def make(lr=0.02, **kwargs) -> ClassifierPlan:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return ClassifierPlan(toy.ToyCore(40, 3), lr=lr, **kwargs)

    return make


def run(plan, data, **kwargs):
    return fit(plan, data, **{"max_epochs": 4, "accelerator": "cpu", "seed": 0, **kwargs})


# -- data module ---------------------------------------------------------------------------------


def test_batches_are_those_of_the_split(data):
    module = data()

    train = torch.cat([b["ind_x"] for b in module.train_dataloader()])
    validation = torch.cat([b["ind_x"] for b in module.val_dataloader()])

    assert sorted(train.tolist()) == list(range(30, 120))
    assert validation.tolist() == list(range(30))
    assert len(module.train_dataloader()) == 3


def test_the_order_follows_the_epoch(data):
    module = data()
    orders = []
    for epoch in (0, 1, 0):
        module.trainer = SimpleNamespace(current_epoch=epoch, world_size=1, global_rank=0)
        orders.append([b["ind_x"].tolist() for b in module.train_dataloader()])

    assert orders[0] == orders[2] != orders[1]


def test_processes_share_the_cells_evenly_and_without_overlap(data):
    module = data(validation=31)
    shares = []
    for rank in (0, 1):
        module.trainer = SimpleNamespace(current_epoch=0, world_size=2, global_rank=rank)
        loader = module.train_dataloader()
        shares.append([r for b in loader.loader for r in b["ind_x"].tolist()])
        assert len(loader) == 2  # 89 cells in batches of 30, of which both have a half
        assert len(shares[-1]) == 30

    assert not set(shares[0]) & set(shares[1])


def test_without_validation_cells_there_are_no_validation_batches(data):
    assert data(validation=0).val_dataloader() == []


# -- the run -------------------------------------------------------------------------------------


def test_history_has_one_row_per_epoch_under_the_names_of_the_design(plan, data):
    result = run(plan(), data())

    assert set(result.history) == {"train_loss", "validation_loss", "validation_f1_macro", "lr"}
    for name, frame in result.history.items():
        assert list(frame.columns) == [name]
        assert frame.index.tolist() == [0, 1, 2, 3]
        assert frame.dtypes.tolist() == [np.float64]
    assert (result.n_epochs, result.n_updates, result.stopped_early) == (4, 12, False)


def test_without_validation_there_is_no_best_epoch(plan, data):
    result = run(plan(), data(validation=0), early_stopping=True)

    assert set(result.history) == {"train_loss", "lr"}
    assert result.best_epoch is None
    assert result.n_epochs == 4


def test_training_may_end_before_its_first_validation(plan, data, caplog):
    with caplog.at_level("WARNING", "episome"):
        result = run(plan(), data(), max_steps=2, early_stopping=True)

    assert (result.n_updates, result.best_epoch) == (2, None)
    assert "ended after 2 updates, before its first validation" in caplog.text


@pytest.mark.parametrize(
    "given", [{"max_steps": 1.5}, {"accumulate_grad_batches": 0}, {"early_stopping_patience": "x"}]
)
def test_numbers_of_the_trainer_are_looked_at_before_anything_is_computed(given):
    with pytest.raises(UsageError, match=r"pass a whole number.*E-U16"):
        check_trainer_kwargs(given)


def test_the_same_seed_gives_the_same_weights(plan, data):
    states = []
    for seed in (0, 0, 1):
        made = plan()
        run(made, data(), seed=seed)
        states.append(made.core.state_dict())

    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not torch.equal(states[0]["head.weight"], states[2]["head.weight"])


def test_global_random_states_are_left_as_they_were(plan, data):
    torch.manual_seed(5)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002

    run(plan(), data())

    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]


class ScoredPlan(ClassifierPlan):
    """Says given scores instead of its own, and keeps the weights that were validated."""

    def validation_step(self, batch, batch_idx):
        self.log(MONITOR, self.scores[self.current_epoch], on_epoch=True, batch_size=1)
        self.log("validation_loss", 1.0, on_epoch=True, batch_size=1)
        self.heads = [*getattr(self, "heads", []), self.core.head.weight.detach().clone()]


@pytest.fixture
def scored(toy):
    def make(scores) -> ScoredPlan:
        plan = ScoredPlan(toy.ToyCore(40, 3), lr=0.02)
        plan.scores = scores
        return plan

    return make


def test_the_weights_of_the_best_epoch_are_restored(scored, data):
    made = scored([0.2, 0.9, 0.5, 0.9])

    result = run(made, data())

    assert result.best_epoch == 1  # the first of two equals
    assert torch.equal(made.core.head.weight, made.heads[1])
    assert not torch.equal(made.core.head.weight, made.heads[3])
    found = result.history[MONITOR].iloc[:, 0].tolist()
    assert found == pytest.approx([0.2, 0.9, 0.5, 0.9])


def test_another_monitor_can_be_minimised(plan, data):
    result = run(
        plan(lr=1e-9), data(), early_stopping_monitor="validation_loss", early_stopping_mode="min"
    )

    losses = result.history["validation_loss"].iloc[:, 0]
    assert result.best_epoch == losses.argmin()


def test_early_stopping_waits_for_its_patience(scored, data):
    result = run(scored([0.5, 0.6] + [0.4] * 30), data(), max_epochs=30, early_stopping_patience=3)

    assert result.stopped_early
    assert (result.n_epochs, result.best_epoch) == (5, 1)


def test_early_stopping_can_be_turned_off(scored, data):
    result = run(scored([0.5] * 4), data(), early_stopping=False, early_stopping_patience=1)

    assert (result.n_epochs, result.stopped_early) == (4, False)


def test_progress_is_reported_after_every_epoch(plan, data):
    seen = []

    run(
        plan(),
        data(),
        progress=lambda done, total, metrics: seen.append((done, total, set(metrics))),
    )

    assert [s[:2] for s in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert {"train_loss", "validation_f1_macro"} <= seen[0][2]


@pytest.mark.parametrize("validation", [0, 30])
def test_batch_norm_statistics_are_those_of_the_training_cells(plan, data, validation):
    made, module = plan(), data(validation=validation, batch_size=120 - validation)
    run(made, module, max_epochs=1)
    norm = made.core.body[1]
    values = torch.cat(
        [
            made.core.body[0](made.on_after_batch_transfer(b, 0)["X"])
            for b in module.train_dataloader()
        ]
    )

    torch.testing.assert_close(norm.running_mean, values.mean(0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm.running_var, values.var(0), rtol=1e-3, atol=1e-4)


def test_averaged_weights_follow_the_formula(plan, data):
    made, seen = plan(weight_average=0.5), []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, plan, *args):
            seen.append(plan.core.head.weight.detach().clone())

    run(made, data(validation=0), max_epochs=2, callbacks=[Keep()])

    mean = seen[0]
    for step, weight in enumerate(seen[1:], start=2):
        decay = min(0.5, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * weight
    torch.testing.assert_close(made.core.head.weight, mean)


def test_an_absurd_rate_stops_at_once(plan, data):
    with pytest.raises(TrainingError, match=r"not finite at epoch 0.*lower the rate.*E-T01"):
        run(plan(lr=1e30), data(), gradient_clip_val=None)


def test_ctrl_c_is_an_interrupt(plan, data):
    class Stop(pl.Callback):
        def on_train_batch_end(self, *args):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(plan(), data(), callbacks=[Stop()])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there_is_named(plan, data):
    with pytest.raises(ResourceError, match=r"accelerator='gpu'.*takes what is there.*E-R04"):
        run(plan(), data(), accelerator="gpu", devices=1)


def test_mixed_precision_trains(plan, data):
    result = run(plan(), data(), precision="bf16-mixed")

    assert np.isfinite(result.history["train_loss"]).all().all()


# -- callbacks -----------------------------------------------------------------------------------


def test_history_frames_can_start_later():
    history = History()
    history.rows = [{"epoch": 0, "train_loss": 1.0}, {"epoch": 1, "train_loss": 0.5}]

    assert history.frames(first_epoch=3)["train_loss"].index.tolist() == [3, 4]
    assert History().frames() == {}


def test_best_weights_ignore_a_monitor_that_was_not_logged():
    best = BestWeights("validation_f1_macro", "max")

    best.on_validation_end(SimpleNamespace(callback_metrics={}, sanity_checking=False), None)

    assert best.epoch is None
