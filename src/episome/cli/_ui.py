"""Progress on standard error: a bar on a terminal, else a line per tenth or half minute.

``EPISOME_PROGRESS_FILE`` names a file that holds it for a program: the page reads that.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from episome.resources import peak_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Progress", "note", "progress"]

STEP = 0.1
PAUSE = 30.0
#: Seconds between two writes of the file.
BEAT = 0.2


class Progress(Protocol):
    """What :func:`progress` yields."""

    def update(self, done: float, text: str = "", *, total: float | None = None) -> None:
        """Say how much is done, out of the total, which may be known only now."""

    def advance(self, by: float = 1) -> None:
        """Say how much more is done."""


def note(text: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def progress(
    total: float | None, label: str, *, unit: str = "", enabled: bool = True
) -> Iterator[Progress]:
    """Show how far a piece of work is.

    Parameters
    ----------
    total
        How much there is to do; ``None`` if nobody knows.
    label
        What is done.
    unit
        What is counted, such as ``"cells"``.
    enabled
        Whether to show anything.
    """
    if path := os.environ.get("EPISOME_PROGRESS_FILE"):
        yield _Record(Path(path), total, label, unit)
    elif not enabled:
        yield _Silent()
    elif _is_terminal():
        with _bar(total, label, unit) as bar:
            yield bar
    else:
        lines = _Lines(total, label, unit)
        yield lines
        lines.close()


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class _Silent:
    def update(self, done: float, text: str = "", *, total: float | None = None) -> None:
        pass

    def advance(self, by: float = 1) -> None:
        pass


class _Record:
    """One JSON object in a file, replaced as a whole."""

    def __init__(self, path: Path, total: float | None, label: str, unit: str) -> None:
        self._path, self._total = path, total
        self._facts = {"label": label, "unit": unit}
        self._done, self._said_at = 0.0, 0.0
        # The time left is told from the first step on: what was before it is done once.
        self._first: tuple[float, float] | None = None
        self._say("")

    def update(self, done: float, text: str = "", *, total: float | None = None) -> None:
        self._done, self._total = done, total or self._total
        if self._first is None:
            self._first = (done, time.monotonic())
        finished = self._total is not None and done >= self._total
        if finished or time.monotonic() - self._said_at >= BEAT:
            self._say(text)

    def advance(self, by: float = 1) -> None:
        self.update(self._done + by)

    def _say(self, text: str) -> None:
        self._said_at = time.monotonic()
        facts = {**self._facts, "done": self._done, "total": self._total, "text": text}
        beside = self._path.with_name(f"{self._path.name}.new")
        beside.write_text(json.dumps({**facts, "seconds_left": self._left()}), encoding="utf-8")
        beside.replace(self._path)

    def _left(self) -> float | None:
        if self._first is None or self._total is None or self._done <= self._first[0]:
            return None
        rate = (self._done - self._first[0]) / max(self._said_at - self._first[1], 1e-9)
        return max(self._total - self._done, 0.0) / rate


class _Lines:
    """A line when a tenth more is done, or half a minute has passed."""

    def __init__(self, total: float | None, label: str, unit: str) -> None:
        self._total, self._label, self._unit = total, label, unit
        self._done = 0.0
        self._text = ""
        self._start = self._said_at = time.monotonic()
        self._said = 0.0

    def update(self, done: float, text: str = "", *, total: float | None = None) -> None:
        self._done, self._text, self._total = done, text or self._text, total or self._total
        share = done / self._total if self._total else 0.0
        now = time.monotonic()
        if share - self._said >= STEP - 1e-9 or now - self._said_at >= PAUSE:
            self._said, self._said_at = share, now
            self._say()

    def advance(self, by: float = 1) -> None:
        self.update(self._done + by)

    def close(self) -> None:
        complete = self._total is not None and self._said >= 1.0 - 1e-9
        if self._done and not complete:
            self._say()

    def _say(self) -> None:
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = self._done / seconds
        parts = [f"{self._label}: {self._done:,.0f}"]
        if self._total:
            left = max(self._total - self._done, 0) / rate if rate else 0.0
            parts[0] += f"/{self._total:,.0f}"
            parts.append(f"{left:.0f} s left")
        if self._unit:
            parts[0] += f" {self._unit}"
        parts.append(f"{rate:,.1f}/s")
        if peak := peak_memory():
            parts.append(f"peak {peak / 2**30:.2f} GiB")
        if self._text:
            parts.append(self._text)
        note(", ".join(parts))


class _Bar:
    def __init__(self, bar: Any, task: Any) -> None:
        self._bar, self._task = bar, task

    def update(self, done: float, text: str = "", *, total: float | None = None) -> None:
        told: dict[str, Any] = {"text": text} if text else {}
        told |= {"total": total} if total else {}
        self._bar.update(self._task, completed=done, **told)

    def advance(self, by: float = 1) -> None:
        self._bar.advance(self._task, by)


@contextlib.contextmanager
def _bar(total: float | None, label: str, unit: str) -> Iterator[_Bar]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        yield _Bar(bar, bar.add_task(label, total=total, text=""))
