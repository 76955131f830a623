"""`ArrayClassifierModel`: annotators that are fitted at once and kept as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome.data import require_all_classes
from episome.models._annotation import AnnotationMixin
from episome.models._array import ArrayModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ArrayClassifierModel(AnnotationMixin, ArrayModel):
    """Base of baselines: subclasses implement ``_fit_core`` and name ``_core_cls``."""

    def _check_rows(self, rows: NDArray[np.int64], codes: NDArray[np.int64]) -> None:
        require_all_classes(codes[rows], self.labels)

    def _after_fit(self, rows: NDArray[np.int64]) -> None:
        self._weigh_genes(self.training_query(), self.training_codes(), rows)
