"""Run the conformance kit on an installed plugin, in a process that may die or hang."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

from episome import plugins
from episome.errors import EpisomeError, PluginError

if TYPE_CHECKING:
    from episome.plugins import ModelSpec

Status: TypeAlias = Literal["passed", "failed", "expected", "unexpected pass", "skipped"]

#: Seconds that a model may take to be imported.
IMPORT_LIMIT = 60.0
#: Seconds that one check may take.
CHECK_LIMIT = 600.0


@dataclass(frozen=True, slots=True)
class PluginCheckRequest:
    """What ``episome plugins check`` is asked for.

    Parameters
    ----------
    name
        A plugin (id or distribution), or a model.
    import_limit, check_limit
        Seconds that the import of a model, and one check, may take.
    """

    name: str
    import_limit: float = IMPORT_LIMIT
    check_limit: float = CHECK_LIMIT


@dataclass(frozen=True, slots=True)
class Checked:
    """Outcome of one check of one object of a plugin.

    Parameters
    ----------
    subject
        The model or other object, such as ``"model sctab"`` or ``"metric kappa"``.
    check, status, message, seconds
        As of ``episome.testing.CheckResult``.
    """

    subject: str
    check: str
    status: Status
    message: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PluginCheckResult:
    """What the checks found.

    Parameters
    ----------
    plugin, distribution, version
        What was checked.
    results
        One entry per check and object.
    costs
        What each model costs on the kit's small data; see ``episome.testing.Budget``.
    """

    plugin: str
    distribution: str
    version: str
    results: tuple[Checked, ...]
    costs: dict[str, dict[str, float]]

    @property
    def failures(self) -> tuple[Checked, ...]:
        """What has to be mended."""
        return tuple(r for r in self.results if r.status in {"failed", "unexpected pass"})

    @property
    def error(self) -> PluginError | None:
        """The failures as one error, E-P09; ``None`` where all is well."""
        if not self.failures:
            return None
        return PluginError(
            "E-P09",
            f"the plugin {self.plugin!r} does not keep the host's contract",
            count=len(self.failures),
            total=sum(r.status != "skipped" for r in self.results),
            examples=[f"{r.subject}, {r.check}" for r in self.failures],
            why="what fails here gives users wrong answers or none",
            fix="see the message of every check; `episome.testing.parametrize_with_checks` runs "
            "them in the plugin's own tests",
        )


def check_plugin(
    request: PluginCheckRequest, *, report: Callable[[Checked], None] | None = None
) -> PluginCheckResult:
    """Run every check that applies on what a plugin registers.

    Parameters
    ----------
    request
        What to check.
    report
        Called with every outcome.

    Raises
    ------
    PluginError
        There is no such plugin, or it failed to load (E-P01 to E-P06, E-P14).
    """
    status, specs, whole = _found(request.name)
    results: list[Checked] = []
    costs: dict[str, dict[str, float]] = {}

    def add(result: Checked) -> None:
        results.append(result)
        if report is not None:
            report(result)

    for result in _of_the_plugin(status):
        add(result)
    for kind, spec in _others(status.id) if whole else ():
        add(_importable(kind, spec))
    for spec in specs:
        for event in _in_a_process(spec, request):
            if isinstance(event, Checked):
                add(event)
            else:
                costs[spec.name] = event
    return PluginCheckResult(status.id, status.distribution, status.version, tuple(results), costs)


def _found(name: str) -> tuple[plugins.PluginStatus, list[ModelSpec], bool]:
    """Return the plugin of a name, the models to check, and whether they are all of it."""
    models = [*plugins.models().values()]
    for status in plugins.plugin_status():
        if name in (status.id, status.distribution) and status.status == "loaded":
            return (
                status,
                [
                    s
                    for s in models
                    if (s.plugin, s.distribution) == (status.id, status.distribution)
                ],
                True,
            )
    spec = plugins.get_spec(name)
    (status,) = [
        s
        for s in plugins.plugin_status()
        if (s.id, s.distribution) == (spec.plugin, spec.distribution)
    ]
    return status, [spec], False


def _of_the_plugin(status: plugins.PluginStatus) -> Iterator[Checked]:
    subject = f"plugin {status.id}"
    notes = "; ".join(status.notes)
    yield Checked(subject, "names_are_its_own", "failed" if notes else "passed", notes)
    slow = status.seconds > plugins.SLOW_IMPORT
    text = f"its light module took {status.seconds:.1f} s to import" if slow else ""
    advice = ". To fix: import nothing heavy there, give targets as text." if slow else ""
    state: Status = "failed" if slow else "passed"
    yield Checked(subject, "light_module_is_light", state, text + advice, status.seconds)


def _others(plugin: str) -> Iterator[tuple[str, Any]]:
    """Objects of a plugin that are no models, with what they are."""
    kinds: dict[str, Callable[[], Mapping[str, Any]]] = {
        "dataset": plugins.datasets,
        "metric": plugins.metrics,
        "task": plugins.tasks,
        "study": plugins.studies,
        "pretext task": plugins.pretext_tasks,
        "source": plugins.sources,
    }
    for kind, listed in kinds.items():
        for spec in listed().values():
            if spec.plugin == plugin:
                yield kind, spec


def _importable(kind: str, spec: Any) -> Checked:
    subject, started = f"{kind} {spec.name}", time.monotonic()
    try:
        plugins.load_object(spec.target, plugin=spec.plugin)
    except EpisomeError as error:
        return Checked(subject, "target_is_importable", "failed", str(error))
    seconds = round(time.monotonic() - started, 2)
    return Checked(subject, "target_is_importable", "passed", "", seconds)


# -- one model, in a process of its own ----------------------------------------------------------


def _in_a_process(
    spec: ModelSpec, request: PluginCheckRequest
) -> Iterator[Checked | dict[str, float]]:
    """Yield what the kit finds, and what the model costs; a process that dies is a finding."""
    subject, current = f"model {spec.name}", "import"
    waiting: list[str] = []
    with _running(f"{spec.plugin}:{spec.name}") as child:
        limit = request.import_limit
        while True:
            try:
                event = child.next(limit)
            except queue.Empty:
                yield Checked(subject, current, "failed", _too_slow(current, limit), limit)
                yield from _not_run(subject, waiting, current)
                return
            if event is None:
                break
            kind = event["event"]
            if kind == "failed":
                yield Checked(subject, current, "failed", event["message"])
                return
            if kind == "imported":
                yield Checked(subject, "import", "passed", "", event["seconds"])
                limit = request.check_limit
            elif kind == "checks":
                waiting = list(event["names"])
            elif kind == "begins":
                current = event["check"]
                waiting = waiting[waiting.index(current) :] if current in waiting else []
            elif kind == "result":
                yield Checked(
                    subject, event["check"], event["status"], event["message"], event["seconds"]
                )
            elif kind == "ends":
                current = ""
            elif kind == "costs":
                yield {k: v for k, v in event.items() if k not in {"event", "model"}}
                current = ""
        code = child.wait()
    if current:
        yield Checked(subject, current, "failed", _died(code, child.last_words))
        yield from _not_run(subject, waiting, current)


def _not_run(subject: str, waiting: list[str], current: str) -> Iterator[Checked]:
    """Yield the checks that a process did not come to."""
    for name in waiting:
        if name != current:
            yield Checked(subject, name, "skipped", f"not run: the process ended in {current}")


def _too_slow(current: str, limit: float) -> str:
    what = "importing it" if current == "import" else f"{current}"
    return f"{what} took more than {limit:g} s and was stopped. To fix: see where it hangs."


def _died(code: int, words: str) -> str:
    try:
        cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    except ValueError:
        cause = f"exit code {code}"
    said = f" ({words})" if words else ""
    return f"the process ended at once: {cause}{said}. To fix: nothing may end the interpreter."


class _Child:
    """A running process and what it says, line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._words: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(process.stdout,), daemon=True),
            threading.Thread(target=self._listen, args=(process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            self._events.put(json.loads(line))
        self._events.put(None)

    def _listen(self, lines: IO[str]) -> None:
        for line in lines:
            self._words = [*self._words[-4:], line.strip()]

    @property
    def last_words(self) -> str:
        """The last line of standard error, shortened."""
        return next((w for w in reversed(self._words) if w), "")[:200]

    def next(self, limit: float) -> dict[str, Any] | None:
        """Return the next event, or ``None`` at the end; ``queue.Empty`` after the limit."""
        return self._events.get(timeout=limit)

    def wait(self) -> int:
        """Return the exit code."""
        code = self._process.wait()
        for reader in self._readers:
            reader.join(timeout=5)
        return code


@contextmanager
def _running(name: str) -> Iterator[_Child]:
    """Start the checks of a model; the process is gone afterwards, whatever it does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "episome.testing", name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONFAULTHANDLER": ""},
    )
    try:
        yield _Child(process)
    finally:
        process.kill()
        process.wait()
