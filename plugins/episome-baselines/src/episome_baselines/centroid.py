"""`NearestCentroid`: cosine similarity to the mean profile of each class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from episome.models import ArrayClassifierModel, TrainingCells
from episome_baselines.cores import NearestCentroidCore, cosine

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray


class NearestCentroid(ArrayClassifierModel):
    """Call a cell the class whose mean log1p profile is nearest by cosine.

    Probabilities are a softmax of the similarities, sharpened by one number that maximises the
    likelihood of the training labels.

    Parameters
    ----------
    adata, registry
        As for every model.
    """

    _core_cls = NearestCentroidCore

    def __init__(
        self, adata: AnnData | None = None, registry: dict[str, object] | None = None
    ) -> None:
        super().__init__(adata, registry)
        self._finish_init(
            self._build_core(), locals(), f"NearestCentroid of {len(self.labels)} classes"
        )

    def _fit_core(self, cells: TrainingCells) -> dict[str, object]:
        n = len(cells.codes)
        member = sparse.csr_matrix(
            (np.ones(n, np.float32), (cells.codes, np.arange(n))), shape=(cells.n_classes, n)
        )
        sums = np.asarray((member @ cells.values).todense(), dtype=np.float64)
        means = sums / np.bincount(cells.codes, minlength=cells.n_classes)[:, None]
        length = np.linalg.norm(means, axis=1, keepdims=True)
        centroids = (means / np.where(length > 0, length, 1.0)).astype(np.float32)
        scale = best_scale(cosine(cells.values, centroids), cells.codes)
        self.module.fill(centroids=centroids, scale=np.array([scale], np.float32))
        return {"scale": scale}


def best_scale(similarity: NDArray[np.floating], codes: NDArray[np.int64]) -> float:
    """Factor that maximises the likelihood of the labels, by a bounded one-dimensional search."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    rows = np.arange(len(codes))

    def loss(log_scale: float) -> float:
        return -float(log_softmax(np.exp(log_scale) * similarity, axis=1)[rows, codes].mean())

    found = minimize_scalar(loss, bounds=(-2.0, 10.0), method="bounded")
    return float(np.exp(found.x))
