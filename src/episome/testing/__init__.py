"""The conformance kit for models, and small data for tests."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from episome.testing._checks import CHECKS, CheckFailure, fingerprint
    from episome.testing._kit import CheckResult, check_model, parametrize_with_checks
    from episome.testing._subject import Subject, synthetic_adata

_HOME = {
    "CHECKS": "_checks",
    "CheckFailure": "_checks",
    "CheckResult": "_kit",
    "Subject": "_subject",
    "check_model": "_kit",
    "fingerprint": "_checks",
    "parametrize_with_checks": "_kit",
    "synthetic_adata": "_subject",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
