"""`KNNClassifier`: votes of the nearest training cells in principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from episome.data import require_choice
from episome.errors import UsageError
from episome.models import ArrayClassifierModel, EmbeddingMixin, TrainingCells
from episome_baselines.components import as_they_are, fit_components
from episome_baselines.cores import KNNClassifierCore
from episome_baselines.nearest import wants_approximate

if TYPE_CHECKING:
    from anndata import AnnData


class KNNClassifier(EmbeddingMixin, ArrayClassifierModel):
    """Vote of the nearest training cells on principal components, or on vectors of ``obsm``.

    Distances between vectors of ``obsm`` are those of the vectors as they are.

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
        ``"distance"`` or ``"uniform"`` votes; a tie of these goes to the class whose voters have
        the smaller sum of distances.
    metric
        ``"euclidean"`` or ``"cosine"``.
    index
        ``"exact"``: all distances are computed. ``"approximate"``: an index of pynndescent (extra
        ``ann``), which is built once more after loading; below 1,000 training cells there is none.
        ``"auto"``: the index above 200,000 training cells where it is installed. ``fit_`` says
        which it was, and the share of the exact neighbours that the index finds (``recall``).

    Raises
    ------
    MissingDependencyError
        An approximate index is wanted and pynndescent is not installed (E-P02).
    UsageError
        A word that an argument does not take (E-U30), or a number below one (E-U31).
    """

    capabilities = ("annotation", "embedding")
    reads_embeddings = True
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
        index: Literal["auto", "exact", "approximate"] = "auto",
    ) -> None:
        for name, value in (("n_neighbors", n_neighbors), ("n_components", n_components)):
            if not isinstance(value, int) or value < 1:
                raise UsageError(
                    "E-U31",
                    f"{name}={value!r} is out of range",
                    fix=f"pass a number such as {name}=15",
                )
        require_choice("weights", weights, ("uniform", "distance"))
        require_choice("metric", metric, ("euclidean", "cosine"))
        require_choice("index", index, ("auto", "exact", "approximate"))
        # Said before anything is fitted.
        wants_approximate(index, 0)
        super().__init__(adata, registry)
        core = self._build_core(
            n_neighbors=n_neighbors,
            n_components=n_components,
            weights=weights,
            metric=metric,
            index=index,
        )
        self.n_components, self.n_top_genes = n_components, n_top_genes
        self._finish_init(
            core,
            locals(),
            f"KNNClassifier with {n_neighbors} neighbours, {n_components} components",
        )

    def _fit_core(self, cells: TrainingCells) -> dict[str, object]:
        found = (
            as_they_are(cells.values.shape[1])
            if self.input_rule.input_kind == "embedding"
            else fit_components(
                cells.values, self.n_components, n_top_genes=self.n_top_genes, seed=cells.seed
            )
        )
        core: KNNClassifierCore = self.module
        core.fill(
            genes=found.genes,
            mean=found.mean,
            loadings=found.loadings,
            reference=found.project(cells.values),
            codes=cells.codes,
        )
        return {
            "n_genes": len(found.genes),
            "n_components": len(found.loadings),
            **core.index_facts(cells.seed),
        }
