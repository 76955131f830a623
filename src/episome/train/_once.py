"""One run of Lightning's trainer, and where to go on when it did not come to its end."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping

from episome.errors import Problem, ResourceError, TrainingError, UsageError, warn
from episome.log import get_logger
from episome.train._callbacks import (
    FEW_UPDATES,
    AverageWeights,
    BestWeights,
    EpochProgress,
    History,
    ReestimateBatchNorm,
)
from episome.train._memory import can_halve, fit_memory, halve, is_out_of_memory, out_of_memory
from episome.train._state import State, begin_at
from episome.train._stop import Stopped, Stopping
from episome.train._survive import Survive

if TYPE_CHECKING:
    import pandas as pd

    from episome.train._datamodule import CellDataModule
    from episome.train._plan import CorePlan
    from episome.train._run_folder import RunPart

logger = get_logger(__name__)

#: How often the rate is halved before a run that diverges is given up.
MAX_HALVED = 3


@dataclass(frozen=True, slots=True)
class Fit:
    """What a training run leaves beside the weights.

    ``best_epoch`` is ``None`` when there was no validation; the weights are then the last ones.
    """

    history: Mapping[str, pd.DataFrame]
    best_epoch: int | None
    n_epochs: int
    n_updates: int
    seconds: float
    stopped_early: bool


@dataclass(slots=True)
class Once:
    """A training that is tried, and tried again from where it failed.

    Parameters
    ----------
    plan, data
        What is trained, on what.
    early
        What is monitored: ``early_stopping_*``.
    max_epochs, early_stopping, progress, trainer
        Of :func:`episome.train.fit`; ``trainer`` holds what is Lightning's.
    checkpoints, every_minutes, on_nan
        What is kept, how often, and what a loss that is not finite does.
    state
        Where to go on from.
    """

    plan: CorePlan
    data: CellDataModule
    early: Mapping[str, Any]
    max_epochs: int
    early_stopping: bool
    progress: Callable[[int, int, dict[str, float]], None] | None
    trainer: Mapping[str, Any]
    checkpoints: RunPart | None
    every_minutes: float
    on_nan: Literal["raise", "retry"]
    state: State | None
    _halved: int = field(default=0, init=False)

    @property
    def validates(self) -> bool:
        """Whether there are cells to validate on."""
        return len(self.data.split.validation) > 0

    def run(self, stopping: Stopping) -> Fit | None:
        """Train to the end; ``None`` where it has to be tried again, from ``state``."""
        history = History()
        best = BestWeights(self.early["early_stopping_monitor"], self.early["early_stopping_mode"])
        renorm, callbacks = self._callbacks(best, history)
        given = self.trainer["callbacks"]
        survive = Survive(
            self.checkpoints,
            every_minutes=self.every_minutes,
            state=self.state,
            stopping=stopping,
            keep=self.on_nan == "retry",
        )
        trainer = self._prepared([*callbacks, *given, survive])
        survive.start_from(self.state)
        try:
            trainer.fit(self.plan, datamodule=self.data)
        except Stopped:
            stopping.deliver()
        except SystemExit as stop:
            # Lightning turns Ctrl-C into SystemExit(1); callers expect the interrupt.
            raise KeyboardInterrupt from stop
        except TrainingError:
            tried = self.on_nan != "retry" or self._halved == MAX_HALVED
            # Several processes would have to agree.
            if tried or survive.last is None or trainer.world_size > 1:
                raise
            self._lower_rate(survive.last)
            return None
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._smaller_batches(error, survive.at_failure, trainer)
            return None
        if best.epoch is None:
            if self.validates:
                logger.warning(
                    "training ended after %d updates, before its first validation: the last "
                    "weights are kept, and none were compared",
                    trainer.global_step,
                )
            if trainer.global_step < renorm.few_updates:
                renorm.run(self.plan)
        return Fit(
            history=history.frames(),
            best_epoch=best.epoch,
            n_epochs=trainer.current_epoch,
            n_updates=trainer.global_step,
            seconds=survive.seconds,
            stopped_early=trainer.current_epoch < self.max_epochs,
        )

    def _callbacks(
        self, best: BestWeights, history: History
    ) -> tuple[ReestimateBatchNorm, list[pl.Callback]]:
        decay = self.plan.weight_average
        average = [] if decay is None else [AverageWeights(decay)]
        # Averaged weights have no running statistics of their own: theirs are always estimated
        # anew.
        few = sys.maxsize if average else FEW_UPDATES
        renorm = ReestimateBatchNorm(self.data, few_updates=few)
        # Order matters: average in, its statistics, then the best epoch's copy.
        callbacks: list[pl.Callback] = [*average, renorm, *([best] if self.validates else [])]
        if self.early_stopping and self.validates:
            callbacks.append(
                EarlyStopping(
                    self.early["early_stopping_monitor"],
                    mode=self.early["early_stopping_mode"],
                    patience=self.early["early_stopping_patience"],
                    min_delta=self.early["early_stopping_min_delta"],
                    # A limit of steps or time may end training before the first validation.
                    strict=False,
                )
            )
        callbacks.append(history)
        if self.progress is not None:
            callbacks.append(EpochProgress(self.progress))
        return renorm, callbacks

    def _prepared(self, callbacks: list[pl.Callback]) -> pl.Trainer:
        """Make a trainer whose batches fit into memory, at the place where it goes on."""
        parts = self.data.parts
        trainer = self._trainer(callbacks)
        if trainer.world_size == 1:
            fit_memory(self.plan, self.data, trainer.strategy.root_device)
        if self.data.parts != parts:
            trainer = self._trainer(callbacks)
        if self.state is not None:
            self.state = _in_parts(self.state, self.data.parts)
            begin_at(trainer, self.state)
            self.data.start_at(self.state["epoch"], self.state["batch"])
        return trainer

    def _trainer(self, callbacks: list[pl.Callback]) -> pl.Trainer:
        given = {k: v for k, v in self.trainer.items() if k != "callbacks"}
        parts, size = self.data.parts, self.data.batch_size
        if parts > 1:
            given["accumulate_grad_batches"] = parts * given.get("accumulate_grad_batches", 1)
            if self.data.drop_last and "limit_train_batches" not in given:
                # The cells that were left out of an epoch before stay so.
                given["limit_train_batches"] = len(self.data.split.train) // size * parts
        return make_trainer(self.max_epochs, callbacks, given, validates=self.validates)

    def _lower_rate(self, state: State) -> None:
        self._halved += 1
        self.state = _with_half_the_rate(state)
        self.plan.lr /= 2
        warn(
            Problem(
                "E-T01",
                f"the loss was not finite; epoch {state['epoch']} is trained again with half the "
                "rate",
                count=self._halved,
                total=MAX_HALVED,
                why=f"lr={self.plan.lr:g} from here",
                fix='pass a lower rate with plan_kwargs={"lr": ...}',
            )
        )

    def _smaller_batches(
        self, error: BaseException, state: State | None, trainer: pl.Trainer
    ) -> None:
        if state is None or not can_halve(self.plan, self.data):
            raise out_of_memory(self.plan, error, trainer.strategy.root_device) from error
        halve(self.data, str(error).partition("\n")[0][:120] or type(error).__name__)
        self.state = state


def make_trainer(
    max_epochs: int, callbacks: list[pl.Callback], given: Mapping[str, Any], *, validates: bool
) -> pl.Trainer:
    """Return Lightning's trainer with the host's defaults.

    Parameters
    ----------
    max_epochs, callbacks
        Of the run.
    given
        What the caller said, ``accelerator`` and ``devices`` among it.
    validates
        Whether there are cells to validate on.

    Raises
    ------
    ResourceError
        The device does not exist (E-R04).
    """
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
    accelerator, devices = given["accelerator"], given["devices"]
    try:
        return pl.Trainer(
            max_epochs=max_epochs,
            callbacks=callbacks,
            enable_checkpointing=False,
            **{**defaults, **given},
        )
    except (pl.utilities.exceptions.MisconfigurationException, TypeError, ValueError) as error:
        if accelerator in {"auto", "cpu"}:
            raise UsageError(
                "E-U16",
                "Lightning cannot train so",
                where="train()",
                why=str(error).splitlines()[0][:200],
                fix="correct the settings of Lightning's trainer",
            ) from error
        raise ResourceError(
            "E-R04",
            f"accelerator={accelerator!r}, devices={devices!r} cannot be used",
            why=str(error).splitlines()[0],
            fix='accelerator="auto" takes what is there',
        ) from error


def _in_parts(state: State, parts: int) -> State:
    """Count the batches of a state in parts of them."""
    factor = parts // state["parts"]
    if factor == 1:
        return state
    counted = {k: state[k] * factor for k in ("batch", "n_batches")}
    return {**state, **counted, "parts": parts}


def _with_half_the_rate(state: State) -> State:
    state = copy.deepcopy(state)
    for optimizer in state["optimizers"]:
        for group in optimizer["param_groups"]:
            for name in ("lr", "initial_lr"):
                if name in group:
                    group[name] /= 2
    for schedule in state["schedulers"]:
        for name in ("base_lrs", "_last_lr"):
            if name in schedule:
                schedule[name] = [rate / 2 for rate in schedule[name]]
    return state
