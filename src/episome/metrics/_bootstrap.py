"""Intervals of scores, by drawing cells or donors again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from episome import settings
from episome.errors import UsageError
from episome.metrics._classification import ScoreFunction, grouped, labels_of, members
from episome.metrics._counts import Counts, Pairs, Score, paired, score_named
from episome.ontology._cells import same_cells

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from episome.ontology import ClassHierarchy

#: Fewer donors give intervals over donors that are much too narrow: see :func:`bootstrap`.
MIN_DONORS = 5
#: Drawn numbers held at once, 64 MB.
MAX_DRAWN = 8_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A score with its bootstrap interval.

    Parameters
    ----------
    value
        The score of all cells that take part.
    low, high
        Ends of the interval.
    level
        Its coverage.
    n_units
        Number of donors or cells that were drawn from.
    n_left_out
        Cells that take no part, as their donor is missing.
    """

    value: float
    low: float
    high: float
    level: float
    n_units: int = 0
    n_left_out: int = 0

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def bootstrap(
    score: str | ScoreFunction,
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    hierarchy: ClassHierarchy | None = None,
    n_draws: int = 1000,
    level: float = 0.95,
    seed: int | None = None,
) -> Interval:
    """Percentile bootstrap interval of a score, over cells or over whole groups.

    Cells of one donor are not independent, so an interval over cells is too narrow where there
    are donors. Percentiles over few donors are too narrow as well: for the mean of normally
    distributed donors an interval of 95 % holds the truth in 83 % of cases with 5 donors, in 92 %
    with 20 and in 94 % with 50.

    Parameters
    ----------
    score
        Name of a score, or ``score(y_true, y_pred)``. The names are the keys of
        :func:`classification_scores` and the functions' names (``"macro_f1"``). With a name only
        counts are drawn, which takes seconds for millions of cells and follows the same
        distribution.
    y_true, y_pred
        Labels, shape (n_cells,).
    groups
        Donor of every cell: donors are drawn, each with all its cells. Cells with a missing donor
        are left out of the score and the draws, and counted in the result.
    hierarchy
        See :func:`accuracy`; a function gets the corrected calls. All cells are corrected once,
        before any is drawn.
    n_draws
        Number of draws.
    level
        Coverage of the interval.
    seed
        Default ``episome.settings.seed``.

    Raises
    ------
    UsageError
        Fewer than two donors (E-U43); there is no such score (E-U30); no draws (E-U22); a level
        outside 0 and 1 (E-U44); lists of different lengths (E-U41); series of different cells
        (E-U45).
    """
    require_draws(n_draws, level)
    rng = np.random.default_rng(settings.stream_seed("bootstrap", seed))
    if groups is not None:
        y_true, y_pred, groups = same_cells(y_true=y_true, y_pred=y_pred, groups=groups)
    pairs = paired(y_true, y_pred, hierarchy)
    units = None if groups is None else donor_units(groups, len(pairs.cell))
    if isinstance(score, str):
        value, draws = _draw_counts(score_named(score), pairs, units, n_draws, rng)
    else:
        value, draws = _draw_cells(score, pairs, units, n_draws, rng)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Interval(
        value,
        float(low),
        float(high),
        level,
        n_units=len(pairs.cell) if units is None else int(units.max()) + 1,
        n_left_out=0 if units is None else int((units < 0).sum()),
    )


def class_intervals(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    hierarchy: ClassHierarchy | None = None,
    n_draws: int = 1000,
    level: float = 0.95,
    seed: int | None = None,
) -> pd.DataFrame:
    """Percentile bootstrap intervals of the F1 of every class.

    Parameters
    ----------
    y_true, y_pred, groups, hierarchy, n_draws, level, seed
        As for :func:`bootstrap`.

    Returns
    -------
    One row per class, as in :func:`class_table`, with ``f1_low`` and ``f1_high``. NaN for a class
    that is neither true nor called among the cells that take part. Draws in which a class does
    not occur say nothing about it and are left out.

    Raises
    ------
    LabelError, UsageError
        As for :func:`bootstrap`.
    """
    require_draws(n_draws, level)
    rng = np.random.default_rng(settings.stream_seed("bootstrap", seed))
    if groups is not None:
        y_true, y_pred, groups = same_cells(y_true=y_true, y_pred=y_pred, groups=groups)
    pairs = paired(y_true, y_pred, hierarchy)
    units = None if groups is None else donor_units(groups, len(pairs.cell))
    _, parts = _drawn(pairs, units, n_draws, rng)
    draws = np.concatenate([part.f1 for part in parts])
    tail = 100 * (1 - level) / 2
    ends = np.full((2, draws.shape[1]), np.nan)
    occurs = ~np.isnan(draws).all(axis=0)
    ends[:, occurs] = np.nanpercentile(draws[:, occurs], [tail, 100 - tail], axis=0)
    return pd.DataFrame(
        {"f1_low": ends[0], "f1_high": ends[1]}, index=pd.Index(pairs.classes, name="class")
    )


def require_draws(n_draws: int, level: float) -> None:
    """Refuse no draws (E-U22) and a level outside 0 and 1 (E-U44)."""
    if n_draws < 1:
        raise UsageError("E-U22", f"n_draws={n_draws!r} is too small", fix="n_draws=1000")
    if not 0 < level < 1:
        raise UsageError("E-U44", f"level={level!r} is not between 0 and 1", fix="level=0.95")


def donor_units(groups: ArrayLike, n_cells: int) -> NDArray[np.int64]:
    """Return the donor of every cell as a number, -1 for none; refuse fewer than two (E-U43)."""
    units, names = grouped(groups, n_cells)
    if len(names) < 2:
        raise UsageError(
            "E-U43",
            f"an interval over donors needs two of them, and there {_are(len(names))}",
            fix="groups=None draws cells, and says nothing about other donors",
        )
    return units


def _are(n: int) -> str:
    return "is one" if n == 1 else "is none"


def _draw_counts(
    score: Score,
    pairs: Pairs,
    units: NDArray[np.int64] | None,
    n_draws: int,
    rng: np.random.Generator,
) -> tuple[float, NDArray[np.float64]]:
    """Draw how often a donor, or a cell of each kind, comes: all that the score depends on."""
    total, parts = _drawn(pairs, units, n_draws, rng)
    return float(score(total)), np.concatenate([score(part) for part in parts])


def _drawn(
    pairs: Pairs, units: NDArray[np.int64] | None, n_draws: int, rng: np.random.Generator
) -> tuple[Counts, Iterator[Counts]]:
    """Return the counts of all cells that take part, and those of the draws, part by part."""
    if units is None:
        cells = pairs.n_cells
        drawn = weights(int(cells.sum()), cells / cells.sum(), n_draws, rng)
        return pairs.counts(cells), (pairs.counts(w) for w in drawn)
    n = int(units.max()) + 1
    each = pairs.counts(pairs.by_unit(units, n))
    drawn = weights(n, np.full(n, 1 / n), n_draws, rng)
    return _weighed(np.ones(n), each), (_weighed(w, each) for w in drawn)


def weights(
    n: int, shares: NDArray[np.float64], n_draws: int, rng: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
    """Yield how often every unit is drawn, (draws, n_units), in parts of bounded memory."""
    step = max(1, MAX_DRAWN // len(shares))
    for start in range(0, n_draws, step):
        size = min(step, n_draws - start)
        yield rng.multinomial(n, shares, size=size).astype(np.float64)


def _weighed(weights: NDArray[np.float64], each: Counts) -> Counts:
    return Counts(weights @ each.right, weights @ each.true, weights @ each.called)


def _draw_cells(
    score: ScoreFunction,
    pairs: Pairs,
    units: NDArray[np.int64] | None,
    n_draws: int,
    rng: np.random.Generator,
) -> tuple[float, NDArray[np.float64]]:
    truth, called = labels_of(pairs)
    if units is not None:
        kept = units >= 0
        truth, called, units = truth[kept], called[kept], units[kept]
    cells = None if units is None else members(units)
    draws = np.empty(n_draws)
    for i in range(n_draws):
        if cells is None:
            rows = rng.integers(0, len(truth), len(truth))
        else:
            drawn = rng.integers(0, len(cells), len(cells))
            rows = np.concatenate([cells[u] for u in drawn])
        draws[i] = score(truth[rows], called[rows])
    return float(score(truth, called)), draws
