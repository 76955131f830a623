"""The conformance kit for models, and small data for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome._lazy import lazy_names

if TYPE_CHECKING:
    from episome.testing._check import Check, CheckFailure
    from episome.testing._fingerprint import fingerprint
    from episome.testing._kit import (
        CHECKS,
        Budget,
        CheckResult,
        check_model,
        exemptions,
        measure_model,
        parametrize_with_checks,
    )
    from episome.testing._subject import Subject, synthetic_adata, synthetic_mudata

_HOME = {
    "Budget": "_kit",
    "CHECKS": "_kit",
    "Check": "_check",
    "CheckFailure": "_check",
    "CheckResult": "_kit",
    "Subject": "_subject",
    "check_model": "_kit",
    "exemptions": "_kit",
    "fingerprint": "_fingerprint",
    "measure_model": "_kit",
    "parametrize_with_checks": "_kit",
    "synthetic_adata": "_subject",
    "synthetic_mudata": "_subject",
}
__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
