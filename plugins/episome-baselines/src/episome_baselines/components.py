"""Principal components of sparse cells: the one PCA of the baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg, sparse

from episome.data import variable_genes

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Cells or genes up to which all components are found exactly.
EXACT_UP_TO = 500
#: Directions beyond those wanted, and rounds of the randomised search.
OVERSAMPLING, ROUNDS = 20, 7


@dataclass(frozen=True, slots=True)
class Components:
    """What a PCA of training cells found, k components of g genes.

    Parameters
    ----------
    genes
        Columns that entered, int64 (g,).
    mean
        Their mean over the training cells, float32 (g,).
    deviation
        What their values are divided by, float32 (g,): standard deviations, or ones.
    loadings
        Unit-length directions, best first, float32 (k, g); the largest absolute entry of each
        is positive.
    explained_variance_ratio
        Share of the variance in every direction, float64 (k,).
    """

    genes: NDArray[np.int64]
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    loadings: NDArray[np.float32]
    explained_variance_ratio: NDArray[np.float64]

    def project(self, values: sparse.csr_matrix) -> NDArray[np.float32]:
        """Return the components of cells over all genes, float32 (n, k)."""
        return project(values[:, self.genes], self.mean, self.loadings / self.deviation)


def project(
    values: sparse.csr_matrix, mean: NDArray[np.floating], loadings: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Return the components of sparse rows; every row is projected by itself.

    Parameters
    ----------
    values
        The genes of the PCA, (n, g).
    mean
        Their training mean, (g,).
    loadings
        Directions, (k, g); of a scaled PCA divided by the deviations.

    Returns
    -------
    float32 (n, k).
    """
    return np.asarray(values @ loadings.T - mean @ loadings.T, dtype=np.float32)


def fit_components(
    values: sparse.csr_matrix,
    n_components: int,
    *,
    n_top_genes: int | None,
    seed: int,
    scale: bool = False,
) -> Components:
    """Find the principal components of cells without forming a dense matrix of them.

    Values are centred inside the products. Up to 500 cells or genes the answer is exact, else it
    is the randomised one of Halko et al. with seven rounds.

    Parameters
    ----------
    values
        Normalised training values, CSR (n, n_genes); not modified.
    n_components
        How many; at most one fewer than there are cells or genes.
    n_top_genes
        Variable genes; ``None``: all.
    seed
        Of the randomised search.
    scale
        Divide every gene by its standard deviation.

    Returns
    -------
    :class:`Components`.

    References
    ----------
    Halko, Martinsson, Tropp, SIAM Review 53, 217 (2011).
    """
    genes = variable_genes(values, n_top_genes)
    chosen = sparse.csr_matrix(values[:, genes])
    mean, variance = moments(chosen)
    deviation = np.ones(len(genes))
    if scale:
        # A gene that never varies stays zero, whatever it is divided by.
        deviation = np.sqrt(np.where(variance > 0, variance, 1.0))
        chosen = sparse.csr_matrix(chosen @ sparse.diags((1 / deviation).astype(np.float32)))
    k = max(min(n_components, min(chosen.shape) - 1), 1)
    strengths, loadings = _directions(chosen, mean / deviation, k, seed)
    total = max(float((variance / deviation**2).sum()), np.finfo(float).tiny)
    ratio = strengths**2 / max(chosen.shape[0] - 1, 1) / total
    return Components(
        genes,
        mean.astype(np.float32),
        deviation.astype(np.float32),
        _with_sign(loadings).astype(np.float32),
        ratio,
    )


def as_they_are(width: int) -> Components:
    """Return components that change nothing, for vectors that another model made."""
    return Components(
        np.arange(width),
        np.zeros(width, dtype=np.float32),
        np.ones(width, dtype=np.float32),
        np.eye(width, dtype=np.float32),
        np.full(width, np.nan),
    )


def moments(values: sparse.csr_matrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and unbiased variance of every column, float64, in one pass over the values."""
    n, width = values.shape
    data = values.data.astype(np.float64)
    mean = np.bincount(values.indices, weights=data, minlength=width) / n
    # Around the mean, so that nothing cancels; the zeros add their part at the end.
    squares = np.bincount(
        values.indices, weights=(data - mean[values.indices]) ** 2, minlength=width
    )
    stored = np.bincount(values.indices, minlength=width)
    return mean, (squares + (n - stored) * mean**2) / max(n - 1, 1)


def _directions(
    values: sparse.csr_matrix, mean: NDArray[np.float64], k: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the k largest singular values of the centred values, and right vectors (k, g)."""
    n, width = values.shape
    if width <= EXACT_UP_TO:
        products = (values.T @ values).toarray().astype(np.float64)
        spread, vectors = linalg.eigh(products - n * np.outer(mean, mean))
        return np.sqrt(spread[::-1][:k].clip(0.0)), vectors[:, ::-1].T[:k]
    if n <= EXACT_UP_TO:
        dense = values.toarray().astype(np.float64) - mean
        _, strengths, vectors = linalg.svd(dense, full_matrices=False)
        return strengths[:k], vectors[:k]
    return _randomised(values, mean.astype(np.float32), k, seed)


def _randomised(
    values: sparse.csr_matrix, mean: NDArray[np.float32], k: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    n, width = values.shape
    turned = values.T.tocsr()

    def by_cells(right: NDArray[np.float32]) -> NDArray[np.float32]:
        return values @ right - mean @ right

    def by_genes(left: NDArray[np.float32]) -> NDArray[np.float32]:
        return turned @ left - np.outer(mean, left.sum(axis=0))

    size = min(k + OVERSAMPLING, min(values.shape))
    basis = np.random.default_rng(seed).normal(size=(width, size)).astype(np.float32)
    for _ in range(ROUNDS):
        left = linalg.qr(by_cells(basis), mode="economic")[0]
        basis = linalg.qr(by_genes(left), mode="economic")[0]
    left = linalg.qr(by_cells(basis), mode="economic")[0]
    vectors, strengths, _ = linalg.svd(by_genes(left).astype(np.float64), full_matrices=False)
    return strengths[:k], vectors.T[:k]


def _with_sign(loadings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn every direction so that its largest absolute entry is positive."""
    largest = np.abs(loadings).argmax(axis=1)
    sign = np.sign(loadings[np.arange(len(loadings)), largest])
    return loadings * np.where(sign == 0, 1.0, sign)[:, None]
