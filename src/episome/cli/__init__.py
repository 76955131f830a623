"""The command line: one file per command, all of them thin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


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
