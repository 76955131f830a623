"""Capability `annotation`: set-up with labels, predict, annotate."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from scvi.data import AnnDataManager

from episome import settings
from episome.confidence import MAX_CELLS, CalibrationSource
from episome.data import (
    AnnDataSource,
    Labels,
    ObsmSource,
    cells_name,
    check_classes,
    class_terms,
    clean_labels,
    combined_column,
    definite_donors,
    labels_with_terms,
    obs_column,
    refuse_matrix,
    term_column,
)
from episome.errors import Collector, UsageError
from episome.inference import Predictor, gene_importance
from episome.log import get_logger
from episome.models._calls import CallsMixin
from episome.models._confidence import MIN_CELLS, HeldOut, confidence_of, default_share, type_space
from episome.models._fields import ExpressionField, LabelsField, labels_from_state
from episome.models._setup import (
    SOURCE,
    registered_embedding,
    registered_input,
    require_cells,
    require_columns,
    require_words,
)
from episome.models._shift import N_CELLS, N_DRAWS, ShiftedCells, shifted_cells
from episome.models._training import normalized_rows

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

    from episome.data import CellSource, Query, SchemaChoice, Split
    from episome.inference import BatchSource
    from episome.models._audit import Audit
    from episome.models._base import EpisomeModel as _Base
    from episome.models._ensemble import Ensemble
    from episome.ontology import ClassHierarchy
    from episome.train import CellDataModule
else:
    _Base = object

logger = get_logger(__name__)

#: Arguments of every model's constructor.
_BASICS = frozenset({"self", "adata", "registry", "args", "kwargs"})


class AnnotationMixin(CallsMixin, _Base):
    """What every annotator does the same way; mixed in before ``EpisomeModel``."""

    capabilities: ClassVar[tuple[str, ...]] = ("annotation",)

    @property
    def labels(self) -> Labels:
        """Classes in the order of the outputs."""
        own = self.setup_args.get("own_terms") or {}
        found = labels_from_state(self._state_registry("labels"))
        return dataclasses.replace(found, own_terms=own)

    @classmethod
    def _labels_of_schema(cls, choice: SchemaChoice) -> dict[str, Any]:
        return {"labels_key": choice.labels_key, "unlabeled": "keep"}

    @classmethod
    def setup_anndata(  # type: ignore[override]  # an annotator needs labels
        cls,
        adata: AnnData,
        labels_key: str,
        *,
        layer: str | None = None,
        use_raw: bool | Literal["auto"] = False,
        obsm_key: str | None = None,
        donor_key: str | list[str] | None = None,
        ontology_term_key: str | None = None,
        own_terms: Mapping[str, Mapping[str, Any]] | None = None,
        unlabeled_category: str = "unknown",
        unlabeled: Literal["error", "keep", "drop"] = "error",
        input_kind: Literal["auto", "counts", "log1p"] = "auto",
        size_factor: Literal["model_genes", "all_genes"] = "model_genes",
        duplicates: Literal["error", "sum"] = "error",
        allow_fractional: bool = False,
        nan: Literal["error", "zero"] = "error",
        **kwargs: object,
    ) -> None:
        """Register training data.

        Reads ``obs[labels_key]``, the donor columns, the chosen matrix and ``var``; writes only
        scvi-tools' bookkeeping (``obs["_scvi_labels"]``, ``uns["_scvi_uuid"]``,
        ``uns["_scvi_manager_uuid"]``).

        Parameters
        ----------
        adata
            Training cells.
        labels_key
            Column of ``obs`` with the cell types; numbers and booleans become text.
        layer, use_raw
            Where the values are; default ``X``. ``use_raw="auto"`` takes ``raw`` where ``X``
            holds no counts and ``raw`` does, and records which.
        obsm_key
            Array of ``obsm`` to learn from instead of genes, such as the vectors of a foundation
            model; queries need an array of the same name and length. For models that can
            (``reads_embeddings``).
        donor_key
            Column or columns that name the donor; whole donors are held out for validation.
        ontology_term_key
            Column of ``obs`` with the Cell Ontology term of the label; by default
            ``<labels_key>_ontology_term_id`` where there is one. Classes without a term there are
            looked up by name and synonym; obsolete terms are replaced; the log says which have
            none.
        own_terms
            Terms of your own below the Cell Ontology:
            ``{"LAB:1": {"label": "my T cell", "parents": ["CL:0000084"]}}``.
        unlabeled_category
            Label of cells without one.
        unlabeled
            What to do with missing labels: refuse, or ``"keep"``/``"drop"``: leave the cells out
            of training.
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
        InputDataError, LabelError, UsageError
            The data cannot be used; all reasons are named.
        """
        obsm_key = obsm_key or cls.default_obsm_key
        setup_method_args = cls._get_setup_method_args(**locals())
        given: CellSource | None = kwargs.pop(SOURCE, None)  # type: ignore[assignment]
        require_cells(adata)
        cls._require_embeddings(obsm_key, layer=layer, use_raw=use_raw)
        require_words(
            kwargs,
            unlabeled=unlabeled,
            input_kind=input_kind,
            size_factor=size_factor,
            duplicates=duplicates,
            nan=nan,
        )
        if kwargs.get("source_registry") is not None:
            fields = [
                ExpressionField("X", layer, use_raw=bool(use_raw), obsm_key=obsm_key),
                LabelsField("labels", labels_key, unlabeled_category),
            ]
        else:
            require_columns(adata, labels_key, donor_key, ontology_term_key)
            found = Collector()
            if obsm_key is None:
                source = given or AnnDataSource(adata, layer=layer, use_raw=use_raw)
                # What "auto" found here is what is read from now on.
                use_raw = bool(getattr(source, "use_raw", False))
                setup_method_args["setup_args"]["use_raw"] = use_raw
            with found.collecting():
                features, rule = (
                    registered_input(
                        source,
                        input_kind,
                        size_factor,
                        duplicates,
                        allow_fractional=allow_fractional,
                        nan=nan,
                    )
                    if obsm_key is None
                    else registered_embedding(given or ObsmSource(adata, obsm_key), obsm_key)
                )
            with found.collecting():
                labels = _registered_labels(
                    adata, labels_key, unlabeled_category, unlabeled, ontology_term_key, own_terms
                )
            found.raise_all()
            if donor_key is not None:
                _check_donors(adata, donor_key, labels_key)
            fields = [
                ExpressionField(
                    "X",
                    layer,
                    use_raw=bool(use_raw),
                    obsm_key=obsm_key,
                    features=features,
                    rule=rule,
                ),
                LabelsField("labels", labels_key, unlabeled_category, labels),
            ]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    @classmethod
    def _require_embeddings(
        cls, obsm_key: str | None, *, layer: str | None, use_raw: bool | Literal["auto"]
    ) -> None:
        """Refuse an embedding where the model cannot read one, or beside another place."""
        refuse_matrix(obsm_key, layer=layer, use_raw=use_raw)
        if obsm_key is not None and not cls.reads_embeddings:
            raise UsageError(
                "E-U74",
                f"{cls.__name__} does not learn from vectors",
                where="setup_anndata(obsm_key=)",
                why="it is made for genes",
                fix="use a model that reads embeddings, such as "
                f'episome.get_model("embedding:{obsm_key}")',
            )

    def class_hierarchy(self, also: Iterable[str] = ()) -> ClassHierarchy | None:
        """Return which classes are kinds of which others; ``None`` where none has a term.

        The release is the one that the model was set up with, or the newest installed one where
        that is no longer there.

        Parameters
        ----------
        also
            Further labels, such as those of a query that is scored: coarser or finer ones are
            looked up by name. The model's own classes keep their terms.
        """
        return self.labels.hierarchy(also)

    @classmethod
    def ensemble(cls, adata: AnnData, *, n_models: int = 5, **model_kwargs: Any) -> Ensemble:
        """Return an untrained ensemble of models of this class that differ by their seed.

        Parameters
        ----------
        adata
            Training cells, as for the model itself.
        n_models
            Number of members; 0.8295 became 0.8459 macro F1 with five in the paper of scTab.
        **model_kwargs
            Arguments of the model.

        Raises
        ------
        UsageError
            Fewer than one model (E-U37).
        """
        from episome.models._ensemble import Ensemble

        known = inspect.signature(cls.__init__).parameters
        unknown = [k for k in model_kwargs if k not in known]
        if unknown or not isinstance(n_models, int):
            raise UsageError(
                "E-U24",
                f"unknown arguments {', '.join(unknown)}" if unknown else f"n_models={n_models!r}",
                where=f"{cls.__name__}.ensemble()",
                why=f"it takes n_models and {', '.join(k for k in known if k not in _BASICS)}",
                fix="n_models=5",
            )
        members = []
        for i in range(n_models):
            with settings.using_seed(settings.member_seed(i)):
                members.append(cls(adata, **model_kwargs))
        return Ensemble(members)

    def audit(
        self,
        adata: AnnData | None = None,
        *,
        labels_key: str | None = None,
        donor_key: str | list[str] | None = None,
        cluster_key: str | None = None,
        train_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Audit:
        """Rank the cells of a labelled reference by how likely their label is wrong.

        This model judges nothing: fresh ones of its class and settings are trained without the
        cells that they judge. See :func:`episome.models.audit`.

        Parameters
        ----------
        adata
            Labelled cells, not changed; ``None`` takes the training cells.
        labels_key, donor_key
            Columns of ``obs``; default those of the set-up, where ``adata`` has them.
        cluster_key
            Column of clusters, for a table of them.
        train_kwargs
            Of ``train``, which a model does not remember: pass what this one was trained with.
        **kwargs
            Of :func:`episome.models.audit`, ``n_folds`` or ``false_discoveries`` for instance, and
            of ``setup_anndata``; by default those that this model was set up with.

        Raises
        ------
        UsageError
            The model holds no AnnData object and none is given (E-U17).
        EpisomeError
            As :func:`episome.models.audit`.
        """
        from episome.models._audit import audit, settings_of

        cells = self._require_adata() if adata is None else adata
        setup = {k: v for k, v in self.setup_args.items() if v is not None}
        labels_key = labels_key or setup["labels_key"]
        if donor_key is None:
            donor_key = setup.get("donor_key")
        given = {k: v for k, v in setup.items() if k not in {"labels_key", "donor_key"}}
        return audit(
            cells,
            labels_key,
            model=type(self),
            donor_key=donor_key,
            cluster_key=cluster_key,
            model_kwargs=settings_of(self),
            train_kwargs=train_kwargs,
            **{**given, **kwargs},
        )

    # --- training data --------------------------------------------------------------------

    def training_codes(self) -> NDArray[np.int64]:
        """Class code of every training cell, -1 for cells without a label."""
        if self._cells is not None:
            return self._cells.codes
        self.training_source()
        codes = np.asarray(self.adata.obs["_scvi_labels"], dtype=np.int64)
        return np.where(codes >= len(self.labels), -1, codes)

    #: What the last training held out; for ensembles, not saved.
    _held_out: HeldOut | None = None

    def _fit_confidence(
        self,
        codes: NDArray[np.int64],
        donors: NDArray[np.object_] | None,
        rows: NDArray[np.int64],
        values: Callable[[NDArray[np.int64]], sparse.csr_matrix],
    ) -> None:
        """Calibrate on what was held out; ``rows`` trained the model."""
        seed = settings.stream_seed("calibration", bits=32)
        space = None
        if self._held_out is not None and len(self._held_out.rows) >= MIN_CELLS:
            some = rows
            if len(rows) > MAX_CELLS:
                some = np.sort(np.random.default_rng(seed).choice(rows, MAX_CELLS, replace=False))
            space = type_space(values(some), codes[some], seed=seed)
        self.confidence_ = confidence_of(
            self._held_out,
            codes,
            donors,
            space=space,
            values=values,
            seed=seed,
            name=type(self).__name__,
            chose_epoch=self.fit_.get("best_epoch", 0) is not None,
        )

    def _calibration_size(
        self, given: float | None, train_size: float | None, validation_size: float | None
    ) -> float:
        """Share of the cells for calibration; none where the caller gave all of them away."""
        if given is not None:
            return float(given)
        if train_size is not None or validation_size is not None:
            return 0.0
        return default_share(int((self.training_codes() >= 0).sum()))

    def _calibrate(self, split: Split) -> None:
        """Fit the confidence of a model with epochs that the host did not run.

        On the calibration cells of the split, or on its validation cells where those are few.
        """
        query, codes = self.training_query(), self.training_codes()
        own = len(split.calibration) >= MIN_CELLS
        rows = split.calibration if own else split.validation
        self._held_out = None
        if len(rows):
            raw = Predictor(
                self.module, features=self.features, rule=self.input_rule, labels=self.labels
            )
            found = raw.collect(query, ["logits"], rows=rows)
            source: CalibrationSource = "held out" if own else "validation"
            shifted = self._shifted(query, codes, split.train, rows)
            self._held_out = HeldOut(rows, found["logits"], source, shifted=shifted)
        self._fit_confidence(
            codes, self.training_donors(), split.train, lambda r: normalized_rows(query, r)
        )

    def _shifted(
        self,
        cells: Query | CellDataModule,
        codes: NDArray[np.int64],
        fitted: NDArray[np.int64],
        held: NDArray[np.int64],
        *,
        n_folds: int = 1,
    ) -> tuple[ShiftedCells, ...]:
        """Return what the core as it is now says of held-out cells that lack genes or counts."""
        seed = settings.stream_seed("shift", bits=32)
        predictor = Predictor(
            self.module, features=self.features, rule=self.input_rule, labels=self.labels
        )
        weights = gene_importance(predictor, cells, codes, fitted, seed=seed)
        found = shifted_cells(
            predictor,
            cells,
            held,
            weights,
            n_cells=N_CELLS // n_folds,
            n_draws=N_DRAWS // n_folds,
            seed=seed + int(held[0]),  # another draw of genes in every fold
        )
        return tuple(found)

    def _weigh_genes(
        self, cells: BatchSource, codes: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> None:
        """Remember how much the calls rest on every gene, where the core says so."""
        found = gene_importance(
            self.predictor(), cells, codes, rows, seed=settings.stream_seed("importance")
        )
        self.gene_weights_ = None if found is None else found.weights


def _check_donors(adata: AnnData, donor_key: str | list[str], labels_key: str) -> None:
    """Refuse donors that are the labels; say how many cells have no definite donor."""
    if labels_key in ([donor_key] if isinstance(donor_key, str) else donor_key):
        raise UsageError(
            "E-U32",
            f"column {labels_key!r} is given as label and as donor",
            where=f"{cells_name(adata)}.obs",
            why="whole donors are held out, so no class would be left to compare",
            fix="pass the column of donors as donor_key",
        )
    donors = definite_donors(combined_column(adata, donor_key))
    n_indefinite = int(sum(d is None for d in donors))
    if n_indefinite:
        logger.info(
            "%d of %d cells name no single donor: they only train", n_indefinite, len(donors)
        )


def _registered_labels(
    adata: AnnData,
    labels_key: str,
    unlabeled_category: str,
    unlabeled: str,
    ontology_term_key: str | None,
    own_terms: Mapping[str, Mapping[str, Any]] | None,
) -> Labels:
    column = obs_column(adata, labels_key)
    table = f"{cells_name(adata)}.obs"
    found, where = Collector(), f"{table}[{labels_key!r}]"
    if unlabeled == "error":
        with found.collecting():
            clean_labels(column, unlabeled_category=unlabeled_category, where=table)
    values = clean_labels(
        column, unlabeled_category=unlabeled_category, unlabeled="keep", where=table
    )
    with found.collecting(), warnings.catch_warnings():
        if found.problems:
            warnings.simplefilter("ignore")  # what would be done with the labels does not matter
        classes = check_classes(values, unlabeled_category, where)
    found.raise_all()
    given = class_terms(values, term_column(adata, labels_key, ontology_term_key), classes)
    if ontology_term_key is not None and not any(given):
        raise UsageError(
            "E-U57",
            f"column {ontology_term_key!r} gives no class its term",
            where=table,
            examples=list(map(str, adata.obs[ontology_term_key].iloc[:3])),
            why="a term is an identifier such as CL:0000236, the same for all cells of a class",
            fix="name a column of identifiers, or leave it out: classes are looked up by name",
        )
    return labels_with_terms(classes, given, unlabeled=unlabeled_category, own_terms=own_terms)
