"""`ClassifierModel`: the base that SCTab, SIMS and the neural baselines share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np

from episome.data import require_all_classes, require_choice
from episome.errors import UsageError, did_you_mean
from episome.inference import Predictor
from episome.log import get_logger
from episome.models._annotation import AnnotationMixin
from episome.models._confidence import MIN_CELLS, HeldOut
from episome.models._embedding import EmbeddingMixin
from episome.models._explanation import ExplanationMixin
from episome.models._network import NetworkModel
from episome.models._training import donor_augmentation, normalized_rows
from episome.train import (
    EVERY_MINUTES,
    CellDataModule,
    ClassifierPlan,
    CorePlan,
    balanced_weights,
    label_sets,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.confidence import CalibrationSource
    from episome.models._tuning import TuningSpace
    from episome.train import Fit

logger = get_logger(__name__)


class ClassifierModel(ExplanationMixin, AnnotationMixin, EmbeddingMixin, NetworkModel):
    """A neural annotator: a ``TorchCore`` with logits, trained by the host.

    Subclasses set ``_core_cls`` and build the core in their constructor with
    :meth:`_build_core`; ``_training_defaults`` returns the defaults of ``train`` for the data at
    hand (``max_epochs``, ``batch_size``, ``plan_kwargs``, trainer keywords).
    """

    capabilities = ("annotation", "embedding", "explanation")
    _plan_cls: ClassVar[type[CorePlan]] = ClassifierPlan
    #: Which classes each label may mean, in a training with sets.
    _sets: NDArray[np.bool_] | None = None

    @classmethod
    def tuning_space(cls, *, has_donors: bool = False) -> TuningSpace:
        """Add donor augmentation and its strength; see :meth:`EpisomeModel.tuning_space`."""
        space = dict(super().tuning_space(has_donors=has_donors))
        if has_donors:
            space |= {"train.augment": (None, "donor"), "train.augment_strength": (0.5, 1.0)}
        return space

    def train(
        self,
        max_epochs: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        calibration_size: float | None = None,
        shuffle_set_split: bool = True,
        load_sparse_tensor: bool = False,
        batch_size: int | None = None,
        early_stopping: bool | None = None,
        refit: bool | None = None,
        augment: Literal["donor"] | None = None,
        augment_strength: float = 1.0,
        datasplitter_kwargs: Mapping[str, Any] | None = None,
        plan_kwargs: Mapping[str, Any] | None = None,
        datamodule: CellDataModule | None = None,
        resume: str | Path = "auto",
        checkpoint_dir: str | Path | None = None,
        checkpoint_every_minutes: float = EVERY_MINUTES,
        on_nan: Literal["raise", "retry"] = "raise",
        **trainer_kwargs: Any,
    ) -> None:
        """Train the model; the weights of the best epoch by validation macro F1 are kept.

        Parameters
        ----------
        max_epochs
            Passes over the training cells; default by the model and the size of the data.
        accelerator, devices
            Of Lightning; ``"auto"`` takes a GPU when there is one. ``devices=2, strategy="ddp"``
            trains in two processes.
        train_size, validation_size
            Shares of the labelled cells, by default 0.9 and the rest. With a ``donor_key`` of at
            least four donors whole donors are held out.
        calibration_size
            Share of the labelled cells that neither train nor choose the epoch, and calibrate
            the probabilities; by default a tenth where that are 200 cells, else none, and the
            validation cells are used.
        shuffle_set_split
            Only ``True``: splits are seeded and by donor or class.
        load_sparse_tensor
            Accepted for scvi-tools' sake: batches are always sparse until the device.
        batch_size
            Cells per update, of all processes together.
        early_stopping
            Stop when validation macro F1 has not improved for ``early_stopping_patience`` epochs.
        refit
            After the run with validation, whose scores are kept, train once more from the start on
            training and validation cells together, for all epochs. For small references, where
            the held-out donors are missed more than a chosen epoch gains; default by the model,
            and not with the file of a split, whose parts stay apart.
        augment
            ``"donor"`` adds the difference between two donors of one type, with a random sign,
            to every training cell; the differences come from training donors only, so
            ``donor_key`` must be set up (``episome.data.donor_shifts``).
        augment_strength
            Share of a difference that is added; 1 as published.
        datasplitter_kwargs
            ``external_indexing=[train, validation, test, calibration]`` gives the split, or
            ``split`` a file of ``episome corpus split``,
            ``drop_last`` leaves out a smaller last batch (default true), ``sampling`` draws cells
            with replacement: ``"balanced"`` (every class alike; the loss then weighs classes
            alike too), a column of numbers, or a number per cell.
        plan_kwargs
            ``lr``, ``weight_decay``, ``lr_schedule``, ``lr_decay``, ``lr_patience``,
            ``label_smoothing``, ``weight_average``, ``class_weight`` (``"balanced"`` or ``None``),
            ``coarse_labels`` (``"set"``: a label above other classes says that the cell is one of
            them; names of classes: these are sets; by default none is. The ontology decides what
            is above what, so look at what the log says).
        datamodule
            Batches made by the caller instead of the model's own data.
        resume
            With a ``checkpoint_dir``: ``"auto"`` goes on from the run that was interrupted there,
            or reads the one that is finished; ``"never"`` starts anew. Or the folder of a run.
        checkpoint_dir
            Folder of the run, in which everything that decides what comes next is kept; the
            weights are then those of a run that was never interrupted. By default nothing is.
        checkpoint_every_minutes
            Minutes between two checkpoints; longer epochs also end with one. 0: every batch.
        on_nan
            What a loss that is not finite does: ``"raise"``, or ``"retry"``, which trains its
            epoch again with half the rate, at most three times.
        **trainer_kwargs
            Of ``lightning.Trainer`` (``precision``, ``logger``, ``strategy``, ``callbacks`` ...),
            ``early_stopping_patience`` and its siblings, and ``progress``: a function
            ``(done, total, metrics)`` called after every epoch.

        Raises
        ------
        UsageError
            Unknown or impossible arguments, before anything is computed; the run in the folder
            is another one (E-T13).
        TrainingError
            The loss is not finite (E-T01).
        ResourceError
            Another program trains into the folder (E-R05).
        """
        if augment is not None:
            require_choice("augment", augment, ("donor",))
        self._train(
            max_epochs=max_epochs,
            train_size=train_size,
            validation_size=validation_size,
            shuffle_set_split=shuffle_set_split,
            batch_size=batch_size,
            early_stopping=early_stopping,
            refit=refit,
            datasplitter_kwargs=datasplitter_kwargs,
            plan_kwargs=plan_kwargs,
            datamodule=datamodule,
            trainer_kwargs={
                "accelerator": accelerator,
                "devices": devices,
                "on_nan": on_nan,
                **trainer_kwargs,
            },
            resume=resume,
            checkpoint_dir=checkpoint_dir,
            checkpoint_every_minutes=checkpoint_every_minutes,
            calibration_size=0.0
            if datamodule is not None
            else self._calibration_size(calibration_size, train_size, validation_size),
            augment=augment,
            augment_strength=augment_strength,
        )

    def _hold_out(self, datamodule: CellDataModule, *, again: bool) -> None:
        split = datamodule.split
        own = len(split.calibration) >= MIN_CELLS
        rows = split.calibration if own else split.validation
        if self._sets is not None:
            # Of a cell that may be one of several types nobody knows whether its call is right.
            rows = rows[self._sets.sum(axis=1)[datamodule.labels[rows]] == 1]
        if again and not own:
            # The refit has seen the validation cells: what the first run said of them stays.
            return
        self._held_out = None
        if len(rows):
            predictor = Predictor(
                self.module, features=self.features, rule=self.input_rule, labels=self.labels
            )
            found = predictor.stream(datamodule, rows=rows)
            logits = np.concatenate([out["logits"] for out in found])
            shifted = self._shifted(datamodule, datamodule.labels, split.train, rows)
            source: CalibrationSource = "held out" if own else "validation"
            self._held_out = HeldOut(rows, logits, source, shifted=shifted)

    def _training_defaults(self) -> dict[str, Any]:
        return {"max_epochs": 50, "batch_size": 256, "plan_kwargs": {}}

    def _make_plan(
        self,
        datamodule: CellDataModule,
        plan_args: dict[str, Any],
        *,
        augment: Literal["donor"] | None = None,
        augment_strength: float = 1.0,
        **kwargs: Any,
    ) -> tuple[CorePlan, dict[str, object]]:
        augmentation = (
            None if augment is None else donor_augmentation(datamodule, augment_strength)
        )
        settings = dict(plan_args)
        children = self._children()
        self._sets = self._label_sets(children, settings.pop("coarse_labels", "class"))
        if self._sets is not None:
            settings["coarse_labels"] = self._sets
        # What is drawn by weights is not weighed once more.
        default = "balanced" if datamodule.weights is None else None
        weights = self._class_weights(settings.pop("class_weight", default), datamodule)
        plan = cast("type[ClassifierPlan]", self._plan_cls)(
            self.module,
            class_weights=weights,
            augmentation=augmentation,
            children=children,
            **settings,
        )
        return plan, {"augment": None if augmentation is None else augmentation.facts}

    def _remember(self, result: Fit, data: CellDataModule, facts: dict[str, Any]) -> None:
        super()._remember(result, data, facts)
        self._weigh_genes(data, data.labels, data.split.train)
        self._fit_confidence(
            data.labels, data.donors, data.split.train, lambda rows: normalized_rows(data, rows)
        )

    def _label_sets(
        self, children: NDArray[np.bool_] | None, coarse: str | Sequence[str]
    ) -> NDArray[np.bool_] | None:
        """Return which classes each label may mean, and say which labels are sets."""
        if coarse == "class":
            return None
        names, chosen = self.labels.names, None
        if not isinstance(coarse, str):
            if unknown := [c for c in coarse if c not in names]:
                raise UsageError(
                    "E-U15",
                    f"coarse_labels names {unknown[0]!r}",
                    where="plan_kwargs",
                    why="it is no class of the model",
                    fix=did_you_mean(str(unknown[0]), names) or "name some of its classes",
                )
            chosen = np.isin(np.array(names, dtype=object), list(coarse))
        sets = label_sets(children, chosen)
        if self._sets is not None and np.array_equal(self._sets, sets):
            return sets  # said before: a refit makes the plan anew
        for name, row in zip(names, sets, strict=True):
            meant = [n for n, inside in zip(names, row.tolist(), strict=True) if inside]
            if meant != [name]:
                logger.warning("a cell labelled %s counts as one of %s", name, ", ".join(meant))
        return sets

    def _children(self) -> NDArray[np.bool_] | None:
        hierarchy = self.class_hierarchy()
        return None if hierarchy is None else hierarchy.children

    def _class_weights(
        self, kind: object, datamodule: CellDataModule
    ) -> NDArray[np.float32] | None:
        if kind is None:
            return None
        if kind != "balanced":
            raise UsageError(
                "E-U15",
                f"class_weight={kind!r}",
                where="plan_kwargs",
                fix='use "balanced" or None',
            )
        codes = datamodule.labels[datamodule.split.train]
        require_all_classes(codes, self.labels)
        return balanced_weights(codes, len(self.labels))

    # --- more training --------------------------------------------------------------------

    def fine_tune(
        self,
        adata: AnnData,
        labels_key: str | None = None,
        *,
        layer: str | None = None,
        use_raw: bool = False,
        donor_key: str | list[str] | None = None,
        input_kind: Literal["auto", "counts", "log1p"] = "auto",
        **train_kwargs: Any,
    ) -> ClassifierModel:
        """Return a new model, trained further on new cells, which may bring new classes.

        The genes, the input rule and the old classes stay; weights of the old classes are kept,
        new classes start fresh. ``adata`` is not modified.

        Parameters
        ----------
        adata
            New labelled cells, genes in any order.
        labels_key
            Their label column; default the column of the first training.
        layer, use_raw, input_kind
            Where the values are and what they are.
        donor_key
            Donor column of the new cells.
        **train_kwargs
            Of :meth:`train`.

        Returns
        -------
        A model of the same class; it holds no data.
        """
        self._require_trained()
        from episome.models._fine_tune import fine_tuned

        return fine_tuned(
            self,
            adata,
            labels_key or self.setup_args["labels_key"],
            donor_key=donor_key,
            query={"layer": layer, "use_raw": use_raw, "input_kind": input_kind},
            train_kwargs=train_kwargs,
        )
