"""The scripts of ``tests/benchmarks`` for the page on speed run, at sizes that say nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "benchmarks" / "run.py"


@pytest.mark.slow
def test_the_table_of_speed_is_made(tmp_path):
    found, page = tmp_path / "speed.json", tmp_path / "speed.md"

    command = [sys.executable, str(SCRIPT), "--small", "--json", str(found), "--page", str(page)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    results = json.loads(found.read_text())
    titles = [r["title"] for r in results["results"]]
    for word in ("training step", "prediction", "entmax forward", "negative binomial"):
        assert any(word in title for title in titles)
    assert results["machine"]["limits"]["gflops"] > 0
    text = page.read_text()
    for title in titles:
        assert f"## {title[0].upper()}{title[1:]}" in text
    assert "Distance from the textbook in float64" in text
