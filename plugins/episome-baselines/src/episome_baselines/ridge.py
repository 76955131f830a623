"""`RidgeTranslation`: a linear map from genes to the features of another modality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg

from episome.data import variable_genes
from episome_baselines.components import moments
from episome_baselines.extras import require_positive
from episome_baselines.logreg import checked_penalties
from episome_baselines.translation import ArrayTranslation
from episome_baselines.translation_cores import RidgeTranslationCore

if TYPE_CHECKING:
    from mudata import MuData
    from numpy.typing import NDArray
    from scipy import sparse

    from episome.models import TrainingCells

#: Penalties to choose from, per training cell: of standardised genes a direction that varies as
#: much as one gene has the weight 1.
PENALTIES = tuple(float(p) for p in np.logspace(-3, 3, 13))
#: Share of the largest strength below which a direction is rounding.
ROUNDING = 1e-10


class RidgeTranslation(ArrayTranslation):
    """Ridge regression of every feature on standardised log1p values of genes.

    Every feature has the penalty, of ``penalties``, with the smallest error of generalised
    cross-validation :cite:p:`golub1979generalized`, which training cells alone decide.

    Parameters
    ----------
    mdata, registry
        As for every model of two modalities.
    n_top_genes
        Variable genes, chosen on training cells; ``None``: all.
    penalties
        To choose from, per training cell; one value is taken without choosing.

    Raises
    ------
    UsageError
        Penalties that are no numbers above zero (E-U31), or a number below one (E-U22).
    """

    _core_cls = RidgeTranslationCore

    def __init__(
        self,
        mdata: MuData | None = None,
        registry: dict[str, object] | None = None,
        *,
        n_top_genes: int | None = 2000,
        penalties: Sequence[float] = PENALTIES,
    ) -> None:
        require_positive(n_top_genes=n_top_genes)
        penalties = list(checked_penalties(penalties, why="they are strengths above zero"))
        super().__init__(mdata, registry)
        self.n_top_genes, self.penalties = n_top_genes, penalties
        core = self._build_core(**self._target_config())
        self._finish_init(
            core, locals(), f"RidgeTranslation of {len(self.target_features)} features"
        )

    def _fit_targets(
        self, cells: TrainingCells, targets: sparse.csr_matrix
    ) -> tuple[dict[str, NDArray[np.generic]], dict[str, object]]:
        genes = variable_genes(cells.values, self.n_top_genes)
        found, chosen = ridge(cells.values[:, genes], targets, self.penalties)
        coefficients, intercept = found
        arrays = {
            "genes": genes,
            "coefficients": coefficients.astype(np.float32),
            "intercept": intercept.astype(np.float32),
        }
        lowest, middle, highest = (float(f(chosen)) for f in (np.min, np.median, np.max))
        facts = {"penalty": middle, "penalty_lowest": lowest, "penalty_highest": highest}
        return arrays, {"n_genes": len(genes), **facts}


def ridge(
    values: sparse.csr_matrix, targets: sparse.csr_matrix, penalties: Sequence[float]
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]:
    """Return coefficients and intercepts of a ridge regression, and the penalty of every target.

    Neither matrix is made dense as a whole where there are more cells than genes.

    Parameters
    ----------
    values
        (n_cells, n_genes).
    targets
        (n_cells, n_targets).
    penalties
        Per cell, to choose from.

    Returns
    -------
    Coefficients (n_genes, n_targets) of the values as they are, intercepts (n_targets,), and
    penalties (n_targets,).
    """
    n = values.shape[0]
    mean, variance = moments(values)
    deviation = np.sqrt(np.where(variance > 0, variance, 1.0))
    level, spread = moments(targets)
    strengths, directions = spectrum(values.astype(np.float64), mean, deviation)
    # Products of centred values with centred targets: the mean of either is enough to take off.
    shared = np.asarray((targets.T @ values).todense()).T - n * np.outer(mean, level)
    along = directions.T @ (shared / deviation[:, None])
    chosen = chosen_penalties(strengths, along, spread * (n - 1), n, penalties)
    weights = along / (strengths[:, None] + n * chosen)
    coefficients = (directions @ weights) / deviation[:, None]
    return (coefficients, level - mean @ coefficients), chosen


def spectrum(
    values: sparse.csr_matrix, mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return squared strengths (k,) and directions (n_genes, k) of standardised values.

    From the products of the genes or, where there are fewer cells, of the cells.
    """
    n, width = values.shape
    if n > width:
        gram = np.asarray((values.T @ values).todense()) - n * np.outer(mean, mean)
        strengths, vectors = linalg.eigh(gram / np.outer(deviation, deviation))
    else:
        standard = (values.toarray() - mean) / deviation
        strengths, vectors = linalg.eigh(standard @ standard.T)
    kept = strengths > ROUNDING * max(float(strengths.max(initial=0.0)), np.finfo(float).tiny)
    strengths, vectors = strengths[kept], vectors[:, kept]
    if n <= width:
        vectors = standard.T @ vectors / np.sqrt(strengths)
    return strengths, vectors


def chosen_penalties(
    strengths: NDArray[np.float64],
    along: NDArray[np.float64],
    total: NDArray[np.float64],
    n: int,
    penalties: Sequence[float],
) -> NDArray[np.float64]:
    """Return the penalty of every target with the smallest generalised cross-validation error.

    Parameters
    ----------
    strengths
        Squared strength of every direction, (k,).
    along
        Products of the directions with the targets, (k, n_targets).
    total
        Sum of squares of every target around its mean, (n_targets,).
    n
        Number of cells.
    penalties
        Per cell.
    """
    errors = []
    for penalty in penalties:
        shrunk = 1 / (strengths + n * penalty)
        fitted = ((2 * shrunk - strengths * shrunk**2)[:, None] * along**2).sum(axis=0)
        # The intercept is one more free number.
        free = n - 1 - float((strengths * shrunk).sum())
        errors.append(np.maximum(total - fitted, 0.0) / max(free, 1e-9) ** 2)
    best: NDArray[np.float64] = np.asarray(penalties)[np.argmin(errors, axis=0)]
    return best
