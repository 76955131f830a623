"""Conformal label sets: sets that miss the truth as seldom as the user says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from episome.confidence._maps import folds_of
from episome.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Calibration cells of a class from which on it has a limit of its own.
MIN_PER_CLASS = 100
#: Calibration scores that are kept: quantiles of more change nothing.
MAX_SCORES = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class ConformalScores:
    """What calibration cells say about how improbable the truth may look.

    Parameters
    ----------
    scores
        One minus the calibrated probability of the true class, float32 (n,).
    codes
        True class of each, int64 (n,).
    n_classes
        Number of classes.
    """

    scores: NDArray[np.float32]
    codes: NDArray[np.int64]
    n_classes: int

    @classmethod
    def of(
        cls, probabilities: NDArray[np.floating], codes: NDArray[np.int64], *, seed: int = 0
    ) -> ConformalScores:
        """Score calibration cells.

        Parameters
        ----------
        probabilities, codes
            Calibrated, (n_cells, n_classes), and the truth, (n_cells,).
        seed
            Of the choice of at most 20,000 of them.
        """
        rows = np.arange(len(codes))
        if len(rows) > MAX_SCORES:
            rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_SCORES, replace=False))
        scores = 1.0 - probabilities[rows, codes[rows]]
        return cls(scores.astype(np.float32), codes[rows].astype(np.int64), probabilities.shape[1])

    def limits(self, error_rate: float, *, by_class: bool = True) -> NDArray[np.float64]:
        """Return the largest score that keeps a class in the set, float64 (n_classes,).

        A class with at least 100 calibration cells has a limit of its own, which holds the error
        rate among its cells; the others share the limit of all cells together.

        Parameters
        ----------
        error_rate
            Share of cells whose set may miss the truth, between 0 and 1.
        by_class
            False: one limit for all classes.

        Raises
        ------
        UsageError
            An error rate outside 0 and 1 (E-U65).
        """
        if not 0.0 < error_rate < 1.0:
            raise UsageError(
                "E-U65", f"error_rate={error_rate!r}", fix="pass a share such as 0.05"
            )
        found = np.full(self.n_classes, _limit(self.scores, error_rate))
        if by_class:
            counts = np.bincount(self.codes, minlength=self.n_classes)
            for c in np.flatnonzero(counts >= MIN_PER_CLASS):
                found[c] = _limit(self.scores[self.codes == c], error_rate)
        return found

    def sets(
        self, probabilities: NDArray[np.floating], error_rate: float, *, by_class: bool = True
    ) -> NDArray[np.bool_]:
        """Return the label set of every cell, bool (n_cells, n_classes).

        Where the cells are exchangeable with the calibration cells, the truth is in the set of a
        cell with probability ``1 - error_rate`` at least; cells of other donors or of unseen
        types are not. A set may be empty: no class is as probable as the truth usually is.

        Parameters
        ----------
        probabilities
            Calibrated, (n_cells, n_classes).
        error_rate, by_class
            See :meth:`limits`.

        References
        ----------
        Sadinle, Lei and Wasserman (2019), Least ambiguous set-valued classifiers.
        """
        limits = self.limits(error_rate, by_class=by_class)
        # float32 on both sides, or a score would miss its own limit by a rounding.
        inside: NDArray[np.bool_] = (1.0 - probabilities).astype(np.float32) <= limits.astype(
            np.float32
        )
        return inside


def coverage(
    probabilities: NDArray[np.floating],
    codes: NDArray[np.int64],
    *,
    donors: NDArray[Any] | None = None,
    error_rate: float,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure how often sets hold the truth, by limits of other cells than those they are for.

    Parameters
    ----------
    probabilities, codes
        Calibrated, (n_cells, n_classes), and the truth, (n_cells,).
    donors
        Donor of every cell (or ``None``); where there are at least five, folds keep them together.
    error_rate
        Share of cells whose set may miss the truth.
    seed
        Of the folds.

    Returns
    -------
    ``overall`` (share of cells whose set holds the truth), ``size`` (mean number of classes in a
    set), ``by_class`` (a ``[share, n_cells]`` for every class, share ``None`` without cells), and
    ``by_donor`` (the same by name; empty without donors).
    """
    held = np.zeros(len(codes), dtype=bool)
    sizes = np.zeros(len(codes), dtype=np.int64)
    for fitted, rest in folds_of(codes, donors, seed):
        scores = ConformalScores.of(probabilities[fitted], codes[fitted], seed=seed)
        sets = scores.sets(probabilities[rest], error_rate)
        held[rest] = sets[np.arange(len(rest)), codes[rest]]
        sizes[rest] = sets.sum(axis=1)
    whose = np.full(len(codes), None, dtype=object) if donors is None else donors
    known = np.array([d is not None for d in whose], dtype=bool)
    names, numbers = np.unique(np.asarray(whose[known], dtype=str), return_inverse=True)
    by_donor = _shares(held[known], numbers, len(names))
    return {
        "overall": float(held.mean()),
        "size": float(sizes.mean()),
        "by_class": _shares(held, codes, probabilities.shape[1]),
        "by_donor": dict(zip(map(str, names), by_donor, strict=True)),
    }


def _shares(
    held: NDArray[np.bool_], groups: NDArray[np.int64], n_groups: int
) -> list[list[float | int | None]]:
    """Share of the cells of every group whose set holds the truth, and how many there are."""
    counts = np.bincount(groups, minlength=n_groups)
    hits = np.bincount(groups, weights=held, minlength=n_groups)
    return [[float(h / n) if n else None, int(n)] for h, n in zip(hits, counts, strict=True)]


def _limit(scores: NDArray[np.floating], error_rate: float) -> float:
    """Return the (n + 1)(1 - error_rate)-th smallest score; infinity where there are too few."""
    rank = int(np.ceil((len(scores) + 1) * (1.0 - error_rate)))
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else np.inf
