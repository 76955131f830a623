"""Capability `embedding`: a vector for every cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from episome.models._arguments import as_rows
from episome.models._calls import Answering

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.data import CellSource


class EmbeddingMixin(Answering):
    """What every model whose core gives ``latent`` does the same way."""

    capabilities: ClassVar[tuple[str, ...]] = ("embedding",)

    def get_latent_representation(
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        *,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        **query: Any,
    ) -> NDArray[np.float32]:
        """Return the embedding of every cell.

        Parameters
        ----------
        adata
            Query; genes are aligned by name, nothing is modified. ``None`` takes the training
            cells.
        indices
            Rows; default all.
        batch_size
            Cells at a time.
        **query
            ``layer``, ``use_raw``, ``input_kind``, ``min_gene_overlap``, ``duplicates``.

        Returns
        -------
        float32 of shape (n_cells, n_latent), in the order of the query. A cell with none of the
        model's genes has the embedding of a cell without counts.
        """
        out = self.predictor().collect(
            self.prepare(adata, **query), ["latent"], rows=as_rows(indices), batch_size=batch_size
        )
        latent: NDArray[np.float32] = out["latent"].astype(np.float32, copy=False)
        return latent
