"""What every annotator, one model or an ensemble, answers about a query."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd

from episome.data import require_choice
from episome.inference import (
    CallLimits,
    completed_calls,
    shift_report,
    warn_unless_clusters,
)
from episome.io import prefixed
from episome.metrics import uncertainty
from episome.models._arguments import as_rows

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.data import CellSource, FeatureSpace, Labels, Query
    from episome.inference import Predictor, ShiftReport


def _listed(types: str | Sequence[str]) -> tuple[str, ...]:
    return (types,) if isinstance(types, str) else tuple(map(str, types))


class Answering:
    """What a mixin may ask of the class that it is mixed into: one model, or an ensemble."""

    if TYPE_CHECKING:
        module: Any

        @property
        def features(self) -> FeatureSpace: ...
        @property
        def labels(self) -> Labels | None: ...
        def predictor(self) -> Predictor: ...
        def prepare(
            self, adata: AnnData | str | Path | CellSource | None = None, **kwargs: Any
        ) -> Query: ...
        def _require_trained(self) -> None: ...


class CallsMixin(Answering):
    """Labels, probabilities and uncertainty, all through the one ``Predictor``."""

    #: Kinds of uncertainty that :meth:`uncertainty` knows.
    uncertainty_kinds: ClassVar[tuple[str, ...]] = ("max", "entropy")

    def predict(
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        *,
        indices: Sequence[int] | None = None,
        soft: bool = False,
        batch_size: int | None = None,
        **query: Any,
    ) -> NDArray[np.object_] | pd.DataFrame:
        """Return the label of every cell, or class probabilities.

        Parameters
        ----------
        adata
            Query; genes are aligned by name, labels are not needed, nothing is modified. ``None``
            takes the training cells.
        indices
            Rows to predict; default all.
        soft
            Return the frame of :meth:`predict_proba`.
        batch_size
            Cells at a time.
        **query
            ``layer``, ``use_raw``, ``input_kind``, ``min_gene_overlap``, ``duplicates``.

        Returns
        -------
        Array of labels, shape (n_cells,), dtype object. Cells with none of the model's genes get
        the unlabelled category.
        """
        if soft:
            return self.predict_proba(adata, indices=indices, batch_size=batch_size, **query)
        calls = self.annotate(adata, indices=indices, batch_size=batch_size, **query)
        found: NDArray[np.object_] = calls["label"].to_numpy(dtype=object)
        return found

    def predict_proba(
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        *,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        calibrated: bool = True,
        restrict_to: str | Sequence[str] = (),
        **query: Any,
    ) -> pd.DataFrame:
        """Return class probabilities, one row per cell, one column per class, rows sum to one.

        Parameters
        ----------
        adata, indices, batch_size, **query
            As for :meth:`predict`.
        calibrated
            False returns what the core says, before its calibration.
        restrict_to
            As for :meth:`annotate`: other classes get zero, and the rest sum to one.
        """
        predictor = self.predictor()
        prepared = self.prepare(adata, **query)
        return predictor.predict_proba(
            prepared,
            rows=as_rows(indices),
            batch_size=batch_size,
            calibrated=calibrated,
            restrict_to=_listed(restrict_to),
        )

    def annotate(
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        *,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        error_rate: float | None = None,
        false_alarms: float | None = None,
        min_confidence: float | None = None,
        roll_up: float | None = None,
        restrict_to: str | Sequence[str] = (),
        cluster_key: str | None = None,
        cellxgene: bool = False,
        prefix: str = "",
        **query: Any,
    ) -> pd.DataFrame:
        """Return one row of calls per cell, indexed by cell name, in the order of the query.

        Parameters
        ----------
        adata, indices, batch_size, **query
            As for :meth:`predict`.
        error_rate
            Add label sets that miss the truth in this share of cells like the calibration cells;
            cells whose set is not one class are ambiguous and lose their label.
        false_alarms
            Share of cells of known types that may be called novel; novel cells lose their label.
            By default the 1 % of status ``novel`` keep theirs.
        min_confidence
            Calls below it are ambiguous and lose their label.
        roll_up
            Every call becomes the deepest term of the Cell Ontology that is at least this
            probable: probabilities are summed over the classes below a term. The calls for two
            numbers never contradict each other. With an error rate the term has to cover the
            label set besides; not with ``min_confidence``.
        restrict_to
            A term of the Cell Ontology or several, or names: the cells are known to be of these
            types or kinds of them. Other classes get no probability, and the rest sum to one.
            Novelty says whether cells look like none of the classes all the same.
        cluster_key
            Column of ``obs`` with clusters that somebody made: adds the vote of each, see
            ``episome.inference.cluster_votes``.
        cellxgene
            Add ``cell_type`` and ``cell_type_ontology_term_id`` as the CELLxGENE schema wants
            them: terms of the Cell Ontology, or ``unknown``.
        prefix
            Before the name of every column but those of the schema.

        Returns
        -------
        Columns ``label`` (what the limits leave), ``label_ontology_term_id`` (Cell Ontology,
        where the training data had it), ``confidence`` (calibrated probability of ``label_raw``),
        ``label_raw`` (the most probable class, whatever the limits), ``novelty`` (0 to 1),
        ``status`` (``assigned``, ``ambiguous``, ``novel``, ``low_quality``, ``rolled_up``),
        ``second``, ``second_confidence``, with an error rate ``set``, with ``roll_up``
        ``label_confidence`` (probability of ``label``) and ``level`` (its steps above
        ``label_raw``); with clusters ``cluster_label``,
        ``cluster_agreement``, ``cluster_low`` and ``cluster_high``.

        Raises
        ------
        UsageError
            Shares outside 0 and 1, or limits that exclude each other (E-U65), limits for a model
            without calibration (E-U66), no such column of clusters (E-U04), no class with a term
            (E-L42) or of a type that is named (E-L43).
        """
        limits = CallLimits(
            error_rate, false_alarms, min_confidence, roll_up, _listed(restrict_to)
        )
        predictor, rows = self.predictor(), as_rows(indices)
        prepared = self.prepare(adata, **query)
        clusters = None if cluster_key is None else prepared.source.obs_column(cluster_key)
        if clusters is not None and rows is not None:
            clusters = clusters.iloc[rows]
        if clusters is not None:
            warn_unless_clusters(clusters)
        calls = predictor.annotate(prepared, rows=rows, batch_size=batch_size, limits=limits)
        calls = completed_calls(
            calls, predictor.require_labels(), clusters=clusters, cellxgene=cellxgene
        )
        return calls.set_axis(prefixed(calls.columns, prefix), axis=1)

    def shift_report(
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        *,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        **query: Any,
    ) -> ShiftReport:
        """Return how a query differs from the training cells, and the accuracy that costs.

        Parameters
        ----------
        adata, indices, batch_size, **query
            As for :meth:`predict`; labels are not needed.

        Returns
        -------
        Genes that are missing, depth, composition and novelty, each with its expected cost, see
        :class:`episome.inference.ShiftReport`; ``print(report.text)`` says it in words.

        Raises
        ------
        UsageError
            The model was never calibrated (E-U66), or no cell has genes of it (E-U22).
        """
        predictor, prepared = self.predictor(), self.prepare(adata, **query)
        return shift_report(predictor, prepared, rows=as_rows(indices), batch_size=batch_size)

    def uncertainty(
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        *,
        kind: Literal["max", "entropy", "disagreement"] = "max",
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        **query: Any,
    ) -> pd.Series:
        """Return how unsure the model is of every cell.

        Parameters
        ----------
        adata, indices, batch_size, **query
            As for :meth:`predict`.
        kind
            ``"max"``: one minus the largest probability, in [0, 1 - 1/C]; ``"entropy"``: entropy
            of the probabilities over log C, in [0, 1]; ensembles also ``"disagreement"``: the
            part of that entropy that comes from members that differ.

        Returns
        -------
        float64 series indexed by cell name; NaN for cells with none of the model's genes.
        """
        require_choice("kind", kind, self.uncertainty_kinds)
        key = "disagreement" if kind == "disagreement" else "probabilities"
        prepared = self.prepare(adata, **query)
        rows = as_rows(indices)
        out = self.predictor().collect(prepared, [key], rows=rows, batch_size=batch_size)
        found = out[key] if kind == "disagreement" else uncertainty(out[key], kind)
        found = found.astype(float)
        found[out["empty"]] = np.nan
        names = prepared.source.obs_names
        return pd.Series(found, index=names if rows is None else names[rows], name="uncertainty")
