"""Checks of training: seeds, splits, history, Lightning's arguments, and what may go wrong."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome.errors import UsageError
from episome.testing._check import CheckFailure, NotHere, check, refuses, require, same

if TYPE_CHECKING:
    from episome.testing._subject import Subject


@check(
    advice="let predictor() and save() of the host do it; set is_trained_ at the end of train()"
)
def check_an_untrained_model_is_refused(subject: Subject) -> None:
    """A model that was not trained neither answers nor is saved."""
    raw: Any = subject.set_up(subject.data(40))
    refuses(UsageError, partial(subject.ask, raw, subject.query), "untrained", code="E-M20")
    refuses(UsageError, lambda: raw.save("never-written"), "saving it untrained", code="E-M20")


@check(advice="set train_indices_ and its siblings, history_ and fit_ at the end of train()")
def check_training_is_recorded(subject: Subject) -> None:
    """A trained model knows its cells, its seed and its history."""
    model: Any = subject.trained
    require(model.is_trained_, "is_trained_ is not set")
    parts = [model.train_indices_, model.validation_indices_, model.test_indices_]
    rows = np.concatenate([np.asarray(p, dtype=np.int64) for p in parts])
    require(len(parts[0]) > 0, "train_indices_ is empty")
    require(len(rows) == len(np.unique(rows)), "a cell is in two parts of the split")
    require(rows.max() < subject.rna(subject.data()).n_obs, "rows that are no cells")
    for key in ("n_train", "n_cells", "seconds", "seed"):
        require(key in model.fit_, f"fit_ has no {key!r}")
    history = model.history
    require(isinstance(history, dict), "history is no mapping")
    for name, frame in history.items():
        one = isinstance(frame, pd.DataFrame) and frame.shape[1] == 1
        require(one, f"history[{name!r}] is no frame of one column")


@check(base="network", advice="train with a plan of episome.train, which logs both")
def check_history_has_the_losses(subject: Subject) -> None:
    """Losses of training and validation are there for every epoch."""
    model: Any = subject.trained
    for name in ("train_loss", "validation_loss"):
        require(name in model.history, f"history has no {name!r}")
        values = model.history[name].iloc[:, 0]
        require(len(values) == model.fit_["n_epochs"], f"{name} is not there for every epoch")
        require(np.isfinite(values).all(), f"{name} is not finite")


@check(advice="draw from settings.stream_seed(name), never from a global generator")
def check_the_same_seed_gives_the_same_model(subject: Subject) -> None:
    """Two trainings from one seed are bit-identical."""
    second = subject.ask(subject.train(subject.data()), subject.query)
    same(second, subject.answers, "a second training", exact=True)


@check(base="network", advice="take initial weights and order from settings.stream_seed")
def check_another_seed_gives_another_model(subject: Subject) -> None:
    """The seed of the settings reaches the weights."""
    from episome import settings

    with settings.using_seed(1):
        model: Any = subject.set_up(subject.data())
        model.train(**subject.quick())
    other = subject.ask(model, subject.query)
    alike = all(np.array_equal(other[k], v) for k, v in subject.answers.items())
    require(not alike, "another seed gives the same model: the seed is not used")


@check(advice="leave out a last batch of one cell where batch norms need two (drop_last)")
def check_one_cell_may_be_left_for_the_last_batch(subject: Subject) -> None:
    """A last batch of one cell harms neither training nor prediction."""
    quick = subject.quick()
    n = 33 if quick else 31
    more = {**quick, "train_size": 1.0, "batch_size": 32} if quick else {}
    model = subject.train(subject.data(n), **more)
    got = subject.ask(model, subject.query[:5], batch_size=4)
    same(got, subject.ask(model, subject.query[:5]), "a last batch of one")


@check(advice="check arguments before anything is computed; optimiser settings go in plan_kwargs")
def check_unknown_arguments_of_training_are_refused(subject: Subject) -> None:
    """A misspelt argument of ``train`` is refused before training."""
    model: Any = subject.set_up(subject.data(40))
    refuses(UsageError, lambda: model.train(max_epoch=1), "max_epoch=")
    require(not model.is_trained_, "a refused training left a trained model")
    if subject.is_network:
        wrong = {**subject.quick(), "plan_kwargs": {"learning_rate": 1.0}}
        refuses(UsageError, lambda: model.train(**wrong), "plan_kwargs learning_rate")


@check(advice='take datasplitter_kwargs={"external_indexing": [...]} through the host\'s train()')
def check_a_given_split_is_kept(subject: Subject) -> None:
    """Cells that were held out by the caller are not trained on."""
    n = subject.rna(subject.data()).n_obs
    rows = np.random.default_rng(0).permutation(n)
    train, validation = np.sort(rows[:100]), np.sort(rows[100:130])
    parts = [train, validation, np.sort(rows[130:])] if subject.is_network else [train]
    model: Any = subject.train(subject.data(), datasplitter_kwargs={"external_indexing": parts})
    require(np.array_equal(model.train_indices_, train), "other cells were trained on")
    if subject.is_network:
        require(np.array_equal(model.validation_indices_, validation), "another validation")


@check(advice="split by donor_key; the host's train() does")
def check_donors_do_not_straddle_the_split(subject: Subject) -> None:
    """With a donor column no donor is on both sides of the split."""
    data = subject.data()
    model: Any = subject.set_up(data, donor_key="donor_id")
    model.train(**subject.quick())
    donors = subject.rna(data).obs["donor_id"].to_numpy()
    held_out = np.concatenate([model.validation_indices_, model.test_indices_]).astype(int)
    both = set(donors[model.train_indices_]) & set(donors[held_out])
    require(not both, f"donors {sorted(map(str, both))[:3]} are on both sides")


@check(base="network", advice="pass accelerator, devices and **trainer_kwargs on to episome.train")
def check_arguments_of_lightning_reach_its_trainer(subject: Subject) -> None:
    """The trainer gets accelerator, devices and precision; a Lightning plan is trained."""
    import lightning.pytorch as pl

    seen: list[tuple[Any, Any]] = []

    class Look(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            seen.append((trainer, pl_module))

    model: Any = subject.set_up(subject.data())
    model.train(
        **subject.quick(),
        accelerator="cpu",
        devices=1,
        precision="bf16-mixed",
        callbacks=[Look()],
    )
    require(seen, "no Lightning trainer ran")
    trainer, plan = seen[0]
    require(isinstance(plan, pl.LightningModule), "what is trained is no LightningModule")
    require(trainer.precision == "bf16-mixed", f"precision is {trainer.precision}")
    require(trainer.num_devices == 1, f"{trainer.num_devices} devices")
    kind = type(trainer.accelerator).__name__
    require("cpu" in kind.lower(), f"accelerator is {kind}")
    answers = subject.ask(model, subject.query)
    require(all(np.isfinite(v).all() for v in answers.values()), "answers are not finite")


@check(base="network", advice="call the host's train(), which puts the weights back")
def check_a_training_that_fails_leaves_the_model_as_it_was(subject: Subject) -> None:
    """A model whose further training raises answers as before."""
    import lightning.pytorch as pl

    class Stop(pl.Callback):
        def on_train_epoch_end(self, *args: object) -> None:
            raise ZeroDivisionError

    model: Any = subject.train(subject.data())
    before = subject.ask(model, subject.query)
    try:
        model.train(**subject.quick(), accelerator="cpu", callbacks=[Stop()])
    except ZeroDivisionError:
        pass
    else:
        msg = "callbacks of the caller are not run, or what they raise is swallowed"
        raise CheckFailure(msg)
    same(subject.ask(model, subject.query), before, "after a failed training", exact=True)


@check(base="network", advice="read progress from the host's train(); report after every epoch")
def check_progress_is_reported(subject: Subject) -> None:
    """A function passed as ``progress`` is called after every epoch."""
    model: Any = subject.set_up(subject.data())
    calls: list[tuple[int, int]] = []
    model.train(
        **subject.quick(),
        early_stopping=False,
        accelerator="cpu",
        progress=lambda done, total, metrics: calls.append((done, total)),
    )
    require(calls and calls[-1] == (calls[-1][1],) * 2, f"progress was reported as {calls}")


@check(base="network", advice="run the core on the device of its batch; make no tensor on the CPU")
def check_a_gpu_gives_what_the_cpu_gives(subject: Subject) -> None:
    """Where there is a GPU, training runs on it and predictions agree with the CPU's."""
    import torch

    if not torch.cuda.is_available():
        msg = "there is no GPU"
        raise NotHere(msg)
    from episome.inference import Predictor

    model: Any = subject.train(subject.data(), accelerator="gpu", devices=1)
    query = model.prepare(subject.query)
    on_cpu = _streamed(model.predictor(), query)
    core = model.predictor().core
    on_gpu = _streamed(
        Predictor(
            core,
            features=model.features,
            rule=model.input_rule,
            labels=model.labels,
            device="cuda",
        ),
        query,
    )
    core.to("cpu")
    for name, values in on_cpu.items():
        require(np.isfinite(on_gpu[name]).all(), f"{name} is not finite on the GPU")
        difference = float(np.abs(on_gpu[name] - values).max())
        limit = 1e-3 * max(1.0, float(np.abs(values).max()))
        require(difference <= limit, f"{name} differs by {difference:.2g} on the GPU")


def _streamed(predictor: Any, query: Any) -> dict[str, np.ndarray]:
    """Return everything that a predictor gives for the cells of a query."""
    parts = list(predictor.stream(query))
    names = [k for k in parts[0] if k not in {"ind_x", "empty"}]
    return {k: np.concatenate([p[k] for p in parts]) for k in names}
