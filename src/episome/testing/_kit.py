"""Run the checks: at once, or as pytest parameters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from episome import plugins
from episome.resources import peak_memory
from episome.testing import _checks_answers as _answers
from episome.testing import _checks_class as _class
from episome.testing import _checks_folder as _folder
from episome.testing import _checks_process as _process
from episome.testing import _checks_query as _query
from episome.testing import _checks_setup as _setup
from episome.testing import _checks_training as _training
from episome.testing._check import CHECKS, Check, CheckFailure, NotHere
from episome.testing._subject import N_CELLS, Subject

if TYPE_CHECKING:
    from episome.models import EpisomeModel

#: Where checks are; importing them fills :data:`CHECKS` in this order.
MODULES = (_answers, _class, _folder, _process, _query, _setup, _training)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Outcome of one check on one model.

    Parameters
    ----------
    model, check
        Names of the class and of the check.
    status
        ``"passed"``, ``"failed"``; ``"expected"`` for a failure that was announced,
        ``"unexpected pass"`` where an announced failure did not come, ``"skipped"`` where the
        check says nothing about models of this kind.
    message
        What is wrong, and what to do about it; the reason of an exemption.
    seconds
        Time that it took; the first check that needs a trained model pays for the training.
    """

    model: str
    check: str
    status: Literal["passed", "failed", "expected", "unexpected pass", "skipped"]
    message: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Budget:
    """What a model costs on the kit's small data; reported, never judged.

    Parameters
    ----------
    n_cells, n_genes
        Size of the data.
    train_seconds
        Time of one training as the kit trains.
    cells_per_second
        Cells answered in a second.
    peak_memory
        Largest memory of the process so far, in bytes.
    """

    n_cells: int
    n_genes: int
    train_seconds: float
    cells_per_second: float
    peak_memory: int


def check_model(
    model: type[EpisomeModel] | str,
    *,
    expected_failures: Mapping[str, str] | None = None,
    on_fail: Literal["raise", "collect"] = "raise",
    callback: Callable[[CheckResult], None] | None = None,
    checks: Iterable[Check] | None = None,
) -> list[CheckResult]:
    """Run every check that applies to a model.

    Parameters
    ----------
    model
        Class, or name of an installed model.
    expected_failures
        Reason by name of check; such a check may fail. Those that the class names itself, in
        ``check_exemptions``, are added.
    on_fail
        ``"raise"`` at the first failure, or ``"collect"`` them all.
    callback
        Called with every result.
    checks
        Which checks; default all.

    Returns
    -------
    One :class:`CheckResult` per check.

    Raises
    ------
    CheckFailure
        A check failed, with ``on_fail="raise"``.
    ValueError
        An exemption names no check.
    """
    subject, results = Subject(model), []
    expected = exemptions(subject.cls, expected_failures)
    for check in CHECKS if checks is None else checks:
        result = _run(check, subject, expected)
        results.append(result)
        if callback is not None:
            callback(result)
        if result.status in {"failed", "unexpected pass"} and on_fail == "raise":
            msg = f"{result.model}, {result.check}: {result.message}"
            raise CheckFailure(msg)
    return results


def exemptions(cls: type[EpisomeModel], more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the reasons for failures that are announced, by the name of the check.

    Raises
    ------
    ValueError
        A name is no check's, or a reason is empty.
    """
    found = {**getattr(cls, "check_exemptions", {}), **(more or {})}
    known = {c.name for c in CHECKS}
    unknown = sorted(set(found) - known)
    silent = sorted(name for name, reason in found.items() if not str(reason).strip())
    if unknown or silent:
        msg = f"exemptions of {cls.__name__}: " + "; ".join(
            [*(f"{n} is no check" for n in unknown), *(f"{n} has no reason" for n in silent)]
        )
        raise ValueError(msg)
    return found


def _run(check: Check, subject: Subject, expected: Mapping[str, str]) -> CheckResult:
    if not check.applies(subject):
        return CheckResult(subject.name, check.name, "skipped", "not for models of this kind", 0.0)
    if subject.broken:
        reason = "not run: the model cannot be trained and asked, see the first failure"
        return CheckResult(subject.name, check.name, "skipped", reason, 0.0)
    started = time.monotonic()
    failure = ""
    try:
        check.run(subject)
    except NotHere as error:
        return CheckResult(subject.name, check.name, "skipped", str(error), 0.0)
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything; it is reported
        failure = _told(error, check, subject)
    except SystemExit as error:
        failure = _told(error, check, subject)
    seconds = round(time.monotonic() - started, 2)
    status: Literal["passed", "failed", "expected", "unexpected pass"]
    if check.name in expected:
        status = "expected" if failure else "unexpected pass"
        message = expected[check.name] if failure else "it passes: take its exemption out"
    else:
        status, message = ("failed" if failure else "passed"), failure
    return CheckResult(subject.name, check.name, status, message, seconds)


def _told(error: BaseException, check: Check, subject: Subject) -> str:
    if subject.broken:
        advice = "mend the core or the set-up; every other check waits for it"
        return f"{subject.broken.rstrip('.')}. To fix: {advice}."
    text = str(error) if isinstance(error, CheckFailure) else f"{type(error).__name__}: {error}"
    return f"{text.rstrip('.')}. To fix: {check.advice}."


def measure_model(model: type[EpisomeModel] | str) -> Budget:
    """Measure what a model costs on the kit's small data.

    Parameters
    ----------
    model
        Class, or name of an installed model.
    """
    subject = Subject(model)
    data, query = subject.data(), subject.query
    started = time.monotonic()
    trained = subject.train(data)
    train_seconds = time.monotonic() - started
    subject.ask(trained, query)
    started = time.monotonic()
    for _ in range(5):
        subject.ask(trained, query)
    seconds = max(time.monotonic() - started, 1e-9)
    return Budget(
        n_cells=N_CELLS,
        n_genes=subject.rna(data).n_vars,
        train_seconds=round(train_seconds, 2),
        cells_per_second=round(5 * query.n_obs / seconds),
        peak_memory=peak_memory(),
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
        Classes, or names of installed models; the class of a name is imported when its tests run.
    expected_failures
        Reason by name of check, beside those of ``check_exemptions`` of a class; such a test has
        to fail.
    """
    import pytest

    parameters = []
    for model in models:
        subject = _LazySubject(model)
        name = model if isinstance(model, str) else model.__name__
        for check in CHECKS:
            if check.capabilities and not check.capabilities & subject.capabilities:
                continue
            parameters.append(
                pytest.param(
                    _bound(check, subject, expected_failures), model, id=f"{name}-{check.name}"
                )
            )
    return pytest.mark.parametrize(("check", "model_cls"), parameters)


class _LazySubject:
    """One subject per model, made when its first check runs, so that checks share the training."""

    def __init__(self, model: type[EpisomeModel] | str) -> None:
        self._model = model
        self._subject: Subject | None = None

    @property
    def capabilities(self) -> frozenset[str]:
        """Capabilities, without importing the class of a name."""
        if isinstance(self._model, str):
            return frozenset(plugins.get_spec(self._model).capabilities)
        return frozenset(self._model.capabilities)

    def get(self) -> Subject:
        if self._subject is None:
            self._subject = Subject(self._model)
        return self._subject


def _bound(
    check: Check, subject: _LazySubject, expected_failures: Mapping[str, str] | None
) -> Callable[[object], None]:
    def run(model: object) -> None:
        import pytest

        found = subject.get()
        result = _run(check, found, exemptions(found.cls, expected_failures))
        if result.status == "skipped":
            pytest.skip(result.message)
        if result.status == "expected":
            pytest.xfail(result.message)
        if result.status != "passed":
            raise CheckFailure(result.message)

    run.__name__ = check.name
    return run
