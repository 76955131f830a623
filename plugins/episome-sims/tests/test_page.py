"""The page of the documentation runs as it stands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

PAGE = Path(__file__).parents[3] / "docs" / "methods" / "sims.md"
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.M | re.S)


@pytest.mark.slow
def test_page_on_sims_as_written_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not PAGE.is_file():
        pytest.skip("the documentation is not beside the plugin")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))

    for kind, text in blocks:
        if kind == "python":
            exec(compile(text, str(PAGE), "exec"), names)
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
    assert len(pd.read_csv("calls.csv")) == 150
    assert names["warm"].fit_["pretraining"]["init"]["n_known"] == 300
