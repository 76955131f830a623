"""Pictures; every function takes ``ax=`` and returns it."""

from __future__ import annotations

from episome.pl._colours import COLOURS
from episome.pl._confusion import confusion
from episome.pl._curves import scaling_curves
from episome.pl._heatmap import heatmap

__all__ = ["COLOURS", "confusion", "heatmap", "scaling_curves"]
