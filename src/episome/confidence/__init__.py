"""Confidence: calibration, label sets of a chosen error rate, novelty."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome._lazy import lazy_names

if TYPE_CHECKING:
    from episome.confidence._confidence import (
        CalibrationSource,
        Confidence,
        fit_confidence,
        reliability,
    )
    from episome.confidence._conformal import ConformalScores, coverage
    from episome.confidence._doubt import (
        LabelDoubt,
        confident_errors,
        doubt_threshold,
        label_doubt,
    )
    from episome.confidence._intervals import Intervals
    from episome.confidence._maps import CalibrationMap, Fitted, fit_map
    from episome.confidence._novelty import MAX_CELLS, Novelty, TypeSpace
    from episome.confidence._rollup import RollUp, classes_within, restricted
    from episome.confidence._shift import (
        DEPTHS,
        REMOVED,
        ShiftGrid,
        ShiftPoint,
        mean_grid,
        shift_point,
        softened,
    )
    from episome.confidence._temperature import as_logits, fit_temperature, logits_of, scaled

_HOME = {
    "CalibrationMap": "_maps",
    "CalibrationSource": "_confidence",
    "Confidence": "_confidence",
    "ConformalScores": "_conformal",
    "confident_errors": "_doubt",
    "coverage": "_conformal",
    "DEPTHS": "_shift",
    "Fitted": "_maps",
    "Intervals": "_intervals",
    "LabelDoubt": "_doubt",
    "MAX_CELLS": "_novelty",
    "Novelty": "_novelty",
    "REMOVED": "_shift",
    "RollUp": "_rollup",
    "ShiftGrid": "_shift",
    "ShiftPoint": "_shift",
    "TypeSpace": "_novelty",
    "doubt_threshold": "_doubt",
    "label_doubt": "_doubt",
    "as_logits": "_temperature",
    "classes_within": "_rollup",
    "fit_confidence": "_confidence",
    "fit_map": "_maps",
    "fit_temperature": "_temperature",
    "logits_of": "_temperature",
    "mean_grid": "_shift",
    "reliability": "_confidence",
    "restricted": "_rollup",
    "scaled": "_temperature",
    "shift_point": "_shift",
    "softened": "_shift",
}
__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
