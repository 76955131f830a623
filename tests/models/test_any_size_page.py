"""The page on cells of any size: its code runs as it stands there."""

from __future__ import annotations

import re
import shlex
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from episome.cli import _app

PAGE = Path(__file__).parents[2] / "docs" / "user_guide" / "any_size.md"
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.M | re.S)
#: Needs the extra "census".
OPTIONAL = re.compile(r"tiledbsoma|atlas\.soma")


@pytest.mark.usefixtures("fresh_manager")
def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}

    for kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if "pip install" in text or (find_spec("tiledbsoma") is None and OPTIONAL.search(text)):
            continue
        # TileDB takes relative addresses from where the process began, not from where it is.
        text = text.replace("atlas.soma", str(tmp_path / "atlas.soma"))
        if kind == "python":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of so few cells
                exec(compile(text, str(PAGE), "exec"), names)
            continue
        program, *arguments = shlex.split(text.removeprefix("$ "))
        assert program == "episome"
        done = CliRunner().invoke(_app.app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output

    printed = capsys.readouterr().out
    assert "1 of 2 files lack some of the 100 genes" in printed
    assert "the checkpoint is of another run in run: 1 of" in printed
    assert "max_epochs (2, now 3)" in printed
    assert (tmp_path / "survivor" / "manifest.json").is_file()
    assert not (tmp_path / ".survivor.training").exists()
    assert (tmp_path / "my-model" / "manifest.json").is_file()
    assert (tmp_path / "from-parts" / "manifest.json").is_file()
    if find_spec("tiledbsoma") is not None:
        assert (tmp_path / "from-soma" / "manifest.json").is_file()
