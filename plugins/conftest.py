"""What the tests of all plugins share."""

from __future__ import annotations

import fnmatch
import json
import os
import random
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Threads that wait for each other on a busy machine make a network of ten cells 30 times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

METHODS = Path(__file__).parents[1] / "docs" / "methods"
BLOCK = re.compile(r"^```(python|console|toml)\n(.*?)^```", re.M | re.S)
#: First line of a block that is a file.
FILE = re.compile(r"# (\S+\.toml)\n")


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """Start every test from the same global generators, whichever tests ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries draw from this one
    random.seed(0)


class Golden:
    """One recorded case: arrays, configuration and tolerances of a published implementation."""

    def __init__(self, folder: Path, name: str) -> None:
        self.meta: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
        self.config = self.meta["config"]
        with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
            self.arrays = {key: file[key] for key in file.files}

    def tensor(self, key: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return a recorded tensor, numbers that are no integers in ``dtype`` if it is given."""
        value = torch.from_numpy(np.array(self.arrays[key]))
        return value.to(dtype) if dtype is not None and value.is_floating_point() else value

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return tensors whose names begin alike, without that beginning."""
        names = [key for key in self.arrays if key.startswith(prefix)]
        return {key.removeprefix(prefix): self.tensor(key) for key in names}

    def state(self, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
        """Return reference weights and buffers under all their names."""
        names = {k: k for k in self.arrays if k.startswith("state/")}
        names |= self.meta.get("state_aliases", {})
        return {k.removeprefix("state/"): self.tensor(v, dtype) for k, v in names.items()}

    def check(self, key: str, value: torch.Tensor | np.ndarray) -> None:
        """Compare with what was recorded, by the tolerance that the case names."""
        table = self.meta["tolerance"]
        fits = [p for p in table if p != "default" and fnmatch.fnmatchcase(key, p)]
        entry = table[key if key in table else max(fits, key=len, default="default")]
        got = value.detach().numpy() if isinstance(value, torch.Tensor) else value
        np.testing.assert_allclose(
            got, self.arrays[key], rtol=entry["rtol"], atol=entry["atol"], err_msg=key
        )


@pytest.fixture
def golden() -> Callable[[str], Golden]:
    """Open a recorded case by name; skips where the folder is not given."""
    folder = os.environ.get("EPISOME_TEST_DATA")
    if not folder:
        pytest.skip("EPISOME_TEST_DATA is not set: the recorded reference numbers are elsewhere")
    return lambda name: Golden(Path(folder) / "goldens", name)


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
            if kind == "toml":
                named = FILE.match(text)
                assert named, "a file begins with its name"
                Path(named[1]).write_text(text, encoding="utf-8")
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
        assert {kind for kind, _ in blocks} >= {"python", "console"}
        return names

    return run
