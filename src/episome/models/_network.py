"""`NetworkModel`: a `TorchCore` that the host trains, with labels or without."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from episome import plugins, settings
from episome.data import given_split, read_split, require_choice, split_cells, variable_genes
from episome.errors import UsageError
from episome.models._arguments import row_numbers
from episome.models._base import EpisomeModel
from episome.models._resume import checked_resume, run_facts, run_parts
from episome.models._seen import known_again
from episome.models._training import (
    append_history,
    checked_splitter,
    drawing_weights,
    given,
    normalized_rows,
    part_of,
    require_not_negative,
    require_positive,
    require_weights,
)
from episome.models._tuning import Between
from episome.train import (
    EVERY_MINUTES,
    CellDataModule,
    CorePlan,
    Fit,
    LossPlan,
    check_plan_kwargs,
    check_trainer_kwargs,
    fit,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data import CellSource, Query, Split
    from episome.models._tuning import TuningSpace
    from episome.nn import TorchCore
    from episome.train import ProgressReport, RunPart


class NetworkModel(EpisomeModel):
    """A network under the host's contract, trained by its own loss.

    Subclasses set ``_core_cls``, a ``TorchCore`` with ``loss(batch)``, and build the core in their
    constructor with :meth:`_build_core`; ``_training_defaults`` returns the defaults of ``train``
    for the data at hand (``max_epochs``, ``batch_size``, ``plan_kwargs``, trainer keywords).
    """

    reads_sources = True
    _core_cls: ClassVar[type[TorchCore]]
    _plan_cls: ClassVar[type[CorePlan]] = LossPlan
    module: TorchCore

    @classmethod
    def tuning_space(cls, *, has_donors: bool = False) -> TuningSpace:
        """Learning rate, weight decay and batch size; see :meth:`EpisomeModel.tuning_space`."""
        return {
            "plan.lr": Between(3e-4, 3e-2),
            "plan.weight_decay": Between(1e-3, 1.0),
            "train.batch_size": (64, 128, 256, 512),
        }

    @classmethod
    def check_train_arguments(cls, arguments: Mapping[str, Any]) -> None:
        """Refuse arguments that ``train`` does not take; see the base class."""
        # A model may name some arguments of its own, and hand the others on.
        bases = [c for c in cls.__mro__ if issubclass(c, NetworkModel) and "train" in vars(c)]
        named = {name for c in bases for name in inspect.signature(c.train).parameters}
        others = {k: v for k, v in arguments.items() if k not in named and k != "progress"}
        check_trainer_kwargs(others)
        check_plan_kwargs(dict(arguments.get("plan_kwargs") or {}), cls._plan_cls)
        checked_splitter(arguments.get("datasplitter_kwargs"), shuffle_set_split=True)

    def _build_core(self, **config: object) -> TorchCore:
        """Build the core with weights from the initialisation stream of ``settings.seed``."""
        classes = {} if self.labels is None else {"n_classes": len(self.labels)}
        full = {"n_features": len(self.features), **classes, **config}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.stream_seed("init"))
            try:
                return self._core_cls.from_config(full)
            except (TypeError, ValueError) as error:
                raise UsageError(
                    "E-U31",
                    f"{type(self).__name__} cannot be built so",
                    why=str(error),
                    fix="correct this option; its documentation says what each may be",
                    details={"config": {k: str(v)[:80] for k, v in config.items()}},
                ) from error

    def _training_defaults(self) -> dict[str, Any]:
        # Losses of their own go on falling where a rate that shrinks by the epoch has stopped.
        plan = {"lr_schedule": "cosine"}
        return {"max_epochs": 50, "batch_size": 256, "plan_kwargs": plan}

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
        datasplitter_kwargs: Mapping[str, Any] | None = None,
        plan_kwargs: Mapping[str, Any] | None = None,
        datamodule: CellDataModule | None = None,
        resume: str | Path = "auto",
        checkpoint_dir: str | Path | None = None,
        checkpoint_every_minutes: float = EVERY_MINUTES,
        on_nan: Literal["raise", "retry"] = "raise",
        **trainer_kwargs: Any,
    ) -> None:
        """Train the model; the weights of the best epoch by validation loss are kept.

        Parameters
        ----------
        max_epochs
            Passes over the training cells; default by the model and the size of the data.
        accelerator, devices
            Of Lightning; ``"auto"`` takes a GPU when there is one. ``devices=2, strategy="ddp"``
            trains in two processes.
        train_size, validation_size
            Shares of the cells, by default 0.9 and the rest. With a ``donor_key`` of at least four
            donors whole donors are held out.
        calibration_size
            Share of the cells that neither train nor choose the epoch, for models that measure
            something on such cells; default what the model wants, none for most.
        shuffle_set_split
            Only ``True``: splits are seeded and by donor.
        load_sparse_tensor
            Accepted for scvi-tools' sake: batches are always sparse until the device.
        batch_size
            Cells per update, of all processes together.
        early_stopping
            Stop when the validation loss has not improved for ``early_stopping_patience`` epochs.
        datasplitter_kwargs
            ``external_indexing=[train, validation, test]`` gives the split, or ``split`` a file of
            ``episome corpus split``, ``drop_last`` leaves
            out a smaller last batch (default true), ``sampling`` draws cells with replacement:
            ``"balanced"`` (every class alike), a column of numbers, or a number per cell.
        plan_kwargs
            ``lr``, ``weight_decay``, ``lr_schedule``, ``lr_decay``, ``lr_patience``,
            ``weight_average``.
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
        self._train(
            max_epochs=max_epochs,
            train_size=train_size,
            validation_size=validation_size,
            shuffle_set_split=shuffle_set_split,
            batch_size=batch_size,
            early_stopping=early_stopping,
            refit=False,
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
            calibration_size=self._calibration_size(calibration_size, train_size, validation_size),
        )

    def _calibration_size(
        self, given: float | None, train_size: float | None, validation_size: float | None
    ) -> float:
        """Return the share of the cells that is kept for what follows training."""
        return 0.0 if given is None else float(given)

    def _train(
        self,
        *,
        max_epochs: int | None,
        train_size: float | None,
        validation_size: float | None,
        shuffle_set_split: bool,
        batch_size: int | None,
        early_stopping: bool | None,
        refit: bool | None,
        datasplitter_kwargs: Mapping[str, Any] | None,
        plan_kwargs: Mapping[str, Any] | None,
        datamodule: CellDataModule | None,
        trainer_kwargs: dict[str, Any],
        resume: str | Path,
        checkpoint_dir: str | Path | None,
        checkpoint_every_minutes: float,
        calibration_size: float = 0.0,
        **of_the_plan: Any,
    ) -> None:
        """Check all arguments, split, fit; ``of_the_plan`` goes to :meth:`_make_plan`."""
        defaults = self._training_defaults()
        plan_args = {**defaults.pop("plan_kwargs", {}), **(plan_kwargs or {})}
        progress = trainer_kwargs.pop("progress", None)
        check_plan_kwargs(plan_args, self._plan_cls)
        check_trainer_kwargs(
            {
                k: v
                for k, v in trainer_kwargs.items()
                if k not in {"accelerator", "devices", "on_nan"}
            }
        )
        require_choice("on_nan", trainer_kwargs.get("on_nan", "raise"), ("raise", "retry"))
        splitter = checked_splitter(datasplitter_kwargs, shuffle_set_split=shuffle_set_split)
        max_epochs = int(given(max_epochs, defaults.pop("max_epochs")))
        batch_size = int(given(batch_size, defaults.pop("batch_size")))
        early = bool(given(early_stopping, defaults.pop("early_stopping", True)))
        # Parts that a file keeps apart stay apart, unless the caller says otherwise.
        usual = defaults.pop("refit", False) and splitter.get("split") is None
        refit = bool(given(refit, usual))
        require_positive(max_epochs=max_epochs, batch_size=batch_size)
        keeps = checked_resume(checkpoint_dir, resume)[0] is not None
        require_not_negative(checkpoint_every_minutes=checkpoint_every_minutes)
        if datamodule is None:
            require_weights(splitter.get("sampling"), self.training_source())
            parts = splitter.get("external_indexing")
            if splitter.get("split") is not None:
                kept = read_split(splitter["split"], self.training_source())
                parts = [kept.train, kept.validation, kept.test]
            split = self._split(parts, train_size, validation_size, calibration_size)
            datamodule = self._cells_for(
                self.training_query(),
                split,
                batch_size,
                drop_last=bool(splitter.get("drop_last", True)),
            )
            datamodule.weights = drawing_weights(
                splitter.get("sampling"),
                datamodule.source,
                datamodule.labels,
                datamodule.split.train,
            )
        run: dict[str, Any] = {"max_epochs": max_epochs, "early_stopping": early}
        run |= {**defaults, **trainer_kwargs}
        chosen: dict[str, Any] = {
            "batch_size": datamodule.batch_size,
            "drop_last": datamodule.drop_last,
        }
        chosen |= {"refit": refit, "plan_kwargs": plan_args, **of_the_plan, **run}
        facts = run_facts(self, datamodule, chosen) if keeps else {}
        with run_parts(checkpoint_dir, resume, facts) as parts:
            self._fit(
                datamodule,
                plan_args,
                of_the_plan,
                refit=refit,
                progress=progress,
                parts=parts,
                checkpoint_every_minutes=checkpoint_every_minutes,
                **run,
            )

    # --- cells ------------------------------------------------------------------------------

    def _other_sources(self) -> dict[str, CellSource]:
        """Values of the training cells in other modalities, by the name of the modality."""
        return {}

    def _columns(self, source: CellSource) -> dict[str, NDArray[Any]]:
        """Numbers or flags of all cells of a source to train on, by their name in a batch."""
        return {}

    def _split(
        self,
        given: Sequence[Sequence[int]] | None,
        train_size: float | None,
        validation_size: float | None,
        calibration_size: float,
    ) -> Split:
        codes = self.training_codes()
        if given is not None:
            return given_split([row_numbers(p) for p in given], len(codes), settings.seed)
        return split_cells(
            codes,
            donors=self.training_donors(),
            train_size=train_size,
            validation_size=validation_size,
            calibration_size=calibration_size,
        )

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
        parts = (split.train, split.validation, split.test, split.calibration)
        usable = [np.asarray(p)[codes[p] >= 0] for p in parts]
        split = given_split(usable, len(codes), split.seed) if split.by == "given" else split
        if len(split.train) < 2:
            labelled = "" if self.labels is None else "labelled "
            raise UsageError(
                "E-U19",
                f"fewer than two {labelled}cells are left for training",
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
            others=self._other_sources(),
            columns=self._columns(query.source),
        )

    # --- the fit ----------------------------------------------------------------------------

    def _fit(
        self,
        datamodule: CellDataModule,
        plan_args: dict[str, Any],
        of_the_plan: dict[str, Any],
        *,
        refit: bool,
        progress: ProgressReport | None,
        parts: tuple[RunPart | None, RunPart | None],
        **fit_kwargs: Any,
    ) -> None:
        before = {k: v.clone() for k, v in self.module.state_dict().items()}
        fresh = not self.is_trained_
        self._notify("before_train")
        try:
            refit = refit and len(datamodule.split.validation) > 0
            n_runs = 2 if refit else 1
            result, facts = self._run_plan(
                datamodule,
                plan_args,
                of_the_plan,
                choose_genes=fresh,
                progress=part_of(progress, 0, n_runs),
                checkpoints=parts[0],
                **fit_kwargs,
            )
            self._hold_out(datamodule, again=False)
            if refit:
                self.module.load_state_dict(before)
                _, facts = self._run_plan(
                    datamodule.on_training_and_validation(),
                    plan_args,
                    of_the_plan,
                    choose_genes=fresh,
                    progress=part_of(progress, 1, n_runs),
                    checkpoints=parts[1],
                    **fit_kwargs,
                )
                self._hold_out(datamodule, again=True)
        except BaseException:
            # A model that raised answers the next good call as if nothing had happened.
            self.module.load_state_dict(before)
            self.module.to("cpu").eval()
            raise
        self._remember(result, datamodule, {"refit": refit, "plan": plan_args, **facts})
        self._notify("after_train")

    def _hold_out(self, datamodule: CellDataModule, *, again: bool) -> None:
        """Look at cells that were not trained on, after a run; ``again``: after a refit."""

    def _run_plan(
        self,
        datamodule: CellDataModule,
        plan_args: dict[str, Any],
        of_the_plan: dict[str, Any],
        *,
        choose_genes: bool,
        max_epochs: int,
        **fit_kwargs: Any,
    ) -> tuple[Fit, dict[str, object]]:
        core: Any = self.module
        n_top = core.config.get("n_top_genes")
        if n_top and choose_genes:
            values = normalized_rows(datamodule, datamodule.split.train)
            core.select_genes(variable_genes(values, int(n_top)))
        plan, facts = self._make_plan(
            datamodule,
            {**plan_args, "target_sum": self.input_rule.target_sum, "n_epochs": max_epochs},
            **of_the_plan,
        )
        plan.n_obs_training = len(datamodule.split.train)
        plan.n_obs_validation = len(datamodule.split.validation)
        run = fit(plan, datamodule, max_epochs=max_epochs, seed=settings.seed, **fit_kwargs)
        return run, facts

    def _make_plan(
        self, datamodule: CellDataModule, plan_args: dict[str, Any], **kwargs: Any
    ) -> tuple[CorePlan, dict[str, object]]:
        """Return the plan of one run, and what the manifest should record of it."""
        return self._plan_cls(self.module, **plan_args), {}

    def _notify(self, notice: Literal["before_train", "after_train"]) -> None:
        getattr(plugins, notice)(model=self, run={"seed": settings.seed})

    def _remember(self, result: Fit, data: CellDataModule, facts: dict[str, Any]) -> None:
        self.is_trained_ = True
        self.history_ = append_history(self.history_, result.history)
        split = data.split
        self.train_indices_, self.validation_indices_ = split.train, split.validation
        self.test_indices_, self.calibration_indices_ = split.test, split.calibration
        best = {}
        if result.best_epoch is not None:
            for name, values in result.history.items():
                if name.startswith("validation_"):
                    best[name] = float(values.loc[result.best_epoch].iloc[0])
        # The validation cells chose the epoch: neither they nor their donors are unseen.
        seen = np.concatenate([split.train, split.validation])
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
            "n_cells": len(split.train) + (len(split.validation) if facts["refit"] else 0),
            **known_again(data.source, seen, None if data.donors is None else data.donors[seen]),
            **facts,
            **best,
        }
