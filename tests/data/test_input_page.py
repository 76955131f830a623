"""The page on what goes in: its code runs, and its output is what the commands print."""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner

from episome.cli import _app

PAGE = Path(__file__).parents[2] / "docs" / "user_guide" / "input.md"
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.M | re.S)


def shown(text: str) -> list[tuple[str, str]]:
    """Commands of a block, each with the output that stands below it."""
    parts = re.split(r"^\$ (.*)\n", text, flags=re.M)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.usefixtures("fresh_manager")
def test_the_page_runs_and_shows_what_is_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    n_shown = 0

    for kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if kind == "python":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of scanpy, mudata, and of what the page shows
                exec(compile(text, str(PAGE), "exec"), names)
            continue
        for command, output in shown(text):
            program, *arguments = shlex.split(command)
            done = CliRunner().invoke(_app.app, arguments, catch_exceptions=False)

            assert program == "episome"
            assert done.stdout == output, command
            n_shown += 1

    assert n_shown == 3
