"""`KNNClassifier`: votes of the nearest training cells in principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from episome.data import variable_genes
from episome.models import ArrayClassifierModel, EmbeddingMixin, TrainingCells
from episome_baselines.cores import KNNClassifierCore, project

if TYPE_CHECKING:
    from anndata import AnnData


class KNNClassifier(EmbeddingMixin, ArrayClassifierModel):
    """Vote of the nearest training cells on principal components.

    Parameters
    ----------
    adata, registry
        As for every model.
    n_neighbors
        Votes per cell.
    n_components
        Principal components, fitted on training cells, centred, not scaled.
    n_top_genes
        Variable genes, chosen on training cells; ``None``: all.
    weights
        ``"distance"`` or ``"uniform"`` votes.
    metric
        ``"euclidean"`` or ``"cosine"``.
    """

    capabilities = ("annotation", "embedding")
    _core_cls = KNNClassifierCore

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, object] | None = None,
        *,
        n_neighbors: int = 15,
        n_components: int = 50,
        n_top_genes: int | None = 2000,
        weights: Literal["uniform", "distance"] = "distance",
        metric: Literal["euclidean", "cosine"] = "euclidean",
    ) -> None:
        super().__init__(adata, registry)
        core = self._build_core(
            n_neighbors=n_neighbors, n_components=n_components, weights=weights, metric=metric
        )
        self.n_components, self.n_top_genes = n_components, n_top_genes
        self._finish_init(
            core,
            locals(),
            f"KNNClassifier with {n_neighbors} neighbours, {n_components} components",
        )

    def _fit_core(self, cells: TrainingCells) -> dict[str, object]:
        from sklearn.decomposition import PCA

        genes = variable_genes(cells.values, self.n_top_genes)
        dense = cells.values[:, genes].toarray()
        k = min(self.n_components, min(dense.shape) - 1)
        solver = "randomized" if min(dense.shape) > 100 else "full"
        pca = PCA(n_components=k, random_state=cells.seed, svd_solver=solver).fit(dense)
        mean, loadings = pca.mean_.astype(np.float32), pca.components_.astype(np.float32)
        reference = project(cells.values[:, genes], mean, loadings)
        self.module.fill(
            genes=genes, mean=mean, loadings=loadings, reference=reference, codes=cells.codes
        )
        return {"n_genes": len(genes), "n_components": int(k)}
