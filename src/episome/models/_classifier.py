"""`ClassifierModel`: the base that SCTab, SIMS and the neural baselines share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from episome import plugins, settings
from episome.data import (
    given_split,
    require_all_classes,
    require_choice,
    split_cells,
    variable_genes,
)
from episome.errors import UsageError
from episome.log import get_logger
from episome.models._annotation import AnnotationMixin
from episome.models._base import EpisomeModel, as_rows, row_numbers
from episome.models._explanation import ExplanationMixin
from episome.models._training import (
    append_history,
    checked_splitter,
    donor_augmentation,
    given,
    normalized_rows,
    part_of,
    require_positive,
)
from episome.train import (
    MONITOR,
    ONTOLOGY_MONITOR,
    CellDataModule,
    ClassifierPlan,
    Fit,
    balanced_weights,
    check_plan_kwargs,
    check_trainer_kwargs,
    fit,
)

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.data import CellSource, Query, Split
    from episome.nn import TorchCore
    from episome.train import ProgressReport

logger = get_logger(__name__)


class ClassifierModel(ExplanationMixin, AnnotationMixin, EpisomeModel):
    """A neural annotator: a ``TorchCore`` with logits, trained by the host.

    Subclasses set ``_core_cls`` and build the core in their constructor with
    :meth:`_build_core`; ``_training_defaults`` returns the defaults of ``train`` for the data at
    hand (``max_epochs``, ``batch_size``, ``plan_kwargs``, trainer keywords).
    """

    capabilities = ("annotation", "embedding", "explanation")
    _core_cls: ClassVar[type[TorchCore]]
    module: TorchCore

    def _build_core(self, **config: object) -> TorchCore:
        """Build the core with weights from the initialisation stream of ``settings.seed``."""
        full = {"n_features": len(self.features), "n_classes": len(self.labels), **config}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.stream_seed("init"))
            try:
                return self._core_cls.from_config(full)
            except (TypeError, ValueError) as error:
                raise UsageError(
                    "E-U31",
                    f"{type(self).__name__} cannot be built with {config}",
                    why=str(error),
                    fix="pass numbers and words that its documentation names",
                ) from error

    def _training_defaults(self) -> dict[str, Any]:
        return {"max_epochs": 50, "batch_size": 256, "plan_kwargs": {}}

    def train(
        self,
        max_epochs: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        load_sparse_tensor: bool = False,
        batch_size: int | None = None,
        early_stopping: bool | None = None,
        refit: bool | None = None,
        augment: Literal["donor"] | None = None,
        datasplitter_kwargs: Mapping[str, Any] | None = None,
        plan_kwargs: Mapping[str, Any] | None = None,
        datamodule: CellDataModule | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the model; the weights of the best epoch by validation macro F1 are kept.

        Parameters
        ----------
        max_epochs
            Passes over the training cells; default by the model and the size of the data.
        accelerator, devices
            Of Lightning; ``"auto"`` takes a GPU when there is one.
        train_size, validation_size
            Shares of the labelled cells, by default 0.9 and the rest. With a ``donor_key`` of at
            least four donors whole donors are held out.
        shuffle_set_split
            Only ``True``: splits are seeded and by donor or class.
        load_sparse_tensor
            Accepted for scvi-tools' sake: batches are always sparse until the device.
        batch_size
            Cells per update.
        early_stopping
            Stop when validation macro F1 has not improved for ``early_stopping_patience`` epochs.
        refit
            After the run with validation, whose scores are kept, train once more from the start on
            training and validation cells together, for all epochs. For small references, where
            the held-out donors are missed more than a chosen epoch gains; default by the model.
        augment
            ``"donor"`` adds the difference between two donors of one type, with a random sign,
            to every training cell; the differences come from training donors only, so
            ``donor_key`` must be set up (``episome.data.donor_shifts``).
        datasplitter_kwargs
            ``external_indexing=[train, validation, test]`` gives the split, ``drop_last`` leaves
            out a smaller last batch (default true).
        plan_kwargs
            ``lr``, ``weight_decay``, ``lr_schedule``, ``lr_decay``, ``lr_patience``,
            ``label_smoothing``, ``weight_average``, ``class_weight`` (``"balanced"`` or ``None``).
        datamodule
            Batches made by the caller instead of the model's own data.
        **trainer_kwargs
            Of ``lightning.Trainer`` (``precision``, ``logger``, ``strategy``, ``callbacks`` ...),
            ``early_stopping_patience`` and its siblings, and ``progress``: a function
            ``(done, total, metrics)`` called after every epoch.

        Raises
        ------
        UsageError
            Unknown or impossible arguments, before anything is computed.
        TrainingError
            The loss is not finite (E-T01).
        """
        defaults = self._training_defaults()
        plan_args = {**defaults.pop("plan_kwargs", {}), **(plan_kwargs or {})}
        progress = trainer_kwargs.pop("progress", None)
        check_plan_kwargs(plan_args)
        check_trainer_kwargs(trainer_kwargs)
        splitter = checked_splitter(datasplitter_kwargs, shuffle_set_split=shuffle_set_split)
        max_epochs = int(given(max_epochs, defaults.pop("max_epochs")))
        batch_size = int(given(batch_size, defaults.pop("batch_size")))
        early = bool(given(early_stopping, defaults.pop("early_stopping", True)))
        refit = bool(given(refit, defaults.pop("refit", False)))
        require_positive(max_epochs=max_epochs, batch_size=batch_size)
        if augment is not None:
            require_choice("augment", augment, ("donor",))
        if datamodule is None:
            split = self._split(splitter.get("external_indexing"), train_size, validation_size)
            datamodule = self._cells_for(
                self.training_query(),
                split,
                batch_size,
                drop_last=bool(splitter.get("drop_last", True)),
            )
        self._fit(
            datamodule,
            plan_args,
            refit=refit,
            augment=augment,
            max_epochs=max_epochs,
            early_stopping=early,
            accelerator=accelerator,
            devices=devices,
            progress=progress,
            **{**defaults, **trainer_kwargs},
        )

    def _split(
        self,
        given: Sequence[Sequence[int]] | None,
        train_size: float | None,
        validation_size: float | None,
    ) -> Split:
        codes = self.training_codes()
        if given is not None:
            split = given_split([row_numbers(p) for p in given], len(codes), settings.seed)
        else:
            split = split_cells(
                codes,
                donors=self.training_donors(),
                train_size=train_size,
                validation_size=validation_size,
            )
        return split

    def _cells_for(
        self,
        query: Query,
        split: Split,
        batch_size: int,
        *,
        drop_last: bool = True,
        codes: NDArray[np.int64] | None = None,
        donors: NDArray[np.object_] | None = None,
    ) -> CellDataModule:
        if codes is None:
            codes, donors = self.training_codes(), self.training_donors()
        labelled = [
            np.asarray(p)[codes[p] >= 0] for p in (split.train, split.validation, split.test)
        ]
        split = given_split(labelled, len(codes), split.seed) if split.by == "given" else split
        if len(split.train) < 2:
            raise UsageError(
                "E-U19",
                "fewer than two labelled cells are left for training",
                count=len(split.train),
                total=len(codes),
                fix="pass a larger train_size",
            )
        return CellDataModule(
            query.source,
            query.alignment,
            rule=query.rule,
            kind=query.kind,
            labels=codes,
            split=split,
            batch_size=min(batch_size, len(split.train)),
            drop_last=drop_last,
            seed=settings.seed,
            donors=donors,
        )

    def _fit(
        self,
        datamodule: CellDataModule,
        plan_args: dict[str, Any],
        *,
        refit: bool,
        progress: ProgressReport | None,
        **fit_kwargs: Any,
    ) -> None:
        before = {k: v.clone() for k, v in self.module.state_dict().items()}
        fresh = not self.is_trained_
        self._notify("before_train")
        try:
            refit = refit and len(datamodule.split.validation) > 0
            n_runs = 2 if refit else 1
            result, augmented = self._run_plan(
                datamodule,
                plan_args,
                choose_genes=fresh,
                progress=part_of(progress, 0, n_runs),
                **fit_kwargs,
            )
            if refit:
                self.module.load_state_dict(before)
                _, augmented = self._run_plan(
                    datamodule.on_training_and_validation(),
                    plan_args,
                    choose_genes=fresh,
                    progress=part_of(progress, 1, n_runs),
                    **fit_kwargs,
                )
        except BaseException:
            # A model that raised answers the next good call as if nothing had happened.
            self.module.load_state_dict(before)
            self.module.to("cpu").eval()
            raise
        self._remember(result, datamodule, plan_args, refit=refit, augment=augmented)
        self._weigh_genes(datamodule, datamodule.labels, datamodule.split.train)
        self._notify("after_train")

    def _run_plan(
        self,
        datamodule: CellDataModule,
        plan_args: dict[str, Any],
        *,
        choose_genes: bool,
        augment: str | None,
        max_epochs: int,
        **fit_kwargs: Any,
    ) -> tuple[Fit, dict[str, object] | None]:
        plan_args = dict(plan_args)
        augmentation = None
        if augment is not None:
            augmentation = donor_augmentation(datamodule)
        weights = self._class_weights(plan_args.pop("class_weight", "balanced"), datamodule)
        core: Any = self.module
        n_top = core.config.get("n_top_genes")
        if n_top and choose_genes:
            values = normalized_rows(datamodule, datamodule.split.train)
            core.select_genes(variable_genes(values, int(n_top)))
        plan = ClassifierPlan(
            self.module,
            class_weights=weights,
            target_sum=self.input_rule.target_sum,
            n_epochs=max_epochs,
            augmentation=augmentation,
            children=self._children(),
            **plan_args,
        )
        plan.n_obs_training = len(datamodule.split.train)
        plan.n_obs_validation = len(datamodule.split.validation)
        run = fit(plan, datamodule, max_epochs=max_epochs, seed=settings.seed, **fit_kwargs)
        return run, None if augmentation is None else augmentation.facts

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

    def _notify(self, notice: Literal["before_train", "after_train"]) -> None:
        getattr(plugins, notice)(model=self, run={"seed": settings.seed})

    def _remember(
        self,
        result: Fit,
        data: CellDataModule,
        plan_args: dict[str, Any],
        *,
        refit: bool,
        augment: dict[str, object] | None,
    ) -> None:
        self.is_trained_ = True
        self.history_ = append_history(self.history_, result.history)
        split = data.split
        self.train_indices_, self.validation_indices_ = split.train, split.validation
        self.test_indices_ = split.test
        best = {}
        if result.best_epoch is not None:
            for name in (MONITOR, ONTOLOGY_MONITOR, "validation_loss"):
                if name in result.history:
                    best[name] = float(result.history[name].loc[result.best_epoch].iloc[0])
        self.fit_ = {
            "n_epochs": result.n_epochs,
            "best_epoch": result.best_epoch,
            "n_updates": result.n_updates,
            "seconds": round(result.seconds, 2),
            "batch_size": data.batch_size,
            "n_train": len(split.train),
            "n_validation": len(split.validation),
            "split_by": split.by,
            "split_sha256": split.digest,
            "seed": split.seed,
            "n_cells": len(split.train) + (len(split.validation) if refit else 0),
            "refit": refit,
            "augment": augment,
            "plan": plan_args,
            **best,
        }

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

    # --- embedding ------------------------------------------------------------------------

    def get_latent_representation(
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        *,
        indices: list[int] | None = None,
        batch_size: int | None = None,
        **query: Any,
    ) -> NDArray[np.float32]:
        """Return the embedding of every cell, float32 of shape (n_cells, n_latent)."""
        predictor = self.predictor()
        out = predictor.collect(
            self.prepare(adata, **query), ["latent"], rows=as_rows(indices), batch_size=batch_size
        )
        latent: NDArray[np.float32] = out["latent"].astype(np.float32, copy=False)
        return latent
