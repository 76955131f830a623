"""The page on benchmarks: its code runs as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from click.testing import CliRunner

from episome.benchmark import TASKS, task_named
from episome.cli import _app

PAGE = Path(__file__).parents[2] / "docs" / "user_guide" / "benchmarks.md"
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.M | re.S)


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    printed = ""

    for kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if kind == "python":
            exec(compile(text, str(PAGE), "exec"), names)
            continue
        for line in text.splitlines():
            program, *arguments = shlex.split(line.removeprefix("$ "))
            assert program == "episome"
            done = CliRunner().invoke(_app.app, arguments, catch_exceptions=False)
            assert done.exit_code == 0, done.output
            printed += done.output

    assert "mine: 10 runs to do" in printed
    assert "10 runs: 10 ok" in printed
    assert "logreg, few genes" in Path("report.md").read_text()
    assert "cells" in capsys.readouterr().out


def test_every_task_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")

    for name in TASKS:
        assert f"| `{name}` |" in text
        assert task_named(name).name == name
