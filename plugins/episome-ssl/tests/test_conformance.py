"""The models of this plugin keep the host's contract."""

from __future__ import annotations

from episome.testing import parametrize_with_checks


@parametrize_with_checks(["ssl", "ssl-classifier", "ssl-reconstructor"])
def test_conformance(check, model_cls):
    check(model_cls)
