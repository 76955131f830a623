"""Callbacks: history, best weights, batch-norm statistics, progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import pandas as pd
import torch

from episome.nn import host_batch, normalized_batch, reestimate_batch_norm

if TYPE_CHECKING:
    from episome.train._datamodule import CellDataModule
    from episome.train._plan import CorePlan

# Below this many updates the running statistics of stacked batch norms lag behind the weights
# (scTab card, point 15): accuracy 0.29 against 0.62 after re-estimation at 48 updates.
FEW_UPDATES = 300
#: Two thousand cells at the batches of small references: means and variances of that many are sure
#: to 2 %, and more would cost as much as a quarter of the training.
MAX_REESTIMATION_BATCHES = 32


class History(pl.Callback):
    """Keep the epoch values of every metric, whatever the logger is."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._rate: float | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the rate of the epoch: at its end it is that of the next one."""
        self._rate = trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add one row; it runs after validation."""
        row = {k: float(v) for k, v in trainer.callback_metrics.items()}
        if self._rate is not None:
            row["lr"] = float(self._rate)
        self.rows.append({"epoch": trainer.current_epoch, **row})

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far."""
        return {"rows": [dict(row) for row in self.rows], "rate": self._rate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from earlier rows."""
        self.rows = [dict(row) for row in state_dict["rows"]]
        self._rate = state_dict["rate"]

    def frames(self, first_epoch: int = 0) -> dict[str, pd.DataFrame]:
        """Return scvi-tools' shape: one single-column frame per metric, indexed by epoch."""
        if not self.rows:
            return {}
        table = pd.DataFrame(self.rows).set_index("epoch").astype(float)
        table.index = table.index + first_epoch
        return {str(c): table[[c]] for c in table.columns}


class BestWeights(pl.Callback):
    """Keep the weights of the best epoch in memory and put them back at the end."""

    def __init__(self, monitor: str, mode: str) -> None:
        self.monitor, self.sign = monitor, 1.0 if mode == "max" else -1.0
        self.score = -float("inf")
        self.epoch: int | None = None
        self._state: dict[str, torch.Tensor] | None = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the weights to the host when the epoch is the best so far."""
        value = trainer.callback_metrics.get(self.monitor)
        if value is None or trainer.sanity_checking or self.sign * float(value) <= self.score:
            return
        self.score, self.epoch = self.sign * float(value), trainer.current_epoch
        state = pl_module.core.state_dict()
        self._state = {k: v.detach().cpu().clone() for k, v in state.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the best epoch, its score and its weights."""
        return {"score": self.score, "epoch": self.epoch, "weights": self._state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best of before."""
        self.score, self.epoch = state_dict["score"], state_dict["epoch"]
        self._state = state_dict["weights"]

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the best weights."""
        if self._state is not None:
            pl_module.core.load_state_dict(self._state)


class AverageWeights(pl.Callback):
    """Exponential average of the weights, which is what is validated and kept.

    Parameters
    ----------
    decay
        Share of the average that stays at every update; early updates count more, so that the
        start is forgotten.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._mean: dict[str, torch.Tensor] = {}
        self._live: dict[str, torch.Tensor] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object
    ) -> None:
        """Move the average towards the weights."""
        step = trainer.global_step
        decay = min(self.decay, (1 + step) / (10 + step))
        live = {k: w.detach() for k, w in pl_module.core.named_parameters()}
        if not self._mean:
            self._mean = {k: w.clone() for k, w in live.items()}
            return
        with torch.no_grad():
            # All weights at once: dozens of small ones cost more than their arithmetic.
            means = [self._mean[k] for k in live]
            torch._foreach_lerp_(means, list(live.values()), 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """Return the average; between two batches nothing else is held."""
        return {"mean": self._mean}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from an average."""
        self._mean = dict(state_dict["mean"])

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average in place."""
        parameters = dict(pl_module.core.named_parameters())
        self._live = {k: parameters[k].detach().clone() for k in self._mean}
        _assign(parameters, self._mean)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on training from the weights, not the average; it runs after validation."""
        _assign(dict(pl_module.core.named_parameters()), self._live)
        self._live = {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the model; the best epoch, if there is one, comes after it."""
        _assign(dict(pl_module.core.named_parameters()), self._mean)


def _assign(parameters: dict[str, torch.nn.Parameter], values: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)


class ReestimateBatchNorm(pl.Callback):
    """Re-estimate running statistics before validation while updates are few."""

    def __init__(self, datamodule: CellDataModule, *, few_updates: int = FEW_UPDATES) -> None:
        self.datamodule, self.few_updates = datamodule, few_updates

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Re-estimate in the first epochs of small data."""
        if not trainer.sanity_checking and trainer.global_step < self.few_updates:
            self.run(pl_module)

    def run(self, plan: CorePlan) -> None:
        """Recompute the statistics of every batch norm with the weights as they are."""
        core = plan.core
        if not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in core.modules()):
            # A pass over the cells would change nothing.
            return
        rows = self.datamodule.split.train
        loader = self.datamodule.loader(rows, shuffle=True, drop_last=True)

        def batches() -> Iterator[dict[str, object]]:
            for i, batch in enumerate(loader):
                if i == MAX_REESTIMATION_BATCHES:
                    return
                held: dict[str, Any] = host_batch(batch)
                tensors = {k: v.to(core.device) for k, v in held.items()}
                if own is not None:
                    yield plan.on_after_batch_transfer(tensors, 0)
                    continue
                yield normalized_batch(
                    tensors,
                    target_sum=plan.target_sum,
                    n_features=plan.n_features,
                    input_format=core.input_format,
                )

        # A core whose training is not its prediction says what training does with a batch.
        own = getattr(core, "training_pass", None)
        forward = None if own is None else lambda _, batch: own(batch)
        reestimate_batch_norm(core, batches(), forward=forward)


class EpochProgress(pl.Callback):
    """Report every epoch to a function ``(done, total, metrics)``."""

    def __init__(self, report: Callable[[int, int, dict[str, float]], None]) -> None:
        self.report = report

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report."""
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        self.report(trainer.current_epoch + 1, trainer.max_epochs, metrics)
