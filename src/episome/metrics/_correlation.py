"""Correlation of rows or columns with holes, and what adds it up over blocks of cells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

#: Values whose range is no larger than this, by their size, are all one value.
SAME = 1e-12


def one_value(low: Floats, high: Floats) -> Bools:
    """Whether values between a smallest and a largest one are all the same, or there are none."""
    size = np.maximum(np.abs(low), np.abs(high))
    with np.errstate(invalid="ignore"):
        return ~(high - low > SAME * size)


def ranks(values: Floats, where: Bools | np.bool_) -> Floats:
    """Return the ranks along the last axis among the entries that count; ties share theirs."""
    # Whatever does not count comes last, where it changes no rank of the others.
    found = rankdata(np.where(where, values, np.inf), axis=-1)
    return np.asarray(found, dtype=np.float64)


@dataclass(slots=True)
class PairSums:
    """Sums over pairs of a predicted and a measured value, by column, added up over blocks.

    Blocks are joined by their means and their sums of squares around them, so that nothing cancels
    that is large beside its differences.

    Parameters
    ----------
    shape
        Shape of one sum: ``(n_columns,)``, or ``()`` for one of everything.
    """

    shape: tuple[int, ...]
    n: Floats = field(init=False)
    mean: Floats = field(init=False)
    square: Floats = field(init=False)
    product: Floats = field(init=False)
    error: Floats = field(init=False)
    low: Floats = field(init=False)
    high: Floats = field(init=False)

    def __post_init__(self) -> None:
        # The first axis of those of two is what was predicted, then what was measured.
        both = (2, *self.shape)
        self.n, self.product, self.error = (np.zeros(self.shape) for _ in range(3))
        self.mean, self.square = np.zeros(both), np.zeros(both)
        self.low, self.high = np.full(both, np.inf), np.full(both, -np.inf)

    def add(self, predicted: Floats, measured: Floats, where: Bools) -> None:
        """Add pairs along the first axis; ``where`` says which count."""
        both, kept = np.stack([predicted, measured]), where[None]
        n = where.sum(axis=0).astype(np.float64)
        mean = np.where(kept, both, 0.0).sum(axis=1) / np.maximum(n, 1.0)
        around = np.where(kept, both - mean[:, None], 0.0)
        total = self.n + n
        step = mean - self.mean
        weight = self.n * n / np.maximum(total, 1.0)
        self.square += (around**2).sum(axis=1) + step**2 * weight
        self.product += (around[0] * around[1]).sum(axis=0) + step[0] * step[1] * weight
        self.error += np.where(where, (both[0] - both[1]) ** 2, 0.0).sum(axis=0)
        self.mean += step * (n / np.maximum(total, 1.0))
        self.low = np.minimum(self.low, np.where(kept, both, np.inf).min(axis=1, initial=np.inf))
        top = np.where(kept, both, -np.inf).max(axis=1, initial=-np.inf)
        self.high = np.maximum(self.high, top)
        self.n = total

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Whether what was measured never varies, which leaves a correlation undefined."""
        return one_value(self.low[1], self.high[1])

    @property
    def pearson(self) -> Floats:
        """Correlation; 0 where only the prediction never varies, NaN where it is undefined."""
        told = ~one_value(self.low[0], self.high[0])
        size = np.sqrt(self.square[0]) * np.sqrt(self.square[1])
        found = np.zeros(self.shape)
        np.divide(self.product, size, out=found, where=told & (size > 0))
        return np.where(self.constant, np.nan, np.clip(found, -1.0, 1.0))

    @property
    def mse(self) -> Floats:
        """Mean squared error; NaN without pairs."""
        found: Floats = np.full(self.shape, np.nan)
        np.divide(self.error, self.n, out=found, where=self.n > 0)
        return found


def correlated(predicted: Floats, measured: Floats, where: Bools) -> PairSums:
    """Return the sums of every row, all at once."""
    found = PairSums((len(predicted),))
    found.add(predicted.T, measured.T, where.T)
    return found
