"""Names of files and causes of errors as a message shows them: on one line, printable."""

from __future__ import annotations

from pathlib import Path


def name_of(path: Path) -> str:
    """File name without what would break a line or a terminal."""
    return _printable(path.name)


def shown(path: Path) -> str:
    """Path without what would break a line or a terminal."""
    return _printable(str(path))


def first_line(error: BaseException) -> str:
    """First line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
