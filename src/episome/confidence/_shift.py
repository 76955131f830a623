"""Confidence where a query lacks genes or depth, measured on cells made to lack them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax

from episome.confidence._temperature import as_logits
from episome.errors import ModelFileError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Shares of the weight of genes that are taken away, and of the counts that are kept.
REMOVED = (0.0, 0.2, 0.4, 0.6, 0.8)
DEPTHS = (1.0, 0.5, 0.2)
#: Temperatures that are looked at.
RANGE = (0.2, 20.0)
#: Smaller losses change nothing.
NOTHING = 0.01


@dataclass(frozen=True, slots=True)
class ShiftPoint:
    """What a model does with calibration cells that lack genes or counts.

    Parameters
    ----------
    removed
        Share of the weight of the genes that was taken away.
    depth
        Share of the counts that was kept.
    accuracy, confidence
        Mean over the cells; the confidence is the calibrated one of a complete query.
    temperature
        What makes the mean confidence the accuracy.
    n_cells
        Number of cells.
    library
        Median counts of a cell in the genes of the model that are left, at full depth; ``None``
        where nobody counted.
    """

    removed: float
    depth: float
    accuracy: float
    confidence: float
    temperature: float
    n_cells: int
    library: float | None = None


@dataclass(frozen=True, slots=True)
class ShiftGrid:
    """Accuracy and confidence over genes removed and counts kept.

    Parameters
    ----------
    points
        One per pair of the two.
    """

    points: tuple[ShiftPoint, ...]

    def temperature(self, removed: float) -> float:
        """Return what probabilities are divided by, on the scale of logits, for a query.

        Parameters
        ----------
        removed
            Share of the weight of the genes that the query lacks, from 0 to 1. Between measured
            points the logarithm is interpolated; beyond the last it stays. Never below one, and
            never falling: genes that are missing make no call surer.
        """
        if removed < NOTHING:
            return 1.0
        found = sorted((p.removed, p.temperature) for p in self.points if p.depth == 1.0)
        at = [0.0, *(r for r, _ in found if r > NOTHING)]
        logs = [0.0, *(float(np.log(t)) for r, t in found if r > NOTHING)]
        return float(np.exp(np.interp(removed, at, np.maximum.accumulate(logs))))

    def accuracy(self, removed: float, depth: float = 1.0) -> float:
        """Return the accuracy to expect of a query, by the cells that were made to lack as much.

        Parameters
        ----------
        removed
            Share of the weight of the genes that the query lacks.
        depth
            Counts of its cells over those of the training cells; more than one is as good as one.

        Returns
        -------
        Interpolated between measured points, in the logarithm of the depth; beyond the last it
        stays. It never rises with what is lacking. Depths that were not measured, as of values
        that are no counts, cost nothing.
        """
        depths = sorted({p.depth for p in self.points})
        at = []
        for d in depths:
            found = sorted((p.removed, p.accuracy) for p in self.points if p.depth == d)
            shares, right = (np.array(v) for v in zip(*found, strict=True))
            at.append(float(np.interp(removed, shares, np.minimum.accumulate(right))))
        # From the deepest on, none is better than one with more counts.
        right = np.minimum.accumulate(at[::-1])[::-1]
        clipped = float(np.clip(depth, depths[0], depths[-1]))
        return float(np.interp(np.log(clipped), np.log(depths), right))

    def library(self, removed: float) -> float | None:
        """Return the counts to expect of a cell as deep as the training cells.

        Parameters
        ----------
        removed
            Share of the weight of the genes that the query lacks.

        Returns
        -------
        Median over the genes that are left; ``None`` where nobody counted.
        """
        found = sorted(
            (p.removed, p.library) for p in self.points if p.depth == 1.0 and p.library is not None
        )
        if not found:
            return None
        shares, counts = zip(*found, strict=True)
        return float(np.interp(removed, shares, counts))

    def to_json(self) -> list[dict[str, float]]:
        """Return the points as plain data."""
        return [
            {
                "removed": round(p.removed, 4),
                "depth": p.depth,
                "accuracy": round(p.accuracy, 4),
                "confidence": round(p.confidence, 4),
                "temperature": round(p.temperature, 4),
                "n_cells": p.n_cells,
                **({} if p.library is None else {"library": round(p.library, 2)}),
            }
            for p in self.points
        ]

    @classmethod
    def from_json(cls, plain: Sequence[Mapping[str, Any]]) -> ShiftGrid:
        """Restore what :meth:`to_json` gave.

        Raises
        ------
        ModelFileError
            A point lacks a number, or has one that makes no sense (E-M06).
        """
        try:
            points = tuple(
                ShiftPoint(
                    float(p["removed"]),
                    float(p["depth"]),
                    float(p["accuracy"]),
                    float(p["confidence"]),
                    float(p["temperature"]),
                    int(p["n_cells"]),
                    float(p["library"]) if "library" in p else None,
                )
                for p in plain
            )
            sane = all(
                0 <= p.removed <= 1 and RANGE[0] <= p.temperature <= RANGE[1] for p in points
            )
        except (KeyError, TypeError, ValueError):
            points, sane = (), False
        if not sane:
            raise ModelFileError(
                "E-M06",
                "the table of confidence under shift cannot be read",
                where="manifest.json",
                fix="copy the folder again, or train the model again",
            )
        return cls(points)


def shift_point(
    probabilities: NDArray[np.floating],
    codes: NDArray[np.int64],
    *,
    removed: float,
    depth: float,
    library: float | None = None,
) -> ShiftPoint:
    """Measure one point.

    Parameters
    ----------
    probabilities
        Calibrated as for a complete query, (n_cells, n_classes).
    codes
        True class of every cell, int64 (n_cells,).
    removed, depth
        What the cells lack.
    library
        Median of their counts at full depth.
    """
    right = probabilities.argmax(axis=1) == codes
    accuracy = float(right.mean())
    return ShiftPoint(
        float(removed),
        float(depth),
        accuracy,
        float(probabilities.max(axis=1).mean()),
        _matching(as_logits(probabilities), accuracy),
        len(codes),
        None if library is None else float(library),
    )


def softened(probabilities: NDArray[np.floating], temperature: float) -> NDArray[np.floating]:
    """Return probabilities at another temperature; at 1 the same object.

    Parameters
    ----------
    probabilities
        (n_cells, n_classes).
    temperature
        Above 1 less sure.
    """
    if temperature == 1.0:
        return probabilities
    shares: NDArray[np.floating] = softmax(as_logits(probabilities) / temperature, axis=1)
    return shares.astype(probabilities.dtype)


def mean_grid(grids: Sequence[ShiftGrid | None]) -> ShiftGrid | None:
    """Return the grid of an ensemble: means of its members'; ``None`` where one has none."""
    known = [g for g in grids if g is not None]
    if not known or len(known) < len(grids):
        return None
    points = []
    for same in zip(*(g.points for g in known), strict=False):
        first, counted = same[0], [p.library for p in same]
        points.append(
            ShiftPoint(
                float(np.mean([p.removed for p in same])),
                first.depth,
                float(np.mean([p.accuracy for p in same])),
                float(np.mean([p.confidence for p in same])),
                float(np.exp(np.mean([np.log(p.temperature) for p in same]))),
                min(p.n_cells for p in same),
                None if any(n is None for n in counted) else float(np.mean(counted)),
            )
        )
    return ShiftGrid(tuple(points))


def _matching(logits: NDArray[np.floating], accuracy: float) -> float:
    """Temperature at which the mean confidence is the accuracy, in its range."""

    def gap(log_temperature: float) -> float:
        shares = softmax(logits / np.exp(log_temperature), axis=1)
        return float(shares.max(axis=1).mean()) - accuracy

    low, high = np.log(RANGE)
    # The mean confidence falls with the temperature.
    if gap(low) <= 0:
        return RANGE[0]
    if gap(high) >= 0:
        return RANGE[1]
    return float(np.exp(brentq(gap, low, high, xtol=1e-4)))
