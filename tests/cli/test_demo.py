"""`episome demo`: what it says."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from episome import plugins, settings
from episome.cli import _app
from episome.jobs import _demo


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the demo on a few cells and genes, with the linear model alone."""
    cells, spec = _demo.load_demo_cells()[::5, :60].copy(), plugins.get_spec("logreg")
    monkeypatch.setattr(_demo, "load_demo_cells", lambda: cells.copy())
    monkeypatch.setattr(plugins, "models", lambda: {"logreg": spec})
    monkeypatch.setattr(settings, "seed", 0)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(_app.app, ["demo", *arguments])


def test_demo_says_what_it_ran_on_how_well_and_what_to_run_next(run, tmp_path):
    result = run("--seed", "3")

    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("pbmc68k_reduced (bundled with scanpy), the log1p values of raw")
    assert "stratified split, seed 3." in result.stdout
    (row,) = [line for line in lines if line.startswith("LogisticRegression")]
    assert row.count(" to ") == 2
    assert "a linear model is expected to win" in result.stdout
    assert "Written to episome-demo" in result.stdout
    commands = [line.strip() for line in lines if line.startswith("  episome ")]
    assert [c.split()[1] for c in commands] == ["train", "annotate"]
    assert "LogisticRegression" in result.stderr
    assert (tmp_path / "episome-demo" / "logreg" / "calls.csv").is_file()


def test_demo_answers_in_json(run, tmp_path):
    result = run("-o", "here", "--json", "--no-progress")

    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    assert (found["ok"], found["seed"], found["n_train"] + found["n_test"]) == (True, 0, 140)
    assert set(found["metrics"]) == {"LogisticRegression"}
    assert found["outputs"] == [{"path": "here/logreg"}]
    assert len(found["commands"]) == 2


def test_demo_never_replaces_what_it_did_not_write(run, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.txt").touch()

    assert run("-o", "here").exit_code != 0
    assert [p.name for p in tmp_path.rglob("*")] == ["here", "a.txt"]
