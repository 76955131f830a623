"""Baselines that take longer to train keep the contract too; a file is run by one process."""

from __future__ import annotations

from episome.testing import parametrize_with_checks


@parametrize_with_checks(["linear", "mlp", "celltypist", "xgboost", "scvi", "scanvi"])
def test_conformance(check, model_cls):
    check(model_cls)
