"""`PretextPlan`: how pretext tasks are trained."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from episome.errors import UsageError
from episome.train import LossPlan
from episome_ssl.lars import LARS, lars_groups, warmup_cosine

if TYPE_CHECKING:
    from episome_ssl.core import SSLCore

OPTIMIZERS = ("adamw", "lars")


class PretextPlan(LossPlan):
    """Training by a pretext task, which is told of every update.

    Parameters
    ----------
    core
        The encoder and its task.
    optimizer
        ``"adamw"``, with the settings of ``CorePlan``; ``"lars"``: layer-wise rates, warm-up over
        epochs and a cosine, as published for Barlow Twins. Its ``lr`` is the rate of weights for
        256 cells per batch (0.2 as published), and ``lr_biases`` that of biases and norms.
    lr_biases, warmup_epochs
        Of ``"lars"``.
    **kwargs
        Of ``episome.train.LossPlan``.
    """

    core: SSLCore

    def __init__(
        self,
        core: SSLCore,
        *,
        optimizer: Literal["adamw", "lars"] = "adamw",
        lr_biases: float = 0.0048,
        warmup_epochs: int = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(core, **kwargs)
        if optimizer not in OPTIMIZERS:
            raise UsageError(
                "E-U15",
                f"optimizer={optimizer!r}",
                where="plan_kwargs",
                fix=f"use one of {', '.join(OPTIMIZERS)}",
            )
        self.optimizer, self.lr_biases = optimizer, lr_biases
        self.warmup_epochs = warmup_epochs

    @property
    def _updates_per_epoch(self) -> int:
        batches = max(int(self.trainer.num_training_batches), 1)
        return math.ceil(batches / self.trainer.accumulate_grad_batches)

    def configure_optimizers(self) -> dict[str, object]:
        """Return the optimiser, one for the whole training, and its schedule."""
        if self.optimizer == "adamw":
            return super().configure_optimizers()
        groups = lars_groups(self.core.parameters(), lr_weights=self.lr, lr_biases=self.lr_biases)
        for group in groups:
            group["base"] = group["lr"]
        return {"optimizer": LARS(groups, weight_decay=self.weight_decay)}

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Set the rates of this update."""
        if self.optimizer != "lars":
            return
        factor = warmup_cosine(
            self.trainer.global_step,
            self._updates_per_epoch,
            self.n_epochs,
            batch_size=len(batch["ind_x"]) * self.trainer.accumulate_grad_batches,
            # A short training would be over before the published ten.
            warmup_epochs=min(self.warmup_epochs, self.n_epochs // 2),
        )
        for group in self.optimizers().param_groups:
            group["lr"] = group["base"] * factor

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Update the weights, and tell the task.

        Not at the end of the batch: checkpoints are written before the plan hears of that, and a
        batch whose gradients are only added up updates nothing.
        """
        super().optimizer_step(*args, **kwargs)
        task = self.core.task
        if task is not None:
            n_done = self.trainer.global_step + 1  # counted after this hook
            done = n_done / (self._updates_per_epoch * self.n_epochs)
            task.after_update(self.core.net, min(done, 1.0))
