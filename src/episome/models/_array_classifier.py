"""`ArrayClassifierModel`: annotators that are fitted at once and kept as arrays."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from episome import settings
from episome.confidence import logits_of
from episome.data import folds, require_all_classes
from episome.models._annotation import AnnotationMixin
from episome.models._array import ArrayModel, TrainingCells
from episome.models._confidence import MAX_FOLDED, HeldOut, type_space

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

    from episome.models._shift import ShiftedCells

#: Cells that are predicted at a time.
BATCH = 2048
#: Folds whose cells are looked at with genes and counts taken away.
SHIFTED_FOLDS = 5


class ArrayClassifierModel(AnnotationMixin, ArrayModel):
    """Base of baselines: subclasses implement ``_fit_core`` and name ``_core_cls``.

    Before the fit on all cells the core is fitted on parts of them, so that every cell, or a
    fifth of many, is predicted by a fit without it: these calls calibrate the model.
    """

    #: Cells up to which every one is predicted by a fit without it; models that are slow to fit
    #: take fewer.
    _max_folded: ClassVar[int] = MAX_FOLDED

    def _check_rows(self, rows: NDArray[np.int64], codes: NDArray[np.int64]) -> None:
        require_all_classes(codes[rows], self.labels)

    def _settle(self, cells: TrainingCells) -> None:
        """Choose, once and on training cells, what all fits have in common; nothing here."""

    def _before_fit(self, cells: TrainingCells, rows: NDArray[np.int64]) -> None:
        self._settle(cells)
        core, seed = self.module, settings.stream_seed("calibration", bits=32)
        votes, far = False, np.zeros(len(rows), dtype=np.float32)
        shifted: list[ShiftedCells] = []
        query = self.training_query()
        logits = np.full((len(rows), cells.n_classes), np.nan, dtype=np.float32)
        try:
            parts = folds(cells.codes, cells.donors, seed=seed)
            few = parts if len(rows) <= self._max_folded else islice(parts, 1)
            for fold, (fitted, held) in enumerate(few):
                self.module = type(core).from_config(core.config)
                known = _some(cells, fitted)
                self._fit_core(known)
                space = type_space(known.values, known.codes, seed=seed)
                for start in range(0, len(held), BATCH):
                    part = held[start : start + BATCH]
                    outputs = self.module.forward({"X": cells.values[part]})
                    far[part] = space.distances(cells.values[part])
                    logits[part] = logits_of(outputs)
                    votes = "logits" not in outputs
                if fold < SHIFTED_FOLDS:
                    shifted += self._shifted(
                        query,
                        self.training_codes(),
                        rows[fitted],
                        rows[held],
                        n_folds=SHIFTED_FOLDS,
                    )
        finally:
            self.module = core
        said = np.isfinite(logits).all(axis=1)
        self._held_out = HeldOut(
            rows[said], logits[said], "out of fold", votes, far[said], tuple(shifted)
        )

    def _after_fit(self, cells: TrainingCells, rows: NDArray[np.int64]) -> None:
        codes = self.training_codes()
        self._weigh_genes(self.training_query(), codes, rows)
        place = np.full(len(codes), -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))

        def values(wanted: NDArray[np.int64]) -> sparse.csr_matrix:
            return cells.values[place[wanted]]

        self._fit_confidence(codes, self.training_donors(), rows, values)


def _some(cells: TrainingCells, positions: NDArray[np.int64]) -> TrainingCells:
    return replace(
        cells,
        values=cells.values[positions],
        codes=cells.codes[positions],
        donors=None if cells.donors is None else cells.donors[positions],
    )
