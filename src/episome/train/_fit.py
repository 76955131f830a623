"""One training run with Lightning's own trainer."""

from __future__ import annotations

import contextlib
import inspect
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import pandas as pd
import torch
from lightning.pytorch.callbacks import EarlyStopping

from episome import settings
from episome.errors import ResourceError, UsageError
from episome.log import get_logger
from episome.train._callbacks import (
    FEW_UPDATES,
    AverageWeights,
    BestWeights,
    EpochProgress,
    History,
    ReestimateBatchNorm,
)
from episome.train._plan import ONTOLOGY_MONITOR
from episome.train._state import begin_at
from episome.train._stop import Stopped, Stopping
from episome.train._survive import EVERY_MINUTES, Survive, warn_unwritten

if TYPE_CHECKING:
    from episome.train._datamodule import CellDataModule
    from episome.train._plan import CorePlan
    from episome.train._run_folder import RunPart
    from episome.train._state import State

logger = get_logger(__name__)

ProgressReport = Callable[[int, int, dict[str, float]], None]

#: Cells times genes of a batch below which one thread is as fast as many, and on a busy machine,
#: where threads wait for each other after every small step, many times faster.
SMALL_BATCH = 8_000_000

_EARLY: dict[str, Any] = {
    "early_stopping_monitor": None,
    "early_stopping_mode": None,
    "early_stopping_patience": 10,
    "early_stopping_min_delta": 0.0,
}
_REFUSED = {
    "enable_checkpointing": "the best weights are kept and restored without it",
    "checkpointing_monitor": "pass early_stopping_monitor",
    "val_check_interval": "validation runs at the end of epochs; see check_val_every_n_epoch",
}


@dataclass(frozen=True, slots=True)
class Fit:
    """What a training run leaves beside the weights.

    ``best_epoch`` is ``None`` when there was no validation.
    """

    history: Mapping[str, pd.DataFrame]
    best_epoch: int | None
    n_epochs: int
    n_updates: int
    seconds: float
    stopped_early: bool


def check_trainer_kwargs(trainer_kwargs: Mapping[str, object]) -> None:
    """Refuse unknown keys before any training.

    Raises
    ------
    UsageError
        E-U16, naming the near ones.
    """
    import difflib

    known = {*inspect.signature(pl.Trainer.__init__).parameters, *_EARLY} - {"self"}
    known -= {"max_epochs", "accelerator", "devices", *_REFUSED}
    unknown = sorted(set(trainer_kwargs) - known)
    if not unknown:
        return
    words = [*sorted(known), "plan_kwargs", "batch_size", "max_epochs", "train_size", "refit"]
    near = difflib.get_close_matches(unknown[0], words, n=3)
    raise UsageError(
        "E-U16",
        f"train() does not know {', '.join(unknown)}",
        why=_REFUSED.get(unknown[0]) or (f"near: {', '.join(near)}" if near else None),
        fix="optimiser settings go into plan_kwargs={...}, settings of Lightning's trainer are "
        "keywords",
    )


def fit(
    plan: CorePlan,
    datamodule: CellDataModule,
    *,
    max_epochs: int,
    accelerator: str = "auto",
    devices: int | list[int] | str = "auto",
    early_stopping: bool = True,
    seed: int | None = None,
    progress: ProgressReport | None = None,
    checkpoints: RunPart | None = None,
    checkpoint_every_minutes: float = EVERY_MINUTES,
    **trainer_kwargs: Any,
) -> Fit:
    """Train ``plan.core`` in place and leave its best weights in it.

    Parameters
    ----------
    plan, datamodule
        What is trained, on what.
    max_epochs
        Number of passes over the training cells.
    accelerator, devices
        Of Lightning.
    early_stopping
        Stop after ``early_stopping_patience`` (10) validations without a better value of the
        plan's metric (``validation_f1_macro``, ``validation_loss``). Needs validation cells.
    seed
        Of everything random in training; the user's global random state is left as it was.
    progress
        Called after every epoch.
    checkpoints
        Where the run is kept: a run that was interrupted goes on from there, and one that is
        finished is read instead of trained. Ctrl-C and SIGTERM then end after the batch.
    checkpoint_every_minutes
        Between two checkpoints in the middle of an epoch; 0: after every batch.
    **trainer_kwargs
        Of ``lightning.Trainer``, and scvi-tools' ``early_stopping_*``. The best weights follow
        ``early_stopping_monitor`` too; the mode is ``"min"`` for losses, else ``"max"``.

    Returns
    -------
    A :class:`Fit`.

    Raises
    ------
    TrainingError
        The loss is not finite (E-T01).
    ResourceError
        The device does not exist (E-R04).
    UsageError
        There is no such metric to monitor (E-U36).
    """
    early = _early(plan, {k: trainer_kwargs.pop(k, v) for k, v in _EARLY.items()})
    if checkpoints is not None and (kept := checkpoints.finished()) is not None:
        return _read(plan, kept)
    validates = len(datamodule.split.validation) > 0
    history = History()
    best = BestWeights(early["early_stopping_monitor"], early["early_stopping_mode"])
    average = [] if plan.weight_average is None else [AverageWeights(plan.weight_average)]
    # Averaged weights have no running statistics of their own: theirs are always estimated anew.
    renorm = ReestimateBatchNorm(datamodule, few_updates=sys.maxsize if average else FEW_UPDATES)
    # Order matters: average in, its statistics, then the best epoch's copy.
    callbacks: list[pl.Callback] = [*average, renorm, *([best] if validates else [])]
    if early_stopping and validates:
        callbacks.append(
            EarlyStopping(
                early["early_stopping_monitor"],
                mode=early["early_stopping_mode"],
                patience=early["early_stopping_patience"],
                min_delta=early["early_stopping_min_delta"],
            )
        )
    callbacks.append(history)
    if progress is not None:
        callbacks.append(EpochProgress(progress))
    callbacks += list(trainer_kwargs.pop("callbacks", None) or [])
    state = None if checkpoints is None else checkpoints.state()
    # Lightning leaves modes as they are, and a core that has predicted is in evaluation mode.
    plan.train()
    with (
        Stopping(enabled=checkpoints is not None) as stopping,
        _quiet(),
        _seeded(seed),
        _fitting_threads(plan, datamodule),
    ):
        survive = Survive(
            checkpoints,
            every_minutes=checkpoint_every_minutes,
            state=state,
            stopping=stopping,
            seconds=0.0 if state is None else state["seconds"],
        )
        trainer = _trainer(
            max_epochs,
            accelerator,
            devices,
            [*callbacks, survive],
            trainer_kwargs,
            validates=validates,
        )
        if state is not None:
            _say_resumed(state)
            begin_at(trainer, state)
            datamodule.start_at(state["epoch"], state["batch"])
        try:
            _run(trainer, plan, datamodule)
        except Stopped:
            stopping.deliver()
        if not validates and trainer.global_step < renorm.few_updates:
            renorm.run(plan)
        plan.core.to("cpu")
        plan.core.eval()
        found = Fit(
            history=history.frames(),
            best_epoch=best.epoch,
            n_epochs=trainer.current_epoch,
            n_updates=trainer.global_step,
            seconds=survive.seconds,
            stopped_early=trainer.current_epoch < max_epochs,
        )
        if checkpoints is not None:
            _keep(checkpoints, plan, found)
        # A signal that came while the last epoch was validated.
        stopping.deliver()
    return found


def _say_resumed(state: State) -> None:
    logger.info(
        "training goes on from its checkpoint: epoch %d, %d of %d batches, %d updates",
        state["epoch"],
        state["batch"],
        state["n_batches"],
        state["updates"],
    )


def _keep(part: RunPart, plan: CorePlan, found: Fit) -> None:
    """Keep what a run leaves; without space for it only its last checkpoint is there."""
    facts = {f.name: getattr(found, f.name) for f in fields(found)}
    facts["history"] = {
        name: [frame.index.tolist(), frame.iloc[:, 0].tolist()]
        for name, frame in found.history.items()
    }
    try:
        part.finish({"core": plan.core.state_dict(), "fit": facts})
    except (ResourceError, OSError) as error:
        warn_unwritten(error)


def _read(plan: CorePlan, kept: Mapping[str, Any]) -> Fit:
    """Put the weights of a run that is finished in place, and return what it left."""
    logger.info("this run is finished already: its weights are read, nothing is trained")
    plan.core.load_state_dict(kept["core"])
    plan.core.eval()
    facts = dict(kept["fit"])
    history = {
        name: pd.DataFrame({name: values}, index=pd.Index(index, name="epoch"), dtype=float)
        for name, (index, values) in facts.pop("history").items()
    }
    return Fit(history=history, **facts)


def _early(plan: CorePlan, given: dict[str, Any]) -> dict[str, Any]:
    """Check what is monitored, before anything is computed; losses are to be small."""
    monitor = given["early_stopping_monitor"] or plan.monitor
    if monitor not in plan.metric_names:
        raise UsageError(
            "E-U36",
            f"early_stopping_monitor={monitor!r} is no metric of this run",
            why=f"the metrics are {', '.join(plan.metric_names)}",
            fix=f"use one of them; {ONTOLOGY_MONITOR} needs classes with Cell Ontology terms",
        )
    mode = given["early_stopping_mode"] or ("min" if "loss" in monitor else "max")
    return {**given, "early_stopping_monitor": monitor, "early_stopping_mode": mode}


def _trainer(
    max_epochs: int,
    accelerator: str,
    devices: int | list[int] | str,
    callbacks: list[pl.Callback],
    trainer_kwargs: dict[str, object],
    *,
    validates: bool,
) -> pl.Trainer:
    defaults: dict[str, object] = {
        "logger": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "num_sanity_val_steps": 0,
        "gradient_clip_val": 1.0,
        # Buffers touched under inference mode could not be updated again in training.
        "inference_mode": False,
        # A new loader per epoch carries the epoch's order.
        "reload_dataloaders_every_n_epochs": 1,
        "limit_val_batches": 1.0 if validates else 0,
    }
    try:
        return pl.Trainer(
            max_epochs=max_epochs,
            accelerator=accelerator,
            devices=devices,
            callbacks=callbacks,
            enable_checkpointing=False,
            **{**defaults, **trainer_kwargs},
        )
    except (pl.utilities.exceptions.MisconfigurationException, ValueError) as error:
        if accelerator in {"auto", "cpu"}:
            raise
        raise ResourceError(
            "E-R04",
            f"accelerator={accelerator!r}, devices={devices!r} cannot be used",
            why=str(error).splitlines()[0],
            fix='accelerator="auto" takes what is there',
        ) from error


def _run(trainer: pl.Trainer, plan: CorePlan, datamodule: CellDataModule) -> None:
    try:
        trainer.fit(plan, datamodule=datamodule)
    except SystemExit as stop:
        # Lightning turns Ctrl-C into SystemExit(1); callers expect the interrupt.
        raise KeyboardInterrupt from stop


@contextlib.contextmanager
def _fitting_threads(plan: CorePlan, datamodule: CellDataModule) -> Iterator[None]:
    """Use one thread for small batches: more gain nothing there, and wait for each other."""
    before = torch.get_num_threads()
    config: dict[str, Any] = plan.core.config
    width = int(config.get("n_top_genes") or config["n_features"])
    if datamodule.batch_size * width < SMALL_BATCH:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(settings.stream_seed("train", seed) % (1 << 63))
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's notices about devices and workers off the user's screen."""
    names = (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.rank_zero",
        "lightning.pytorch",
    )
    loggers = [logging.getLogger(n) for n in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            warnings.filterwarnings("ignore", message=".*dataloader.*num_workers.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
