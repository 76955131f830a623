"""The adapter to totalVI keeps the host's contract; a file is run by one process."""

from __future__ import annotations

from episome.testing import parametrize_with_checks


@parametrize_with_checks(["totalvi"])
def test_conformance(check, model_cls):
    check(model_cls)
