"""Confidence: calibration, label sets of a chosen error rate, novelty."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome._lazy import lazy_names

if TYPE_CHECKING:
    from episome.confidence._conformal import ConformalScores
    from episome.confidence._maps import CalibrationMap, fit_map
    from episome.confidence._novelty import Novelty, TypeSpace
    from episome.confidence._temperature import as_logits, fit_temperature, scaled

_HOME = {
    "CalibrationMap": "_maps",
    "ConformalScores": "_conformal",
    "Novelty": "_novelty",
    "TypeSpace": "_novelty",
    "as_logits": "_temperature",
    "fit_map": "_maps",
    "fit_temperature": "_temperature",
    "scaled": "_temperature",
}
__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
