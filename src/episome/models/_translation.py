"""Capability `translation`: another modality, predicted from the RNA of every cell."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from scvi.data import AnnDataManager, AnnDataManagerValidationCheck
from scvi.data.fields import MuDataWrapper

from episome.confidence import Intervals
from episome.data import (
    AnnDataSource,
    FeatureSpace,
    PairedCells,
    PreparedCells,
    TargetScale,
    combined_column,
    definite_donors,
    inspect_values,
    modalities_of,
    modality_kind,
    pair_modalities,
    rna_among,
    unusable_values,
)
from episome.errors import Collector, InputDataError, Problem, UsageError, raise_problems
from episome.inference import (
    BATCH_KEY,
    Predictor,
    TargetFacts,
    folder_target,
)
from episome.log import get_logger
from episome.metrics import feature_scores
from episome.models._batches import (
    BatchField,
    batch_codes,
    batch_names,
    require_batches,
)
from episome.models._confidence import default_share
from episome.models._fields import ExpressionField
from episome.models._from_source import require_reader
from episome.models._modality_answers import ModalityAnswers
from episome.models._setup import SOURCE, registered_input, require_words
from episome.models._target import (
    TARGET,
    MeasuredTarget,
    TargetField,
    features_of,
    modality_names,
    paired_cells,
    prepared_pairs,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray

    from episome.data import CellSource, Query, ScaleName, Split, ValueReport
    from episome.io import ModelFolder
    from episome.train import CellDataModule

logger = get_logger(__name__)

#: Cells that intervals and the table of features are made of, at least.
_MIN_HELD_OUT = 20
#: Values of held-out cells that are compared at most.
_HELD_VALUES = 2**27

_MuDataExpression = MuDataWrapper(ExpressionField)
_MuDataTarget = MuDataWrapper(TargetField)
_MuDataBatch = MuDataWrapper(BatchField)


class TranslationMixin(ModalityAnswers):
    """What every model whose core gives ``target`` does the same way; before ``NetworkModel``.

    The model is set up with MuData, or with sources that stay on disk. Batches hold, with
    ``KIND`` for what is predicted (``"protein"``, ``"atac"`` or ``"other"``): ``KIND``, its values
    on the scale that :meth:`_training_scale` names, in the form of ``core.target_format``;
    ``KIND_present``, which cells have it, bool (B,); ``KIND_panel``, the row of ``core.measured``
    that says which features were measured in the cell, int64 (B,); and ``batch``, int64 (B,), -1
    for a cell of no known batch. Queries are AnnData of RNA, or MuData.

    ``target_`` holds what is known of the predictions after training.
    """

    capabilities: ClassVar[tuple[str, ...]] = ("translation",)
    #: What is predicted: ``"protein"`` or ``"atac"``; ``"auto"``: what the training cells have.
    target_kind: ClassVar[Literal["protein", "atac", "auto"]] = "protein"
    reads_sources: ClassVar[bool] = False
    #: Whether the core reads the batch of a query's cells.
    told_batches: ClassVar[bool] = False
    #: Whether what was not measured in a cell takes no part in training: the core of a
    #: ``NetworkModel`` has ``set_panels(panels)`` then, and looks up ``KIND_panel``. Models that
    #: cannot refuse panels that differ.
    masks_panels: ClassVar[bool] = False
    _pairs: tuple[object, PairedCells] | None = None
    _measured: MeasuredTarget | None = None

    @classmethod
    def setup_anndata(cls, adata: AnnData, **kwargs: object) -> None:
        """Refuse: one modality does not say what is to be predicted.

        Raises
        ------
        UsageError
            Always (E-U63).
        """
        raise UsageError(
            "E-U63",
            f"{cls.__name__} is trained on cells of two modalities, and AnnData holds one",
            fix='mdata = mudata.MuData({"rna": rna, "prot": prot}); '
            f"{cls.__name__}.setup_mudata(mdata)",
        )

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        rna_modality: str = "rna",
        target_modality: str | None = None,
        layer: str | None = None,
        target_layer: str | None = None,
        batch_key: str | None = None,
        donor_key: str | list[str] | None = None,
        input_kind: Literal["auto", "counts", "log1p"] = "auto",
        size_factor: Literal["model_genes", "all_genes"] = "model_genes",
        duplicates: Literal["error", "sum"] = "error",
        allow_fractional: bool = False,
        nan: Literal["error", "zero"] = "error",
        **kwargs: object,
    ) -> None:
        """Register training cells of two modalities, paired by name.

        Cells that have the RNA alone are kept: they are predicted like others, and models that can
        learn from them do. What is NaN in the other modality was not measured; with a
        ``batch_key`` neither was a feature that is zero in a whole batch, though by the other
        batches about twenty of its cells or more should have a value.

        Parameters
        ----------
        mdata
            Training cells; only scvi-tools' bookkeeping is written to ``uns`` and ``obs``.
        rna_modality, target_modality
            Names in ``mdata.mod`` of what is read and what is predicted; RNA is found under its
            usual names (``"gex"``), and the target may be left out where there is one other
            modality.
        layer, target_layer
            Where the values of each are; default ``X``.
        batch_key
            Column of the RNA's ``obs`` that names the batch, for models that are told batches, and
            to find panels of features that differ between batches.
        donor_key
            Column or columns of the RNA's ``obs`` that name the donor.
        input_kind, size_factor, duplicates, allow_fractional, nan
            Of the RNA, as for other models.

        Raises
        ------
        InputDataError, UsageError
            The data cannot be used: see ``episome.data.pair_modalities`` for the pairing.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        given: PairedCells | None = kwargs.pop(SOURCE, None)  # type: ignore[assignment]
        require_words(
            kwargs, input_kind=input_kind, size_factor=size_factor, duplicates=duplicates, nan=nan
        )
        rna_modality = _usual_rna(modalities_of(mdata), rna_modality)
        if target_modality is None:
            target_modality = _only_other(modalities_of(mdata), rna_modality, cls.__name__)
        _require_two(rna_modality, target_modality)
        setup_method_args["setup_args"] |= {
            "rna_modality": rna_modality,
            "target_modality": target_modality,
        }
        here = {"mod_required": True, "mod_key": rna_modality}
        there = {"mod_required": True, "mod_key": target_modality}
        if kwargs.get("source_registry") is not None:
            fields = [
                _MuDataExpression("X", layer, **here),
                _MuDataTarget(TARGET, target_layer, **there),
            ]
        else:
            names = [rna_modality, target_modality]
            if given is None:
                pair_modalities(mdata, names, keep="first")
                parts: dict[str, CellSource] = {
                    m: AnnDataSource(mdata.mod[m], layer=at, name=m)
                    for m, at in zip(names, (layer, target_layer), strict=True)
                }
            else:
                parts = dict(given.sources)
            found = Collector()
            with found.collecting():
                features, rule = registered_input(
                    parts[rna_modality],
                    input_kind,
                    size_factor,
                    duplicates,
                    allow_fractional=allow_fractional,
                    nan=nan,
                )
            target = parts[target_modality]
            with found.collecting():
                report = inspect_values(target)
                # What is NaN in another modality was not measured.
                problems = [p for p in unusable_values(report) if p.code != "E-D01"]
                raise_problems(InputDataError, [*problems, *cls._target_problems(report)])
            logger.info("%s holds %s (%s)", target.where, report.kind, report.evidence)
            kind = cls._kind_of(target_modality, target.var)
            with found.collecting():
                targets = FeatureSpace.from_var(target.var, where=target.where, modality=kind)
            found.raise_all()
            rna = mdata.mod[rna_modality]
            require_batches(rna, batch_key)
            if donor_key is not None:
                definite_donors(combined_column(rna, donor_key))
            fields = [
                _MuDataExpression("X", layer, features=features, rule=rule, **here),
                _MuDataTarget(TARGET, target_layer, features=targets, values=report.kind, **there),
            ]
        fields.append(_MuDataBatch(batch_key, **here))
        manager = AnnDataManager(
            fields=fields,
            setup_method_args=setup_method_args,
            # Cells are paired by name here, and may lack a modality.
            validation_checks=AnnDataManagerValidationCheck(check_fully_paired_mudata=False),
        )
        manager.register_fields(mdata, **kwargs)
        cls.register_manager(manager)

    @classmethod
    def _target_problems(cls, report: ValueReport) -> list[Problem]:
        """Return what is wrong with the values to predict, beside what no scale can hold."""
        return _negative_counts(report)

    @classmethod
    def _kind_of(cls, name: str, var: pd.DataFrame) -> str:
        """Say what the features of the other modality are."""
        if cls.target_kind != "auto":
            return cls.target_kind
        found = modality_kind(name, var)
        return "other" if found == "rna" else found

    @classmethod
    def setup_source(  # type: ignore[override]  # two modalities in the place of labels
        cls,
        data: MuData | Mapping[str, Any] | str | Path,
        *,
        rna_modality: str = "rna",
        target_modality: str | None = None,
        **setup: Any,
    ) -> PreparedCells:
        """Set training cells of two modalities up where they are, without reading them to memory.

        Parameters
        ----------
        data
            A file or zarr store of MuData, which is read in blocks; or by the name of the modality
            a path, corpus, ``CellSource`` or AnnData object of each; or MuData.
        rna_modality, target_modality
            As for :meth:`setup_mudata`.
        **setup
            Of :meth:`setup_mudata`.

        Raises
        ------
        UsageError, InputDataError, InputFileError
            As for :meth:`setup_mudata`; E-U83: the model wants its cells as an object.

        Examples
        --------
        >>> cells = CrossModal.setup_source(
        ...     {"rna": "r.corpus", "prot": "p.h5ad"}
        ... )  # doctest: +SKIP
        >>> model = CrossModal(cells)  # doctest: +SKIP
        """
        require_reader(cls)
        held = modality_names(data)
        rna_modality = _usual_rna(held, rna_modality)
        if target_modality is None:
            target_modality = _only_other(held, rna_modality, cls.__name__)
        _require_two(rna_modality, target_modality)
        names = (rna_modality, target_modality)
        layers = {rna_modality: setup.get("layer"), target_modality: setup.get("target_layer")}
        return prepared_pairs(cls, paired_cells(data, names, **layers), names, setup)

    @classmethod
    def _prepared(cls, data: object) -> PreparedCells | None:
        if isinstance(data, str | Path) or (isinstance(data, Mapping) and cls.reads_sources):
            return cls.setup_source(data)
        return super()._prepared(data) if isinstance(data, PreparedCells) else None

    @classmethod
    def _is_set_up(cls, adata: MuData) -> bool:
        if not modalities_of(adata):
            raise UsageError(
                "E-U63",
                f"{cls.__name__} is trained on cells of two modalities, not on a "
                f"{type(adata).__name__}",
                fix=f"{cls.__name__}.setup_mudata(mdata), then {cls.__name__}(mdata)",
            )
        manager = cls._setup_adata_manager_store.get(adata.uns.get("_scvi_uuid"))
        if manager is None or manager.adata is not adata:
            raise UsageError(
                "E-U28",
                "the object is not set up",
                where="mdata",
                why=f"its modalities are {', '.join(modalities_of(adata))}",
                fix=f"call {cls.__name__}.setup_mudata(mdata, ...) first",
            )
        return True

    @property
    def target_features(self) -> FeatureSpace:
        """Features that are predicted, in the order of the outputs."""
        usual = "protein" if self.target_kind == "auto" else self.target_kind
        return features_of(self._state_registry(TARGET), usual)

    @property
    def batches(self) -> tuple[str, ...]:
        """Names of the batches of the training cells; one where none were named."""
        return batch_names(self)

    @property
    def target_holds_counts(self) -> bool:
        """Whether the values to predict were counts at set-up, if not all of them whole."""
        state = self._state_registry(TARGET)
        return state.get(TargetField.VALUES_KEY) in {"counts", "fractional", "empty"}

    def _target_config(self) -> dict[str, Any]:
        """Return what the core's configuration says about the target."""
        features = self.target_features
        return {"n_targets": {features.modality: len(features)}}

    def _training_scale(self) -> ScaleName:
        """Name of the scale of the values that the loss reads; see ``TargetScale``."""
        return "none"

    def _compared_scale(self) -> ScaleName:
        """Name of the scale that predictions are on."""
        return self._training_scale()

    def _scale_options(self) -> dict[str, Any]:
        """Return further arguments of ``TargetScale.fit``."""
        return {}

    # --- training cells -------------------------------------------------------------------

    def _paired(self) -> PairedCells:
        """Pair the training cells, once for every object."""
        if self._pairs is None or self._pairs[0] is not self.adata:
            self._pairs = (self.adata, self._pair())
        return self._pairs[1]

    def _pair(self) -> PairedCells:
        args = self.setup_args
        return pair_modalities(
            self.adata,
            [args["rna_modality"], args["target_modality"]],
            layers={
                args["rna_modality"]: args.get("layer"),
                args["target_modality"]: args.get("target_layer"),
            },
            keep="first",
        )

    def training_source(self) -> CellSource:
        """Return the RNA of the training cells, with those that have no other modality."""
        if self._cells is not None or self.adata is None:
            return super().training_source()
        return self._paired().sources[self.setup_args["rna_modality"]]

    def _present(self) -> NDArray[np.bool_]:
        """Return which training cells have the other modality, bool (n_obs,)."""
        if self._cells is not None:
            found = self._cells.present
        else:
            found = self._paired().present.get(self.setup_args["target_modality"])
        n_obs = self.training_source().n_obs
        return np.ones(n_obs, dtype=bool) if found is None else found

    def _learns_from_rna_alone(self) -> bool:
        """Whether cells without the other modality take part in training."""
        return False

    def training_codes(self) -> NDArray[np.int64]:
        """Zero for cells that take part, -1 for those that lack the other modality."""
        if self._learns_from_rna_alone():
            return np.zeros(self.training_source().n_obs, dtype=np.int64)
        return np.where(self._present(), 0, -1).astype(np.int64)

    def training_donors(self) -> NDArray[np.object_] | None:
        """Donor of every training cell (``None`` where it is not definite), or ``None``."""
        key = self.setup_args.get("donor_key")
        if self._cells is not None or key is None:
            return None if key is None else super().training_donors()
        rna = self.adata.mod[self.setup_args["rna_modality"]]
        return definite_donors(combined_column(rna, key))

    def _target_source(self) -> CellSource:
        """Measured values as they are, by the rows of the RNA."""
        name = self.setup_args["target_modality"]
        if self._cells is not None:
            return self._cells.others[name]
        return self._paired().sources[name]

    def measured_target(self) -> MeasuredTarget:
        """Return the measured values of the training cells; they are looked at once."""
        if self._measured is None:
            codes = None
            if self.setup_args.get("batch_key") is not None:
                codes = batch_codes(self, self.training_source())
            self._measured = MeasuredTarget.of(self._target_source(), self._present(), codes)
        return self._measured

    def fit_target(self, rows: NDArray[np.int64]) -> TargetScale:
        """Fit the scales of the target on training cells, and nobody else's.

        Parameters
        ----------
        rows
            Training cells.

        Returns
        -------
        The scale of the values to train on; ``target_.scale`` is that of predictions.

        Raises
        ------
        InputDataError
            Features were not measured in all cells, and the model cannot leave them out (E-D63);
            and those of ``TargetScale.fit``.
        """
        measured, features = self.measured_target(), self.target_features
        rows = rows[measured.present[rows]]
        if not self.masks_panels:
            self._require_measured(measured.lacking(rows))
        options = self._scale_options()
        names = {self._training_scale(), self._compared_scale()}
        scales = {
            n: TargetScale.fit(n, measured.source, rows, **options.get(n, {})) for n in names
        }
        args = self.setup_args
        told = self.told_batches and args.get("batch_key") is not None
        never = None
        if measured.panels is not None:
            here = measured.panels.measured[np.unique(measured.panels.codes[rows])]
            never = ~np.any(here, axis=0, keepdims=False)
            never = never if never.any() else None
        self.target_ = TargetFacts(
            features.ids,
            never=never,
            kind=features.modality,
            scale=scales[self._compared_scale()],
            batch_key=args.get("batch_key") if told else None,
            batches=self.batches if told else (),
        )
        return scales[self._training_scale()]

    def _require_measured(self, lacking: NDArray[np.int64]) -> None:
        """Refuse features that some cells were not measured for: they would be read as zero."""
        if len(lacking):
            names = self.target_features.ids
            raise InputDataError(
                "E-D63",
                "features that were not measured in all cells",
                where=f"modality {self.setup_args['target_modality']!r}",
                count=len(lacking),
                total=len(names),
                examples=[names[i] for i in lacking[:3]],
                why=f"{type(self).__name__} would read them as zero",
                fix="leave these features out, or take a model that masks them cell by cell",
            )

    def _other_sources(self) -> dict[str, CellSource]:
        measured = self.measured_target()
        return {self.target_features.modality: measured.on(self._scale)}

    def _columns(self, source: CellSource) -> dict[str, NDArray[Any]]:
        measured, kind = self.measured_target(), self.target_features.modality
        panels = measured.panels
        codes = np.zeros(source.n_obs, dtype=np.int64) if panels is None else panels.codes
        return {
            f"{kind}_present": measured.present,
            f"{kind}_panel": codes,
            BATCH_KEY: batch_codes(self, source),
        }

    def _calibration_size(
        self, given: float | None, train_size: float | None, validation_size: float | None
    ) -> float:
        """Return the share of the cells that intervals are made of."""
        if given is not None or train_size is not None or validation_size is not None:
            return float(given or 0.0)
        return default_share(int((self.training_codes() >= 0).sum()))

    #: Of the values that the running training reads.
    _scale: TargetScale | None = None

    @contextmanager
    def _keeping_target(self) -> Iterator[None]:
        """Let what is known of predictions be as before where a training fails."""
        before = self.target_
        try:
            yield
        except BaseException:
            self.target_ = before
            raise
        finally:
            # The owner of the cells may change them before the next training.
            self._measured = self._scale = None

    def _train(self, *args: Any, **kwargs: Any) -> None:
        with self._keeping_target():
            super()._train(*args, **kwargs)

    def _train_on(self, *args: Any, **kwargs: Any) -> None:
        with self._keeping_target():
            super()._train_on(*args, **kwargs)

    def _cells_for(
        self, query: Query, split: Split, batch_size: int, **kwargs: Any
    ) -> CellDataModule:
        self._scale = self.fit_target(np.asarray(split.train, dtype=np.int64))
        found: CellDataModule = super()._cells_for(query, split, batch_size, **kwargs)
        return found

    def _fit(self, datamodule: CellDataModule, *args: Any, **kwargs: Any) -> None:
        core: Any = self.module
        if self.masks_panels:
            core.set_panels(self.measured_target().panels if self.has_data else None)
        try:
            super()._fit(datamodule, *args, **kwargs)
        finally:
            if self.masks_panels:
                core.set_panels(None)

    def _hold_out(self, datamodule: CellDataModule, *, again: bool) -> None:
        """Make intervals and the table of features of cells that were not trained on."""
        super()._hold_out(datamodule, again=again)
        split = datamodule.split
        measured = self._measured
        if measured is None or self.target_ is None or again:
            return
        own, chosen = (p[measured.present[p]] for p in (split.calibration, split.validation))
        rows = own if len(own) >= _MIN_HELD_OUT else chosen
        self.target_ = replace(self.target_, intervals={}, table=None)
        if len(rows) < _MIN_HELD_OUT:
            return
        rows = _some_of(rows, max(_HELD_VALUES // len(self.target_features), _MIN_HELD_OUT))
        truth = measured.dense(rows, self.target_.scale)
        found: dict[str, Intervals] = {}
        for name in ("unseen", "known") if len(self.target_.batches) > 1 else ("unseen",):
            said = self._said(datamodule, rows, hidden=name == "unseen")
            if self.target_.scale is not None and self.target_.scale.name != "binary":
                found[name] = Intervals.fit(said, truth, minimum=_minimum(self.target_.scale))
            if name == "unseen":
                table = feature_scores(said, truth, list(self.target_.names))
        self.target_ = replace(self.target_, intervals=found, table=table)

    def _said(
        self, datamodule: CellDataModule, rows: NDArray[np.int64], *, hidden: bool
    ) -> NDArray[np.float32]:
        """Predict cells of a data module; ``hidden``: as if they were of no known batch."""
        told = copy.copy(datamodule)
        if hidden:
            codes = datamodule.columns[BATCH_KEY]
            told.columns = {**datamodule.columns, BATCH_KEY: np.full_like(codes, -1)}
        # A predictor of its own: the model does not count as trained yet.
        predictor = Predictor(self.module, features=self.features, rule=self.input_rule)
        parts = [o["target"] for o in predictor.stream(told, rows=rows, outputs=["target"])]
        return np.concatenate(parts).astype(np.float32, copy=False)

    def close(self) -> None:
        """Let go of the training data; the model can still predict and save."""
        self._pairs = self._measured = None
        super().close()

    def _attach(self, adata: MuData) -> None:
        if not modalities_of(adata):
            raise UsageError(
                "E-U63",
                "AnnData cannot be attached to a model of two modalities",
                fix="pass mdata",
            )
        cls = type(self)
        paired = pair_modalities(
            adata,
            [self.setup_args["rna_modality"], self.setup_args["target_modality"]],
            keep="first",
        )
        source = paired.sources[self.setup_args["rna_modality"]]
        self.features.align(source.var, duplicates="sum", where=source.where)
        cls.setup_mudata(adata, source_registry=self.registry, **self.registry["setup_args"])
        self._adata = adata
        self._adata_manager = cls._get_most_recent_anndata_manager(adata, required=True)
        self._register_manager_for_instance(self._adata_manager)

    # --- folders --------------------------------------------------------------------------

    def _more_parts(self) -> tuple[dict[str, NDArray[np.generic]], dict[str, Any]]:
        if self.target_ is None:
            return {}, {}
        tensors, plain = self.target_.to_parts()
        return tensors, {"target": plain}

    @classmethod
    def from_parts(cls, folder: ModelFolder, *args: Any, **kwargs: Any) -> Any:
        """Build a model from the parts of its folder, with what is known of its predictions."""
        model = super().from_parts(folder, *args, **kwargs)
        model.target_ = folder_target(folder)
        return model


def _negative_counts(report: ValueReport) -> list[Problem]:
    """Refuse counts of which some are negative: they would be read as values of another scale."""
    whole = report.n_fractional == 0 and report.maximum > 1
    # CLR and its like are negative often, and not whole.
    if not whole or not 0 < report.n_negative < 0.1 * max(report.n_stored, 1):
        return []
    return [
        Problem(
            "E-D04",
            "negative values among whole numbers",
            where=report.where,
            count=report.n_negative,
            total=report.n_stored,
            examples=list(report.first_bad),
            why="counts are none below zero, and other values are seldom whole",
            fix="set them to what they should be, or NaN where nothing was measured",
        )
    ]


def _require_two(rna_modality: str, target_modality: str) -> None:
    """Refuse to predict a modality from itself.

    Raises
    ------
    UsageError
        E-U63.
    """
    if rna_modality == target_modality:
        raise UsageError(
            "E-U63",
            f"{target_modality!r} is to be predicted from itself",
            where="setup_mudata()",
            fix="name another modality, target_modality= (--target-modality)",
        )


def _minimum(scale: TargetScale) -> float | None:
    """Return the smallest value of a scale, where it has one."""
    return 0.0 if scale.name in {"log1p", "tfidf", "clr", "clr_cells"} else None


def _some_of(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return so many rows at most, evenly over all of them."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def _usual_rna(names: Sequence[str], wanted: str) -> str:
    """Return the RNA under another usual name, such as ``"gex"``, where it is not called so."""
    if wanted != "rna" or wanted in names:
        return wanted
    return rna_among(names) or wanted


def _only_other(names: Sequence[str], rna_modality: str, model: str) -> str:
    others: list[str] = [m for m in names if m != rna_modality]
    if len(others) != 1:
        raise UsageError(
            "E-U63",
            "it is not clear what is to be predicted" if others else "there is no second modality",
            where="mdata.mod",
            why=f"its modalities are {', '.join(names) or 'none'}",
            fix=f"name both: {model}.setup_mudata(mdata, rna_modality=..., target_modality=...), "
            "or --rna-modality and --target-modality"
            if others
            else "pass cells with RNA and what is to be predicted from it",
        )
    return others[0]
