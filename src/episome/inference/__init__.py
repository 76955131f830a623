"""Prediction without scvi-tools or Lightning."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from episome.inference._array_core import ArrayCore
    from episome.inference._predictor import (
        INDEX_PREFIX,
        Core,
        Predictor,
        calls_frame,
        core_from_folder,
        folder_features,
        folder_labels,
        folder_spec,
        pick_device,
    )

_HOME = {
    "INDEX_PREFIX": "_predictor",
    "ArrayCore": "_array_core",
    "Core": "_predictor",
    "Predictor": "_predictor",
    "calls_frame": "_predictor",
    "core_from_folder": "_predictor",
    "folder_features": "_predictor",
    "folder_labels": "_predictor",
    "folder_spec": "_predictor",
    "pick_device": "_predictor",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
