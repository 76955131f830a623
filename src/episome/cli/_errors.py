"""The one place where an exception becomes a message and an exit code."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click

from episome.cli._command import State, answer, dumps, running
from episome.errors import EpisomeError

__all__ = ["PipeClosed", "guarded", "pipe_noticed", "versions"]

CRASH, USAGE, INTERRUPTED, PIPE, TERMINATED = 1, 2, 130, 141, 143

_PACKAGES: tuple[str, ...] = (
    "episome",
    "anndata",
    "lightning",
    "numpy",
    "pandas",
    "scanpy",
    "scipy",
)
_PACKAGES += ("scvi-tools", "torch")


class PipeClosed(BaseException):
    """The reader of the output went away; click would make it a plain exit with 1."""


class _Terminated(BaseException):
    """SIGTERM arrived."""


def guarded(call: Callable[[list[str]], object], args: Sequence[str] | None) -> int:
    """Run the program and return its exit code; whatever happens is said once, in one form."""
    argv = list(sys.argv[1:] if args is None else args)
    running.clear()
    try:
        with _terminable():
            result = call(argv)
            sys.stdout.flush()
        return result if isinstance(result, int) and not isinstance(result, bool) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        return _usage(error, argv)
    except EpisomeError as error:
        _say(argv, str(error), error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _stopped(argv, "stopped by Ctrl-C", "E-X130", INTERRUPTED)
    except _Terminated:
        return _stopped(argv, "stopped by SIGTERM", "E-X143", TERMINATED)
    except (PipeClosed, BrokenPipeError):
        return _abandoned()
    except SystemExit as error:
        return _code(error)
    except Exception as error:  # noqa: BLE001 - a bug: reported, never shown raw
        return _crashed(error, argv)


@contextlib.contextmanager
def pipe_noticed() -> Iterator[None]:
    """Keep a closed pipe from being turned into something else on its way to :func:`guarded`."""
    try:
        yield
    except BrokenPipeError as error:
        raise PipeClosed from error


def _code(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    click.echo(str(error.code), err=True)
    return CRASH


def _wants(argv: list[str], option: str) -> bool:
    own = argv[: argv.index("--")] if "--" in argv else argv
    return option in own


def _state(argv: list[str]) -> State:
    """Return what the running command said about itself; else what the arguments tell."""
    if running:
        return running[-1]
    names = [a for a in argv if not a.startswith("-")]
    return State(command=names[0] if names else "")


def _say(argv: list[str], text: str, error: EpisomeError | dict[str, Any]) -> None:
    """Write a message to standard error, and the JSON object where it was asked for."""
    click.echo(text if text.startswith("Usage") else f"error: {text}", err=True)
    if _wants(argv, "--json"):
        with contextlib.suppress(BrokenPipeError):
            click.echo(dumps(answer(_state(argv), error=error)))


def _usage(error: click.ClickException, argv: list[str]) -> int:
    code = USAGE if isinstance(error, click.UsageError) else error.exit_code
    message = error.format_message()
    ctx = getattr(error, "ctx", None)
    usage = ctx.get_usage() if ctx is not None else "Usage: episome [OPTIONS] COMMAND [ARGS]..."
    click.echo(usage, err=True)
    fix = f"`{ctx.command_path if ctx is not None else 'episome'} --help`"
    kind = "E-U02" if isinstance(error, click.BadParameter) else "E-U01"
    shown = f"{message.rstrip('.')}{'' if message.endswith('?') else '.'}"
    shown += f" To fix: {fix}."
    body: dict[str, Any] = {
        "code": kind,
        "class": "UsageError",
        "message": message,
        "fix": fix,
        "details": {},
    }
    _say(argv, f"{shown} [{kind}]", body)
    return code


def _stopped(argv: list[str], text: str, kind: str, code: int) -> int:
    again = shlex.join(["episome", *argv]) if _state(argv).resumable else None
    body: dict[str, Any] = {
        "code": kind,
        "class": "Interrupted",
        "message": text,
        "fix": again,
        "details": {},
    }
    _say(argv, f"{text}. To go on: {again}" if again else text, body)
    return code


def _crashed(error: Exception, argv: list[str]) -> int:
    report = _write_report(error, argv)
    kept = f"; the report is in {report}" if report else ""
    text = f"a bug in episome: {type(error).__name__}: {_first_line(error)}{kept}"
    if _wants(argv, "--debug"):
        click.echo("".join(traceback.format_exception(error)), err=True)
    body = {
        "code": "E-X01",
        "class": type(error).__name__,
        "message": text,
        "fix": "send the report with a description of what you did",
        "details": {"report": str(report) if report else None},
    }
    _say(argv, f"{text}. To fix: please send it with what you did. [E-X01]", body)
    return CRASH


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]


def _write_report(error: Exception, argv: list[str]) -> Path | None:
    """Write versions, command and traceback, no data and no home folder, to the cache folder."""
    from episome.settings import cache_folder

    now = datetime.datetime.now().astimezone()
    lines = [
        f"time: {now.isoformat(timespec='seconds')}",
        f"command: episome {' '.join(argv)}",
        f"python: {platform.python_version()} on {platform.platform()}",
        *(f"{name}: {version}" for name, version in versions().items()),
        "",
        "".join(traceback.format_exception(error)),
    ]
    try:
        path = cache_folder("crashes") / f"crash-{now:%Y%m%d-%H%M%S}-{os.getpid()}.txt"
        path.write_text(_without_home("\n".join(lines)), encoding="utf-8")
    except OSError:
        return None
    return path


def _without_home(text: str) -> str:
    with contextlib.suppress(RuntimeError):
        home = str(Path.home())
        if len(home) > 1:
            text = text.replace(home, "~")
    return text


def versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Return the versions of installed packages from their metadata, importing none."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that files are cleaned up on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_: int, __: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _abandoned() -> int:
    """Send what is left of the output nowhere, so that closing it at exit raises nothing."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
    return PIPE
