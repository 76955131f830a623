"""`SCTab`: the TabNet cell-type classifier of Fischer et al. (2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import sparse

from episome.models import ClassifierModel, as_rows
from episome_sctab.core import SCTabCore
from episome_sctab.presets import training_defaults, values_for

if TYPE_CHECKING:
    from anndata import AnnData


class SCTab(ClassifierModel):
    """TabNet with one decision step, as published as scTab.

    A sparse mask picks few genes for each cell; a stack of gated linear layers reads them.

    Parameters
    ----------
    adata, registry
        As for every model.
    preset
        ``"paper"``: the published sizes and schedule, made for millions of cells. ``"small"``:
        chosen here for references of hundreds to tens of thousands of cells. ``"auto"``: by the
        number of training cells.
    n_d, n_a, n_steps, n_shared, n_independent, virtual_batch_size, gamma, momentum, mask
        Sizes of the network; ``None`` takes the preset's.
    lambda_sparse
        Weight of the mask entropy in the loss.
    dropout, embedding_dropout
        Share of input genes, and of the embedding, set to zero in training.
    input_eps
        Floor under the variance of a gene in the input norm.
    mask_scale
        Starting weight of the mask scores; below one masks start broad.
    n_top_genes
        Only so many of the most variable training genes enter; 0: all.

    References
    ----------
    Fischer et al., Nature Communications 15, 6611 (2024).
    """

    capabilities = ("annotation", "embedding", "explanation")
    _core_cls = SCTabCore

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, object] | None = None,
        *,
        preset: Literal["auto", "paper", "small"] = "auto",
        n_d: int | None = None,
        n_a: int | None = None,
        n_steps: int | None = None,
        n_shared: int | None = None,
        n_independent: int | None = None,
        virtual_batch_size: int | None = None,
        gamma: float | None = None,
        momentum: float | None = None,
        mask: Literal["entmax15", "sparsemax"] | None = None,
        lambda_sparse: float | None = None,
        dropout: float | None = None,
        embedding_dropout: float | None = None,
        input_eps: float | None = None,
        mask_scale: float | None = None,
        n_top_genes: int | None = None,
    ) -> None:
        init_locals = dict(locals())
        super().__init__(adata, registry)
        given = {k: v for k, v in init_locals.items() if k in SIZES and v is not None}
        self.preset, values = values_for(preset, self.summary_stats.n_cells, len(self.features))
        config = {**values, **given}
        config["n_top_genes"] = config["n_top_genes"] or None
        core = self._build_core(**config)
        sizes = f"{len(self.labels)} classes, {len(self.features):,} genes"
        summary = f"SCTab ({self.preset}) of {sizes}"
        self._finish_init(core, init_locals, summary)

    def get_feature_mask(
        self,
        adata: AnnData | None = None,
        *,
        step: int = 0,
        indices: list[int] | None = None,
        batch_size: int | None = None,
        **query: object,
    ) -> sparse.csr_matrix:
        """Return which genes the network looks at for each cell.

        Parameters
        ----------
        adata, indices, batch_size, **query
            As for :meth:`predict`.
        step
            Decision step.

        Returns
        -------
        CSR float32 of shape (n_cells, n_genes) in the order of ``model.features``; every row sums
        to one.
        """
        predictor = self.predictor()
        run, genes = self.module.folded(return_masks=True), self.module.genes.cpu().numpy()
        width = len(self.features)
        prepared = self.prepare(adata, **query)
        blocks = []
        for batch in predictor.batches(prepared, rows=as_rows(indices), batch_size=batch_size):
            indptr, columns, values = run(batch["X"]).masks[step].numpy()
            shape = (len(indptr) - 1, width)
            blocks.append(sparse.csr_matrix((values, genes[columns], indptr), shape=shape))
        if not blocks:
            return sparse.csr_matrix((0, width), dtype=np.float32)
        return sparse.vstack(blocks, format="csr")

    def _training_defaults(self) -> dict[str, object]:
        return training_defaults(self.preset, self.summary_stats.n_cells)


SIZES = (
    "n_d",
    "n_a",
    "n_steps",
    "n_shared",
    "n_independent",
    "virtual_batch_size",
    "gamma",
    "momentum",
    "mask",
    "lambda_sparse",
    "dropout",
    "embedding_dropout",
    "input_eps",
    "mask_scale",
    "n_top_genes",
)
