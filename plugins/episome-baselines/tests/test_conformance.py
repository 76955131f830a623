"""The baselines keep the host's contract; those that take longer have a file of their own."""

from __future__ import annotations

from episome.testing import parametrize_with_checks


@parametrize_with_checks(
    ["majority", "centroid", "logreg", "knn", "pca", "correlation", "markers"]
)
def test_conformance(check, model_cls):
    check(model_cls)
