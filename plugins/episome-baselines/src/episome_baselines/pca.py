"""`PCAEmbedding`: principal components of the training cells; needs no labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from episome.models import ArrayModel, EmbeddingMixin, ReconstructionMixin, TrainingCells
from episome_baselines.components import Components, fit_components, moments
from episome_baselines.pca_core import PCAEmbeddingCore

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse


class PCAEmbedding(EmbeddingMixin, ReconstructionMixin, ArrayModel):
    """Principal components, fitted once on training cells; a query is projected, never refitted.

    Directions come from the variable genes. Expected expression is given for every gene: each is
    regressed on the components of the training cells, which for the genes of the PCA is its own
    reconstruction.

    Parameters
    ----------
    adata, registry
        As for every model.
    n_components
        How many; at most one fewer than there are training cells or genes.
    n_top_genes
        Variable genes, chosen on training cells; ``None``: all.
    scale
        Divide every gene by its standard deviation in the training cells.
    """

    capabilities = ("embedding", "reconstruction")
    _core_cls = PCAEmbeddingCore

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, object] | None = None,
        *,
        n_components: int = 50,
        n_top_genes: int | None = 2000,
        scale: bool = False,
    ) -> None:
        super().__init__(adata, registry)
        self.n_components, self.n_top_genes, self.scale = n_components, n_top_genes, scale
        self._finish_init(
            self._build_core(), locals(), f"PCAEmbedding with {n_components} components"
        )

    def _fit_core(self, cells: TrainingCells) -> dict[str, object]:
        found = fit_components(
            cells.values,
            self.n_components,
            n_top_genes=self.n_top_genes,
            seed=cells.seed,
            scale=self.scale,
        )
        expected, decoder = regressed(cells.values, found)
        self.module.fill(
            genes=found.genes,
            mean=found.mean,
            deviation=found.deviation,
            loadings=found.loadings,
            expected=expected,
            decoder=decoder,
        )
        return {
            "n_genes": len(found.genes),
            "n_components": len(found.loadings),
            "explained_variance_ratio": [
                round(float(r), 6) for r in found.explained_variance_ratio
            ],
        }


def regressed(
    values: sparse.csr_matrix, found: Components
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean (n_genes,) and slopes (k, n_genes) of every gene over the components."""
    scores = found.project(values).astype(np.float64)
    scores -= scores.mean(axis=0)
    mean, _ = moments(values)
    shared = np.asarray(values.T @ scores).T
    slopes = np.linalg.lstsq(scores.T @ scores, shared, rcond=None)[0]
    return mean.astype(np.float32), slopes.astype(np.float32)
