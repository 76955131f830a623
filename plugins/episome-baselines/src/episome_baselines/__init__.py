"""Baselines for episome: what every method has to beat."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from episome_baselines.celltypist_model import CellTypist
    from episome_baselines.centroid import NearestCentroid
    from episome_baselines.correlation import CorrelationClassifier
    from episome_baselines.featuremean import FeatureMean
    from episome_baselines.jointembedding import JointEmbeddingAdapter
    from episome_baselines.knn import KNNClassifier
    from episome_baselines.knntranslation import KNNTranslation
    from episome_baselines.linear import LinearClassifier
    from episome_baselines.logreg import LogisticRegression
    from episome_baselines.majority import MajorityClass
    from episome_baselines.markers import MarkerScore
    from episome_baselines.mlp import MLPClassifier
    from episome_baselines.pca import PCAEmbedding
    from episome_baselines.ridge import RidgeTranslation
    from episome_baselines.scvi_adapters import SCANVIAdapter, SCVIAdapter
    from episome_baselines.totalvi import TOTALVIAdapter
    from episome_baselines.xgboost_pca import XGBoostPCA

__all__ = [
    "CellTypist",
    "CorrelationClassifier",
    "FeatureMean",
    "JointEmbeddingAdapter",
    "KNNClassifier",
    "KNNTranslation",
    "LinearClassifier",
    "LogisticRegression",
    "MLPClassifier",
    "MajorityClass",
    "MarkerScore",
    "NearestCentroid",
    "PCAEmbedding",
    "RidgeTranslation",
    "SCANVIAdapter",
    "SCVIAdapter",
    "TOTALVIAdapter",
    "XGBoostPCA",
]

_MODULES = {
    "CellTypist": "celltypist_model",
    "CorrelationClassifier": "correlation",
    "FeatureMean": "featuremean",
    "JointEmbeddingAdapter": "jointembedding",
    "KNNClassifier": "knn",
    "KNNTranslation": "knntranslation",
    "LinearClassifier": "linear",
    "LogisticRegression": "logreg",
    "MLPClassifier": "mlp",
    "MajorityClass": "majority",
    "MarkerScore": "markers",
    "NearestCentroid": "centroid",
    "PCAEmbedding": "pca",
    "RidgeTranslation": "ridge",
    "SCANVIAdapter": "scvi_adapters",
    "SCVIAdapter": "scvi_adapters",
    "TOTALVIAdapter": "totalvi",
    "XGBoostPCA": "xgboost_pca",
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
