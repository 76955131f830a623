"""The program as a test runs it: in this process, in a forked one, in one of its own."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from click.testing import CliRunner

from episome.cli import _app, _ui
from episome.cli._errors import guarded


def program(*arguments: object):
    """Run the program in this process: exit code, standard output, standard error."""
    return CliRunner().invoke(_app.app, [str(a) for a in arguments])


def refused(code: int, kind: str, *arguments: object, match: str = "") -> dict:
    """The command says what is wrong on standard error, or in one object, and does nothing."""
    before = tree()
    text, as_json = program(*arguments), program(*arguments, "--json")
    assert (text.exit_code, as_json.exit_code) == (code, code), text.output
    assert text.stdout == ""
    assert "Traceback" not in text.stderr + as_json.stderr
    assert re.search(rf"(?s){match}.*\[{kind}\]", text.stderr), text.stderr
    (line,) = as_json.stdout.splitlines()
    found = json.loads(line)
    assert (found["ok"], found["error"]["code"]) == (False, kind)
    assert tree() == before
    return found


def tree() -> dict[str, bytes]:
    """Every file of the working folder."""
    files = (p for p in Path.cwd().rglob("*") if p.is_file())
    return {str(p.relative_to(Path.cwd())): p.read_bytes() for p in files}


def child(action, seconds: float = 60) -> int:
    """Run in a forked process; its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = action()

        finally:
            os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -signal.SIGKILL


def run_to_files(arguments, out: Path, err: Path) -> int:
    """Run the program with its output in files, as a shell does."""
    with out.open("w") as sys.stdout, err.open("w") as sys.stderr:
        return guarded(
            lambda argv: _app.app.main(argv, standalone_mode=False), list(map(str, arguments))
        )


LIGHT = """
import sys
from episome.cli import main
try:
    main()
except SystemExit as end:
    heavy = sorted({"torch", "scvi", "lightning", "scanpy"} & set(sys.modules))
    sys.stderr.write(f"HEAVY {heavy}\\n")
    raise
"""


def in_own_process(*arguments: object, code: str = LIGHT, **environment: str):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def on_a_terminal(**environment: str) -> str:
    """What a bar of progress writes where standard error is a terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.environ.pop("NO_COLOR", None)
            os.environ.update(environment)
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - the terminal
            with _ui.progress(2, "training") as bar:
                bar.advance(2)
        os._exit(0)
    shown = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while part := os.read(terminal, 1024):
            shown += part
    os.close(terminal)
    os.waitpid(pid, 0)
    return shown.decode(errors="replace")


def stop_at(target: str, arguments, folder: Path) -> int:
    """Run a command to which SIGINT is sent when it calls something."""
    module, _, name = target.partition(":")
    place, sent = importlib.import_module(module), []
    real = getattr(place, name)

    def stopping(*args, **kwargs):
        sent.append(True)
        os.kill(os.getpid(), signal.SIGINT)
        return real(*args, **kwargs)

    setattr(place, name, stopping)
    code = run_to_files(arguments, folder / "out", folder / "err")
    if not sent:
        remove_outputs(folder)
        return 98
    return code


def remove_outputs(folder: Path) -> None:
    shutil.rmtree(folder / "new", ignore_errors=True)
    for name in ("calls.csv", "calls.csv.run.json", "new.run.json"):
        (folder / name).unlink(missing_ok=True)


def in_ascii(arguments, folder: Path) -> int:
    with (
        (folder / "out").open("w", encoding="ascii", errors="strict") as sys.stdout,
        (folder / "err").open("w", encoding="ascii", errors="backslashreplace") as sys.stderr,
    ):
        return guarded(
            lambda argv: _app.app.main(argv, standalone_mode=False), list(map(str, arguments))
        )
