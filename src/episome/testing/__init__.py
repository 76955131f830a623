"""The conformance kit for models, and small data for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome._lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(__name__, _HOME)
