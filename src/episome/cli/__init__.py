"""The command line: one file per command, all of them thin; and what plugins build theirs of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from episome._lazy import lazy_names

if TYPE_CHECKING:
    from episome.cli._command import (
        Outcome,
        command_options,
        examples,
        run_command,
        runs_text,
        state_of,
    )
    from episome.cli._ui import progress

_HOME = {
    "Outcome": "_command",
    "command_options": "_command",
    "examples": "_command",
    "progress": "_ui",
    "run_command": "_command",
    "runs_text": "_command",
    "state_of": "_command",
}
__all__ = sorted([*_HOME, "answer_schema", "main"])

__getattr__, __dir__ = lazy_names(__name__, _HOME)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code.

    Parameters
    ----------
    argv
        Arguments without the program's name; ``sys.argv[1:]`` when not given.
    """
    from episome.cli._app import app

    app.main(None if argv is None else list(argv), prog_name="episome")
    raise SystemExit(0)


def answer_schema() -> dict[str, Any]:
    """Return the JSON schema of the object that every command answers with ``--json``."""
    import json
    from importlib.resources import files

    text = files("episome.cli").joinpath("answer.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
