"""`CorrelationClassifier`: rank correlation with profiles of each class, refined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from episome.data import variable_genes
from episome.errors import UsageError
from episome.models import ArrayClassifierModel, TrainingCells
from episome_baselines.centroid import best_scale
from episome_baselines.correlation_core import CorrelationClassifierCore

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

#: Cells of a training set that the temperature is fitted on.
SCALED_CELLS = 10_000
#: Genes and components in which cells of a class are grouped.
GROUPING_GENES, GROUPING_COMPONENTS = 2000, 20
ROUNDS = 20


class CorrelationClassifier(ArrayClassifierModel):
    """Call a cell the class whose profiles it correlates with best by rank, as SingleR does.

    A class is described by the means of groups of its similar cells. Its score is a high quantile
    of the Spearman correlations of the cell with them, on the genes that tell pairs of classes
    apart. Classes near the best are compared again on the genes between them alone, until one is
    left or none drops out. Ranks do not change with depth or with any monotone scale.

    The logit of a class is its distance to the best score in the round that decided about it,
    times one number that maximises the likelihood of the training labels. So the most probable
    class is always the one that the refinement ends with. A cell without any chosen gene gets
    equal probabilities.

    Parameters
    ----------
    adata, registry
        As for every model.
    n_profiles
        Most profiles of a class; smaller classes of n cells have about sqrt(n). 1: the mean.
    n_markers
        Genes for each ordered pair of classes: the highest differences of mean log1p values, as
        far as they are positive; default 500 (2/3)^log2(n_classes).
    quantile
        Of the correlations with the profiles of a class, between 0 and 1.
    tolerance
        Classes within this distance of the best score are compared again; 0: only ties are.

    Raises
    ------
    UsageError
        A number outside its range (E-U31).

    References
    ----------
    Aran et al. 2019, https://doi.org/10.1038/s41590-018-0276-y. Written anew; where SingleR takes
    medians, this takes means, because the median of most genes in single cells is zero.
    """

    _core_cls = CorrelationClassifierCore

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, object] | None = None,
        *,
        n_profiles: int = 50,
        n_markers: int | None = None,
        quantile: float = 0.8,
        tolerance: float = 0.05,
    ) -> None:
        super().__init__(adata, registry)
        _check_range("n_profiles", n_profiles, n_profiles >= 1)
        _check_range("n_markers", n_markers, n_markers is None or n_markers >= 1)
        _check_range("quantile", quantile, 0.0 <= quantile <= 1.0)
        _check_range("tolerance", tolerance, tolerance >= 0.0)
        self.n_profiles, self.n_markers = n_profiles, n_markers
        core = self._build_core(quantile=float(quantile), tolerance=float(tolerance))
        self._finish_init(core, locals(), f"CorrelationClassifier of {len(self.labels)} classes")

    def _fit_core(self, cells: TrainingCells) -> dict[str, object]:
        n_markers = self.n_markers or pair_markers(cells.n_classes)
        genes, pair_genes, pair_starts = marker_genes(cells, n_markers)
        profiles, classes = class_profiles(cells, genes, self.n_profiles)
        arrays = {
            "genes": genes,
            "profiles": profiles,
            "classes": classes,
            "pair_genes": pair_genes,
            "pair_starts": pair_starts,
        }
        self.module.fill(**arrays, scale=np.ones(1, np.float32))
        scale = self._scale(cells, genes)
        self.module.fill(**arrays, scale=np.array([scale], np.float32))
        return {"scale": scale, "n_genes": len(genes), "n_profiles": len(profiles)}

    def _scale(self, cells: TrainingCells, genes: NDArray[np.int64]) -> float:
        rows = np.arange(len(cells.codes))
        if len(rows) > SCALED_CELLS:
            rng = np.random.default_rng(cells.seed)
            rows = np.sort(rng.choice(rows, SCALED_CELLS, replace=False))
        return best_scale(self.module.scores(cells.values[rows][:, genes]), cells.codes[rows])


def _check_range(name: str, value: object, fits: bool) -> None:  # noqa: FBT001 - an outcome
    if not fits:
        raise UsageError(
            "E-U31",
            f"{name}={value!r} is out of range",
            where="CorrelationClassifier",
            fix="leave it out, or see the documentation of the model",
        )


def pair_markers(n_classes: int) -> int:
    """Return the number of genes for each ordered pair of classes, by SingleR's rule."""
    return max(round(500 * (2 / 3) ** np.log2(n_classes)), 1)


def class_means(cells: TrainingCells) -> NDArray[np.float64]:
    """Mean log1p value of every gene in every class, (n_classes, n_genes)."""
    return group_means(cells.values, cells.codes, cells.n_classes)


def group_means(
    values: sparse.csr_matrix, groups: NDArray[np.int64], n_groups: int
) -> NDArray[np.float64]:
    """Mean of the rows of every group, which must not be empty, (n_groups, n_genes)."""
    n = len(groups)
    member = sparse.csr_matrix((np.ones(n), (groups, np.arange(n))), shape=(n_groups, n))
    sums = np.asarray((member @ values).todense(), dtype=np.float64)
    return sums / np.bincount(groups, minlength=n_groups)[:, None]


def marker_genes(
    cells: TrainingCells, n_markers: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Choose the genes that tell pairs of classes apart.

    Parameters
    ----------
    cells
        Training cells.
    n_markers
        Most genes of an ordered pair.

    Returns
    -------
    The genes of all pairs, in increasing order; places among them, pair after pair; where each
    pair starts, (n_classes**2 + 1,). All int64.
    """
    means, found = class_means(cells), []
    for mine in means:
        higher = mine - means
        top = np.argsort(-higher, axis=1, kind="stable")[:, :n_markers]
        found += [t[h[t] > 0] for t, h in zip(top, higher, strict=True)]
    genes, places = np.unique(np.concatenate(found), return_inverse=True)
    starts = np.cumsum([0, *(len(f) for f in found)])
    return genes.astype(np.int64), places.ravel().astype(np.int64), starts.astype(np.int64)


def class_profiles(
    cells: TrainingCells, genes: NDArray[np.int64], n_profiles: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Average groups of similar cells of each class.

    Parameters
    ----------
    cells
        Training cells.
    genes
        Genes of the profiles.
    n_profiles
        Most groups of a class.

    Returns
    -------
    Profiles, float32 (n, n_genes), and their classes, int64 (n,), in increasing order.
    """
    rng = np.random.default_rng(cells.seed)
    points = None if n_profiles == 1 else components(cells)
    profiles, classes = [], []
    for code in range(cells.n_classes):
        rows = np.flatnonzero(cells.codes == code)
        k = min(int(np.ceil(np.sqrt(len(rows)))), n_profiles)
        groups = np.zeros(len(rows), dtype=np.int64) if k == 1 else grouped(points[rows], k, rng)
        profiles.append(group_means(cells.values[rows][:, genes], groups, int(groups.max()) + 1))
        classes.append(np.full(len(profiles[-1]), code, dtype=np.int64))
    return np.concatenate(profiles).astype(np.float32), np.concatenate(classes)


def components(cells: TrainingCells) -> NDArray[np.float32]:
    """Leading components of all cells, in which similar ones are near each other."""
    from sklearn.decomposition import TruncatedSVD

    values = cells.values[:, variable_genes(cells.values, GROUPING_GENES)]
    k = min(GROUPING_COMPONENTS, min(values.shape) - 1)
    if k < 1:
        return values.toarray()
    return TruncatedSVD(k, random_state=cells.seed).fit_transform(values).astype(np.float32)


def grouped(points: NDArray[np.floating], k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Group points by k-means; groups that run empty are left out.

    Parameters
    ----------
    points
        (n, n_components).
    k
        Number of groups, at most n.
    rng
        Draws the points to start from.

    Returns
    -------
    Group of every point, int64 (n,), numbered from 0 without gaps.
    """
    centres = points[rng.choice(len(points), k, replace=False)].astype(np.float64)
    groups = np.full(len(points), -1, dtype=np.int64)
    for _ in range(ROUNDS):
        nearest = ((centres**2).sum(axis=1) - 2 * points @ centres.T).argmin(axis=1)
        if np.array_equal(nearest, groups):
            break
        groups = nearest
        sizes = np.bincount(groups, minlength=k)
        for axis in range(points.shape[1]):
            sums = np.bincount(groups, points[:, axis], minlength=k)
            centres[:, axis] = np.where(sizes > 0, sums / np.maximum(sizes, 1), centres[:, axis])
    return np.unique(groups, return_inverse=True)[1].ravel().astype(np.int64)
