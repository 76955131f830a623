"""Progress on standard error: a bar on a terminal, else a line per tenth or half minute."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol

from episome.resources import peak_memory

__all__ = ["Progress", "note", "progress"]

STEP = 0.1
PAUSE = 30.0


class Progress(Protocol):
    """What :func:`progress` yields."""

    def update(self, done: float, text: str = "") -> None:
        """Say how much is done, out of the total."""

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
    if not enabled:
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
    def update(self, done: float, text: str = "") -> None:
        pass

    def advance(self, by: float = 1) -> None:
        pass


class _Lines:
    """A line when a tenth more is done, or half a minute has passed."""

    def __init__(self, total: float | None, label: str, unit: str) -> None:
        self._total, self._label, self._unit = total, label, unit
        self._done = 0.0
        self._text = ""
        self._start = self._said_at = time.monotonic()
        self._said = 0.0

    def update(self, done: float, text: str = "") -> None:
        self._done, self._text = done, text or self._text
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

    def update(self, done: float, text: str = "") -> None:
        self._bar.update(self._task, completed=done, **({"text": text} if text else {}))

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
