"""What `TOTALVIAdapter` reads off its training cells before it is trained."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Cells of every batch that the background is read off.
N_CELLS = 100
#: Mean and spread of the background of a batch with nothing to read it off.
UNKNOWN = (0.0, 0.05)
#: Proteins that a batch needs for it.
FEW = 5


def measured_in(
    proteins: NDArray[np.floating], codes: NDArray[np.integer], n_batch: int
) -> NDArray[np.bool_]:
    """Return which proteins some cell of every batch has, bool (n_batch, n_proteins).

    Parameters
    ----------
    proteins
        Counts, (n_cells, n_proteins).
    codes
        Batch of every cell.
    n_batch
        Number of batches.
    """
    found = np.zeros((n_batch, proteins.shape[1]), dtype=bool)
    np.logical_or.at(found, codes, proteins > 0)
    return found


def background_prior(
    proteins: NDArray[np.floating],
    codes: NDArray[np.integer],
    measured: NDArray[np.bool_],
    *,
    seed: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and spread of the background, on the log scale, (n_proteins, n_batch).

    As scvi-tools does: two normal distributions are fitted to log1p counts of the proteins of
    single cells, 100 drawn ones per batch, and the lower ones are averaged. A batch has one
    background for all its proteins; training changes it.

    Parameters
    ----------
    proteins
        Counts, (n_cells, n_proteins).
    codes
        Batch of every cell.
    measured
        Of :func:`measured_in`.
    seed
        Of the draws and the fits.
    """
    n_batch, width = measured.shape
    rng = np.random.default_rng(seed)
    found = np.tile(np.array(UNKNOWN, dtype=np.float32), (n_batch, 1))
    for batch in range(n_batch):
        rows = np.flatnonzero(codes == batch)
        if len(rows) and measured[batch].sum() >= FEW:
            drawn = rng.choice(rows, N_CELLS)
            values = np.log1p(proteins[drawn][:, measured[batch]])
            lower = np.array([_lower(cell, seed) for cell in values])
            spread = np.sqrt((lower[:, 1] ** 2).sum()) / N_CELLS
            found[batch] = lower[:, 0].mean(), spread
    mean, spread = (np.tile(column, (width, 1)) for column in found.T)
    return mean, spread


def _lower(values: NDArray[np.floating], seed: int) -> tuple[float, float]:
    """Mean and standard deviation of the lower of two normal distributions."""
    from sklearn.mixture import GaussianMixture

    if len(np.unique(values)) < 2:
        return UNKNOWN
    with warnings.catch_warnings():
        # A fit of some ten values need not converge: it is a start.
        warnings.simplefilter("ignore")
        fit = GaussianMixture(2, random_state=seed).fit(values[:, None])
    first = int(fit.means_.ravel().argmin())
    return float(fit.means_.ravel()[first]), float(np.sqrt(fit.covariances_.ravel()[first]))
