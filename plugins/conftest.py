"""What the tests of all plugins share."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# Threads that wait for each other on a busy machine make a network of ten cells 30 times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

METHODS = Path(__file__).parents[1] / "docs" / "methods"
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.M | re.S)


@pytest.fixture
def run_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], dict[str, object]]:
    """Run the code of a page of the documentation in an empty folder, and return its names."""

    def run(name: str) -> dict[str, object]:
        page = METHODS / f"{name}.md"
        if not page.is_file():
            pytest.skip("the documentation is not beside the plugin")
        monkeypatch.chdir(tmp_path)
        names: dict[str, object] = {}
        blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
        for kind, text in blocks:
            if kind == "python":
                exec(compile(text, str(page), "exec"), names)
                continue
            for line in re.findall(r"^\$ (.*)$", text, re.M):
                program, *arguments = shlex.split(line)
                assert program == "episome"
                done = subprocess.run(
                    [sys.executable, "-m", "episome", *arguments],
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert {kind for kind, _ in blocks} == {"python", "console"}
        return names

    return run
