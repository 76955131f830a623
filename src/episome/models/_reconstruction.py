"""Capability `reconstruction`: the expression that a model expects of every cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from scipy import sparse

from episome.errors import PluginError, UsageError
from episome.models._arguments import as_rows
from episome.models._calls import Answering

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.data import CellSource, Query

#: Scales of a core's ``mean``.
SCALES = ("log1p", "proportion")


class ReconstructionMixin(Answering):
    """What every model whose core gives ``mean`` does the same way.

    The core's ``mean_scale`` says what ``mean`` is, of shape (B, n_genes): ``"log1p"``, the scale
    of normalised input; or ``"proportion"``, shares of the cell's molecules.
    """

    capabilities: ClassVar[tuple[str, ...]] = ("reconstruction",)

    def get_normalized_expression(
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        *,
        indices: Sequence[int] | None = None,
        gene_list: Sequence[str] | None = None,
        library_size: float = 1.0,
        mask: sparse.spmatrix | NDArray[np.bool_] | None = None,
        batch_size: int | None = None,
        return_numpy: bool = False,
        **query: Any,
    ) -> pd.DataFrame | NDArray[np.float32]:
        """Return the expression that the model expects of every cell, the noise taken out.

        Parameters
        ----------
        adata
            Query; genes are aligned by name, nothing is modified. ``None`` takes the training
            cells.
        indices
            Rows; default all.
        gene_list
            Genes to return, by the model's identifiers; default all.
        library_size
            Molecules of a cell to which the result is scaled, as in scvi-tools; 1: proportions.
        mask
            Entries that the model must not see, boolean or sparse (n_rows, n_genes) in the order
            of ``indices`` and the model's genes: they are zero on the way in, so that what comes
            out there is imputed. Library sizes are those of the whole cell.
        batch_size
            Cells at a time.
        return_numpy
            Return an array instead of a frame.
        **query
            ``layer``, ``use_raw``, ``input_kind``, ``min_gene_overlap``, ``duplicates``.

        Returns
        -------
        float32 (n_cells, n_genes), frame with cell names and gene identifiers.

        Raises
        ------
        UsageError
            Unknown genes (E-U61), a mask of another shape (E-U62), a size that is not positive
            (E-U22).
        """
        predictor, prepared = self.predictor(), self.prepare(adata, **query)
        rows = as_rows(indices)
        names = prepared.source.obs_names if rows is None else prepared.source.obs_names[rows]
        columns = self._gene_columns(gene_list)
        if not library_size > 0:
            raise UsageError("E-U22", f"library_size={library_size!r}", fix="pass 1 or 10000")
        hidden = None if mask is None else _as_mask(mask, (len(names), len(self.features)))
        parts = [
            self._proportions(values)[:, columns] * np.float32(library_size)
            for values in self._means(prepared, rows, hidden, batch_size)
        ]
        empty = np.empty((0, len(columns)), dtype=np.float32)
        found: NDArray[np.float32] = np.concatenate([empty, *parts])
        if return_numpy:
            return found
        genes = np.array(predictor.features.ids, dtype=object)[columns]
        return pd.DataFrame(found, index=names, columns=genes)

    def _means(
        self,
        prepared: Query,
        rows: NDArray[np.int64] | None,
        hidden: sparse.csr_matrix | None,
        batch_size: int | None,
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the core's ``mean`` of every batch, (B, n_genes)."""
        for out in self.predictor().stream(
            prepared, rows=rows, batch_size=batch_size, hidden=hidden, outputs=["mean"]
        ):
            if "mean" not in out:
                raise UsageError(
                    "E-U12", "the model gives no 'mean'", fix="use a model that reconstructs"
                )
            yield out["mean"].astype(np.float32, copy=False)

    def _proportions(self, mean: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn what the core gives into shares of the cell's molecules."""
        scale = getattr(self.module, "mean_scale", "log1p")
        if scale not in SCALES:
            raise PluginError(
                "E-P06",
                f"mean_scale={scale!r} of {type(self.module).__name__}",
                why="the host cannot tell what `mean` is",
                fix=f"set it to one of {', '.join(SCALES)}",
            )
        if scale == "proportion":
            return mean
        amounts = np.expm1(mean.clip(0.0))
        sums = amounts.sum(axis=1, keepdims=True)
        shares: NDArray[np.float32] = amounts / np.where(sums > 0, sums, 1)
        return shares

    def _gene_columns(self, gene_list: Sequence[str] | None) -> NDArray[np.int64]:
        ids = pd.Index(self.features.ids)
        if gene_list is None:
            return np.arange(len(ids))
        found = ids.get_indexer(list(gene_list))
        if (found < 0).any():
            unknown = [g for g, i in zip(gene_list, found, strict=True) if i < 0]
            raise UsageError(
                "E-U61",
                "genes that the model does not know",
                where="gene_list",
                count=len(unknown),
                total=len(found),
                examples=unknown,
                fix="use identifiers of model.features.ids",
            )
        columns: NDArray[np.int64] = found.astype(np.int64)
        return columns


def _as_mask(
    mask: sparse.spmatrix | NDArray[np.bool_], shape: tuple[int, int]
) -> sparse.csr_matrix:
    if tuple(mask.shape) != shape:
        raise UsageError(
            "E-U62",
            f"a mask of shape {tuple(mask.shape)}",
            where="mask",
            why=f"the cells asked for and the model's genes are {shape}",
            fix="give one row per cell, in their order, and one column per gene of model.features",
        )
    return sparse.csr_matrix(mask).astype(bool)
