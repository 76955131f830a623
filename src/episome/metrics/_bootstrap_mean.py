"""Interval of a mean, by drawing cells or donors again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from episome import settings
from episome.errors import UsageError
from episome.metrics._bootstrap import Interval, donor_units, require_draws, weights
from episome.ontology._cells import same_cells

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def bootstrap_mean(
    values: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    n_draws: int = 1000,
    level: float = 0.95,
    seed: int | None = None,
) -> Interval:
    """Percentile bootstrap interval of the mean of a value of every cell.

    Parameters
    ----------
    values
        Numbers, shape (n_cells,).
    groups, n_draws, level
        As for :func:`bootstrap`: with donors, whole donors are drawn, each with all its cells, and
        a donor counts by its number of cells.
    seed
        Default ``episome.settings.seed``.

    Raises
    ------
    UsageError
        Fewer than two cells or donors (E-U43); values that are not finite, or a level outside 0
        and 1 (E-U44); no draws (E-U22); lists of different lengths (E-U41); series of different
        cells (E-U45).
    """
    require_draws(n_draws, level)
    if groups is not None:
        values, groups = same_cells(values=values, groups=groups)
    numbers = np.asarray(values, dtype=np.float64).ravel()
    n_odd = int((~np.isfinite(numbers)).sum())
    if n_odd:
        raise UsageError(
            "E-U44",
            "values are not finite",
            count=n_odd,
            total=len(numbers),
            fix="leave these cells out",
        )
    units = np.arange(len(numbers)) if groups is None else donor_units(groups, len(numbers))
    kept = units >= 0
    n = int(units.max()) + 1 if kept.any() else 0
    if n < 2:
        raise UsageError(
            "E-U43",
            f"an interval needs two cells, and there {'is one' if n else 'is none'}",
            fix="pass more cells",
        )
    n_cells = np.bincount(units[kept], minlength=n).astype(np.float64)
    sums = np.bincount(units[kept], weights=numbers[kept], minlength=n)
    rng = np.random.default_rng(settings.stream_seed("bootstrap", seed))
    parts = [(w @ sums) / (w @ n_cells) for w in weights(n, np.full(n, 1 / n), n_draws, rng)]
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(np.concatenate(parts), [tail, 100 - tail])
    return Interval(
        float(sums.sum() / n_cells.sum()),
        float(low),
        float(high),
        level,
        n_units=n,
        n_left_out=int((~kept).sum()),
    )
