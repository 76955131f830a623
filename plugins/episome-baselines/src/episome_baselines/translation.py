"""What the baselines have in common that predict another modality from RNA."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Literal

import numpy as np

from episome.models import ArrayModel, TranslationMixin

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

    from episome.models import TrainingCells


class ArrayTranslation(TranslationMixin, ArrayModel):
    """Base of models that learn targets at once; subclasses implement :meth:`_fit_targets`.

    Counts are learned, and predicted, as log1p of them; values that are no counts as they are.
    """

    capabilities = ("translation",)
    target_kind = "auto"
    reads_sources = True
    #: Targets of the cells of a fit, while it lasts.
    _read: sparse.csr_matrix | None = None

    @abstractmethod
    def _fit_targets(
        self, cells: TrainingCells, targets: sparse.csr_matrix
    ) -> tuple[dict[str, NDArray[np.generic]], dict[str, object]]:
        """Return the arrays of the core and what the manifest should record.

        ``targets`` are float64 (n_cells, n_targets), of the same cells.
        """

    def _training_scale(self) -> Literal["log1p", "none"]:
        return "log1p" if self.target_holds_counts else "none"

    def _before_fit(self, cells: TrainingCells, rows: NDArray[np.int64]) -> None:
        scale = self.fit_target(rows)
        self._read = self.measured_target().on(scale).read(rows).astype(np.float64)

    def _fit_core(self, cells: TrainingCells) -> dict[str, object]:
        targets, self._read = self._read, None
        arrays, facts = self._fit_targets(cells, targets)
        self.module.fill(**arrays)
        return {**facts, "target_scale": self.target_.scale.name}
