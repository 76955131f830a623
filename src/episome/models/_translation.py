"""Capability `translation`: another modality, predicted from the RNA of every cell."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import anndata
import numpy as np
import pandas as pd
from scvi.data import AnnDataManager
from scvi.data.fields import LayerField, MuDataWrapper

from episome.data import (
    AnnDataSource,
    FeatureSpace,
    PairedCells,
    combined_column,
    definite_donors,
    inspect_values,
    modalities_of,
    pair_modalities,
    unusable_values,
)
from episome.errors import Collector, InputDataError, UsageError, raise_problems
from episome.models._arguments import as_rows
from episome.models._fields import ExpressionField, features_from_state
from episome.models._setup import registered_input, require_words

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray

    from episome.data import CellSource, Query
    from episome.models._base import EpisomeModel as _Base
else:
    _Base = object

TARGET = "target"


class TargetField(LayerField):
    """The features of the modality that is predicted."""

    def __init__(
        self, registry_key: str, layer: str | None, *, features: FeatureSpace | None = None
    ) -> None:
        super().__init__(registry_key, layer, is_count_data=False, correct_data_format=False)
        self._features = features

    def register_field(self, adata: AnnData) -> dict[str, object]:
        """Register the names of the features."""
        if self._features is None:
            msg = "a TargetField without features can only be transferred"
            raise RuntimeError(msg)
        return {
            self.N_OBS_KEY: int(adata.n_obs),
            self.N_VARS_KEY: len(self._features),
            self.COLUMN_NAMES_KEY: np.array(self._features.ids, dtype=object),
        }

    def transfer_field(
        self, state_registry: dict[str, object], adata_target: AnnData, **kwargs: object
    ) -> dict[str, object]:
        """Keep the features of the model."""
        return {**state_registry, self.N_OBS_KEY: int(adata_target.n_obs)}


_MuDataExpression = MuDataWrapper(ExpressionField)
_MuDataTarget = MuDataWrapper(TargetField)


class TranslationMixin(_Base):
    """What every model whose core gives ``target`` does the same way; before ``NetworkModel``.

    The model is set up with MuData; batches hold the values of the target under the name that
    ``target_kind`` gives (``batch["protein"]``, dense). Queries are AnnData of RNA, or MuData.
    """

    capabilities: ClassVar[tuple[str, ...]] = ("translation",)
    #: What is predicted: ``"protein"`` or ``"atac"``.
    target_kind: ClassVar[Literal["protein", "atac"]] = "protein"
    #: Its cells have two modalities.
    reads_sources: ClassVar[bool] = False
    _pairs: tuple[object, PairedCells] | None = None

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
        donor_key: str | list[str] | None = None,
        input_kind: Literal["auto", "counts", "log1p"] = "auto",
        size_factor: Literal["model_genes", "all_genes"] = "model_genes",
        duplicates: Literal["error", "sum"] = "error",
        allow_fractional: bool = False,
        nan: Literal["error", "zero"] = "error",
        **kwargs: object,
    ) -> None:
        """Register training cells of two modalities, paired by name.

        Parameters
        ----------
        mdata
            Training cells; only scvi-tools' bookkeeping is written to ``uns``.
        rna_modality, target_modality
            Names in ``mdata.mod`` of what is read and what is predicted; the target may be left
            out where there is one other modality.
        layer, target_layer
            Where the values of each are; default ``X``.
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
        require_words(
            kwargs, input_kind=input_kind, size_factor=size_factor, duplicates=duplicates, nan=nan
        )
        if target_modality is None:
            target_modality = _only_other(mdata, rna_modality, cls.__name__)
            setup_method_args["setup_args"]["target_modality"] = target_modality
        if kwargs.get("source_registry") is not None:
            fields = [
                _MuDataExpression("X", layer, mod_key=rna_modality, mod_required=True),
                _MuDataTarget(TARGET, target_layer, mod_key=target_modality, mod_required=True),
            ]
        else:
            pair_modalities(mdata, [rna_modality, target_modality])
            source = AnnDataSource(mdata.mod[rna_modality], layer=layer, name=rna_modality)
            found = Collector()
            with found.collecting():
                features, rule = registered_input(
                    source,
                    input_kind,
                    size_factor,
                    duplicates,
                    allow_fractional=allow_fractional,
                    nan=nan,
                )
            target = AnnDataSource(
                mdata.mod[target_modality], layer=target_layer, name=target_modality
            )
            with found.collecting():
                raise_problems(InputDataError, unusable_values(inspect_values(target)))
            with found.collecting():
                targets = FeatureSpace.from_var(
                    target.var, where=target.where, modality=cls.target_kind
                )
            found.raise_all()
            if donor_key is not None:
                definite_donors(combined_column(mdata.mod[rna_modality], donor_key))
            fields = [
                _MuDataExpression("X", layer, mod_key=rna_modality, features=features, rule=rule),
                _MuDataTarget(TARGET, target_layer, mod_key=target_modality, features=targets),
            ]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(mdata, **kwargs)
        cls.register_manager(manager)

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
        found = features_from_state(self._state_registry(TARGET))
        return FeatureSpace(found.ids, modality=self.target_kind)

    def _target_config(self) -> dict[str, Any]:
        """Return what the core's configuration says about the target."""
        return {"n_targets": {self.target_kind: len(self.target_features)}}

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
        )

    def training_source(self) -> CellSource:
        """Return the RNA of the training cells that have both modalities."""
        if self.adata is None:
            return super().training_source()
        return self._paired().sources[self.setup_args["rna_modality"]]

    def training_donors(self) -> NDArray[np.object_] | None:
        """Donor of every training cell (``None`` where it is not definite), or ``None``."""
        key = self.setup_args.get("donor_key")
        if key is None:
            return None
        rna = self.adata.mod[self.setup_args["rna_modality"]]
        donors = pd.Series(definite_donors(combined_column(rna, key)), index=rna.obs_names)
        found: NDArray[np.object_] = donors.reindex(self._paired().obs_names).to_numpy(object)
        return found

    def _other_sources(self) -> dict[str, CellSource]:
        return {self.target_kind: self._paired().sources[self.setup_args["target_modality"]]}

    def close(self) -> None:
        """Let go of the training data; the model can still predict and save."""
        self._pairs = None
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
            adata, [self.setup_args["rna_modality"], self.setup_args["target_modality"]]
        )
        source = paired.sources[self.setup_args["rna_modality"]]
        self.features.align(source.var, duplicates="sum", where=source.where)
        cls.setup_mudata(adata, source_registry=self.registry, **self.registry["setup_args"])
        self._adata = adata
        self._adata_manager = cls._get_most_recent_anndata_manager(adata, required=True)
        self._register_manager_for_instance(self._adata_manager)

    # --- queries --------------------------------------------------------------------------

    def prepare(
        self, adata: AnnData | MuData | str | Path | CellSource | None = None, **kwargs: Any
    ) -> Query:
        """Check a query and align its genes; of MuData the RNA is read."""
        mod: Mapping[str, AnnData] = getattr(adata, "mod", {})
        if mod and adata is not self.adata:
            name = self.setup_args["rna_modality"]
            layer, part = kwargs.pop("layer", None), modality_named(mod, name)
            return super().prepare(AnnDataSource(part, layer=layer, name=name), **kwargs)
        return super().prepare(adata, **kwargs)

    def predict_modality(
        self,
        adata: AnnData | MuData | str | Path | CellSource | None = None,
        *,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        **query: Any,
    ) -> AnnData:
        """Return the other modality of every cell, predicted from its RNA.

        Parameters
        ----------
        adata
            Query: RNA, or MuData with RNA; genes are aligned by name, nothing is modified.
            ``None`` takes the training cells.
        indices
            Rows; default all.
        batch_size
            Cells at a time.
        **query
            ``layer``, ``use_raw``, ``input_kind``, ``min_gene_overlap``, ``duplicates``.

        Returns
        -------
        AnnData of shape (n_cells, n_targets): ``X`` dense float32 on the scale that the model was
        trained on, NaN for cells with none of the model's genes; ``obs`` has the cell names alone.
        """
        prepared, rows = self.prepare(adata, **query), as_rows(indices)
        out = self.predictor().collect(prepared, [TARGET], rows=rows, batch_size=batch_size)
        names = prepared.source.obs_names if rows is None else prepared.source.obs_names[rows]
        values = out[TARGET].astype(np.float32)
        if not len(values):
            values = np.empty((0, len(self.target_features)), dtype=np.float32)
        values[out["empty"]] = np.nan
        with warnings.catch_warnings():
            # Rows that are asked for twice are there twice.
            warnings.filterwarnings("ignore", message="Observation names are not unique")
            return anndata.AnnData(
                values,
                obs=pd.DataFrame(index=names.astype(str)),
                var=pd.DataFrame(index=list(self.target_features.ids)),
            )


def modality_named(mod: Mapping[str, AnnData], name: str) -> AnnData:
    """Return a modality.

    Raises
    ------
    UsageError
        There is none of that name (E-U60).
    """
    if name not in mod:
        raise UsageError(
            "E-U60",
            f"there is no modality {name!r}",
            where="mdata.mod",
            why=f"it has {', '.join(mod)}",
            fix="pass the AnnData object of the RNA, or name the modality alike",
        )
    return mod[name]


def _only_other(mdata: MuData, rna_modality: str, model: str) -> str:
    others: list[str] = [m for m in modalities_of(mdata) if m != rna_modality]
    if len(others) != 1:
        raise UsageError(
            "E-U63",
            "it is not clear what is to be predicted",
            where="mdata.mod",
            why=f"its modalities are {', '.join(modalities_of(mdata)) or 'none'}",
            fix=f"{model}.setup_mudata(mdata, rna_modality=..., target_modality=...)",
        )
    return others[0]
