"""`EpisomeModel`: a scvi-tools model under the host's contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import anndata
import numpy as np
import pandas as pd
import rich.pretty  # noqa: F401 - scvi-tools 1.4 uses it in view_anndata_setup without importing it
from scvi.data import AnnDataManager
from scvi.model.base import BaseModelClass

from episome import plugins
from episome.confidence import Confidence
from episome.data import (
    AnnDataSource,
    CellSource,
    FeatureSpace,
    GeneImportance,
    InputRule,
    Labels,
    ObsmSource,
    PreparedCells,
    Query,
    align_dimensions,
    cellxgene_choice,
    combined_column,
    definite_donors,
    modalities_of,
    not_cells,
    prepare_query,
)
from episome.errors import ModelMismatchError, PluginError, UsageError
from episome.inference import (
    Predictor,
    core_from_folder,
    folder_confidence,
    folder_importance,
    folder_labels,
    pick_device,
)
from episome.io import decode, read_model_folder, write_model_folder
from episome.log import get_logger
from episome.models._arguments import require_known_query
from episome.models._fields import (
    ExpressionField,
    features_from_state,
    labels_from_state,
    rule_from_state,
)
from episome.models._folder import model_folder, saved_history, saved_indices
from episome.models._from_source import (
    prepared_by_schema,
    prepared_cells,
    reads_labels,
    require_reader,
)
from episome.models._setup import (
    SOURCE,
    registered_input,
    require_cells,
    require_columns,
    require_words,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.data import SchemaChoice
    from episome.inference import Core
    from episome.io import ModelFolder
    from episome.models._tuning import TuningSpace

logger = get_logger(__name__)

_FIELDS, _STATE = "field_registries", "state_registry"


class EpisomeModel(BaseModelClass):
    """Base of every model of episome.

    It keeps scvi-tools' contract (fields through ``AnnDataManager``, ``setup_anndata``,
    ``history``, ``registry``) and adds the host's: data that follow the CELLxGENE schema are set
    up by themselves, every query is aligned by gene name and never modified, saved folders hold no
    code.

    Parameters
    ----------
    adata
        Training data, set up with ``setup_anndata`` or following the CELLxGENE schema. Models that
        read sources also take what ``setup_source`` returns and, in that schema, the path of a
        file or folder, a list of paths or a ``CellSource``; these are read while training.
    registry
        What a saved model restores instead of data.

    Raises
    ------
    UsageError
        Data that are neither set up nor in the schema (E-U28), set up for another model (E-U84),
        or a view (E-U29).
    """

    capabilities: ClassVar[tuple[str, ...]] = ()
    #: Whether training reads cells in batches, so that they may stay in a file.
    reads_sources: ClassVar[bool] = False
    #: Whether ``setup_anndata(obsm_key=)`` makes sense: dense vectors instead of genes.
    reads_embeddings: ClassVar[bool] = False
    #: The array of ``obsm`` that is read unless the set-up names another; of the models that
    #: ``episome.get_model("embedding:KEY")`` gives.
    default_obsm_key: ClassVar[str | None] = None
    history_: dict[str, pd.DataFrame] | None
    #: Training cells that are no AnnData object.
    _cells: PreparedCells | None = None

    def __init__(
        self,
        adata: AnnData | PreparedCells | str | Path | CellSource | None = None,
        registry: dict[str, object] | None = None,
    ) -> None:
        if (prepared := self._prepared(adata)) is not None:
            adata, registry = None, dict(prepared.registry)
        elif adata is not None and not self._is_set_up(adata):
            self._set_up_from_schema(adata)
        super().__init__(adata, registry)
        self._cells = prepared
        self.fit_: dict[str, Any] = {}
        self.gene_weights_: NDArray[np.float32] | None = None
        self.confidence_ = Confidence()

    # --- set-up -----------------------------------------------------------------------------

    @classmethod
    def tuning_space(cls, *, has_donors: bool = False) -> TuningSpace:
        """Return what ``tune`` tries unless it is told; subclasses add what is theirs.

        Parameters
        ----------
        has_donors
            Whether a donor column is set up.

        Returns
        -------
        Names (``model.X`` of the constructor, ``train.X`` of ``train``, ``plan.X`` of its
        ``plan_kwargs``), each with values to choose from or a range (:class:`Between`); empty
        where nothing is worth trying.
        """
        return {}

    @classmethod
    def check_train_arguments(cls, arguments: Mapping[str, Any]) -> None:
        """Refuse arguments that ``train`` does not take, before any cell is read.

        What depends on the cells is said by ``train``.

        Parameters
        ----------
        arguments
            Of ``train``, by name.

        Raises
        ------
        UsageError
            Unknown arguments (E-U16, E-U21).
        """

    @classmethod
    def setup_source(
        cls,
        data: AnnData | str | Path | CellSource | Sequence[AnnData | str | Path | CellSource],
        labels_key: str | None = None,
        **setup: Any,
    ) -> PreparedCells:
        """Set training cells up where they are, without reading them into memory.

        All values are scanned once; the columns that are named are read, and nothing is written.
        Give the answer to the constructor in the place of an AnnData object.

        Parameters
        ----------
        data
            Path of an h5ad file or zarr store, which are read in blocks, or of any other file of
            cells; a folder of h5ad files or a list, which become one (``ManyCells``); a
            ``CellSource``; or an object, AnnData or MuData, for one call for everything.
        labels_key
            Column of the cell types, for annotators.
        **setup
            Of ``setup_anndata`` of this model: ``donor_key``, ``layer``, ``use_raw``,
            ``input_kind``, ...; and ``modality``, the name of the one to read where the data
            holds several (MuData, h5mu).

        Returns
        -------
        The cells as the model will read them.

        Raises
        ------
        UsageError
            The model needs its cells as an object (E-U83), a column is missing (E-U04).
        InputDataError, LabelError, InputFileError
            The data cannot be used; all reasons are named.

        Examples
        --------
        >>> cells = SCTab.setup_source("atlas.h5ad", "cell_type")  # doctest: +SKIP
        >>> model = SCTab(cells)  # doctest: +SKIP
        """
        labels = {} if labels_key is None else {"labels_key": labels_key}
        return prepared_cells(cls, data, {**labels, **setup})

    @classmethod
    def _prepared(cls, data: object) -> PreparedCells | None:
        """Return cells that are no object of AnnData, set up; ``None`` for all else."""
        if isinstance(data, PreparedCells):
            require_reader(cls)
            if data.model != cls.__name__:
                raise UsageError(
                    "E-U84",
                    f"the cells were set up for {data.model}, not for {cls.__name__}",
                    where=data.where,
                    why="every model sets up what it needs",
                    fix=f"{cls.__name__}.setup_source(data, ...)",
                )
            return data
        if not cls.reads_sources or not isinstance(data, str | Path | list | tuple | CellSource):
            return None
        return prepared_by_schema(cls, data)

    @classmethod
    def _is_set_up(cls, adata: AnnData) -> bool:
        if not isinstance(adata, anndata.AnnData):
            if modalities_of(adata):
                raise not_cells(adata)
            raise UsageError(
                "E-U07",
                f"a model cannot be made from a {type(adata).__name__}",
                why="an AnnData object is expected",
                fix="adata = scanpy.read_h5ad(path)",
            )
        manager = cls._setup_adata_manager_store.get(adata.uns.get("_scvi_uuid"))
        return manager is not None and manager.adata is adata

    @classmethod
    def _set_up_from_schema(cls, adata: AnnData) -> None:
        choice = cellxgene_choice(adata, model=cls.__name__, needs_labels=reads_labels(cls))
        logger.info("set up by the CELLxGENE columns: %s", choice.text)
        cls.setup_anndata(
            adata,
            donor_key=list(choice.donor_key) if choice.donor_key else None,
            layer=choice.layer,
            use_raw=choice.use_raw,
            **cls._labels_of_schema(choice),
        )

    @classmethod
    def _labels_of_schema(cls, choice: SchemaChoice) -> dict[str, Any]:
        """Arguments of the set-up beside where values and donors are."""
        return {}

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        layer: str | None = None,
        use_raw: bool | Literal["auto"] = False,
        donor_key: str | list[str] | None = None,
        input_kind: Literal["auto", "counts", "log1p"] = "auto",
        size_factor: Literal["model_genes", "all_genes"] = "model_genes",
        duplicates: Literal["error", "sum"] = "error",
        allow_fractional: bool = False,
        nan: Literal["error", "zero"] = "error",
        **kwargs: object,
    ) -> None:
        """Register training data that need no labels.

        Reads the chosen matrix, ``var`` and the donor columns; writes only scvi-tools' bookkeeping
        (``uns["_scvi_uuid"]``, ``uns["_scvi_manager_uuid"]``).

        Parameters
        ----------
        adata
            Training cells.
        layer, use_raw
            Where the values are; default ``X``. ``use_raw="auto"`` takes ``raw`` where ``X``
            holds no counts and ``raw`` does, and records which.
        donor_key
            Column or columns that name the donor; whole donors are held out for validation.
        input_kind
            What the values are; ``"auto"`` decides by a scan of all of them and records it.
        size_factor
            Genes that make up the library size of counts.
        duplicates
            ``"sum"`` adds up genes of one name.
        allow_fractional
            Say nothing about counts that are not integers.
        nan
            ``"zero"`` reads NaN in training cells as zero, and says how many.

        Raises
        ------
        InputDataError, UsageError
            The data cannot be used; all reasons are named.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        given: CellSource | None = kwargs.pop(SOURCE, None)  # type: ignore[assignment]
        require_cells(adata)
        require_words(
            kwargs, input_kind=input_kind, size_factor=size_factor, duplicates=duplicates, nan=nan
        )
        if kwargs.get("source_registry") is not None:
            fields = [ExpressionField("X", layer, use_raw=bool(use_raw))]
        else:
            require_columns(adata, donor_key)
            source = given or AnnDataSource(adata, layer=layer, use_raw=use_raw)
            # What "auto" found here is what is read from now on.
            use_raw = bool(getattr(source, "use_raw", False))
            setup_method_args["setup_args"]["use_raw"] = use_raw
            features, rule = registered_input(
                source,
                input_kind,
                size_factor,
                duplicates,
                allow_fractional=allow_fractional,
                nan=nan,
            )
            if donor_key is not None:
                definite_donors(combined_column(adata, donor_key))
            fields = [ExpressionField("X", layer, use_raw=use_raw, features=features, rule=rule)]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    # --- what the registry holds ------------------------------------------------------------

    def _state_registry(self, key: str) -> dict[str, Any]:
        state: dict[str, Any] = self.registry[_FIELDS][key][_STATE]
        return state

    @property
    def features(self) -> FeatureSpace:
        """Genes of the model, in its order."""
        return features_from_state(self._state_registry("X"))

    @property
    def input_rule(self) -> InputRule:
        """What the model's input values are and how counts become its scale."""
        return rule_from_state(self._state_registry("X"))

    @property
    def labels(self) -> Labels | None:
        """Classes in the order of the outputs; ``None`` for models that do not annotate."""
        if "labels" not in self.registry[_FIELDS]:
            return None
        return labels_from_state(self._state_registry("labels"))

    @property
    def gene_importance(self) -> GeneImportance | None:
        """Share of the model's weight that every gene carries; ``None`` where nobody knows."""
        if self.gene_weights_ is None or self.labels is None:
            return None
        return GeneImportance(self.gene_weights_, self.labels.names)

    @property
    def setup_args(self) -> dict[str, Any]:
        """Arguments of the set-up call."""
        return dict(self.registry["setup_args"])

    # --- data -------------------------------------------------------------------------------

    @property
    def has_data(self) -> bool:
        """Whether the model holds training cells, in memory or elsewhere."""
        return self.adata is not None or self._cells is not None

    def training_source(self) -> CellSource:
        """Return the training cells.

        Raises
        ------
        UsageError
            The model was loaded without data (E-U17).
        """
        if self._cells is not None:
            return self._cells.source
        return self._source_of(self._require_adata())

    def _require_adata(self) -> AnnData:
        """Return the object that the model was made from; what scvi-tools' own methods read."""
        if self.adata is not None:
            return self.adata
        if self._cells is None:
            raise UsageError(
                "E-U17",
                "the model holds no data",
                why="it was loaded or made without an AnnData object",
                fix="pass adata=, or load it with episome.models.load(folder, adata=adata)",
            )
        raise UsageError(
            "E-U17",
            "this needs an AnnData object, and the model reads its cells from a source",
            where=self._cells.where,
            why="the cells are not in memory",
            fix="pass adata=, some cells that fit into memory",
        )

    def _source_of(self, adata: AnnData) -> AnnDataSource | ObsmSource:
        """Cells set up as the training cells were."""
        args = self.setup_args
        if args.get("obsm_key") is not None:
            return ObsmSource(adata, args["obsm_key"])
        return AnnDataSource(adata, layer=args.get("layer"), use_raw=bool(args.get("use_raw")))

    def training_codes(self) -> NDArray[np.int64]:
        """Class code of every training cell, -1 for those that take no part; zeros without any."""
        return np.zeros(self.training_source().n_obs, dtype=np.int64)

    def training_donors(self) -> NDArray[np.object_] | None:
        """Donor of every training cell (``None`` where it is not definite), or ``None``."""
        if self._cells is not None:
            return self._cells.donors
        key = self.setup_args.get("donor_key")
        return None if key is None else definite_donors(combined_column(self.adata, key))

    def training_query(self) -> Query:
        """Training cells, aligned and ready to be read."""
        return self.prepare(None)

    def prepare(
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        *,
        layer: str | None = None,
        use_raw: bool | Literal["auto"] = False,
        **kwargs: Any,
    ) -> Query:
        """Check a query and align its genes to the model's.

        Parameters
        ----------
        adata
            Query; ``None`` takes the training cells with their own layer.
        layer, use_raw
            Where its values are.
        **kwargs
            Of ``episome.data.prepare_query``.
        """
        return self.prepare_as(
            adata, importance=self.gene_importance, layer=layer, use_raw=use_raw, **kwargs
        )

    def prepare_as(
        self,
        adata: AnnData | str | Path | CellSource | None,
        *,
        importance: GeneImportance | None,
        **kwargs: Any,
    ) -> Query:
        """Prepare a query for what this model is a part of; see :meth:`prepare`.

        Parameters
        ----------
        adata
            Query; ``None`` takes the training cells.
        importance
            Weight of the genes in the whole.
        **kwargs
            Of :meth:`prepare`.
        """
        require_known_query(kwargs)
        rule = self.input_rule
        if adata is None or adata is self.adata or adata is self._cells:
            source: AnnData | str | Path | CellSource = self.training_source()
            kwargs.setdefault("input_kind", rule.input_kind)
            kwargs.setdefault("duplicates", "sum")
            kwargs.setdefault("nan", self.setup_args.get("nan", "error"))
            # What they hold was said at set-up.
            kwargs.setdefault("allow_fractional", True)
            rule = replace(rule, organisms=())
        else:
            source = adata
        return prepare_query(source, self.features, rule, importance=importance, **kwargs)

    def predictor(self) -> Predictor:
        """Return the live model's predictor, on its device."""
        self._require_trained()
        return Predictor(
            self.module,
            features=self.features,
            rule=self.input_rule,
            labels=self.labels,
            importance=self.gene_importance,
            confidence=self.confidence_,
        )

    def _require_trained(self) -> None:
        if not self.is_trained_:
            raise UsageError(
                "E-M20",
                "the model is not trained",
                why="its calls and its saved folder would be noise",
                fix="call train() first",
            )

    def _validate_anndata(
        self,
        adata: AnnData | None = None,
        copy_if_view: bool = True,  # noqa: FBT001, FBT002 - scvi-tools' signature
    ) -> AnnData:
        """Return an aligned stand-in of ``adata`` that scvi-tools' own methods can read.

        Genes are in the model's order, labels and unknown batches are filled in; the caller's
        object is not touched. Earlier queries of this model are let go.
        """
        if adata is None or adata is self.adata:
            self._require_adata()
            return super()._validate_anndata(None, copy_if_view=False)
        self.release_queries()
        aligned = self._stand_in(adata)
        setup = type(self)._transfer_setup
        self._register_manager_for_instance(setup(aligned, self.registry))
        return aligned

    def get_anndata_manager(self, adata: AnnData | None, *args: Any, **kwargs: Any) -> Any:
        """Return the manager of an object, as scvi-tools has it.

        Raises
        ------
        UsageError
            There is no object (E-U17).
        """
        return super().get_anndata_manager(
            self._require_adata() if adata is None else adata, *args, **kwargs
        )

    def view_anndata_setup(self, adata: AnnData | None = None, *args: Any, **kwargs: Any) -> None:
        """Print what was set up, as scvi-tools has it.

        Raises
        ------
        UsageError
            There is no object (E-U17).
        """
        adata = self._require_adata() if adata is None else adata
        super().view_anndata_setup(adata, *args, **kwargs)

    @classmethod
    def _transfer_setup(cls, adata: AnnData, registry: Mapping[str, Any]) -> AnnDataManager:
        """Set up a stand-in from a registry and take the manager out of the class-wide store."""
        method = getattr(cls, str(registry["setup_method_name"]))
        method(adata, source_registry=registry, **registry["setup_args"])
        return cls._setup_adata_manager_store.pop(adata.uns["_scvi_uuid"])

    def _stand_in(self, adata: AnnData) -> AnnData:
        args = self.setup_args
        layer = args.get("layer") if args.get("layer") in adata.layers else None
        use_raw = bool(args.get("use_raw")) and adata.raw is not None
        query = self.prepare(adata, layer=layer, use_raw=use_raw)
        matrix = query.alignment.apply(query.source.read(slice(0, query.source.n_obs)))
        obs = pd.DataFrame(index=adata.obs_names)
        for name, entry in self.registry[_FIELDS].items():
            if name in {"X", "labels"}:
                continue
            self._fill_column(obs, adata, entry[_STATE])
        var = pd.DataFrame(index=list(self.features.ids))
        layers = {args["layer"]: matrix} if args.get("layer") else None
        return anndata.AnnData(matrix, obs=obs, var=var, layers=layers)

    @staticmethod
    def _fill_column(obs: pd.DataFrame, adata: AnnData, state: Mapping[str, Any]) -> None:
        """Copy a categorical column; unknown or absent values become its first category."""
        key, known = state.get("original_key"), state.get("categorical_mapping")
        if key is None or known is None or str(key).startswith("_scvi"):
            return
        first = known[0]
        values = adata.obs[key].astype(str) if key in adata.obs else pd.Series(first, obs.index)
        obs[key] = pd.Categorical(values.where(values.isin(list(known)), first))

    def release_queries(self) -> None:
        """Let go of every object but the training data that scvi-tools' stores keep alive."""
        store = self._per_instance_manager_store.get(self.id, {})
        keep = None if self.adata_manager is None else self.adata_manager.adata_uuid
        for uuid in [u for u in store if u != keep]:
            del store[uuid]

    def close(self) -> None:
        """Let go of the training data too; the model can still predict and save."""
        if self.adata_manager is not None:
            self._setup_adata_manager_store.pop(self.adata_manager.adata_uuid, None)
        self._per_instance_manager_store.pop(self.id, None)
        self._adata = self._adata_manager = self._cells = None

    # --- folders ----------------------------------------------------------------------------

    def save(
        self,
        dir_path: str | Path,
        *,
        overwrite: bool = False,
        format: Literal["episome", "scvi"] = "episome",
        **kwargs: object,
    ) -> None:
        """Save the model as a folder of safetensors, JSON and tables.

        Parameters
        ----------
        dir_path
            The folder.
        overwrite
            Replace an existing one; the old one stays whole until the new one is.
        format
            ``"scvi"`` writes scvi-tools' own pickle instead.
        **kwargs
            Of scvi-tools' ``save`` with ``format="scvi"``.

        Raises
        ------
        UsageError
            The model is not trained (E-M20), or unknown arguments (E-U18).
        """
        self._require_trained()
        if format == "scvi":
            if kwargs.get("save_anndata"):
                self._require_adata()
            super().save(str(dir_path), overwrite=overwrite, **kwargs)
            return
        if kwargs or format != "episome":
            raise UsageError(
                "E-U18",
                f"save() does not take {sorted(kwargs) or format!r} for an episome folder",
                why="data are not saved with the model, and names have no prefix",
                fix='leave it out, or pass format="scvi" for scvi-tools\' own file',
            )
        write_model_folder(dir_path, model_folder(self), overwrite=overwrite)
        logger.info("saved %s", dir_path)

    @classmethod
    def load(
        cls,
        dir_path: str | Path,
        adata: AnnData | Literal[False] | None = None,
        *,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> EpisomeModel:
        """Load a model folder; nothing in it is executed.

        Parameters
        ----------
        dir_path
            A folder that :meth:`save` wrote.
        adata
            Data to attach, in any gene order; it is set up with the saved arguments.
        accelerator, device
            Where the model goes; ``"auto"`` takes a GPU when there is one.

        Raises
        ------
        ModelFileError, UntrustedModelError
            See ``episome.io.read_model_folder``.
        ModelMismatchError
            The folder holds another model class (E-M08).
        """
        folder = read_model_folder(dir_path)
        saved = folder.manifest["model"]
        if saved["class"] != cls.__name__:
            raise ModelMismatchError(
                "E-M08",
                f"the folder holds a {saved['class']}, not a {cls.__name__}",
                where=str(dir_path),
                fix=f"{saved['class']}.load(folder), or episome.models.load(folder)",
            )
        return cls.from_parts(folder, adata, accelerator=accelerator, device=device)

    @classmethod
    def from_parts(
        cls,
        folder: ModelFolder,
        adata: AnnData | Literal[False] | None = None,
        *,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> EpisomeModel:
        """Build a model from the parts of its folder; see :meth:`load`."""
        folder_labels(folder)
        registry = decode(folder.manifest["registry"])
        params: dict[str, Any] = decode(folder.manifest["init_params"])
        model = cls(registry=registry, **params)
        core = core_from_folder(folder, type(model.module))
        where = "cpu" if accelerator == "cpu" else device
        core.to(pick_device(f"cuda:{where}" if isinstance(where, int) else where))
        model.module = core
        model.is_trained_ = True
        model.history_ = saved_history(folder)
        model.fit_ = dict(folder.manifest["fit"])
        weights = folder_importance(folder)
        model.gene_weights_ = None if weights is None else weights.weights
        model.confidence_ = folder_confidence(folder.tensors, folder.manifest, folder)
        for name, rows in saved_indices(folder).items():
            setattr(model, f"{name}_indices_", rows)
        if adata is not None and adata is not False:
            model._attach(adata)
        return model

    def _attach(self, adata: AnnData) -> None:
        cls = type(self)
        if not isinstance(adata, anndata.AnnData):
            raise not_cells(adata)
        if adata.is_view:
            raise UsageError("E-U29", "the object is a view", fix="adata = adata.copy()")
        source = self._source_of(adata)
        if isinstance(source, ObsmSource):
            align_dimensions(source, self.features)
        else:
            self.features.align(source.var, duplicates="sum", where=source.where)
        method = getattr(cls, str(self.registry["setup_method_name"]))
        method(adata, source_registry=self.registry, **self.registry["setup_args"])
        self._adata = adata
        self._adata_manager = cls._get_most_recent_anndata_manager(adata, required=True)
        self._register_manager_for_instance(self._adata_manager)

    def _more_parts(self) -> tuple[dict[str, NDArray[np.generic]], dict[str, Any]]:
        """Return what a capability adds to the folder: tensors, and entries of the manifest."""
        return {}, {}

    # --- the core ---------------------------------------------------------------------------

    def _finish_init(self, core: Core, init_locals: Mapping[str, object], summary: str) -> None:
        """Set what every constructor ends with.

        Parameters
        ----------
        core
            The core, untrained.
        init_locals
            ``locals()`` of the constructor.
        summary
            One line for ``repr``.
        """
        self.module = core
        self._model_summary_string = summary
        # scvi-tools leaves `adata` out, and of `mdata` objects of MuData alone.
        given = {k: v for k, v in init_locals.items() if k != "mdata"}
        self.init_params_ = self._get_init_params(given)

    @classmethod
    def spec(cls) -> plugins.ModelSpec | None:
        """Return what the plugin registered for this class; ``None`` outside plugins."""
        try:
            return plugins.spec_of_class(cls)
        except PluginError:
            return None
