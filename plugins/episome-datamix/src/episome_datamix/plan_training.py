"""How the network is trained: scvi-tools' optimiser, and a prior that comes in slowly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from episome.errors import UsageError
from episome.train import LossPlan

if TYPE_CHECKING:
    from episome.nn import TorchCore

#: Cells times epochs after which scvi-tools shortens trainings, and its longest one.
EPOCH_CELLS, LONGEST = 20_000, 400
#: The paper's epochs, of a hundred thousand cells and more.
PAPER_EPOCHS = 250


class ElboPlan(LossPlan):
    """The evidence lower bound by Adam, as scvi-tools trains it.

    Parameters
    ----------
    core
        The network.
    lr, weight_decay, eps
        Of Adam, whose decay is of the gradient; ``eps`` is scvi-tools' 0.01.
    n_epochs_kl_warmup
        Epochs over which the distance to the prior of the latent space comes to full weight, from
        0. ``None``: it has it from the start.
    **more
        Of ``episome.train.CorePlan``.
    """

    def __init__(
        self,
        core: TorchCore,
        *,
        lr: float = 5e-3,
        weight_decay: float = 1e-6,
        eps: float = 0.01,
        n_epochs_kl_warmup: int | None = 400,
        lr_schedule: Any = None,
        **more: Any,
    ) -> None:
        super().__init__(core, lr=lr, weight_decay=weight_decay, lr_schedule=lr_schedule, **more)
        if n_epochs_kl_warmup is not None and not n_epochs_kl_warmup > 0:
            raise UsageError(
                "E-U22",
                f"n_epochs_kl_warmup={n_epochs_kl_warmup!r}",
                where="plan_kwargs",
                fix="pass a number of epochs, or None for full weight from the start",
            )
        self.eps, self.n_epochs_kl_warmup = eps, n_epochs_kl_warmup

    def kl_weight(self, epoch: int) -> float:
        """Return the weight of the prior in an epoch, counted from 0."""
        if self.n_epochs_kl_warmup is None:
            return 1.0
        return min(1.0, epoch / self.n_epochs_kl_warmup)

    def on_train_epoch_start(self) -> None:
        """Set the weight of the prior."""
        self.core.kl_weight = self.kl_weight(self.current_epoch)

    def configure_optimizers(self) -> dict[str, object]:
        """Return Adam, and the schedule of the base class where one is asked for."""
        weights = list(self.core.parameters())
        mixed = "mixed" in str(getattr(self._trainer, "precision", ""))
        optimizer = torch.optim.Adam(
            weights,
            lr=self.lr,
            weight_decay=self.weight_decay,
            eps=self.eps,
            # One pass over the weights instead of five, where devices have it; it cannot clip
            # gradients that are scaled.
            fused=not mixed and weights[0].device.type in {"cpu", "cuda"},
        )
        schedule = self._schedule(optimizer)
        if schedule is None:
            return {"optimizer": optimizer}
        watched = "validation_loss" if self.n_obs_validation else "train_loss"
        config = {"scheduler": schedule, "interval": "epoch", "monitor": watched}
        return {"optimizer": optimizer, "lr_scheduler": config}


def epochs_for(n_cells: int) -> int:
    """Return scvi-tools' number of epochs, at most the paper's 250.

    Parameters
    ----------
    n_cells
        Training cells.
    """
    asked = round(EPOCH_CELLS / max(n_cells, 1) * LONGEST)
    return max(1, min(PAPER_EPOCHS, asked))
