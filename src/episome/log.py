"""One logger tree, ``episome``. The root logger is never touched."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["configure", "get_logger", "quiet"]

ROOT = "episome"
_FILE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_LEVELS = {-1: logging.ERROR, 0: logging.INFO}
_handlers: list[logging.Handler] = []


class _Default(logging.Handler):
    """Shows messages on standard error until somebody decides where they go.

    As scvi-tools does, what a model chose is said in a session in which logging is not set up;
    where the root logger has a handler, or :func:`configure` was called, this one says nothing.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if _handlers or logging.getLogger().handlers:
            return
        sys.stderr.write(self.format(record) + "\n")


def get_logger(name: str = "") -> logging.Logger:
    """Return the logger ``episome`` or one below it.

    Parameters
    ----------
    name
        Name below ``episome``; a module's ``__name__`` is fine too.
    """
    if name in ("", ROOT):
        return logging.getLogger(ROOT)
    return logging.getLogger(name if name.startswith(f"{ROOT}.") else f"{ROOT}.{name}")


@contextmanager
def quiet() -> Iterator[None]:
    """Say nothing but errors while many models are trained; what holds for all was said before."""
    tree = get_logger()
    level = tree.level
    tree.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        tree.setLevel(level)


def configure(
    verbosity: int = 0,
    *,
    stream: IO[str] | None = None,
    log_file: str | Path | None = None,
) -> None:
    """Show the messages of the tree; the command line calls this, a library user need not.

    Parameters
    ----------
    verbosity
        Below zero errors only, zero messages, above zero everything.
    stream
        Where to write, standard error when not given.
    log_file
        A file that receives everything, with times; one that ends in ``.jsonl`` has an object
        of JSON in every line.
    """
    logger = get_logger()
    for handler in _handlers:
        logger.removeHandler(handler)
        handler.close()
    _handlers.clear()
    console = logging.StreamHandler(stream or sys.stderr)
    console.setLevel(_LEVELS.get(max(min(verbosity, 1), -1), logging.DEBUG))
    console.setFormatter(_Console())
    _handlers.append(console)
    if log_file is not None:
        file = logging.FileHandler(log_file, encoding="utf-8")
        lines = str(log_file).endswith(".jsonl")
        file.setFormatter(_JsonLines() if lines else logging.Formatter(_FILE_FORMAT))
        _handlers.append(file)
    for handler in _handlers:
        logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if log_file is not None else console.level)


class _Console(logging.Formatter):
    """The message alone; warnings and errors carry their level."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno >= logging.WARNING:
            return f"{record.levelname.lower()}: {text}"
        return text


class _JsonLines(logging.Formatter):
    """One object of JSON: time, level, logger and message."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {"time": time, "level": record.levelname.lower(), "logger": record.name}
        return json.dumps({**fields, "message": super().format(record)})


_first = _Default(logging.INFO)
_first.setFormatter(_Console())
logging.getLogger(ROOT).addHandler(_first)
logging.getLogger(ROOT).setLevel(logging.INFO)
