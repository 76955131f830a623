"""Runs of scvi-tools' own training plans, without what its runner does to the process."""

from __future__ import annotations

import contextlib
import inspect
import logging
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import EarlyStopping
from scvi.dataloaders import DataSplitter, SemiSupervisedDataSplitter
from scvi.train import SemiSupervisedTrainingPlan, TrainingPlan

from episome import settings
from episome.errors import ResourceError, TrainingError, UsageError
from episome.train import EpochProgress, History, ProgressReport

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scvi.data import AnnDataManager

#: Cells from which on an epoch is worth more than one of 20,000: scvi-tools' heuristic.
EPOCHS, EPOCH_CELLS = 400, 20_000
#: scvi-tools' early stopping.
EARLY: dict[str, Any] = {
    "early_stopping_monitor": "elbo_validation",
    "early_stopping_mode": "min",
    "early_stopping_patience": 45,
    "early_stopping_min_delta": 0.0,
}
_NOT_OF_USERS = frozenset({"self", "module", "n_classes", "loss_kwargs", "kwargs"})
_LOGGERS = (
    "lightning.pytorch",
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
)


@dataclass(frozen=True, slots=True)
class Cells:
    """What a run is trained on.

    Parameters
    ----------
    manager
        Aligned cells, registered with scvi-tools.
    train, validation
        Rows, int64, disjoint; the others are not read.
    batch_size
        Cells per update.
    """

    manager: AnnDataManager
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    batch_size: int

    def parts(self) -> list[NDArray[np.int64]]:
        """Return rows of training, of validation, and all others, as scvi-tools wants them."""
        used = np.concatenate([self.train, self.validation])
        others = np.setdiff1d(np.arange(self.manager.adata.n_obs), used)
        return [self.train, self.validation, others]


@dataclass(frozen=True, slots=True)
class TrainerArguments:
    """How Lightning runs, the same for every run of a training."""

    accelerator: str
    devices: int | list[int] | str
    early_stopping: bool
    more: Mapping[str, Any]

    def early(self) -> dict[str, Any]:
        """Return the settings of early stopping."""
        return {k: self.more.get(k, v) for k, v in EARLY.items()}


def heuristic_epochs(n_cells: int) -> int:
    """Return scvi-tools' number of epochs: 400, fewer in proportion above 20,000 cells."""
    return max(1, min(EPOCHS, round(EPOCH_CELLS / max(n_cells, 1) * EPOCHS)))


def plan_settings(given: Mapping[str, Any], *plans: type[TrainingPlan]) -> list[dict[str, Any]]:
    """Return the settings of every plan, each what it knows of those that are given.

    Raises
    ------
    UsageError
        No plan knows one of them (E-U14).
    """
    knows = [set(inspect.signature(p.__init__).parameters) - _NOT_OF_USERS for p in plans]
    unknown = sorted(set(given) - set().union(*knows))
    if unknown:
        raise UsageError(
            "E-U14",
            f"unknown keys {unknown}",
            where="plan_kwargs",
            fix=f"use some of {', '.join(sorted(set().union(*knows)))}",
        )
    return [{k: v for k, v in given.items() if k in known} for known in knows]


def run_unsupervised(
    module: torch.nn.Module,
    cells: Cells,
    trainer: TrainerArguments,
    *,
    max_epochs: int,
    plan: Mapping[str, Any],
    progress: ProgressReport | None = None,
    plan_class: type[TrainingPlan] = TrainingPlan,
) -> dict[str, pd.DataFrame]:
    """Train a loss without labels in place.

    Returns
    -------
    The history: a frame of one column per metric, a row per epoch.

    Raises
    ------
    TrainingError
        The loss is not finite (E-T01).
    """
    with _seeded("train"):
        splitter = DataSplitter(
            cells.manager,
            external_indexing=cells.parts(),
            batch_size=cells.batch_size,
            drop_last=True,
        )
        wrapped = plan_class(module, **plan)
        return _fit(wrapped, splitter, cells, trainer, max_epochs, progress)


def run_semisupervised(
    module: torch.nn.Module,
    cells: Cells,
    trainer: TrainerArguments,
    *,
    n_classes: int,
    n_samples_per_label: int | None,
    max_epochs: int,
    plan: Mapping[str, Any],
    progress: ProgressReport | None = None,
) -> dict[str, pd.DataFrame]:
    """Train scANVI's loss in place, without early stopping.

    Returns
    -------
    The history, as of :func:`run_unsupervised`.

    Raises
    ------
    TrainingError
        The loss is not finite (E-T01).
    """
    with _seeded("train-labels"):
        splitter = SemiSupervisedDataSplitter(
            cells.manager,
            external_indexing=cells.parts(),
            batch_size=cells.batch_size,
            drop_last=True,
            n_samples_per_label=n_samples_per_label,
        )
        full = TrainerArguments(
            trainer.accelerator, trainer.devices, early_stopping=False, more=trainer.more
        )
        wrapped = SemiSupervisedTrainingPlan(module, n_classes, **plan)
        return _fit(wrapped, splitter, cells, full, max_epochs, progress, extra=(_DrawLabelled(),))


class _DrawLabelled(pl.Callback):
    """Draw the labelled cells of an epoch anew."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.train_dataloader.resample_labels()


class _FiniteLoss(pl.Callback):
    """End a training whose loss is no number."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = trainer.callback_metrics.get("train_loss")
        if value is not None and not bool(torch.isfinite(value)):
            raise TrainingError(
                "E-T01",
                f"the loss is {float(value)} in epoch {trainer.current_epoch + 1}",
                why="no further step can mend it",
                fix="pass a smaller lr in plan_kwargs, and look for extreme values in the counts",
            )


def _fit(
    plan: TrainingPlan,
    splitter: pl.LightningDataModule,
    cells: Cells,
    arguments: TrainerArguments,
    max_epochs: int,
    progress: ProgressReport | None,
    extra: tuple[pl.Callback, ...] = (),
) -> dict[str, pd.DataFrame]:
    validates = len(cells.validation) > 0
    plan.n_obs_training, plan.n_obs_validation = len(cells.train), len(cells.validation)
    history = History()
    callbacks = [*extra, history, _FiniteLoss()]
    if arguments.early_stopping and validates:
        early = {k.removeprefix("early_stopping_"): v for k, v in arguments.early().items()}
        callbacks.append(EarlyStopping(**early))
    if progress is not None:
        callbacks.append(EpochProgress(progress))
    more = {k: v for k, v in arguments.more.items() if k not in EARLY}
    callbacks += list(more.pop("callbacks", None) or [])
    plan.train()
    with _quiet():
        trainer = _trainer(arguments, max_epochs, callbacks, more, validates=validates)
        try:
            trainer.fit(plan, datamodule=splitter)
        except SystemExit as stop:
            # Lightning turns Ctrl-C into SystemExit(1); callers expect the interrupt.
            raise KeyboardInterrupt from stop
    return {name: frame for name, frame in history.frames().items() if not name.endswith("_step")}


def _trainer(
    arguments: TrainerArguments,
    max_epochs: int,
    callbacks: list[pl.Callback],
    more: Mapping[str, Any],
    *,
    validates: bool,
) -> pl.Trainer:
    defaults: dict[str, Any] = {
        "logger": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 1.0 if validates else 0,
    }
    try:
        return pl.Trainer(
            max_epochs=max_epochs,
            accelerator=arguments.accelerator,
            devices=arguments.devices,
            callbacks=callbacks,
            enable_checkpointing=False,
            **{**defaults, **more},
        )
    except (pl.utilities.exceptions.MisconfigurationException, ValueError) as error:
        if arguments.accelerator in {"auto", "cpu"}:
            raise
        raise ResourceError(
            "E-R04",
            f"accelerator={arguments.accelerator!r}, devices={arguments.devices!r} cannot be used",
            why=str(error).splitlines()[0],
            fix='accelerator="auto" takes what is there',
        ) from error


def joined_history(
    first: Mapping[str, pd.DataFrame], second: Mapping[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """Return the history of two runs, one after the other.

    Parameters
    ----------
    first, second
        Of the runs; a metric of one alone has no value in the other's epochs.
    """
    shift = max((len(f) for f in first.values()), default=0)
    moved = {k: f.set_axis(f.index + shift) for k, f in second.items()}
    return {
        k: pd.concat([f for f in (first.get(k), moved.get(k)) if f is not None])
        for k in {**first, **moved}
    }


def part_of(
    progress: ProgressReport | None, before: int, total: int
) -> Callable[[int, int, dict[str, float]], None] | None:
    """Return the report of a run that has others before or after it.

    Parameters
    ----------
    progress
        What is told of all runs.
    before, total
        Epochs of the runs before it, and of all.
    """
    if progress is None:
        return None

    def report(done: int, of_this_run: int, metrics: dict[str, float]) -> None:
        progress(before + done, total, metrics)

    return report


@contextlib.contextmanager
def _seeded(stream: str) -> Iterator[None]:
    """Draw from a stream of the seed; the random states of the process are put back."""
    seed = settings.stream_seed(stream)
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - scvi-tools draws from it
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed % (1 << 32))  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep notices of Lightning and scvi-tools about loaders and devices off the screen."""
    with silenced(*_LOGGERS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning.*")
        warnings.filterwarnings("ignore", module="scvi.*")
        warnings.filterwarnings("ignore", message=".*dataloader.*")
        yield


@contextlib.contextmanager
def silenced(*names: str) -> Iterator[None]:
    """Keep all but errors of loggers off the screen.

    Parameters
    ----------
    *names
        Of the loggers.
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
