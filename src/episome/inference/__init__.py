"""Prediction without scvi-tools or Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome._lazy import lazy_names

if TYPE_CHECKING:
    from episome.inference._array_core import ArrayCore
    from episome.inference._attribution import Attribution, ExplainingCore, attribution
    from episome.inference._cores import Core
    from episome.inference._ensemble import EnsembleCore
    from episome.inference._outputs import as_csr
    from episome.inference._predictor import (
        INDEX_PREFIX,
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
    "Attribution": "_attribution",
    "Core": "_cores",
    "EnsembleCore": "_ensemble",
    "ExplainingCore": "_attribution",
    "Predictor": "_predictor",
    "as_csr": "_outputs",
    "attribution": "_attribution",
    "calls_frame": "_predictor",
    "core_from_folder": "_predictor",
    "folder_features": "_predictor",
    "folder_labels": "_predictor",
    "folder_spec": "_predictor",
    "pick_device": "_predictor",
}
__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
