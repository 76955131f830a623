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
    from episome.confidence._conformal import ConformalScores
    from episome.confidence._maps import CalibrationMap, Fitted, fit_map
    from episome.confidence._novelty import MAX_CELLS, Novelty, TypeSpace
    from episome.confidence._temperature import as_logits, fit_temperature, scaled

_HOME = {
    "CalibrationMap": "_maps",
    "CalibrationSource": "_confidence",
    "Confidence": "_confidence",
    "ConformalScores": "_conformal",
    "Fitted": "_maps",
    "MAX_CELLS": "_novelty",
    "Novelty": "_novelty",
    "TypeSpace": "_novelty",
    "as_logits": "_temperature",
    "fit_confidence": "_confidence",
    "fit_map": "_maps",
    "fit_temperature": "_temperature",
    "reliability": "_confidence",
    "scaled": "_temperature",
}
__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
