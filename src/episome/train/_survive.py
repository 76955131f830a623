"""The callback that writes checkpoints, goes on from one, and knows when to stop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from episome.errors import Problem, ResourceError, warn
from episome.log import get_logger
from episome.train._state import State, capture, go_on, is_finite, restore
from episome.train._stop import NAMES, Stopped, Stopping

if TYPE_CHECKING:
    from episome.train._run_folder import RunPart

logger = get_logger(__name__)

#: Minutes between two checkpoints in the middle of an epoch.
EVERY_MINUTES = 5.0
#: An epoch that ends sooner after a checkpoint writes none: writing costs a twentieth at most.
SHORT_SECONDS, SHARE = 5.0, 20.0


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
    seconds
        How long the run took before.
    """

    def __init__(
        self,
        part: RunPart | None,
        *,
        every_minutes: float,
        state: State | None,
        stopping: Stopping,
        keep: bool = False,
        seconds: float = 0.0,
    ) -> None:
        self.part, self.every = part, every_minutes * 60
        self.state, self.stopping, self.keep = state, stopping, keep
        self.last: State | None = None
        self._sums_wait = bool(state and state["sums"])
        self._started = time.monotonic() - seconds
        self._saved, self._cost = time.monotonic(), 0.0
        self._batch = 0

    @property
    def seconds(self) -> float:
        """How long the run took so far, with what it took before it was interrupted."""
        return time.monotonic() - self._started

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put a state back; say at once what could not be kept."""
        plan: Any = pl_module
        if self.state is not None:
            restore(trainer, plan, self.state)
            self._batch = self.state["batch"]
        if self.part is not None:
            self.stopping.install()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the state between two epochs: after it nothing of the last one can change."""
        self._batch = 0
        at_start = self.state is not None and trainer.current_epoch == self.state["epoch"]
        if self.keep:
            self.last = self._capture(trainer, pl_module, 0)
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
        if self._sums_wait and self.state is not None:
            go_on(trainer, self.state)
            self._sums_wait = False
        self._batch = batch_idx + 1
        # The last batch of an epoch is not over before it is validated.
        last = self._batch >= trainer.num_training_batches
        if not last and self._batch % trainer.accumulate_grad_batches == 0:
            due = time.monotonic() - self._saved >= self.every
            self._save(trainer, pl_module, self._batch, due=due)

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
        return {**capture(trainer, plan, batch=batch), "seconds": self.seconds}


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
