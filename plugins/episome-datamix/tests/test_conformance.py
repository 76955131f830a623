"""The model of this plugin keeps the host's contract."""

from __future__ import annotations

from episome.testing import parametrize_with_checks


@parametrize_with_checks(["ldvae"])
def test_conformance(check, model_cls):
    check(model_cls)
