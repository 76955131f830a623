"""The cores of the baselines that predict another modality, without scvi-tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from episome.inference import ArrayCore
from episome.metrics import knn_mean
from episome_baselines.cores import NeighborsCore

if TYPE_CHECKING:
    from numpy.typing import NDArray


def n_targets(core: ArrayCore) -> int:
    """Return how many features a core predicts."""
    (found,) = dict(core.config["n_targets"]).values()
    return int(found)


class FeatureMeanCore(ArrayCore):
    """A value per feature."""

    array_names = ("expected",)

    def prepare(self) -> None:
        """Check the shape."""
        self.require("expected", n_targets(self))

    def forward(self, batch: Mapping[str, object]) -> dict[str, NDArray[np.floating]]:
        """Return the same values for every cell."""
        return {"target": np.tile(self.arrays["expected"], (batch["X"].shape[0], 1))}


class RidgeTranslationCore(ArrayCore):
    """Coefficients of chosen genes."""

    array_names = ("genes", "coefficients", "intercept")

    def prepare(self) -> None:
        """Check the shapes."""
        width = n_targets(self)
        self.require("coefficients", len(self.require("genes", None)), width)
        self.require("intercept", width)

    def forward(self, batch: Mapping[str, object]) -> dict[str, NDArray[np.floating]]:
        """Return the linear prediction."""
        a = self.arrays
        found = batch["X"][:, a["genes"]] @ a["coefficients"] + a["intercept"]
        return {"target": found.astype(np.float32)}


class KNNTranslationCore(NeighborsCore):
    """Loadings, the training cells' components and what was measured in them, as CSR."""

    array_names = (
        *NeighborsCore.array_names,
        "target_data",
        "target_indices",
        "target_indptr",
    )

    def prepare(self) -> None:
        """Check the shapes."""
        super().prepare()
        a = self.arrays
        n_cells = len(a["reference"])
        self.require("target_indptr", n_cells + 1)
        self.require("target_data", len(self.require("target_indices", None)))
        parts = a["target_data"], a["target_indices"], a["target_indptr"]
        self._targets = sparse.csr_matrix(parts, shape=(n_cells, n_targets(self)))

    def forward(self, batch: Mapping[str, object]) -> dict[str, NDArray[np.floating]]:
        """Return the mean of the neighbours."""
        found = knn_mean(
            self.arrays["reference"],
            self._targets,
            self.components(batch),
            n_neighbors=int(self.config["n_neighbors"]),
            weights=self.config["weights"],
            metric=self.config["metric"],
            search=self.index(),
        )
        return {"target": found}
