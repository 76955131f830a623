"""Baselines for episome: what every method has to beat."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from episome_baselines.centroid import NearestCentroid
    from episome_baselines.knn import KNNClassifier
    from episome_baselines.logreg import LogisticRegression
    from episome_baselines.majority import MajorityClass

__all__ = ["KNNClassifier", "LogisticRegression", "MajorityClass", "NearestCentroid"]

_MODULES = {
    "KNNClassifier": "knn",
    "LogisticRegression": "logreg",
    "MajorityClass": "majority",
    "NearestCentroid": "centroid",
}


def __getattr__(name: str) -> object:
    """Import a model on first use."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
