"""`FeatureMean`: the mean of every feature for every cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from episome_baselines.translation import ArrayTranslation
from episome_baselines.translation_cores import FeatureMeanCore

if TYPE_CHECKING:
    from mudata import MuData
    from numpy.typing import NDArray
    from scipy import sparse

    from episome.models import TrainingCells


class FeatureMean(ArrayTranslation):
    """Predict the training mean of every feature: the floor under every translation.

    It knows which proteins are abundant and nothing of the cell. Correlations by cell and of all
    entries are high all the same; those by feature are 0.

    Parameters
    ----------
    mdata, registry
        As for every model of two modalities.
    """

    _core_cls = FeatureMeanCore

    def __init__(
        self, mdata: MuData | None = None, registry: dict[str, object] | None = None
    ) -> None:
        super().__init__(mdata, registry)
        core = self._build_core(**self._target_config())
        self._finish_init(core, locals(), f"FeatureMean of {len(self.target_features)} features")

    def _fit_targets(
        self, cells: TrainingCells, targets: sparse.csr_matrix
    ) -> tuple[dict[str, NDArray[np.generic]], dict[str, object]]:
        mean = np.asarray(targets.mean(axis=0)).ravel()
        return {"expected": mean.astype(np.float32)}, {}
