"""Which labels are likely wrong: confident learning, and a chance of error with its own rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from episome.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

#: The share of wrong labels is looked for from here, and held back by as many right cells.
FIRST_SHARE = 0.02
RIGHT_CELLS = 50
MAX_SHARE = 0.5
STEPS = 1000
SAME = 1e-9
#: A mean of equal numbers may be a little above them.
ROUNDING = 1e-9
#: No cell is doubted that is more likely right than wrong.
LEAST = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class LabelDoubt:
    """How likely the label of every cell is wrong.

    Parameters
    ----------
    wrong
        Probability that the label names another type than the cell is of, float64 (n_cells,);
        NaN where nothing is known.
    noise
        Share of wrong labels that explains the probabilities best.
    """

    wrong: NDArray[np.float64]
    noise: float


def label_doubt(
    probabilities: ArrayLike, codes: ArrayLike, kinds: ArrayLike | None = None
) -> LabelDoubt:
    """Return how likely every label is wrong, given what a model says that never saw the cell.

    One number is fitted, by the likelihood of the labels: the share of cells whose label was
    replaced by one of the other classes, all alike. A label that the model expects with
    probability ``p`` is then wrong with probability ``e (1 - p) / ((1 - e) (k - 1) p +
    e (1 - p))``, for ``e`` the share and ``k`` classes. So a cell between two types is not
    doubted for lying there: a label of one in three is about as frequent there as it should be.

    Parameters
    ----------
    probabilities
        Calibrated, of models that did not see the cell, (n_cells, n_classes); rows of NaN where
        nothing is known.
    codes
        Given class of every cell, int64 (n_cells,).
    kinds
        bool (n_classes, n_classes): ``kinds[i, j]`` where a cell of class ``j`` may rightly have
        label ``i``, as finer and coarser terms may. Default: only its own.

    Raises
    ------
    UsageError
        Shapes do not fit, or there are fewer than two classes (E-U67).
    """
    p, code = _checked(probabilities, codes)
    n_classes = p.shape[1]
    fits = _kinds(kinds, n_classes)
    wrong = np.full(len(p), np.nan)
    known = np.isfinite(p).all(axis=1)
    if not known.any():
        return LabelDoubt(wrong, 0.0)
    right = np.clip((p[known] * fits[code[known]]).sum(axis=1), 0.0, 1.0)
    others = np.maximum(n_classes - fits.sum(axis=1), 1)[code[known]]
    share = FIRST_SHARE
    for _ in range(STEPS):
        found = _posterior(right, share / others, 1 - share)
        new = min((found.sum() + 1) / (len(found) + RIGHT_CELLS), MAX_SHARE)
        if abs(new - share) < SAME:
            break
        share = new
    wrong[known] = _posterior(right, share / others, 1 - share)
    return LabelDoubt(wrong, float(share))


def confident_errors(
    probabilities: ArrayLike, codes: ArrayLike, kinds: ArrayLike | None = None
) -> NDArray[np.bool_]:
    """Return which cells confident learning doubts :cite:p:`northcutt2021confident`.

    The threshold of a class is the mean probability that its own cells give it. A cell is doubted
    where the most probable of the classes whose threshold it reaches is none that may rightly
    have its label.

    Parameters
    ----------
    probabilities, codes, kinds
        As for :func:`label_doubt`.

    Returns
    -------
    bool (n_cells,); false where nothing is known.
    """
    p, code = _checked(probabilities, codes)
    fits = _kinds(kinds, p.shape[1])
    known: NDArray[np.bool_] = np.asarray(np.isfinite(p).all(axis=1))
    thresholds = np.full(p.shape[1], np.inf)
    for c in np.unique(code[known]):
        thresholds[c] = p[known & (code == c), c].mean() - ROUNDING
    reached = np.where(known[:, None] & (p >= thresholds), p, -1.0)
    found: NDArray[np.bool_] = (reached.max(axis=1) >= 0) & ~fits[code, reached.argmax(axis=1)]
    return found


def doubt_threshold(wrong: ArrayLike, false_discoveries: float) -> float:
    """Return the smallest doubt at which cells are flagged for a share of false discoveries.

    Of the flagged cells the expected share whose label is right is the mean of one minus their
    doubt. No threshold is below 0.5; infinity where no cell can be flagged.

    Parameters
    ----------
    wrong
        Of :class:`LabelDoubt`, (n_cells,).
    false_discoveries
        The expected share, between 0 and 1.

    Raises
    ------
    UsageError
        The share is not between 0 and 1 (E-U65).
    """
    if not 0 < false_discoveries < 1:
        raise UsageError(
            "E-U65",
            f"false_discoveries={false_discoveries!r}",
            why="it is a share of the flagged cells",
            fix="pass a share above 0 and below 1, such as 0.1",
        )
    values = np.asarray(wrong, dtype=np.float64)
    values = np.sort(values[np.isfinite(values)])[::-1]
    values = values[values > LEAST]
    if not len(values):
        return float("inf")
    expected = np.cumsum(1 - values) / np.arange(1, len(values) + 1)
    # Cells of one doubt are flagged together.
    last = np.append(values[1:] < values[:-1], True)
    allowed = np.flatnonzero((expected <= false_discoveries) & last)
    return float(values[allowed[-1]]) if len(allowed) else float("inf")


def _posterior(
    right: NDArray[np.float64], by_error: NDArray[np.float64], kept: float
) -> NDArray[np.float64]:
    """Probability that a label was drawn by error, where the model gives it ``right``."""
    error = by_error * (1 - right)
    found: NDArray[np.float64] = error / (kept * right + error)
    return found


def _kinds(kinds: ArrayLike | None, n_classes: int) -> NDArray[np.bool_]:
    fits = np.eye(n_classes, dtype=bool) if kinds is None else np.asarray(kinds, dtype=bool)
    if fits.shape != (n_classes, n_classes):
        raise UsageError(
            "E-U67",
            f"kinds have shape {fits.shape} for {n_classes} classes",
            fix="pass one row and one column for each class",
        )
    return fits


def _checked(
    probabilities: ArrayLike, codes: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    p, code = np.asarray(probabilities, dtype=np.float64), np.asarray(codes, dtype=np.int64)
    fits = p.ndim == 2 and p.shape[1] > 1 and code.shape == p.shape[:1]
    if not fits or (len(code) and not 0 <= code.min() <= code.max() < p.shape[1]):
        raise UsageError(
            "E-U67",
            f"probabilities of shape {p.shape} and {code.shape} labels",
            fix="pass a row and a label for every cell, and a column for every class",
        )
    return p, code
