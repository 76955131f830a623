"""Baselines that predict another modality keep the host's contract."""

from __future__ import annotations

from episome.testing import parametrize_with_checks


@parametrize_with_checks(["feature-mean", "ridge", "knn-translation"])
def test_conformance(check, model_cls):
    check(model_cls)
