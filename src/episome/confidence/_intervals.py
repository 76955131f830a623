"""Intervals of predicted values: split conformal, feature by feature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from episome.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Shares of cells that intervals are made for.
LEVELS = (0.5, 0.8, 0.9, 0.95)
#: Calibration cells of a bin of predictions, and bins at most.
_PER_BIN, _MOST_BINS = 100, 5


@dataclass(frozen=True, slots=True, eq=False)
class Intervals:
    """How far measured values lie from predicted ones, by feature and by height of the prediction.

    Of calibration cells, the predictions of a feature are cut into bins of equal size; in each the
    order statistics of ``measured - predicted`` bound what a new cell's may be. Where new cells
    are like the calibration cells, an interval of level 0.9 holds at least 90 % of the measured
    values of every feature, and at most ``2 / (n + 1)`` more where these have no ties, ``n`` being
    the cells of a bin (Vovk et al. 2005, with Mondrian categories; Romano et al. 2019 for the two
    tails apart). With too few cells for a level its bounds are infinite.

    Parameters
    ----------
    levels
        Shares, float64 (n_levels,).
    edges
        Between the bins of predictions, float32 (n_features, n_bins - 1).
    lower, upper
        Bounds of ``measured - predicted``, float32 (n_levels, n_features, n_bins).
    n_cells
        Calibration cells.
    minimum
        Smallest value that there can be; bounds do not go below it.
    """

    levels: NDArray[np.float64]
    edges: NDArray[np.float32]
    lower: NDArray[np.float32]
    upper: NDArray[np.float32]
    n_cells: int
    minimum: float | None = None

    @classmethod
    def fit(
        cls,
        predicted: NDArray[np.floating],
        measured: NDArray[np.floating],
        *,
        levels: tuple[float, ...] = LEVELS,
        minimum: float | None = None,
    ) -> Intervals:
        """Fit intervals on cells that nothing was trained on.

        Parameters
        ----------
        predicted, measured
            (n_cells, n_features), on one scale; NaN in ``measured``: not measured.
        levels, minimum
            See above.
        """
        n_cells, n_features = predicted.shape
        n_bins = int(np.clip(n_cells // _PER_BIN, 1, _MOST_BINS))
        edges = np.empty((n_features, n_bins - 1), dtype=np.float32)
        bounds = np.empty((2, len(levels), n_features, n_bins), dtype=np.float32)
        cuts = np.arange(1, n_bins) / n_bins
        for j in range(n_features):
            known = np.isfinite(measured[:, j])
            said = np.asarray(predicted[known, j], dtype=np.float64)
            rest = np.asarray(measured[known, j], dtype=np.float64) - said
            edges[j] = np.quantile(said, cuts) if len(said) else 0.0
            bins = _bins(said[:, None], edges[j : j + 1])[:, 0]
            for b in range(n_bins):
                bounds[:, :, j, b] = _bounds(np.sort(rest[bins == b]), levels)
        return cls(np.asarray(levels), edges, bounds[0], bounds[1], n_cells, minimum)

    def bounds(
        self,
        predicted: NDArray[np.floating],
        level: float = 0.9,
        features: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the lower and the upper ends of intervals.

        Parameters
        ----------
        predicted
            (n_cells, n_features).
        level
            One of ``levels``.
        features
            Which the columns are, int64; default all.

        Raises
        ------
        UsageError
            The level was not fitted (E-U22).
        """
        found = np.flatnonzero(np.isclose(self.levels, level))
        if not len(found):
            known = ", ".join(f"{v:g}" for v in self.levels)
            raise UsageError("E-U22", f"interval={level!r}", fix=f"use one of {known}")
        chosen = slice(None) if features is None else features
        lower, upper = self.lower[found[0]][chosen], self.upper[found[0]][chosen]
        bins = _bins(predicted, self.edges[chosen])
        columns = np.arange(predicted.shape[1])
        low = (predicted + lower[columns, bins]).astype(np.float32)
        high = (predicted + upper[columns, bins]).astype(np.float32)
        if self.minimum is not None:
            low, high = np.maximum(low, self.minimum), np.maximum(high, self.minimum)
        return low, high

    def to_parts(self) -> tuple[dict[str, NDArray[np.generic]], dict[str, Any]]:
        """Return tensors, and plain data for the manifest."""
        tensors: dict[str, NDArray[np.generic]] = {
            "edges": self.edges,
            "lower": self.lower,
            "upper": self.upper,
        }
        plain = {"levels": [float(v) for v in self.levels], "n_cells": self.n_cells}
        return tensors, {**plain, "minimum": self.minimum}

    @classmethod
    def from_parts(
        cls, tensors: Mapping[str, NDArray[np.generic]], plain: Mapping[str, Any]
    ) -> Intervals:
        """Build them again from what :meth:`to_parts` returned."""
        parts = {k: np.asarray(tensors[k], dtype=np.float32) for k in ("edges", "lower", "upper")}
        return cls(
            np.asarray(plain["levels"], dtype=np.float64),
            **parts,
            n_cells=int(plain["n_cells"]),
            minimum=plain.get("minimum"),
        )


def _bins(values: NDArray[np.floating], edges: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the bin of every value, of edges (n_features, n_bins - 1)."""
    found = np.zeros(values.shape, dtype=np.int64)
    for cut in edges.T:
        found += values > cut
    return found


def _bounds(residuals: NDArray[np.float64], levels: tuple[float, ...]) -> NDArray[np.float32]:
    """Return order statistics of sorted residuals for every level, (2, n_levels)."""
    n = len(residuals)
    found = np.empty((2, len(levels)), dtype=np.float32)
    for i, level in enumerate(levels):
        tail = (1.0 - level) / 2
        # Of n + 1 residuals, one more than these, a share `tail` may lie beyond each end.
        first = int(np.floor((n + 1) * tail + 1e-9))
        last = int(np.ceil((n + 1) * (1 - tail) - 1e-9))
        found[0, i] = residuals[first - 1] if first >= 1 else -np.inf
        found[1, i] = residuals[last - 1] if last <= n else np.inf
    return found
