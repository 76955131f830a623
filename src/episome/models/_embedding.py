"""Capability `embedding`: a vector for every cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from episome.models._arguments import as_rows
from episome.models._calls import Answering
from episome.models._transfer import label_transfer

if TYPE_CHECKING:
    import pandas as pd
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

    def zero_shot_predict(
        self,
        query: AnnData | str | Path | CellSource,
        reference: AnnData | str | Path | CellSource,
        labels_key: str,
        *,
        k: int = 5,
        weights: Literal["uniform", "distance"] = "uniform",
        unlabeled_category: str = "unknown",
        **options: Any,
    ) -> pd.DataFrame:
        """Call cells by the nearest labelled cells in this embedding; nothing is trained.

        The same vote for every model that embeds: ``k`` neighbours among the reference, ties by
        distance. As query and reference are different cells, no neighbour is left out.

        Parameters
        ----------
        query
            Cells to call: an object, which is not modified, or where they are.
        reference
            Labelled cells, likewise.
        labels_key
            Column of their labels; cells without a label take no part.
        k
            Votes per cell; 5 as in :cite:p:`richter2025ssl`.
        weights
            ``"uniform"``, or ``"distance"``: votes count by their inverse distance.
        unlabeled_category
            Label of reference cells without one.
        **options
            How both are read: ``layer``, ``use_raw``, ``input_kind``, ``min_gene_overlap``,
            ``duplicates``.

        Returns
        -------
        One row per query cell, by its name: ``label``, and ``confidence``, the share of votes.
        It is not calibrated.

        Raises
        ------
        UsageError
            There is no such column (E-U04), ``k`` is below one or above the number of labelled
            cells (E-U22), or another word for ``weights`` (E-U30).
        LabelError
            No reference cell has a label (E-L03).
        """
        return self._by_transfer(
            query, reference, labels_key, options, unlabeled_category, k=k, weights=weights
        )

    def linear_probe(
        self,
        query: AnnData | str | Path | CellSource,
        reference: AnnData | str | Path | CellSource,
        labels_key: str,
        *,
        unlabeled_category: str = "unknown",
        **options: Any,
    ) -> pd.DataFrame:
        """Call cells by a logistic regression on this embedding, which stays as it is.

        Parameters
        ----------
        query, reference, labels_key, unlabeled_category, **options
            As for :meth:`zero_shot_predict`. The regression learns from the reference, on
            dimensions standardised by it.

        Returns
        -------
        As :meth:`zero_shot_predict`; ``confidence`` is the probability of the label.

        Raises
        ------
        UsageError
            There is no such column (E-U04).
        LabelError
            The reference has fewer than two labels (E-L03).
        """
        return self._by_transfer(
            query, reference, labels_key, options, unlabeled_category, method="probe"
        )

    def _by_transfer(
        self,
        query: AnnData | str | Path | CellSource,
        reference: AnnData | str | Path | CellSource,
        labels_key: str,
        reading: dict[str, Any],
        unlabeled_category: str,
        **options: Any,
    ) -> pd.DataFrame:
        known = label_transfer(
            self,
            reference,
            labels_key,
            unlabeled_category=unlabeled_category,
            query_kwargs=reading,
            **options,
        )
        cells = self.prepare(query, **reading)
        space = self.predictor().collect(cells, ["latent"])["latent"]
        return known.calls(space, cells.source.obs_names)
