"""The callback that writes checkpoints, goes on from one, and knows when to stop."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from episome.errors import EpisomeError, Problem, ResourceError, TrainingError, warn
from episome.log import get_logger
from episome.train._memory import is_out_of_memory
from episome.train._state import State, capture, go_on, is_finite, restore
from episome.train._stop import NAMES, Stopped, Stopping

if TYPE_CHECKING:
    from episome.train._run_folder import RunPart

logger = get_logger(__name__)

#: Minutes between two checkpoints in the middle of an epoch.
EVERY_MINUTES = 5.0
#: An epoch that ends sooner after a checkpoint writes none: writing costs a twentieth at most.
SHORT_SECONDS, SHARE = 5.0, 20.0
#: Batches after the first by which the time of a training is told, and what is not worth a word.
TIMED, LONG_SECONDS = 10, 60.0


class Survive(pl.Callback):
    """Checkpoints of a run, and its way on from one.

    It has to be the last of the callbacks: what it keeps of the others is what they are after a
    batch.

    Parameters
    ----------
    part
        Where checkpoints go; ``None`` writes none.
    every_minutes
        Minutes between them; 0: after every batch.
    state
        Where to go on from.
    stopping
        Signals that end the run after the batch.
    keep
        Keep the state of the beginning of the epoch in memory, as ``last``.
    """

    def __init__(
        self,
        part: RunPart | None,
        *,
        every_minutes: float,
        state: State | None,
        stopping: Stopping,
        keep: bool = False,
    ) -> None:
        self.part, self.every = part, every_minutes * 60
        self.stopping, self.keep = stopping, keep
        self.at_failure: State | None = None
        self._started = time.monotonic() - (0.0 if state is None else state["seconds"])
        self.start_from(state)
        self._saved, self._cost = time.monotonic(), 0.0
        self._batch = self._updates = 0
        self._timed: list[float] = []

    def start_from(self, state: State | None) -> None:
        """Choose the state from which training goes on."""
        self.state = self.last = state
        self._sums_wait = bool(state and state["sums"])

    @property
    def seconds(self) -> float:
        """How long the run took so far, with what it took before it was interrupted."""
        return time.monotonic() - self._started

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put a state back; say at once what could not be kept."""
        plan: Any = pl_module
        if self.state is not None:
            restore(trainer, plan, self.state)
            self._batch, self._updates = self.state["batch"], self.state["updates"]
        if self.part is not None:
            self.stopping.install()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the state between two epochs: after it nothing of the last one can change."""
        self._batch, self._updates = 0, trainer.global_step
        at_start = self.state is not None and trainer.current_epoch == self.state["epoch"]
        if self.keep:
            self.last = copy.deepcopy(self._capture(trainer, pl_module, 0))
        waited = time.monotonic() - self._saved
        due = waited >= min(self.every, max(SHORT_SECONDS, SHARE * self._cost))
        self._save(trainer, pl_module, 0, due=due and trainer.current_epoch > 0 and not at_start)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Keep the state between two batches, where it is time or somebody wants to stop."""
        self._say_time(trainer, batch_idx)
        if self._sums_wait and self.state is not None:
            go_on(trainer, self.state)
            self._sums_wait = False
        self._batch, self._updates = batch_idx + 1, trainer.global_step
        # The last batch of an epoch is not over before it is validated.
        last = self._batch >= trainer.num_training_batches
        # What an epoch of several processes has summed up is in none of them.
        alone = trainer.world_size == 1
        if alone and not last and self._batch % trainer.accumulate_grad_batches == 0:
            due = time.monotonic() - self._saved >= self.every
            self._save(trainer, pl_module, self._batch, due=due)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Keep the state before a batch that could not be read, or did not fit into memory."""
        over = self._batch >= trainer.num_training_batches
        if not trainer.training or over or trainer.world_size > 1:
            return
        if is_out_of_memory(exception):
            # Gradients that were added up for an update that did not come are gone.
            batch = self._batch - self._batch % trainer.accumulate_grad_batches
            self.at_failure = self._capture(trainer, pl_module, batch)
        whole = self._batch % trainer.accumulate_grad_batches == 0
        # Otherwise it came from somebody who saw the batch after its update, before it was noted.
        noted = trainer.global_step == self._updates
        refused = isinstance(exception, OSError | EpisomeError)
        refused = refused and not isinstance(exception, TrainingError)
        if (
            self.part is not None
            and refused
            and whole
            and noted
            and not isinstance(exception, TrainingError)
        ):
            self._write(self.part, self._capture(trainer, pl_module, self._batch))

    def _say_time(self, trainer: pl.Trainer, batch_idx: int) -> None:
        """Say after some batches how long the training will take at most."""
        if len(self._timed) > TIMED:
            return
        self._timed.append(time.monotonic())
        if len(self._timed) <= TIMED:
            return
        per_batch = (self._timed[-1] - self._timed[0]) / TIMED
        epochs = (trainer.max_epochs or 1) - trainer.current_epoch
        left = per_batch * (epochs * trainer.num_training_batches - batch_idx)
        if left >= LONG_SECONDS:
            logger.info(
                "%d batches an epoch, %.2f s each: the training takes at most %s",
                trainer.num_training_batches,
                per_batch,
                _duration(left),
            )

    def _save(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: int, *, due: bool
    ) -> None:
        stop = self.stopping.received
        if self.part is None or not (due or stop):
            return
        plan: Any = pl_module
        if is_finite(plan):
            self._write(self.part, self._capture(trainer, plan, batch))
        if stop:
            logger.warning(
                "%s: stopped after %d batches of epoch %d; the same training goes on from there",
                NAMES[stop],
                batch,
                trainer.current_epoch,
            )
            raise Stopped

    def _write(self, part: RunPart, state: State) -> None:
        started = time.monotonic()
        try:
            part.save(state)
        except (ResourceError, OSError) as error:
            warn_unwritten(error)
        self._saved = time.monotonic()
        self._cost = self._saved - started

    def _capture(self, trainer: pl.Trainer, plan: Any, batch: int) -> State:
        state = capture(trainer, plan, batch=batch)
        return {**state, "seconds": self.seconds, "parts": trainer.datamodule.parts}


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def warn_unwritten(error: Exception) -> None:
    """Say that a checkpoint could not be written (E-T06); training goes on."""
    first = error.problems[0] if isinstance(error, ResourceError) else None
    warn(
        Problem(
            "E-T06",
            "a checkpoint could not be written",
            where=first.where if first else getattr(error, "filename", None),
            why=f"{first.what if first else error}; training goes on, the last good checkpoint is "
            "kept",
            fix="free space: the next one is tried when it is due",
        )
    )
