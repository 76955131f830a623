"""What the baselines have in common that predict another modality from RNA."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from episome.data import TargetScale
from episome.inference import TargetFacts
from episome.models import ArrayModel, TranslationMixin

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

    from episome.models import TrainingCells


class ArrayTranslation(TranslationMixin, ArrayModel):
    """Base of models that learn targets at once; subclasses implement :meth:`_fit_targets`.

    Counts are learned, and predicted, as log1p of them, and ``uns["scale"]`` of a prediction says
    ``"log1p"``. Values that are no counts are learned as they are, and nothing is said.
    """

    capabilities = ("translation",)
    #: Targets of the cells of a fit, while it lasts.
    _read: sparse.csr_matrix | None = None

    @abstractmethod
    def _fit_targets(
        self, cells: TrainingCells, targets: sparse.csr_matrix
    ) -> tuple[dict[str, NDArray[np.generic]], dict[str, object]]:
        """Return the arrays of the core and what the manifest should record.

        ``targets`` are float64 (n_cells, n_targets), of the same cells.
        """

    def _before_fit(self, cells: TrainingCells, rows: NDArray[np.int64]) -> None:
        self._read = self._other_sources()[self.target_kind].read(rows).astype(np.float64)

    def _fit_core(self, cells: TrainingCells) -> dict[str, object]:
        targets, self._read = self._read, None
        counts = are_counts(targets)
        arrays, facts = self._fit_targets(cells, targets.log1p() if counts else targets)
        self.module.fill(**arrays, logged=np.array([counts], dtype=np.uint8))
        scale = TargetScale("log1p", targets.shape[1], n_cells=targets.shape[0])
        features = self.target_features
        self.target_ = TargetFacts(
            features.ids, kind=features.modality, scale=scale if counts else None
        )
        return {**facts, "target_scale": "log1p" if counts else "as it is"}


def are_counts(values: sparse.csr_matrix) -> bool:
    """Whether all values are whole numbers, and none is below zero."""
    return bool((values.data >= 0).all() and (values.data == np.rint(values.data)).all())
