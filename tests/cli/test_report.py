"""`episome report`, and the reports of `annotate` and `evaluate`, from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import jsonschema
import pytest
from click.testing import CliRunner

from episome.cli import _app
from episome.cli._answers import answer_schema
from episome.data import simulate_cells
from episome.models import NearestCentroid


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    cells = simulate_cells(200, 40, n_types=3, n_donors=5)
    NearestCentroid.setup_anndata(train := cells[:150].copy(), "cell_type")
    model = NearestCentroid(train)
    model.train()
    model.save(folder / "model")
    cells[150:].copy().write_h5ad(folder / "query.h5ad")
    return folder


@pytest.fixture(autouse=True)
def _with_reports(monkeypatch, tmp_path, fresh_manager):
    for command in ("ANNOTATE", "EVALUATE"):
        monkeypatch.delenv(f"EPISOME_{command}_NO_REPORT")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(files):
    def invoke(*words, code: int = 0):
        known = {"QUERY": files / "query.h5ad", "MODEL": files / "model"}
        told = [str(known.get(w, w)) for w in words]
        result = CliRunner().invoke(_app.app, [*told, "--json"])
        (line,) = result.stdout.splitlines()
        found = json.loads(line)
        jsonschema.validate(found, answer_schema(found["command"]))
        assert result.exit_code == code, found
        return found

    return invoke


ANNOTATE = ("annotate", "QUERY", "-m", "MODEL")


def test_annotate_writes_a_report_beside_its_calls(run):
    found = run(*ANNOTATE)

    assert found["report"] == "calls.html"
    assert [o["path"] for o in found["outputs"]] == ["calls.csv"]
    text = Path("calls.html").read_text(encoding="utf-8")
    assert "<h1>Calls of query.h5ad</h1>" in text


def test_a_report_can_be_left_out_or_go_elsewhere(run, monkeypatch):
    assert run(*ANNOTATE, "-o", "a.csv", "--no-report")["report"] is None
    assert run(*ANNOTATE, "-o", "b.csv", "--report", "c.html")["report"] == "c.html"
    monkeypatch.setenv("EPISOME_ANNOTATE_NO_REPORT", "1")
    assert run(*ANNOTATE, "-o", "d.csv")["report"] is None
    assert run(*ANNOTATE, "-o", "e.csv", "--report", "e.html")["report"] == "e.html"
    assert sorted(p.name for p in Path().glob("*.html")) == ["c.html", "e.html"]


def test_a_file_of_that_name_stays_and_the_calls_are_made(run):
    Path("calls.html").write_text("mine")

    found = run(*ANNOTATE)

    assert found["report"] is None
    assert [w["code"] for w in found["warnings"]] == ["E-F41"]
    assert Path("calls.html").read_text() == "mine"
    assert Path("calls.csv").exists()
    assert run(*ANNOTATE, "--overwrite")["report"] == "calls.html"


def test_calls_for_standard_output_have_no_report(run, files):
    words = ["annotate", files / "query.h5ad", "-m", files / "model", "-o", "-"]

    result = CliRunner().invoke(_app.app, [str(w) for w in words])

    assert result.exit_code == 0
    assert result.stdout.startswith("cell,label")
    assert list(Path().iterdir()) == []


def test_evaluate_writes_a_report_beside_its_scores(run):
    words = ("evaluate", "QUERY", "-m", "MODEL", "--labels-key", "cell_type")

    assert run(*words)["report"] is None
    assert run(*words, "-o", "scores.json")["report"] == "scores.html"
    assert run("report", "scores.json", "-o", "again.html")["kind"] == "evaluation"
    now, then = (Path(p).read_text(encoding="utf-8") for p in ("scores.html", "again.html"))
    assert now.count("<figure") >= then.count("<figure") >= 4


def test_the_record_of_a_run_has_a_report_and_is_repeated(run):
    run(*ANNOTATE, "-o", "kept.csv", "--run-folder", "one", "--report", "kept-report.html")

    found = run("report", "one", "-o", "record.html")

    text = Path("record.html").read_text(encoding="utf-8")
    assert found["kind"] == "annotation"
    assert "Genes behind the classes" in found["sections"]
    facts = json.loads(text.partition('id="episome-data">')[2].partition("</script>")[0])
    record = json.loads(Path("one/manifest.json").read_text())
    assert facts["provenance"]["output_sha256"] == record["outputs"][0]["digest"]
    assert facts["provenance"]["peak_memory"] == record["peak_memory"]
    assert "annotate --model model --output kept.csv" in facts["repeat"]["command"]
    assert run("rerun", "one")["same"] is True


def test_report_reads_what_an_annotated_h5ad_holds(run, files):
    run(*ANNOTATE, "-o", "done.h5ad", "--no-report")

    found = run("report", "done.h5ad", "-m", "MODEL", "--labels-key", "cell_type")

    assert found["outputs"] == [{"path": "done.html"}]
    assert "Against the labels" in found["sections"]
    assert anndata.read_h5ad("done.h5ad").n_obs == 50
    assert run("report", "done.h5ad", code=3)["error"]["code"] == "E-F26"
    assert run("report", "done.h5ad", "-o", "done.md")["outputs"] == [{"path": "done.md"}]
    assert Path("done.md").read_text(encoding="utf-8").startswith("# Calls of query.h5ad")


def test_what_no_report_is_made_of_is_told(run):
    Path("x.txt").write_text("x")

    assert run("report", "x.txt", code=3)["error"]["code"] == "E-F40"
    assert run("report", "none.csv", code=3)["error"]["code"] == "E-F07"
    assert run("report", "x.txt", "-o", "x.pdf", code=2)["error"]["code"] == "E-U08"


def test_results_of_a_benchmark_have_their_own_report(run, files):
    source = files / "query.h5ad"
    Path("mine.toml").write_text(
        'task = "annotation"\nmodels = ["majority"]\nfloor = false\nseeds = [0]\n'
        f'data = {{name = "cells", source = "{source}", labels_key = "cell_type", '
        'donor_key = "donor_id"}\nsplits = {by = "group"}\n'
    )
    run("benchmark", "run", "mine.toml", "-o", "results")

    assert run("report", "results")["kind"] == "benchmark"
    assert Path("results.html").is_file()


def test_the_schema_refuses_answers_without_their_keys(run):
    found = run(*ANNOTATE)
    schema = answer_schema("annotate")

    for key in ("labels", "report", "timings"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({k: v for k, v in found.items() if k != key}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**found, "labels": {"a": "many"}}, schema)
