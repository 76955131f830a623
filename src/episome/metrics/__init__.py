"""Scores and their intervals."""

from __future__ import annotations

from episome.metrics._classification import Interval, accuracy, bootstrap, macro_f1
from episome.metrics._neighbors import knn_probabilities

__all__ = ["Interval", "accuracy", "bootstrap", "knn_probabilities", "macro_f1"]
