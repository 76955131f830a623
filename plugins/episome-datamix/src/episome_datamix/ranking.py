"""How well what was said of mixes ranks what came out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from episome import settings
from episome_datamix.analysis import spearman

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

#: Mixes below which a correlation has no interval.
_FEWEST_MIXES = 8


def ranked(said: pd.Series, value: pd.Series) -> dict[str, float]:
    """Return how well a ranking ranks: ``spearman`` with ``low`` and ``high``, and ``regret``.

    Parameters
    ----------
    said, value
        What was said of every mix, and what came out.
    """
    low, high = _interval(_drawn_anew(said, value), len(value))
    chosen = float(value.iloc[int(np.argmax(said.to_numpy()))])
    return {
        "spearman": _rank_r(said, value),
        "low": float(low),
        "high": float(high),
        "regret": float(value.max() - chosen),
    }


def difference(
    first: pd.Series, second: pd.Series, value: pd.Series
) -> tuple[float, float, float]:
    """Return Spearman's of the first less that of the second, with the ends of 95 %.

    Parameters
    ----------
    first, second
        What two said of every mix.
    value
        What came out.
    """
    # The same draws for both: their difference is of the same mixes.
    draws = _drawn_anew(first, value) - _drawn_anew(second, value)
    low, high = _interval(draws, len(value))
    at = _rank_r(first, value)
    return float(at - _rank_r(second, value)), float(low), float(high)


def _interval(draws: NDArray[np.floating], n_mixes: int) -> tuple[float, float]:
    """Return the ends of 95 %; a few mixes drawn anew are the same few, and give none."""
    if n_mixes < _FEWEST_MIXES:
        return float("nan"), float("nan")
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def _drawn_anew(said: pd.Series, value: pd.Series, n_draws: int = 2000) -> NDArray[np.floating]:
    rng = np.random.default_rng(settings.stream_seed("bootstrap", 0))
    rows = rng.integers(0, len(value), (n_draws, len(value)))
    return np.array([_rank_r(said.iloc[r], value.iloc[r]) for r in rows])


def _rank_r(said: pd.Series, value: pd.Series) -> float:
    """Return Spearman's correlation; 0 of what is the same everywhere, which ranks nothing."""
    return float(np.nan_to_num(spearman(said, value)))
