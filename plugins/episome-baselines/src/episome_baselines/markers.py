"""`MarkerScore`: types by their marker genes, from a table or learned."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from episome.data import Labels, labels_with_terms
from episome.errors import UsageError
from episome.log import get_logger
from episome.models import (
    ArrayClassifierModel,
    OptionalLabels,
    TrainingCells,
    registry_from_parts,
)
from episome_baselines.centroid import best_scale
from episome_baselines.marker_labels import type_of_labels
from episome_baselines.marker_table import MarkersLike, MarkerTable, read_markers
from episome_baselines.marker_weights import (
    known_markers,
    learned_weights,
    table_weights,
    usual_scores,
)
from episome_baselines.markers_core import MarkerScoreCore

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

logger = get_logger(__name__)

#: Sharpness of the softmax where no label says which; see the documentation of the method.
UNFITTED_SCALE = 10.0


class MarkerScore(OptionalLabels, ArrayClassifierModel):
    """Call a cell the type whose marker genes it expresses most.

    The score of a type is the weighted mean of its markers' log1p values, each divided by the
    square root of the gene's standard deviation over the training cells; genes that speak against
    a type count negative. Dividing by the standard deviation itself would make rare noise as
    loud as a strong marker, and scores that are centred on the training cells depend on which
    types these are; not dividing lets a few abundant genes decide. The documentation has figures
    with a public table. Probabilities are a softmax. A cell that expresses no marker gets equal
    probabilities.

    With a table the types are those of the table, and no cell needs a label; where there are
    labels, they only calibrate: they are matched to the types by name, then by the Cell Ontology.
    Without a table the markers are learned from labelled cells: those with the highest t
    statistic of the cells of a class against all others. Then the mean score over classes of
    equal size, which labels can tell, is taken away from each score.

    Parameters
    ----------
    adata, registry
        As for every model.
    markers
        A mapping of types to genes (a leading minus: the type lacks the gene), a frame with the
        columns ``cell_type`` and ``gene`` and maybe ``weight`` and ``direction``, or a file of
        such columns (``.csv``, ``.tsv``) or of gene sets (``.gmt``). Genes are matched by symbol
        or Ensembl identifier.
    n_markers
        Genes that are learned for each class, where there is no table.

    Raises
    ------
    UsageError
        Neither a table nor labels (E-U80), a table that is none (E-U81), fewer than one marker
        per class (E-U31).
    GeneMatchError
        Fewer than two types have a marker among the genes of the data (E-G24).
    """

    _core_cls = MarkerScoreCore
    #: Type of the table of every training cell, or -1.
    _type_of_cell: NDArray[np.int64] | None = None

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, object] | None = None,
        *,
        markers: MarkersLike | None = None,
        n_markers: int = 20,
    ) -> None:
        super().__init__(adata, registry)
        if n_markers < 1:
            raise UsageError("E-U31", f"n_markers={n_markers!r} is out of range", fix="pass 20")
        self._table: MarkerTable | None = None
        if markers is not None:
            self._take_table(read_markers(markers), new=adata is not None)
            markers = self._table
        elif "labels" not in self.registry["field_registries"]:
            raise UsageError(
                "E-U80",
                "there is neither a table of markers nor a column of labels",
                where="MarkerScore",
                why="markers are given, or learned from labelled cells",
                fix='pass markers="table.csv", or labels_key= to setup_anndata',
            )
        self.n_markers = n_markers
        self._finish_init(
            self._build_core(), locals(), f"MarkerScore of {len(self.labels)} classes"
        )

    # --- types and labels -----------------------------------------------------------------

    def _take_table(self, table: MarkerTable, *, new: bool) -> None:
        """Make the types of the table the classes; a restored model has them already."""
        if not new:
            # A folder keeps the types in the order of the alphabet.
            self._table = {name: table[name] for name in self.labels.names}
            return
        self._table = known_markers(table, self.features)
        args = self.setup_args
        unlabeled = str(args.get("unlabeled_category", "unknown"))
        names, own = list(self._table), args.get("own_terms")
        types = labels_with_terms(names, [""] * len(names), unlabeled=unlabeled, own_terms=own)
        self._type_of_cell = self._types_of_cells(types)
        fields = dict(self.registry_["field_registries"])
        # Another model of the same data keeps the classes of its own: nothing is changed in place.
        made = registry_from_parts(type(self), self.features, types, self.input_rule)
        fields["labels"] = made["field_registries"]["labels"]
        self.registry_ = {**self.registry_, "field_registries": fields}

    def _types_of_cells(self, types: Labels) -> NDArray[np.int64]:
        """Type of every training cell, -1 where its label is none; all -1 without labels."""
        n_cells = self.training_source().n_obs
        if "labels" not in self.registry["field_registries"]:
            return np.full(n_cells, -1, dtype=np.int64)
        labels, codes = super().labels, super().training_codes()
        of_label = type_of_labels(labels, types)
        matched = [n for n, t in zip(labels.names, of_label, strict=True) if t >= 0]
        logger.info(
            "%d of %d labels are types of the marker table (%s): their cells calibrate the model",
            len(matched),
            len(labels),
            ", ".join(matched[:3]) or "none",
        )
        return np.append(of_label, -1)[codes]

    def training_codes(self) -> NDArray[np.int64]:
        """Class of every training cell.

        With a table all cells take part, whatever their label: those whose label is no type have
        the code 0, and calibrate nothing.
        """
        if self._table is None:
            return super().training_codes()
        return np.maximum(self._known_types(), 0)

    def _known_types(self) -> NDArray[np.int64]:
        if self._type_of_cell is None:
            # A restored model that was given data: labels count that are names of types.
            n_cells = self.training_source().n_obs
            named = self.setup_args.get("labels_key") is not None
            self._type_of_cell = (
                super().training_codes() if named else np.full(n_cells, -1, dtype=np.int64)
            )
        return self._type_of_cell

    # --- training -------------------------------------------------------------------------

    def _training_cells(self, given: Any) -> tuple[TrainingCells, NDArray[np.int64]]:
        cells, rows = super()._training_cells(given)
        if self._table is not None:
            cells = replace(cells, codes=self._known_types()[rows])
        return cells, rows

    def _check_rows(self, rows: NDArray[np.int64], codes: NDArray[np.int64]) -> None:
        # Types of a table need no cell.
        check = super() if self._table is None else super(ArrayClassifierModel, self)
        check._check_rows(rows, codes)

    def _before_fit(self, cells: TrainingCells, rows: NDArray[np.int64]) -> None:
        if self._table is not None:
            # No label has a part in them, so the fits that calibrate share them.
            self._weights = table_weights(self._table, self.features, cells.values)
            cells, rows = labelled(cells, rows)
            if len(np.unique(cells.codes)) < 2:
                self._held_out = None
                return
        super()._before_fit(cells, rows)

    def _after_fit(self, cells: TrainingCells, rows: NDArray[np.int64]) -> None:
        if self._table is not None:
            cells, rows = labelled(cells, rows)
        super()._after_fit(cells, rows)

    def _fit_core(self, cells: TrainingCells) -> dict[str, object]:
        given = self._table is not None
        weights = self._weights if given else learned_weights(cells, self.n_markers)
        genes = np.flatnonzero((weights != 0).any(axis=0))
        values, weights = cells.values[:, genes], weights[:, genes].astype(np.float32)
        usual = np.zeros(len(weights)) if given else usual_scores(cells, values, weights)
        arrays = {"genes": genes, "weights": weights, "offset": usual.astype(np.float32)}
        self.module.fill(**arrays, scale=np.ones(1, np.float32))
        known = np.flatnonzero(cells.codes >= 0)
        scale = UNFITTED_SCALE
        if len(np.unique(cells.codes[known])) > 1:
            scale = best_scale(self.module.scores(values[known]), cells.codes[known])
        self.module.fill(**arrays, scale=np.array([scale], np.float32))
        return {"scale": scale, "n_genes": len(genes), "n_labelled": len(known)}


def labelled(
    cells: TrainingCells, rows: NDArray[np.int64]
) -> tuple[TrainingCells, NDArray[np.int64]]:
    """Return the cells that have a class, and their rows."""
    known = np.flatnonzero(cells.codes >= 0)
    donors = None if cells.donors is None else cells.donors[known]
    some = replace(cells, values=cells.values[known], codes=cells.codes[known], donors=donors)
    return some, rows[known]
