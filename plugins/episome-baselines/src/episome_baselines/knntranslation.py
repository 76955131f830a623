"""`KNNTranslation`: what was measured in the nearest training cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from episome.data import require_choice
from episome_baselines.components import fit_components
from episome_baselines.extras import require_positive
from episome_baselines.nearest import wants_approximate
from episome_baselines.translation import ArrayTranslation
from episome_baselines.translation_cores import KNNTranslationCore

if TYPE_CHECKING:
    from mudata import MuData
    from numpy.typing import NDArray
    from scipy import sparse

    from episome.models import TrainingCells


class KNNTranslation(ArrayTranslation):
    """Mean of the other modality in the nearest training cells on principal components.

    Components and neighbours are those of :class:`KNNClassifier`.

    Parameters
    ----------
    mdata, registry
        As for every model of two modalities.
    n_neighbors
        Cells per mean.
    n_components
        Principal components, fitted on training cells, centred, not scaled.
    n_top_genes
        Variable genes, chosen on training cells; ``None``: all.
    weights
        ``"distance"``: a cell weighs the inverse of its distance; or ``"uniform"``.
    metric
        ``"euclidean"`` or ``"cosine"``.
    index
        ``"exact"``, ``"approximate"`` or ``"auto"``, as of :class:`KNNClassifier`.

    Raises
    ------
    MissingDependencyError
        An approximate index is wanted and pynndescent is not installed (E-P02).
    UsageError
        A word that an argument does not take (E-U30), or a number below one (E-U22).
    """

    _core_cls = KNNTranslationCore

    def __init__(
        self,
        mdata: MuData | None = None,
        registry: dict[str, object] | None = None,
        *,
        n_neighbors: int = 15,
        n_components: int = 50,
        n_top_genes: int | None = 2000,
        weights: Literal["uniform", "distance"] = "distance",
        metric: Literal["euclidean", "cosine"] = "euclidean",
        index: Literal["auto", "exact", "approximate"] = "auto",
    ) -> None:
        require_positive(
            n_neighbors=n_neighbors, n_components=n_components, n_top_genes=n_top_genes
        )
        require_choice("weights", weights, ("uniform", "distance"))
        require_choice("metric", metric, ("euclidean", "cosine"))
        require_choice("index", index, ("auto", "exact", "approximate"))
        # Said before anything is fitted.
        wants_approximate(index, 0, model="KNNTranslation")
        super().__init__(mdata, registry)
        core = self._build_core(
            n_neighbors=n_neighbors,
            n_components=n_components,
            weights=weights,
            metric=metric,
            index=index,
            **self._target_config(),
        )
        self.n_components, self.n_top_genes = n_components, n_top_genes
        summary = f"KNNTranslation with {n_neighbors} neighbours, {n_components} components"
        self._finish_init(core, locals(), summary)

    def _fit_targets(
        self, cells: TrainingCells, targets: sparse.csr_matrix
    ) -> tuple[dict[str, NDArray[np.generic]], dict[str, object]]:
        found = fit_components(
            cells.values, self.n_components, n_top_genes=self.n_top_genes, seed=cells.seed
        )
        arrays = {
            "genes": found.genes,
            "mean": found.mean,
            "loadings": found.loadings,
            "reference": found.project(cells.values),
            "target_data": targets.data.astype(np.float32),
            "target_indices": targets.indices.astype(np.int64),
            "target_indptr": targets.indptr.astype(np.int64),
        }
        return arrays, {"n_genes": len(found.genes), "n_components": len(found.loadings)}

    def _fit_core(self, cells: TrainingCells) -> dict[str, object]:
        facts = super()._fit_core(cells)
        return {**facts, **self.module.index_facts(cells.seed)}
