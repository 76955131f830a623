"""How much the calls of a model rest on every gene, and what a query without some loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from episome.errors import ModelFileError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class GeneImportance:
    """Share of a model's weight that every gene carries, by cell type.

    Parameters
    ----------
    weights
        float32 of shape (n_classes, n_genes), not negative; the row of a class sums to one, or to
        zero where nothing is known about it.
    classes
        Names of the classes.
    """

    weights: NDArray[np.float32]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, totals: NDArray[np.floating], classes: tuple[str, ...]) -> GeneImportance:
        """Scale sums of absolute attributions, (n_classes, n_genes), to shares."""
        sums = totals.sum(axis=1, keepdims=True, dtype=np.float64)
        shares = np.divide(totals, sums, out=np.zeros(totals.shape), where=sums > 0)
        return cls(shares.astype(np.float32), classes)

    def lost(self, found: NDArray[np.bool_]) -> dict[str, float]:
        """Return the share of the weight of every class that is not ``found``, largest first.

        Parameters
        ----------
        found
            Whether a query has the gene, bool (n_genes,).

        Returns
        -------
        Share in [0, 1] by class; classes about which nothing is known are left out.
        """
        known = np.flatnonzero(self.weights.any(axis=1))
        shares = self.weights[known][:, ~found].sum(axis=1, dtype=np.float64).clip(0.0, 1.0)
        order = np.argsort(-shares, kind="stable")
        return {self.classes[known[i]]: float(shares[i]) for i in order}

    def top(self, genes: Sequence[str], k: int) -> pd.DataFrame:
        """Return the genes that carry most of the weight of every class.

        Parameters
        ----------
        genes
            Names of the columns, (n_genes,).
        k
            Genes of a class at most; those without weight are left out.

        Returns
        -------
        One row per class and gene, best first: ``group``, ``rank`` (from 1), ``gene``, ``share``.
        """
        rows = []
        for name, weights in zip(self.classes, self.weights, strict=True):
            best = [i for i in np.argsort(-weights, kind="stable")[:k] if weights[i] > 0]
            rows += [(str(name), r + 1, genes[i], float(weights[i])) for r, i in enumerate(best)]
        return pd.DataFrame(rows, columns=["group", "rank", "gene", "share"])

    def require_shape(self, n_classes: int, n_genes: int) -> GeneImportance:
        """Return the table after a check of what a folder gave.

        Raises
        ------
        ModelFileError
            The shape is another one, or values are no shares (E-M06).
        """
        shape_fits = self.weights.shape == (n_classes, n_genes)
        if not shape_fits or not (self.weights >= 0).all() or (self.weights > 1).any():
            raise ModelFileError(
                "E-M06",
                f"the weights of genes are no shares of shape ({n_classes}, {n_genes})",
                where="weights.safetensors",
                why=f"their shape is {self.weights.shape}",
                fix="copy the folder again, or train the model again",
            )
        return self
