"""Capability `reconstruction`: the expression that a model expects of every cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from scipy import sparse

from episome.errors import UsageError, did_you_mean
from episome.inference import ExpectedExpression
from episome.models._arguments import as_rows
from episome.models._calls import Answering

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.data import CellSource


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
        hide: Sequence[str] | None = None,
        mask: sparse.spmatrix | NDArray[np.bool_] | None = None,
        batch_size: int | None = None,
        return_numpy: bool = False,
        **query: Any,
    ) -> pd.DataFrame | NDArray[np.float32]:
        """Return the expression that the model expects of every cell, the noise taken out.

        ``get_reconstruction`` is another name of it; ``episome impute`` writes the same to a file.

        Parameters
        ----------
        adata
            Query; genes are aligned by name, nothing is modified. ``None`` takes the training
            cells.
        indices
            Rows; default all.
        gene_list
            Genes to return, by identifier or symbol; default all of the model.
        library_size
            Molecules of a cell to which the result is scaled, as in scvi-tools; 1: proportions.
        hide
            Genes, by identifier or symbol, that the model must not see in any cell: the result is
            that of a query without them, so that what comes out for them is imputed from the
            others alone. They count for no library size either.
        mask
            Single entries that the model must not see, boolean or sparse (n_rows, n_genes) in the
            order of ``indices`` and the model's genes: they are zero on the way in, so that what
            comes out there is imputed. Library sizes are those of the whole cell.
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
            Genes that are unknown, or that several genes may be (E-U61), a mask of another shape
            (E-U62), a size that is not positive (E-U22), too few genes beside the hidden ones
            (E-U106).
        """
        predictor, prepared = self.predictor(), self.prepare(adata, **query)
        rows = as_rows(indices)
        names = prepared.source.obs_names if rows is None else prepared.source.obs_names[rows]
        found = ExpectedExpression(
            predictor,
            prepared,
            genes=self._places(gene_list, "gene_list"),
            hide=self._places(hide, "hide"),
            library_size=library_size,
            min_gene_overlap=float(query.get("min_gene_overlap", 0.5)),
        )
        hidden = None if mask is None else _as_mask(mask, (len(names), len(self.features)))
        blocks = found.blocks(rows=rows, batch_size=batch_size, mask=hidden)
        parts = [values for values, _ in blocks]
        empty = np.empty((0, len(found.genes)), dtype=np.float32)
        values: NDArray[np.float32] = np.concatenate([empty, *parts])
        if return_numpy:
            return values
        genes = np.array(predictor.features.ids, dtype=object)[found.genes]
        return pd.DataFrame(values, index=names, columns=genes)

    def get_reconstruction(self, *args: Any, **kwargs: Any) -> pd.DataFrame | NDArray[np.float32]:
        """Do what :meth:`get_normalized_expression` does, which a model may have made its own."""
        return self.get_normalized_expression(*args, **kwargs)

    def _places(self, genes: Sequence[str] | None, where: str) -> NDArray[np.int64] | None:
        if isinstance(genes, str):
            genes = [genes]
        return None if genes is None else self.features.places(genes, where=where)


@contextmanager
def decoding_into(
    core: Any, batches: Sequence[str], transform_batch: str | None
) -> Iterator[None]:
    """Let a core decode all cells as if they were of one batch.

    Parameters
    ----------
    core
        Has ``decode_batch``: the number of a batch, or ``None`` for the mean of all.
    batches
        Names of the batches that it knows, in the order of their numbers.
    transform_batch
        One of them; ``None``: all.

    Raises
    ------
    UsageError
        There is no such batch (E-U110).
    """
    at = None
    if transform_batch is not None:
        # Batches are text, whatever the column holds.
        name = str(transform_batch)
        if name not in batches:
            raise UsageError(
                "E-U110",
                f"there is no batch {transform_batch!r}",
                where="transform_batch",
                why=f"the model knows {', '.join(batches[:5])}",
                fix=did_you_mean(name, batches) or "name one of these",
            )
        at = batches.index(name)
    core.decode_batch = at
    try:
        yield
    finally:
        core.decode_batch = None


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
