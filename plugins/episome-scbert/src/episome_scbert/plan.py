"""How SCBERT is trained: accumulated gradients that equal the large batch, the published rates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch

from episome.train import ClassifierPlan, CorePlan, LossPlan

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from episome.nn import TorchCore

    _Plan = CorePlan
else:
    _Plan = object

#: Of the published schedule: epochs of the first cycle and of its warm-up, how much longer the
#: falling part of every further cycle is, how much lower its peak, and the lowest rate.
_CYCLE, _WARM_UP, _LONGER, _LOWER, _LOWEST = 15, 5, 2, 0.9, 1e-6


def published_rate(epoch: int, lr: float = 1e-4) -> float:
    """Return the published learning rate of an epoch, counted from 0.

    It rises in a line for five epochs and falls as a cosine for ten; every further cycle falls
    twice as long from a peak a tenth lower.

    Parameters
    ----------
    epoch
        Number of the epoch.
    lr
        The first peak.
    """
    fall, peak, place = _CYCLE - _WARM_UP, lr, epoch
    while place >= fall + _WARM_UP:
        place -= fall + _WARM_UP
        fall, peak = fall * _LONGER, peak * _LOWER
    if place < _WARM_UP:
        return _LOWEST + (peak - _LOWEST) * place / _WARM_UP
    share = (place - _WARM_UP) / fall
    return _LOWEST + (peak - _LOWEST) * (1 + math.cos(math.pi * share)) / 2


class _AccumulatingPlan(_Plan):
    """What both plans share; mixed in before a plan of the host.

    Lightning divides the loss of every batch by the number of batches that are accumulated, also
    in a last window of fewer. Here every batch is weighed by its share of the cells of its window.
    """

    restarts: bool
    _batch = 0

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        """Return the loss of one batch; see the base class."""
        self._batch = batch_idx
        return super().training_step(batch, batch_idx)

    def share_of_window(self, n_cells: int) -> float:
        """Return what a mean over this batch is multiplied by, 1 without accumulation.

        Parameters
        ----------
        n_cells
            Cells of the batch.
        """
        trainer = self.trainer
        k = int(trainer.accumulate_grad_batches)
        if k == 1:
            return 1.0
        total = max(int(trainer.num_training_batches), 1)
        first = self._batch // k * k
        n_batches = min(first + k, total) - first
        data = trainer.datamodule
        usual = max(data.batch_size // (trainer.world_size * data.parts), 1)
        rest = self.n_obs_training // trainer.world_size - (total - 1) * usual
        last = rest if 0 < rest < usual and not data.drop_last else usual
        in_window = n_batches * usual
        if first + n_batches == total:
            in_window += last - usual
        return k * n_cells / in_window

    def configure_optimizers(self) -> dict[str, object]:
        """Return the host's optimiser and schedule, or the published ones."""
        if not self.restarts:
            return super().configure_optimizers()
        trained = [p for p in self.core.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=self.lr)
        lr = self.lr
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda epoch: published_rate(epoch, lr) / lr
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "epoch"},
        }


class SCBERTPlan(_AccumulatingPlan, ClassifierPlan):
    """Training on labels.

    With class weights a batch is the mean of weighted losses, not divided by its own weights, so
    that batches add up.

    Parameters
    ----------
    core
        The network.
    restarts
        The published optimiser and schedule: Adam and :func:`published_rate`; ``lr`` is the first
        peak, and other settings of the optimiser are not read.
    label_smoothing, coarse_labels, **kwargs
        Of ``episome.train.ClassifierPlan``.
    """

    def __init__(
        self,
        core: TorchCore,
        *,
        restarts: bool = False,
        label_smoothing: float = 0.0,
        coarse_labels: Literal["class", "set"] | NDArray[np.bool_] = "class",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            core, label_smoothing=label_smoothing, coarse_labels=coarse_labels, **kwargs
        )
        self.restarts = restarts

    def batch_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        """Return the cross-entropy of one batch and the loss of hidden genes."""
        out, labels = self.core(batch), batch["labels"]
        weights = self.class_weights
        loss = self._label_loss(out["logits"].float(), labels, weights, self.label_smoothing)
        if weights is not None:
            loss = loss * weights[labels].mean()
        if "penalty" in out:
            loss = loss + out["penalty"]
        return loss * self.share_of_window(len(labels))


class MaskedPlan(_AccumulatingPlan, LossPlan):
    """Pretraining by hidden genes.

    Parameters
    ----------
    core
        The network.
    restarts
        Of :class:`SCBERTPlan`.
    **kwargs
        Of ``episome.train.LossPlan``.
    """

    def __init__(self, core: TorchCore, *, restarts: bool = False, **kwargs: Any) -> None:
        super().__init__(core, **kwargs)
        self.restarts = restarts

    def batch_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        """Return the core's loss."""
        return super().batch_loss(batch) * self.share_of_window(len(batch["ind_x"]))
