"""The expression that a model expects of cells, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from episome.errors import PluginError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

    from episome.data import Query
    from episome.inference._predictor import Predictor

#: Scales of a core's ``mean``.
SCALES = ("log1p", "proportion")


class ExpectedExpression:
    """What a core's ``mean`` says of the cells of a query, as molecules of a cell.

    The core's ``mean_scale`` says what ``mean`` is, of shape (B, n_genes): ``"log1p"``, the scale
    of normalised input; or ``"proportion"``, shares of the cell's molecules.

    Parameters
    ----------
    predictor
        Of a model with the capability ``reconstruction``.
    query
        Of ``Predictor.prepare``.
    genes
        Positions in the model of the genes that are given back, int64; default all.
    hide
        Positions of genes that the model does not see in any cell, as if the query lacked them:
        they count for no size of a cell either.
    library_size
        Molecules of a cell to which the result is scaled; 1: proportions.
    min_gene_overlap
        Smallest accepted share of the model's genes that are left beside the hidden ones.

    Attributes
    ----------
    query
        What the model sees.
    genes
        Positions of the genes that are given back, int64 (n_genes,).

    Raises
    ------
    UsageError
        A size that is not positive (E-U22), or too few genes beside the hidden ones (E-U106).
    PluginError
        The core names another scale (E-P06).
    """

    def __init__(
        self,
        predictor: Predictor,
        query: Query,
        *,
        genes: NDArray[np.int64] | None = None,
        hide: NDArray[np.int64] | None = None,
        library_size: float = 1.0,
        min_gene_overlap: float = 0.5,
    ) -> None:
        if not isinstance(library_size, int | float | np.number) or not 0 < library_size < np.inf:
            raise UsageError("E-U22", f"library_size={library_size!r}", fix="pass 1 or 10000")
        if hide is not None and len(hide):
            query = query.without_genes(hide, min_gene_overlap=min_gene_overlap)
        self.query = query
        self.genes = np.arange(len(predictor.features)) if genes is None else genes
        self._predictor, self._size = predictor, np.float32(library_size)
        self._scale = str(getattr(predictor.core, "mean_scale", "log1p"))
        if self._scale not in SCALES:
            raise PluginError(
                "E-P06",
                f"mean_scale={self._scale!r} of {type(predictor.core).__name__}",
                why="the host cannot tell what `mean` is",
                fix=f"set it to one of {', '.join(SCALES)}",
            )

    def blocks(
        self,
        *,
        rows: NDArray[np.int64] | None = None,
        batch_size: int | None = None,
        mask: sparse.csr_matrix | None = None,
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """Yield what is expected of every batch of cells, in the order of the query.

        Parameters
        ----------
        rows
            Rows; default all.
        batch_size
            Cells at a time.
        mask
            Single entries that the model does not see, boolean (n_rows, n_genes of the model).

        Yields
        ------
        Values, float32 (B, n_genes), and which cells have nothing that the model sees, bool (B,).
        """
        stream = self._predictor.stream(
            self.query, rows=rows, batch_size=batch_size, hidden=mask, outputs=["mean"]
        )
        for out in stream:
            if "mean" not in out:
                raise UsageError(
                    "E-U12", "the model gives no 'mean'", fix="use a model that reconstructs"
                )
            mean = out["mean"].astype(np.float32, copy=False)
            yield self._shares(mean)[:, self.genes] * self._size, out["empty"]

    def _shares(self, mean: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn what the core gives into shares of the cell's molecules."""
        if self._scale == "proportion":
            return mean
        amounts = np.expm1(mean.clip(0.0))
        sums = amounts.sum(axis=1, keepdims=True)
        shares: NDArray[np.float32] = amounts / np.where(sums > 0, sums, 1)
        return shares
