"""The core of `CellTypist`: its scaler and its regressions as arrays, run by numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from episome.inference import ArrayCore

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

#: Largest scaled value; what is above is cut there.
CEILING = 10.0


class CellTypistCore(ArrayCore):
    """Mean and spread of chosen genes, coefficients and intercepts of every class.

    All arithmetic is in double precision, as in the package.
    """

    array_names = ("genes", "mean", "scale", "coefficients", "intercept")

    def prepare(self) -> None:
        """Check the shapes."""
        n_classes, n_genes = int(self.config["n_classes"]), len(self.require("genes", None))
        self.require("mean", n_genes)
        self.require("scale", n_genes)
        self.require("coefficients", n_classes, n_genes)
        self.require("intercept", n_classes)

    def forward(self, batch: Mapping[str, object]) -> dict[str, NDArray[np.floating]]:
        """Return CellTypist's decision scores, float64 (B, n_classes), as logits."""
        a = self.arrays
        scaled = scaled_values(batch["X"][:, a["genes"]], a["mean"], a["scale"])
        return {"logits": scaled @ a["coefficients"].T + a["intercept"]}


def scaled_values(
    values: sparse.csr_matrix, mean: NDArray[np.floating], scale: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Centre and scale log1p values (n_cells, n_genes), and cut them at 10."""
    dense: NDArray[np.float64] = values.toarray().astype(np.float64)
    dense -= mean
    dense /= scale
    return np.minimum(dense, CEILING, out=dense)
