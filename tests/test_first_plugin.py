"""The page for authors: every command and every block of Python of it runs, in its order."""

from __future__ import annotations

import os
import re
import shlex
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "developer" / "first_plugin.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)

#: What a machine without a network adds to ``pip install``.
OFFLINE = ("--no-index", "--no-deps", "--no-build-isolation")


class Environment:
    """A fresh environment that sees the packages of this one, and whose own can be changed."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=os.name != "nt")
        self.python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        own = next(p for p in folder.rglob("site-packages"))
        seen = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
        assert seen, site.getsitepackages()
        # A path alone would leave out the packages that are installed there as editable.
        lines = [f"import site; site.addsitedir({p!r})" for p in seen]
        (own / "this.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def run(self, *arguments: object, cwd: Path) -> str:
        """Run the interpreter and return what it printed."""
        return self._run([self.python, *arguments], cwd)

    def pip(self, *arguments: object, cwd: Path) -> str:
        """Run pip on the environment."""
        return self._run([sys.executable, "-m", "pip", "--python", self.python, *arguments], cwd)

    def _run(self, command: list[object], cwd: Path) -> str:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        done = subprocess.run(
            [str(c) for c in command],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout


class Reader:
    """Does what the page says, in a folder that its ``cd`` changes."""

    def __init__(self, environment: Environment, folder: Path) -> None:
        self.environment, self.folder = environment, folder
        self.printed: dict[str, str] = {}

    def follow(self, page: str) -> None:
        """Run the blocks; those of Python between two others are one program."""
        program = ""
        for kind, text in BLOCK.findall(page):
            if kind == "python":
                program += text
                continue
            self.compute(program)
            program = ""
            if kind == "console":
                for line in re.findall(r"^\$ (.*)$", text, re.M):
                    self.printed[line] = self.obey(line)
        self.compute(program)

    def compute(self, program: str) -> None:
        """Run a program."""
        if program:
            self.environment.run("-c", program, cwd=self.folder)

    def obey(self, line: str) -> str:
        """Run a line of the console."""
        name, *arguments = shlex.split(line)
        if name == "cd":
            (folder,) = arguments
            self.folder = (self.folder / folder).resolve(strict=True)
            return ""
        if name == "pip":
            verb, *rest = arguments
            offline = OFFLINE if verb == "install" else ()
            return self.environment.pip(verb, *offline, *rest, cwd=self.folder)
        words = {"episome": ("-m", "episome"), "python": ()}[name]
        return self.environment.run(*words, *arguments, cwd=self.folder)


def test_blocks_of_the_page_are_of_kinds_that_are_run():
    kinds = [kind for kind, _ in BLOCK.findall(PAGE.read_text(encoding="utf-8"))]

    assert {"console", "python"} <= set(kinds) <= {"console", "python", "text"}


@pytest.mark.slow
def test_the_page_as_written_runs(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    reader = Reader(Environment(tmp_path / "env"), work)

    reader.follow(PAGE.read_text(encoding="utf-8"))

    printed = reader.printed
    assert "gene-net-worst-recall" in printed["episome plugins show gene-net"]
    assert "GeneNet of episome-gene-net 0.1.0" in printed["episome gene-net info"]
    assert "0 failed" in printed["episome plugins check gene-net"]
    assert (work / "episome-gene-net" / "calls.csv").is_file()
    for task in ("embedding", "reconstruction", "translation"):
        assert (work / f"episome-my-{task}" / "pyproject.toml").is_file()
    assert "gene-net" not in printed["episome plugins"]
