"""One training run with Lightning's own trainer."""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch

from episome import settings
from episome.errors import ResourceError, UsageError, near_names, with_option
from episome.log import get_logger
from episome.train._once import Fit, Once
from episome.train._plan import ONTOLOGY_MONITOR, is_number
from episome.train._processes import in_processes, n_processes, place_of, strategy_of_one
from episome.train._stop import Stopping
from episome.train._survive import EVERY_MINUTES, warn_unwritten

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
#: Whole numbers of Lightning's trainer and scvi-tools, and the least that each can be.
_NUMBERS = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "early_stopping_patience": 0,
    "max_steps": -1,
}
#: Numbers of Lightning's trainer, and the least that each can be; without batches nothing learns.
_AT_LEAST = {"gradient_clip_val": 0.0, "limit_train_batches": 1e-6}
_REFUSED = {
    "enable_checkpointing": "the best weights are kept and restored without it",
    "checkpointing_monitor": "pass early_stopping_monitor",
    "val_check_interval": "validation runs at the end of epochs; see check_val_every_n_epoch",
}


def check_trainer_kwargs(trainer_kwargs: Mapping[str, object]) -> None:
    """Refuse unknown keys before any training.

    Raises
    ------
    UsageError
        E-U16, naming the near ones.
    """
    known = {*inspect.signature(pl.Trainer.__init__).parameters, *_EARLY} - {"self"}
    known -= {"max_epochs", "accelerator", "devices", *_REFUSED}
    unknown = sorted(set(trainer_kwargs) - known)
    if not unknown:
        _require_numbers(trainer_kwargs)
        return
    words = [*sorted(known), "plan_kwargs", "batch_size", "max_epochs", "train_size", "refit"]
    near = near_names(unknown[0], words)
    raise UsageError(
        "E-U16",
        f"train() does not know {', '.join(map(with_option, unknown))}",
        why=_REFUSED.get(unknown[0]) or (f"near: {', '.join(near)}" if near else None),
        fix="optimiser settings go into plan_kwargs={...} (--set plan.KEY=VALUE), settings of "
        "Lightning's trainer are keywords (--set train.KEY=VALUE)",
    )


def _require_numbers(trainer_kwargs: Mapping[str, object]) -> None:
    """Refuse values that would fail, or be of no effect, when the training runs already."""
    for name, least in _NUMBERS.items():
        value = trainer_kwargs.get(name)
        if value is None:
            continue
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or int(value) < least:  # type: ignore[call-overload]  # a number here
            raise UsageError(
                "E-U16",
                f"{name}={value!r}",
                where="train()",
                fix=f"pass a whole number of at least {least}",
            )
    for name, lowest in _AT_LEAST.items():
        value = trainer_kwargs.get(name)
        if value is not None and not (is_number(value) and value >= lowest):
            raise UsageError(
                "E-U16", f"{name}={value!r}", where="train()", fix=f"pass at least {lowest:g}"
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
    on_nan: Literal["raise", "retry"] = "raise",
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
        Of Lightning. With ``strategy="ddp"`` and several devices the training runs in as many
        forks of this process; batches are shared out, and ``batch_size`` is that of all together.
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
    on_nan
        ``"retry"`` trains the epoch of a loss that is not finite again, with half the rate, at
        most three times.
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
        The device does not exist (E-R04), or its memory is not enough for the smallest batch
        (E-R01).
    UsageError
        There is no such metric to monitor (E-U36).
    """
    early = _early(plan, {k: trainer_kwargs.pop(k, v) for k, v in _EARLY.items()})
    if checkpoints is not None and (kept := checkpoints.finished()) is not None:
        logger.info("this run is finished already: its weights are read, nothing is trained")
        return _read(plan, kept)
    strategy = trainer_kwargs.get("strategy", "auto")
    n = n_processes(accelerator, devices, strategy)
    if n == 1:
        nodes = int(trainer_kwargs.get("num_nodes", 1))
        trainer_kwargs["strategy"] = strategy_of_one(strategy, nodes)
    options = {
        "max_epochs": max_epochs,
        "accelerator": accelerator,
        "devices": devices,
        "early_stopping": early_stopping,
        "seed": seed,
        "checkpoint_every_minutes": checkpoint_every_minutes,
        "on_nan": on_nan,
        **trainer_kwargs,
    }
    if n > 1:
        with place_of(checkpoints) as place:

            def work(rank: int, report: ProgressReport) -> None:
                _train(plan, datamodule, early, progress=report, part=place, rank=rank, **options)

            in_processes(n, work, progress=progress)
            if (kept := place.finished()) is None:
                raise ResourceError(
                    "E-R02",
                    "there is no place for the result of the processes",
                    where=str(place.folder.path),
                    fix="free space; what was kept of the training is kept",
                )
            return _read(plan, kept)
    return _train(plan, datamodule, early, progress=progress, part=checkpoints, rank=0, **options)


def _train(
    plan: CorePlan,
    datamodule: CellDataModule,
    early: Mapping[str, Any],
    *,
    max_epochs: int,
    accelerator: str,
    devices: int | list[int] | str,
    early_stopping: bool,
    seed: int | None,
    progress: ProgressReport | None,
    part: RunPart | None,
    rank: int,
    checkpoint_every_minutes: float,
    on_nan: Literal["raise", "retry"],
    **trainer_kwargs: Any,
) -> Fit:
    """Train in this process; only that of rank 0 writes."""
    state = None if part is None else part.state()
    checkpoints = part if rank == 0 else None
    if state is not None:
        if rank == 0:
            _say_resumed(state)
        datamodule.parts = state["parts"]
    run = Once(
        plan,
        datamodule,
        early,
        max_epochs=max_epochs,
        early_stopping=early_stopping,
        progress=progress,
        trainer={
            "accelerator": accelerator,
            "devices": devices,
            **trainer_kwargs,
            "callbacks": list(trainer_kwargs.get("callbacks") or []),
        },
        checkpoints=checkpoints,
        every_minutes=checkpoint_every_minutes,
        on_nan=on_nan,
        state=state,
    )
    # Lightning leaves modes as they are, and a core that has predicted is in evaluation mode.
    plan.train()
    with (
        Stopping(enabled=checkpoints is not None) as stopping,
        _quiet(),
        _seeded(seed),
        _fitting_threads(plan, datamodule),
    ):
        while (found := run.run(stopping)) is None:
            plan.train()
        plan.core.to("cpu")
        plan.core.eval()
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
