"""The state of a run between two batches: taken out of Lightning's trainer, and put back.

Everything of the trainer that is not public is touched here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import lightning.pytorch as pl

    from episome.train._plan import CorePlan

#: What decides the next batch and everything after it; plain data and tensors.
State = dict[str, Any]


def capture(trainer: pl.Trainer, plan: CorePlan, *, batch: int) -> State:
    """Return everything that decides what comes next.

    Parameters
    ----------
    trainer, plan
        Of the run.
    batch
        Batches of the current epoch that are done; fewer than it has.
    """
    return {
        "epoch": trainer.current_epoch,
        "batch": batch,
        "n_batches": int(trainer.num_training_batches),
        "updates": trainer.global_step,
        "plan": plan.state_dict(),
        "optimizers": [o.state_dict() for o in trainer.optimizers],
        "schedulers": [c.scheduler.state_dict() for c in trainer.lr_scheduler_configs],
        "precision": trainer.precision_plugin.state_dict(),
        "callbacks": [[c.state_key, c.state_dict()] for c in trainer.callbacks],
        "metrics": dict(trainer.callback_metrics),
        "sums": _sums(trainer) if batch else {},
        "random": {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if _on_cuda(plan) else [],
            "own": {name: g.get_state() for name, g in _generators(plan)},
        },
    }


def is_finite(plan: CorePlan) -> bool:
    """Whether the weights are worth keeping."""
    return all(bool(torch.isfinite(w).all()) for w in plan.core.parameters())


def begin_at(trainer: pl.Trainer, state: State) -> None:
    """Set the counters of a new trainer, before it fits."""
    epoch, batch, loop = state["epoch"], state["batch"], trainer.fit_loop
    for count in (loop.epoch_progress.total, loop.epoch_progress.current):
        count.ready = count.started = epoch + (batch > 0)
        count.processed = count.completed = epoch
    steps = loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step
    steps.total.ready = steps.total.completed = state["updates"]
    if batch:
        done = loop.epoch_loop.batch_progress
        for count in (done.total, done.current):
            count.ready = count.started = count.processed = count.completed = batch
        loop.restarting = True


def restore(trainer: pl.Trainer, plan: CorePlan, state: State) -> None:
    """Put weights, optimiser, callbacks and random states back, when training starts."""
    plan.load_state_dict(state["plan"])
    for optimizer, kept in zip(trainer.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(kept)
    for config, kept in zip(trainer.lr_scheduler_configs, state["schedulers"], strict=True):
        config.scheduler.load_state_dict(kept)
    if state["precision"]:
        trainer.precision_plugin.load_state_dict(state["precision"])
    for callback, (key, kept) in zip(trainer.callbacks, state["callbacks"], strict=True):
        if kept and callback.state_key == key:
            callback.load_state_dict(kept)
    trainer.callback_metrics.update(state["metrics"])
    torch.set_rng_state(state["random"]["torch"])
    if _on_cuda(plan) and len(state["random"]["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["random"]["cuda"])
    for name, generator in _generators(plan):
        generator.set_state(state["random"]["own"][name])


def go_on(trainer: pl.Trainer, state: State) -> None:
    """Add what an epoch had summed up before it was left; after its next batch."""
    # Lightning would leave schedulers that wait for a metric out of an epoch that it goes on with.
    trainer.fit_loop._restarting = False
    found = trainer.fit_loop.epoch_loop._results
    for key, (value, weight) in state["sums"].items():
        metric = found[key]
        before = value.to(metric.value.device)
        summed = metric.meta.is_mean_reduction or metric.meta.is_sum_reduction
        metric.value = (
            before + metric.value if summed else metric.meta.reduce_fx(before, metric.value)
        )
        if weight is not None:
            held = metric.cumulated_batch_size
            metric.cumulated_batch_size = weight.to(held.device) + held


def _sums(trainer: pl.Trainer) -> dict[str, list[torch.Tensor | None]]:
    found = trainer.fit_loop.epoch_loop._results
    return {
        key: [metric.value, getattr(metric, "cumulated_batch_size", None)]
        for key, metric in found.items()
        if metric.is_tensor and metric.meta.on_epoch and not metric.has_reset
    }


def _on_cuda(plan: CorePlan) -> bool:
    return bool(plan.core.device.type == "cuda")


def _generators(plan: CorePlan) -> Iterator[tuple[str, torch.Generator]]:
    """Yield the generators that the modules of a plan draw from, by name."""
    for name, module in plan.named_modules():
        for attribute, value in vars(module).items():
            if isinstance(value, torch.Generator):
                yield f"{name}.{attribute}", value
