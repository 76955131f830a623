"""The scripts of ``tests/benchmarks`` for the page on speed run, at sizes that say nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "benchmarks" / "run.py"
GPU_SCRIPT = SCRIPT.with_name("gpu.py")


@pytest.mark.slow
def test_the_table_of_speed_is_made(tmp_path):
    found, page = tmp_path / "speed.json", tmp_path / "speed.md"

    command = [sys.executable, str(SCRIPT), "--small", "--json", str(found), "--page", str(page)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    results = json.loads(found.read_text())
    titles = [r["title"] for r in results["results"]]
    for word in ("training step", "prediction", "entmax forward", "negative binomial", "masked"):
        assert any(word in title for title in titles)
    assert results["machine"]["limits"]["gflops"] > 0
    text = page.read_text()
    for title in titles:
        assert f"## {title[0].upper()}{title[1:]}" in text
    assert "Distance from the textbook in float64" in text


@pytest.mark.slow
def test_the_list_for_a_gpu_runs_on_any_device(tmp_path):
    found, page = tmp_path / "gpu.json", tmp_path / "gpu.md"

    command = [sys.executable, str(GPU_SCRIPT), "--small", "--device", "cpu"]
    command += ["--json", str(found), "--page", str(page)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    rows = json.loads(found.read_text())["rows"]
    parts = ("limits", "tabnet", "entmax", "feeding", "counts", "masked", "predict", "determinism")
    assert tuple(dict.fromkeys(r["part"] for r in rows)) == parts
    assert max(r["gradients_differ"] for r in rows if "gradients_differ" in r) < 1e-3
    assert all(r["largest_difference"] == 0 for r in rows if r["part"] == "determinism")
    assert all(f"## {part.capitalize()}" in page.read_text() for part in parts)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("EPISOME_TEST_DATA"), reason="the real sets are elsewhere")
def test_the_page_on_explanations_is_made(tmp_path):
    script, page = SCRIPT.with_name("explanations.py"), tmp_path / "page.md"
    chosen = ["--models", "logreg", "--splits", "zeisel", "--seeds", "2"]

    for more in ([], ["--page", str(page)]):
        command = [sys.executable, str(script), str(tmp_path), *chosen, *more]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    runs = sorted(tmp_path.glob("zeisel--logreg--?.json"))
    assert len(runs) == 2
    test = json.loads(runs[0].read_text())["tests"]["expressed"]
    assert test["verdict"] == "faithful"
    low, value = test["difference"][1], test["fall"] - test["control"]
    assert 0 < low < test["difference"][0] == pytest.approx(value)
    text = page.read_text()
    for part in ("In short", "Deletion test", "Types", "Agreement", "Cost"):
        assert f"## {part}" in text
    assert "| zeisel | `logreg` | native |" in text


@pytest.mark.slow
def test_the_page_on_wrong_labels_is_made(tmp_path):
    if not os.environ.get("EPISOME_TEST_DATA"):
        pytest.skip("EPISOME_TEST_DATA is not set: the real files are elsewhere")
    script, page = SCRIPT.with_name("audit.py"), tmp_path / "audit.md"

    for more in (["--small"], ["--page", str(page)]):
        command = [sys.executable, str(script), str(tmp_path / "runs"), *more]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    facts = [json.loads(f.read_text()) for f in (tmp_path / "runs").glob("*.json")]
    assert {(f["kind"], f["n_rounds"]) for f in facts} == {
        (kind, n) for kind in ("random", "similar", "none") for n in (1, 2, 3)
    }
    assert all(f["n_swapped"] == (0 if f["kind"] == "none" else 10) for f in facts)
    text = page.read_text()
    for part in ("Found", "On untouched labels", "Given back by correcting", "Rounds"):
        assert part in text


@pytest.mark.slow
def test_the_steps_of_scbert_are_timed():
    script = SCRIPT.with_name("scbert_step.py")

    told = [
        subprocess.run(
            [sys.executable, str(script), more], check=True, capture_output=True, text=True
        ).stdout
        for more in ("--small", "--smoke")
    ]

    for title in ("attention, forward", "training, 2,000", "attention scores", "prediction"):
        assert f"## {title}" in told[0]
    assert "times faster" in told[0]
    assert told[1].startswith("300 cells, 500 genes: ")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_page_is_measured(tmp_path):
    pytest.importorskip("fastapi")
    found = tmp_path / "page.json"

    command = [sys.executable, str(SCRIPT.with_name("page.py")), "--small", "--json", str(found)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    results = json.loads(found.read_text())
    assert set(results) == {"pieces", "form", "users"}
    assert all(0 < results[name]["peak_mb"] < 200 for name in results)
    assert results["users"]["done"] == 2
