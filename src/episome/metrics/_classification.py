"""Scores of predicted labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from episome import settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray


def accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Share of cells whose label is right."""
    return float(np.mean(np.asarray(y_true) == np.asarray(y_pred)))


def macro_f1(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Mean F1 over the classes that are present in ``y_true``.

    A class that is only predicted costs its cells' true classes, and has no F1 of its own.
    """
    truth, called = np.asarray(y_true), np.asarray(y_pred)
    classes, codes = np.unique(np.concatenate([truth, called]), return_inverse=True)
    n_classes, true, pred = len(classes), codes[: len(truth)], codes[len(truth) :]
    n_true = np.bincount(true, minlength=n_classes)
    n_right = np.bincount(true[true == pred], minlength=n_classes)
    n_called = np.bincount(pred, minlength=n_classes)
    present = n_true > 0
    return float(np.mean(2 * n_right[present] / (n_true + n_called)[present]))


@dataclass(frozen=True, slots=True)
class Interval:
    """A score with its bootstrap interval."""

    value: float
    low: float
    high: float
    level: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def bootstrap(
    score: Callable[[NDArray[np.generic], NDArray[np.generic]], float],
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    n_draws: int = 1000,
    level: float = 0.95,
    seed: int | None = None,
) -> Interval:
    """Percentile bootstrap interval of a score, over cells or over whole groups.

    Parameters
    ----------
    score
        ``score(y_true, y_pred)``.
    y_true, y_pred
        Labels, shape (n_cells,).
    groups
        Donor of every cell: cells of one donor are not independent, so donors are drawn.
    n_draws
        Number of draws.
    level
        Coverage of the interval.
    seed
        Default ``episome.settings.seed``.
    """
    truth, called = np.asarray(y_true), np.asarray(y_pred)
    rng = np.random.default_rng(settings.stream_seed("bootstrap", seed))
    units = np.arange(len(truth)) if groups is None else np.unique(groups, return_inverse=True)[1]
    members = _members(units)
    draws = np.empty(n_draws)
    for i in range(n_draws):
        rows = np.concatenate([members[u] for u in rng.integers(0, len(members), len(members))])
        draws[i] = score(truth[rows], called[rows])
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Interval(score(truth, called), float(low), float(high), level)


def _members(units: NDArray[np.integer]) -> list[NDArray[np.int64]]:
    order = np.argsort(units, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(units[order])) + 1)
