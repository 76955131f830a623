"""The documentation's code runs as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anndata
import pandas as pd
import pytest

from episome.data import simulate_cells
from episome.jobs import missing_of_card

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.M | re.S)


def blocks(page: str) -> list[tuple[str, str]]:
    return BLOCK.findall((DOCS / page).read_text())


def run_page(page: str, folder: Path) -> dict[str, Any]:
    """Run the page's blocks in their order, in a folder; return what Python has then."""
    found = blocks(page)
    assert {kind for kind, _ in found} == {"python", "console"}
    return run_blocks(found, page, folder)


def run_blocks(found: list[tuple[str, str]], page: str, folder: Path) -> dict[str, Any]:
    """Run blocks in their order, in a folder; return what Python has then."""
    names: dict[str, Any] = {}
    for kind, text in found:
        if kind == "python":
            exec(compile(text, page, "exec"), names)
        else:
            for line in re.findall(r"^\$ (.*)$", text, re.M):
                run(line, folder)
    return names


@pytest.mark.slow
def test_quickstart_as_written_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    run_page("quickstart.md", tmp_path)

    assert len(pd.read_csv("calls.csv")) == 300
    assert (tmp_path / "from-table" / "manifest.json").is_file()


@pytest.mark.slow
def test_readme_as_written_runs_where_the_demo_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run("episome demo", tmp_path)

    readme = (DOCS.parent / "README.md").read_text()
    used = readme[readme.index("## Use") : readme.index("## Plugins")]
    run_blocks(BLOCK.findall(used), "README.md", tmp_path)

    assert len(pd.read_csv("calls.csv")) == len(pd.read_csv("sure.csv")) == 210
    assert "X_sctab" in anndata.read_h5ad("embedded.h5ad").obsm


@pytest.mark.slow
def test_page_on_sctab_as_written_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    run_page("methods/sctab.md", tmp_path)

    assert len(pd.read_csv("calls.csv")) == 150
    assert (tmp_path / "cli-ensemble" / "members" / "1" / "manifest.json").is_file()


@pytest.mark.slow
def test_page_on_other_tools_as_written_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    names = run_page("user_guide/coming_from.md", tmp_path)

    assert len(pd.read_csv("calls.csv")) == len(names["calls"]) == 200
    assert type(names["theirs"]).__name__ == "LinearSCVI"


def test_page_on_choosing_as_written_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}

    for kind, text in blocks("user_guide/choosing.md"):
        if kind == "python":
            exec(compile(text, "choosing.md", "exec"), names)

    assert names["result"].chosen
    assert names["model"].is_trained_


def test_page_on_confidence_as_written_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}

    for _, text in blocks("user_guide/confidence.md"):
        exec(compile(text, "confidence.md", "exec"), names)

    printed = capsys.readouterr().out
    assert "out of fold" in printed
    assert "the set holds the truth: 0." in printed


def test_page_on_explanations_as_written_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    enriched = find_spec("gseapy") is not None

    for _, text in blocks("user_guide/explanations.md"):
        if enriched or "enrichment" not in text:
            exec(compile(text, "explanations.md", "exec"), names)

    assert names["test"].verdict == names["harder"].verdict == "faithful"
    assert names["shared"]["jaccard"].between(0, 1).all()
    assert "difference 0." in capsys.readouterr().out
    if enriched:
        best = names["found"].groupby("group")["set"].first()
        assert (best["type 0"], best["type 1"]) == ("first", "second")


def test_page_on_wrong_labels_as_written_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    simulate_cells(240, 40, n_types=3, n_donors=6).write_h5ad("atlas.h5ad")

    run_page("user_guide/audit.md", tmp_path)

    assert len(pd.read_csv("audit.csv")) == 240
    assert "cell_type_new" in anndata.read_h5ad("audited.h5ad").obs


@pytest.mark.slow
def test_page_on_the_command_line_as_written_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    run_page("user_guide/command_line.md", tmp_path)

    assert (tmp_path / "scores.json").is_file()
    assert missing_of_card(tmp_path / "model") == []


@pytest.mark.slow
def test_page_on_imputed_expression_as_written_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    names = run_page("user_guide/impute.md", tmp_path)

    assert anndata.read_h5ad("embedded.h5ad").obsm["X_pca"].shape == (200, 10)
    assert anndata.read_h5ad("imputed.h5ad").shape == (200, 60)
    assert list(pd.read_csv("few.csv", index_col=0)) == ["GENE3", "GENE20"]
    assert names["agreement"]["GENE11"] > 0.8 > 0.3 > names["agreement"]["GENE46"]


@pytest.mark.slow
def test_page_on_other_modalities_as_written_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    names = run_page("user_guide/predict_modality.md", tmp_path)

    status = names["predicted"].var["status"]
    assert (status.iloc[:5] == "predictable").all()
    assert status["CD5"] == "not predictable"
    assert list(pd.read_csv("few.csv", index_col=0))[::3] == ["CD1", "CD4"]
    assert anndata.read_h5ad("sparse.h5ad").X.nnz < 200 * 6
    share = re.search(r"(\d+)% of the values", capsys.readouterr().out)
    assert share is not None
    assert int(share[1]) > 80


def run(line: str, folder: Path) -> None:
    program, *arguments = shlex.split(line, comments=True)
    assert program == "episome"
    command = [sys.executable, "-m", "episome", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"


@pytest.mark.slow
def test_page_on_reports_as_written_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EPISOME_ANNOTATE_NO_REPORT")

    run_page("user_guide/report.md", tmp_path)

    made = {p.name for p in tmp_path.glob("*.html")}
    assert made == {"calls.html", "again.html", "model.html", "done.html", "later.html"}
    assert (tmp_path / "dots.svg").is_file()
