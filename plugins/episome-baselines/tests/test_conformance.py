"""The baselines keep the host's contract."""

from __future__ import annotations

from episome.testing import parametrize_with_checks


@parametrize_with_checks(
    [
        "majority",
        "centroid",
        "logreg",
        "linear",
        "mlp",
        "knn",
        "pca",
        "correlation",
        "markers",
        "celltypist",
        "scvi",
        "scanvi",
        "xgboost",
    ]
)
def test_conformance(check, model_cls):
    check(model_cls)
