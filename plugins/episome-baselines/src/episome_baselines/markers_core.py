"""What `MarkerScore` predicts with: weights of markers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from episome.inference import ArrayCore

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse


class MarkerScoreCore(ArrayCore):
    """Markers, their weight for every type, what is usual for a type, and a temperature."""

    array_names = ("genes", "weights", "offset", "scale")

    def prepare(self) -> None:
        """Check the shapes."""
        n_genes = len(self.require("genes", None))
        n_classes = int(self.config["n_classes"])
        self.require("weights", n_classes, n_genes)
        self.require("offset", n_classes)
        self.require("scale", 1)

    def forward(self, batch: Mapping[str, object]) -> dict[str, NDArray[np.floating]]:
        """Return scaled scores as logits; a cell without any marker has zeros."""
        scores = self.scores(batch["X"][:, self.arrays["genes"]])
        return {"logits": (scores * self.arrays["scale"][0]).astype(np.float32)}

    def scores(self, values: sparse.csr_matrix) -> NDArray[np.float64]:
        """Return the score of every type.

        Parameters
        ----------
        values
            Of the markers, CSR (n_cells, n_markers).

        Returns
        -------
        float64 (n_cells, n_classes).
        """
        weights = self.arrays["weights"].astype(np.float64)
        scores = np.asarray(values.astype(np.float64) @ weights.T) - self.arrays["offset"]
        # Nothing is known of a cell without a marker, and what is usual says nothing about it.
        scores[np.asarray(abs(values).sum(axis=1)).ravel() == 0] = 0.0
        return scores
