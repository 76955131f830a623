"""What of the signal of antibodies is background: two groups of proteins within every cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Settings of the mixtures; scikit-learn's, so that their results are those of its mixtures.
_TOLERANCE, _MAX_ITERATIONS, _FLOOR = 1e-3, 100, 1e-6
_TINY = 10 * np.finfo(np.float64).eps
#: Cells that are fitted at once.
_CELLS = 2048


def background_means(values: NDArray[np.float64], *, seed: int = 0) -> NDArray[np.float64]:
    """Return the mean of the lower of two groups of proteins, for every cell on its own.

    Two normal distributions are fitted to the values of a cell by expectation maximisation, once
    with one variance and once with two; the better one by the Bayesian information criterion
    counts.

    Parameters
    ----------
    values
        (n_cells, n_proteins); NaN where a protein was not measured.
    seed
        Of the start, which is the same for every cell: no cell depends on others.

    Returns
    -------
    (n_cells,); NaN for cells with fewer than two measured proteins.
    """
    # The generator that scikit-learn draws its start from.
    draw = np.random.RandomState(seed).uniform(size=(values.shape[1], 2))
    start = draw / draw.sum(axis=1, keepdims=True)
    out = np.full(len(values), np.nan)
    for first in range(0, len(values), _CELLS):
        part = values[first : first + _CELLS]
        fitted = np.flatnonzero((~np.isnan(part)).sum(axis=1) >= 2)
        if len(fitted):
            out[first + fitted] = _lower_means(part[fitted], start)
    return out


def _lower_means(values: NDArray[np.float64], start: NDArray[np.float64]) -> NDArray[np.float64]:
    measured = ~np.isnan(values)
    # A cell that lacks proteins starts as one of a panel without them would.
    place = np.maximum(np.cumsum(measured, axis=1) - 1, 0)
    shares = start[place] * measured[:, :, None]
    filled = np.where(measured, values, 0.0)
    one = _Mixture(filled, measured, shares, shared=True)
    two = _Mixture(filled, measured, shares, shared=False)
    better = np.where(one.criterion < two.criterion, one.lower, two.lower)
    return np.asarray(better, dtype=np.float64)


class _Mixture:
    """Two normal distributions for every row, fitted at once."""

    def __init__(
        self,
        values: NDArray[np.float64],
        measured: NDArray[np.bool_],
        shares: NDArray[np.float64],
        *,
        shared: bool,
    ) -> None:
        n = len(values)
        self._shared = shared
        self.means, self.variances, self.weights = (np.empty((n, 2)) for _ in range(3))
        self._maximise(values, measured, shares, np.arange(n))
        before, active = np.full(n, -np.inf), np.arange(n)
        for _ in range(_MAX_ITERATIONS):
            x, seen = values[active], measured[active]
            logs, total = self._log_densities(x, active)
            bound = _mean(total, seen)
            posterior = np.exp(logs - total[:, :, None]) * seen[:, :, None]
            self._maximise(x, seen, posterior, active)
            change = np.abs(bound - before[active])
            before[active] = bound
            active = active[~(change < _TOLERANCE)]
            if not len(active):
                break
        fit = _mean(self._log_densities(values, np.arange(n))[1], measured)
        size = measured.sum(axis=1)
        n_parameters = 4 if shared else 5
        self.criterion = -2 * fit * size + n_parameters * np.log(size)

    @property
    def lower(self) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self.means.min(axis=1)
        return found

    def _maximise(
        self,
        values: NDArray[np.float64],
        measured: NDArray[np.bool_],
        shares: NDArray[np.float64],
        rows: NDArray[np.int64],
    ) -> None:
        size = shares.sum(axis=1) + _TINY
        means = np.einsum("np,npk->nk", values, shares) / size
        if self._shared:
            squares = (values**2).sum(axis=1) - (size * means**2).sum(axis=1)
            variances = np.repeat((squares / size.sum(axis=1))[:, None], 2, axis=1)
        else:
            apart = values[:, :, None] - means[:, None, :]
            variances = (shares * apart**2).sum(axis=1) / size
        self.means[rows], self.variances[rows] = means, variances + _FLOOR
        self.weights[rows] = size / size.sum(axis=1, keepdims=True)

    def _log_densities(
        self, values: NDArray[np.float64], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the log density of each distribution, weighted, and of both."""
        means, variances = self.means[rows][:, None, :], self.variances[rows][:, None, :]
        apart = (values[:, :, None] - means) ** 2 / variances
        logs = -0.5 * (np.log(2 * np.pi) + apart + np.log(variances))
        logs += np.log(self.weights[rows])[:, None, :]
        return logs, np.logaddexp(logs[:, :, 0], logs[:, :, 1])


def _mean(values: NDArray[np.float64], measured: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray((values * measured).sum(axis=1) / measured.sum(axis=1))
