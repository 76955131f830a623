"""The core of `PCAEmbedding`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from episome.inference import ArrayCore
from episome_baselines.components import project

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class PCAEmbeddingCore(ArrayCore):
    """Loadings of chosen genes, and how every gene of the model follows from the components."""

    array_names = ("genes", "mean", "deviation", "loadings", "expected", "decoder")
    mean_scale: ClassVar[str] = "log1p"

    def prepare(self) -> None:
        """Check the shapes."""
        width = int(self.config["n_features"])
        n_genes = len(self.require("genes", None))
        k = self.require("loadings", None, n_genes).shape[0]
        self.require("mean", n_genes)
        self._directions = self.arrays["loadings"] / self.require("deviation", n_genes)
        self.require("expected", width)
        self.require("decoder", k, width)

    def forward(self, batch: Mapping[str, object]) -> dict[str, NDArray[np.floating]]:
        """Return components as ``latent`` (B, k), log1p values as ``mean`` (B, n_features)."""
        a = self.arrays
        latent = project(batch["X"][:, a["genes"]], a["mean"], self._directions)
        return {"latent": latent, "mean": latent @ a["decoder"] + a["expected"]}
