"""Run the checks: at once, or as pytest parameters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from episome.testing._checks import CHECKS, CheckFailure
from episome.testing._subject import Subject

if TYPE_CHECKING:
    from episome.models import EpisomeModel


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Outcome of one check on one model.

    ``status`` is ``"passed"``, ``"failed"``, or ``"expected"`` for a failure that was announced.
    """

    model: str
    check: str
    status: Literal["passed", "failed", "expected"]
    message: str
    seconds: float


def check_model(
    model: type[EpisomeModel] | str,
    *,
    expected_failures: Mapping[str, str] | None = None,
    on_fail: Literal["raise", "collect"] = "raise",
    callback: Callable[[CheckResult], None] | None = None,
) -> list[CheckResult]:
    """Run every check on a model.

    Parameters
    ----------
    model
        Class, or name of an installed model.
    expected_failures
        Reason by name of check; such a check may fail.
    on_fail
        ``"raise"`` at the first failure, or ``"collect"`` them all.
    callback
        Called with every result.

    Returns
    -------
    One :class:`CheckResult` per check.

    Raises
    ------
    CheckFailure
        A check failed, with ``on_fail="raise"``.
    """
    subject, results = Subject(model), []
    for check in CHECKS:
        result = _run(check, subject, expected_failures or {})
        results.append(result)
        if callback is not None:
            callback(result)
        if result.status == "failed" and on_fail == "raise":
            msg = f"{result.model}, {result.check}: {result.message}"
            raise CheckFailure(msg)
    return results


def _run(
    check: Callable[[Subject], None], subject: Subject, expected: Mapping[str, str]
) -> CheckResult:
    started = time.monotonic()
    status: Literal["passed", "failed", "expected"] = "passed"
    message = ""
    try:
        check(subject)
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything; it is reported
        status = "expected" if check.__name__ in expected else "failed"
        message = (
            f"{type(error).__name__}: {error}"
            if not isinstance(error, CheckFailure)
            else str(error)
        )
    return CheckResult(
        subject.name, check.__name__, status, message, round(time.monotonic() - started, 2)
    )


def parametrize_with_checks(
    models: Iterable[type[EpisomeModel] | str],
    *,
    expected_failures: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a pytest function ``test(check, model_cls)`` to run every check on every model.

    Parameters
    ----------
    models
        Classes, or names of installed models; a name is resolved when its tests run.
    expected_failures
        Reason by name of check, marked as expected to fail.
    """
    import pytest

    expected = expected_failures or {}
    parameters = []
    for model in models:
        subject = _LazySubject(model)
        for check in CHECKS:
            marks = (
                [pytest.mark.xfail(reason=expected[check.__name__], strict=True)]
                if check.__name__ in expected
                else []
            )
            name = model if isinstance(model, str) else model.__name__
            parameters.append(
                pytest.param(
                    _bound(check, subject), model, id=f"{name}-{check.__name__}", marks=marks
                )
            )
    return pytest.mark.parametrize(("check", "model_cls"), parameters)


class _LazySubject:
    """One subject per model, made when its first check runs, so that checks share the training."""

    def __init__(self, model: type[EpisomeModel] | str) -> None:
        self._model = model
        self._subject: Subject | None = None

    def get(self) -> Subject:
        if self._subject is None:
            self._subject = Subject(self._model)
        return self._subject


def _bound(check: Callable[[Subject], None], subject: _LazySubject) -> Callable[[object], None]:
    def run(model: object) -> None:
        check(subject.get())

    run.__name__ = check.__name__
    return run
