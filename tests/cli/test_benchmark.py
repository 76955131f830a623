"""``episome benchmark`` from its command line."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from episome.cli._app import app
from episome.data import simulate_cells

TOML = """
task = "annotation"
models = ["centroid"]
floor = false
seeds = [0]
data = {name = "cells", source = "cells.h5ad", labels_key = "cell_type", donor_key = "donor_id"}
splits = {by = "group"}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("study")
    simulate_cells(200, 40, n_types=3, n_donors=6, seed=0).write_h5ad(place / "cells.h5ad")
    (place / "mine.toml").write_text(TOML)
    return place


def asked(*words, code: int = 0) -> dict:
    result = CliRunner().invoke(app, ["benchmark", *map(str, words), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_a_study_is_run_reported_compared_and_joined(folder, tmp_path):
    out = tmp_path / "out"
    planned = asked("run", folder / "mine.toml", "-o", out, "--dry-run")
    assert [r["model"] for r in planned["todo"]] == ["centroid"]
    assert not out.exists()

    done = asked("run", folder / "mine.toml", "-o", out)
    assert done["counts"] == {"ok": 1}
    assert [p["path"] if isinstance(p, dict) else p for p in done["outputs"]] == [
        str(out / "mine.html"),
        str(out / "mine.md"),
        str(out / "results.csv"),
    ]
    more = asked("run", folder / "mine.toml", "-o", out, "--models", "centroid,majority")
    assert more["counts"] == {"ok": 2}

    asked("report", out, "-o", tmp_path / "r.md")
    assert "| centroid |" in (tmp_path / "r.md").read_text()
    again = asked("report", out, "-o", tmp_path / "r.md", code=3)
    assert again["error"]["code"] == "E-F26"

    (row,) = asked("compare", out, "centroid", "majority")["rows"]
    assert row["difference"] > 0
    by_class = asked("compare", out, "centroid", "majority", "--by-class")["rows"]
    assert {r["class"] for r in by_class} == {"type 0", "type 1", "type 2"}

    joined = asked("merge", out, "-o", tmp_path / "all")
    assert (joined["added"], joined["runs"]) == (2, 2)


def test_tasks_are_listed():
    found = asked("list")

    assert {"annotation", "novelty", "robustness"} <= {t["name"] for t in found["tasks"]}
    assert all(t["summary"].endswith(".") for t in found["tasks"])


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("run", "nothing", "-o", "x"), 2, "E-B14"),
        (("run", "gone.toml", "-o", "x"), 3, "E-B08"),
        (("report", "gone", "-o", "r.html"), 3, "E-F07"),
        (("report", ".", "-o", "r.html"), 2, "E-B01"),
        (("compare", ".", "a", "b"), 2, "E-B01"),
        (("merge", ".", "-o", "x"), 2, "E-B01"),
    ],
)
def test_what_is_not_there_is_said(tmp_path, monkeypatch, words, code, error):
    monkeypatch.chdir(tmp_path)

    assert asked(*words, code=code)["error"]["code"] == error


def test_a_report_has_an_ending_that_is_known(folder, tmp_path):
    (tmp_path / "runs").mkdir()

    found = asked("report", tmp_path, "-o", tmp_path / "r.docx", code=2)

    assert found["error"]["code"] == "E-U08"


def test_when_nothing_ends_well_the_reasons_are_said(folder, tmp_path):
    text = TOML.replace('"centroid"', '{model = "centroid", train = {max_epochs = 1}}')
    (folder / "bad.toml").write_text(text)

    found = asked("run", folder / "bad.toml", "-o", tmp_path / "o", code=1)

    assert found["counts"] == {"failed": 1}
    assert any("max_epochs" in r for r in found["reasons"])
    assert "Again: episome benchmark run" in (tmp_path / "o" / "bad.md").read_text()


def test_the_memory_that_a_file_allows_counts(folder, tmp_path):
    (folder / "tight.toml").write_text("max_memory = 1000\n" + TOML)

    found = asked("run", folder / "tight.toml", "-o", tmp_path / "o", code=1)

    assert found["counts"] == {"out of memory": 1}


def test_the_table_is_of_the_study_that_is_named(folder, tmp_path):
    out = tmp_path / "o"
    asked("run", folder / "mine.toml", "-o", out)

    asked("report", out, "--study", "mine", "-o", tmp_path / "r.csv")
    found = asked("report", out, "--study", "zzz", "-o", tmp_path / "q.csv", code=2)

    assert found["error"]["code"] == "E-B13"
    assert (tmp_path / "r.csv").read_text().count("mine") > 1


def test_why_nothing_can_be_run_is_said_in_full(folder, tmp_path):
    text = TOML.replace('"cell_type"', '"cell_tipe"')
    (folder / "typo.toml").write_text(text)

    found = asked("run", folder / "typo.toml", "-o", tmp_path / "o", code=2)

    assert "did you mean" in found["error"]["message"]
    assert "E-U04" in found["error"]["message"]
