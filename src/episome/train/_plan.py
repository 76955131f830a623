"""Plans: how networks are trained. One base for the optimiser, one plan for every kind of loss."""

from __future__ import annotations

import inspect
import math
import numbers
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, TypeGuard

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from torchmetrics.classification import MulticlassF1Score

from episome.errors import TrainingError, UsageError
from episome.nn import DenseBuffers, normalized_batch, with_format
from episome.train._optimizer import adamw

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.nn import TorchCore
    from episome.train._augment import DonorAugmentation

MONITOR = "validation_f1_macro"
ONTOLOGY_MONITOR = "validation_f1_macro_ontology"
LOSS_MONITOR = "validation_loss"


#: No network that learns has weights like this.
LARGE_WEIGHT = 1e4


class CorePlan(pl.LightningModule):
    """AdamW, a schedule per epoch, normalisation on the device; subclasses add the loss.

    Parameters
    ----------
    core
        The network.
    target_sum
        Library size to which counts are scaled.
    lr, weight_decay
        Of AdamW.
    share_moment
        Genes of a weight share AdamW's second moment, where the core names its ``gene_axes``; see
        :class:`SharedMomentAdamW`.
    lr_schedule
        ``"step"``: times ``lr_decay`` after every epoch; ``"cosine"``: to zero over the epochs;
        ``"plateau"``: times ``lr_decay`` after ``lr_patience`` epochs without a better validation
        loss, or training loss where nothing validates; ``None``: constant.
    lr_decay, lr_patience
        See ``lr_schedule``.
    weight_average
        Decay of an exponential average of the weights, which is validated and kept; ``None``: off.
    n_epochs
        For the cosine schedule.
    """

    #: Metric by which the best epoch is chosen unless the caller names another.
    monitor: ClassVar[str] = LOSS_MONITOR

    def __init__(
        self,
        core: TorchCore,
        *,
        target_sum: float = 1e4,
        lr: float = 5e-3,
        weight_decay: float = 0.05,
        share_moment: bool = False,
        lr_schedule: Literal["step", "cosine", "plateau"] | None = "step",
        lr_decay: float = 0.9,
        lr_patience: int = 10,
        weight_average: float | None = None,
        n_epochs: int = 50,
    ) -> None:
        super().__init__()
        self.core, self.share_moment = core, share_moment
        config: dict[str, Any] = core.config
        self.n_features = int(config["n_features"])
        self.target_sum, self.lr, self.weight_decay = target_sum, lr, weight_decay
        self.lr_schedule, self.lr_decay, self.lr_patience = lr_schedule, lr_decay, lr_patience
        self.n_epochs, self.weight_average = n_epochs, weight_average
        self.n_obs_training = self.n_obs_validation = 0
        self._dense = DenseBuffers()

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of what a run with validation logs."""
        return ("train_loss", LOSS_MONITOR)

    def on_after_batch_transfer(
        self, batch: dict[str, object], dataloader_idx: int
    ) -> dict[str, object]:
        """Normalise on the device, and give the values the form that the core reads."""
        return normalized_batch(
            batch,
            target_sum=self.target_sum,
            n_features=self.n_features,
            input_format=self.core.input_format,
            buffers=self._dense,
        )

    @abstractmethod
    def batch_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        """Return the training loss of a normalised batch, a scalar."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        """Return the loss of one batch; stop at once when it is not finite."""
        loss = self.batch_loss(batch)
        if loss.device.type == "cpu" and not torch.isfinite(loss):
            self.raise_diverged(batch, batch_idx)
        self.log(
            "train_loss",
            loss,
            on_step=False,
            on_epoch=True,
            batch_size=len(batch["ind_x"]),
            sync_dist=True,
        )
        return loss

    def raise_diverged(self, batch: dict[str, Any] | None = None, batch_idx: int = 0) -> NoReturn:
        """Raise E-T01 with the place: the batch and its cells, or the epoch."""
        where, cells, names = f"epoch {self.current_epoch}", None, []
        if batch is not None:
            rows = batch["ind_x"]
            where += f", batch {batch_idx}, step {self.trainer.global_step}"
            cells = f"cells {int(rows.min())} to {int(rows.max())} of the training data"
            names = self._names_of(rows[:3].tolist())
        raise TrainingError(
            "E-T01",
            f"the loss is not finite at {where}",
            where=cells,
            examples=names,
            why=f"{self._likely_cause(batch)}: lr={self.lr:g}, precision={self.trainer.precision}",
            fix='lower the rate with plan_kwargs={"lr": ...}, use precision="32-true", or let '
            'on_nan="retry" do the first',
        )

    def _names_of(self, rows: list[int]) -> list[str]:
        data = getattr(self.trainer, "datamodule", None)
        return [] if data is None else [str(data.source.obs_names[i]) for i in rows]

    def _likely_cause(self, batch: dict[str, Any] | None) -> str:
        """Say in words what is known of why the loss is not finite."""
        weights = [w.detach() for w in self.core.parameters()]
        if batch is not None and not _is_finite(batch["X"]):
            return "the values of the batch are not finite"
        if not all(bool(torch.isfinite(w).all()) for w in weights):
            return "the weights are not finite since the update before; the rate is too high"
        largest = max(float(w.abs().max()) for w in weights if w.numel())
        if largest > LARGE_WEIGHT:
            return f"the largest weight is {largest:.3g}; the rate is too high"
        if str(self.trainer.precision).startswith("16"):
            return "numbers of 16 bits end at 65,504; the precision is too low"
        return f"values and weights are finite, the largest weight is {largest:.3g}"

    def on_train_epoch_end(self) -> None:
        """Record the learning rate; off the CPU the loss is looked at here, not at every step."""
        self.log("lr", self.optimizers().param_groups[0]["lr"])
        loss = self.trainer.callback_metrics.get("train_loss")
        if loss is not None and not torch.isfinite(loss):
            self.raise_diverged()

    def configure_optimizers(self) -> dict[str, object]:
        """Return AdamW and its schedule, stepped per epoch."""
        optimizer = adamw(
            self.core,
            lr=self.lr,
            weight_decay=self.weight_decay,
            share_moment=self.share_moment,
            mixed_precision="mixed" in str(getattr(self._trainer, "precision", "")),
        )
        schedule = self._schedule(optimizer)
        if schedule is None:
            return {"optimizer": optimizer}
        # Without validation cells there is one loss to watch.
        watched = LOSS_MONITOR if self.n_obs_validation else "train_loss"
        config = {"scheduler": schedule, "interval": "epoch", "monitor": watched}
        return {"optimizer": optimizer, "lr_scheduler": config}

    def _schedule(self, optimizer: torch.optim.Optimizer) -> object:
        if self.lr_schedule == "step":
            return torch.optim.lr_scheduler.StepLR(optimizer, 1, self.lr_decay)
        if self.lr_schedule == "cosine":
            return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(self.n_epochs, 1))
        if self.lr_schedule == "plateau":
            return torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer, factor=self.lr_decay, patience=self.lr_patience
            )
        return None


class LossPlan(CorePlan):
    """Training by the core's own loss, for models that need no labels.

    The core gives ``loss(batch)``: a scalar, or a mapping with ``"loss"`` and further scalars,
    which are logged as ``train_<name>`` and ``validation_<name>``. In validation the core is in
    evaluation mode and the same function is asked. ``batch["X"]`` holds normalised values; with
    ``core.wants_counts`` ``batch["counts"]`` holds what the data hold, in the same form. Values of
    another modality are under its name, in the form that ``core.target_format`` names.
    """

    def on_after_batch_transfer(
        self, batch: dict[str, Any], dataloader_idx: int
    ) -> dict[str, object]:
        """Normalise; keep the counts where the core wants them; densify other modalities."""
        ready: dict[str, object] = super().on_after_batch_transfer(batch, dataloader_idx)
        if self.core.wants_counts:
            ready["counts"] = with_format(
                batch["X"],
                "csr",
                self.core.input_format,
                n_features=self.n_features,
                buffers=self._dense,
                name="counts",
            )
        widths: dict[str, int] = self.core.config.get("n_targets") or {}  # type: ignore[assignment]
        for name, width in widths.items():
            ready[name] = with_format(
                batch[name],
                "csr",
                self.core.target_format,
                n_features=width,
                buffers=self._dense,
                name=name,
            )
        return ready

    def _parts(self, batch: dict[str, Any], part: str) -> torch.Tensor:
        """Ask the core, log what it gives beside the loss, and return the loss."""
        given = self.core.loss(batch)
        parts = dict(given) if isinstance(given, Mapping) else {"loss": given}
        loss: torch.Tensor = parts.pop("loss")
        for name, value in parts.items():
            self.log(
                f"{part}_{name}",
                value,
                on_step=False,
                on_epoch=True,
                batch_size=len(batch["ind_x"]),
                sync_dist=True,
            )
        return loss

    def batch_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        """Return the core's loss."""
        return self._parts(batch, "train")

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Add one batch to the validation loss."""
        loss = self._parts(batch, "validation")
        self.log(LOSS_MONITOR, loss, on_epoch=True, batch_size=len(batch["ind_x"]), sync_dist=True)


class ClassifierPlan(CorePlan):
    """Weighted cross-entropy, metrics over whole epochs.

    Parameters
    ----------
    core
        The network; its output ``penalty`` is added to the loss.
    class_weights
        Weight of each class in the training loss, (C,); ``None`` weighs cells alike.
    label_smoothing
        Share of the target spread over all classes, in training only.
    augmentation
        Applied to normalised training batches, never to validation.
    children
        Reflexive child matrix of the classes, boolean (C, C): a call of a descendant of the truth
        is right in ``validation_f1_macro_ontology``. ``None`` leaves that metric out.
    coarse_labels
        What a label says that is above other classes: ``"class"``, that the cell is of it and of
        none of those; ``"set"``, that it is of one of those, whichever: the loss is that of the
        sum of their probabilities, and hardly a cell is called the coarse class any more. Names
        of classes: these are sets, and others that are above some are classes beside them.
    **kwargs
        Of :class:`CorePlan`.

    Raises
    ------
    UsageError
        No class is known to be above another (E-U15).
    """

    monitor = MONITOR

    def __init__(
        self,
        core: TorchCore,
        *,
        class_weights: NDArray[np.float32] | None = None,
        label_smoothing: float = 0.0,
        augmentation: DonorAugmentation | None = None,
        children: NDArray[np.bool_] | None = None,
        coarse_labels: Literal["class", "set"] | NDArray[np.bool_] = "class",
        **kwargs: Any,
    ) -> None:
        super().__init__(core, **kwargs)
        self.augmentation, self.label_smoothing = augmentation, label_smoothing
        n_classes = int(core.config["n_classes"])  # type: ignore[call-overload]  # plain JSON
        weights = None if class_weights is None else torch.as_tensor(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)
        self.validation_f1 = MulticlassF1Score(num_classes=n_classes, average="macro")
        known = None if children is None else torch.tensor(children)
        self.register_buffer("children_of", known, persistent=False)
        self.validation_f1_ontology = MulticlassF1Score(num_classes=n_classes, average="macro")
        sets = None
        if not isinstance(coarse_labels, str):
            sets = coarse_labels
        elif coarse_labels == "set":
            sets = label_sets(children)
        allowed = None if sets is None else torch.tensor(sets)
        self.register_buffer("label_sets", allowed, persistent=False)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of what a run with validation logs."""
        names = (*super().metric_names, MONITOR)
        return names if self.children_of is None else (*names, ONTOLOGY_MONITOR)

    def on_after_batch_transfer(
        self, batch: dict[str, object], dataloader_idx: int
    ) -> dict[str, object]:
        """Normalise and, in training, augment on the device, in the form that the core reads."""
        ready = super().on_after_batch_transfer(batch, dataloader_idx)
        if self.augmentation is not None and self.training:
            ready["X"] = self.augmentation(ready["X"])
        return ready

    def batch_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        """Return the cross-entropy of one batch, and the penalty of the core."""
        out = self.core(batch)
        loss = self._label_loss(
            out["logits"].float(), batch["labels"], self.class_weights, self.label_smoothing
        )
        return loss + out["penalty"] if "penalty" in out else loss

    def _label_loss(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor | None = None,
        smoothing: float = 0.0,
    ) -> torch.Tensor:
        """Cross-entropy, where a label may stand for a set of classes."""
        if self.label_sets is None:
            return F.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing)
        shares = F.log_softmax(logits, dim=1)
        outside = ~self.label_sets[labels]
        loss = -torch.logsumexp(shares.masked_fill(outside, -torch.inf), dim=1)
        if smoothing:
            loss = (1 - smoothing) * loss - smoothing * shares.mean(dim=1)
        if weights is None:
            return loss.mean()
        of = weights[labels]
        return (of * loss).sum() / of.sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Add one batch to the validation loss (unweighted) and the macro F1."""
        logits = self.core(batch)["logits"].float()
        loss = self._label_loss(logits, batch["labels"])
        self.validation_f1.update(logits, batch["labels"])
        size = len(batch["labels"])
        self.log(LOSS_MONITOR, loss, on_epoch=True, batch_size=size, sync_dist=True)
        self.log(MONITOR, self.validation_f1, on_epoch=True, batch_size=size)
        if self.children_of is not None:
            truth, called = batch["labels"], logits.argmax(dim=1)
            corrected = torch.where(self.children_of[truth, called], truth, called)
            self.validation_f1_ontology.update(corrected, truth)
            self.log(ONTOLOGY_MONITOR, self.validation_f1_ontology, on_epoch=True, batch_size=size)


def label_sets(
    children: NDArray[np.bool_] | None, coarse: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Return which classes a label may mean, where a coarse one means any of its finer ones.

    Parameters
    ----------
    children
        Reflexive child matrix, bool (C, C).
    coarse
        Which classes are sets, bool (C,); default all that are above others.

    Returns
    -------
    bool (C, C): the row of a class with classes below it holds these, that of another itself.

    Raises
    ------
    UsageError
        No class is above another (E-U15).
    """
    below = None if children is None else children & ~children.T
    if below is not None and coarse is not None:
        below = below & coarse[:, None]
    if below is None or not below.any():
        raise UsageError(
            "E-U15",
            'coarse_labels="set"',
            where="plan_kwargs",
            why="no class is known to be above another one",
            fix="set up with ontology_term_key= or own_terms=, or leave it out",
        )
    alone = np.array([not row.any() for row in below])
    # The finest of what is below: a class in between is a set itself.
    found: NDArray[np.bool_] = below & alone[None, :]
    found[alone, alone] = True
    return found


def _is_finite(x: Any) -> bool:
    """Whether values of any form are finite."""
    held = getattr(x, "values", None)
    held = getattr(x, "data", None) if held is None or callable(held) else held
    return bool(torch.isfinite(torch.as_tensor(x if isinstance(x, torch.Tensor) else held)).all())


_OF_THE_HOST = {
    "self",
    "core",
    "class_weights",
    "target_sum",
    "n_epochs",
    "augmentation",
    "children",
    "kwargs",
}


def plan_keys(plan: type[CorePlan]) -> tuple[str, ...]:
    """Return the settings of a plan that are the caller's."""
    of_the_plan = [*inspect.signature(plan.__init__).parameters]
    shared = [*inspect.signature(CorePlan.__init__).parameters]
    known = [k for k in dict.fromkeys((*shared, *of_the_plan)) if k not in _OF_THE_HOST]
    return (*known, "class_weight") if issubclass(plan, ClassifierPlan) else tuple(known)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number; true is none."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)
    return real and math.isfinite(float(value))  # type: ignore[arg-type]  # a number here


def _is_switch(value: object) -> bool:
    return isinstance(value, bool | np.bool_)


#: Settings of plans that are numbers: what each can be, and in words.
_FITS: dict[str, tuple[Callable[[object], bool], str]] = {
    "lr": (lambda v: is_number(v) and v > 0, "a positive number"),
    "weight_decay": (lambda v: is_number(v) and v >= 0, "zero or a positive number"),
    "label_smoothing": (lambda v: is_number(v) and 0 <= v < 1, "a number from 0 to below 1"),
    "lr_decay": (lambda v: is_number(v) and 0 < v <= 1, "a number above 0 and up to 1"),
    "lr_patience": (
        lambda v: is_number(v) and isinstance(v, numbers.Integral) and v >= 0,
        "a whole number from 0 on",
    ),
    "weight_average": (
        lambda v: v is None or (is_number(v) and 0 < v < 1),
        "a number between 0 and 1, or None",
    ),
}


def check_plan_kwargs(plan_kwargs: dict[str, Any], plan: type[CorePlan] = ClassifierPlan) -> None:
    """Refuse unknown keys and impossible values before any training.

    Raises
    ------
    UsageError
        Unknown key (E-U14) or value (E-U15).
    """
    known = plan_keys(plan)
    unknown = sorted(set(plan_kwargs) - set(known))
    if unknown:
        raise UsageError(
            "E-U14",
            f"unknown keys {unknown}",
            where="plan_kwargs",
            fix=f"use some of {', '.join(known)}",
        )
    if plan_kwargs.get("lr_schedule", "step") not in {"step", "cosine", "plateau", None}:
        raise UsageError(
            "E-U15",
            f"lr_schedule={plan_kwargs['lr_schedule']!r}",
            where="plan_kwargs",
            fix='use "step", "cosine", "plateau" or None',
        )
    coarse = plan_kwargs.get("coarse_labels", "class")
    if isinstance(coarse, str) and coarse not in {"class", "set"}:
        raise UsageError(
            "E-U15",
            f"coarse_labels={coarse!r}",
            where="plan_kwargs",
            fix='use "class", "set" or a list of classes',
        )
    shared, own = (inspect.signature(p.__init__).parameters for p in (CorePlan, plan))
    for name, value in plan_kwargs.items():
        parameter = own.get(name) or shared.get(name)
        switch = parameter is not None and parameter.annotation == "bool"
        fits, said = (_is_switch, "True or False") if switch else _FITS.get(name, (None, ""))
        if fits is not None and not fits(value):
            raise UsageError(
                "E-U15",
                f"{name}={value!r}",
                where="plan_kwargs",
                fix=f"pass {said}",
            )


def balanced_weights(labels: NDArray[np.int64], n_classes: int) -> NDArray[np.float32]:
    """Return ``N / (C * n_c)`` from the labels of training cells, as scikit-learn's "balanced".

    Raises
    ------
    ValueError
        A class has no training cell.
    """
    counts = np.bincount(labels, minlength=n_classes)
    if (counts == 0).any():
        msg = f"classes {np.flatnonzero(counts == 0).tolist()} have no training cell"
        raise ValueError(msg)
    return (len(labels) / (n_classes * counts)).astype(np.float32)
