"""`episome evaluate` from end to end, and its gate."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import jsonschema
import pandas as pd
import pytest
from _program import in_own_process, program, refused, tree

from episome.cli._answers import answer_schema
from episome.data import simulate_cells

SCHEMA = answer_schema("")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model that annotates, one that embeds, and labelled cells."""
    folder = tmp_path_factory.mktemp("cells")
    cells = simulate_cells(300, 40, n_types=3, n_donors=5)
    cells[:200].copy().write_h5ad(folder / "reference.h5ad")
    query = cells[200:].copy()
    query.obs["cell_type"] = query.obs["cell_type"].astype(str).to_list()
    query.obs.iloc[:20, query.obs.columns.get_loc("cell_type")] = "type 1"  # some are wrong
    query.write_h5ad(folder / "query.h5ad")
    labelled = ("--labels-key", "cell_type", "-o", folder / "model")
    assert program("train", "centroid", folder / "reference.h5ad", *labelled).exit_code == 0
    train = ("train", "pca", folder / "reference.h5ad", "-o", folder / "pca")
    assert program(*train, "--set", "n_components=4").exit_code == 0
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def ask(files, *more):
    words = ("evaluate", files / "query.h5ad", "-m", files / "model", "--labels-key", "cell_type")
    return (*words, "--device", "cpu", "--draws", 20, *more)


def answer(result):
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    jsonschema.validate(found, SCHEMA)
    assert found["ok"] is (result.exit_code == 0)
    return found


def test_scores_are_printed_and_nothing_is_written(files):
    result = program(*ask(files))

    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "  100 of 100 cells have a label"
    assert lines[1] == "  in brackets 95 % intervals over cells"
    assert lines[2].startswith("  accuracy                   ")
    assert " to " in lines[2]
    assert any(line.startswith("  worst of 3 classes:") for line in lines)
    assert any(line.startswith("  label sets of error rate 0.05 hold the truth") for line in lines)
    assert tree() == {}


def test_json_has_every_class_and_the_output(files):
    found = answer(program(*ask(files, "-o", "scores.json", "--donor-key", "donor_id", "--json")))

    assert found["outputs"] == [{"path": "scores.json"}]
    assert [row["class"] for row in found["classes"]] == ["type 0", "type 1", "type 2"]
    assert len(found["donors"]) == 5
    assert found["metrics"]["f1_macro"] == found["scores"]["f1_macro"]
    written = json.loads(Path("scores.json").read_text())
    assert written == {k: found[k] for k in written}


def test_the_table_of_classes_is_written(files):
    assert program(*ask(files, "-o", "classes.csv")).exit_code == 0

    table = pd.read_csv("classes.csv", index_col="class")
    truth = anndata.read_h5ad(files / "query.h5ad").obs["cell_type"]
    assert table["n_true"].to_dict() == truth.value_counts().sort_index().to_dict()


@pytest.mark.parametrize("more", [(), ("-o", "classes.csv")])
def test_the_gate_decides_the_exit_code_also_a_second_time(files, more):
    low = program(*ask(files, *more, "--min-macro-f1", 0.1))
    high = program(*ask(files, *more, "--min-macro-f1", 1.0))
    again = program(*ask(files, *more, "--min-macro-f1", 1.0, "--json"))
    missing = program(*ask(files, *more, "--min-macro-f1-ontology", 0.1))

    assert (low.exit_code, high.exit_code, again.exit_code, missing.exit_code) == (0, 9, 9, 9)
    assert low.stdout.splitlines()[-1].endswith("at least 0.1 is asked for: met")
    assert high.stdout.splitlines()[-1].endswith("not met (exit code 9)")
    found = answer(again)
    assert found["error"] is None
    (gate,) = found["gates"]
    assert gate == {
        "score": "f1_macro", "least": 1.0, "value": found["metrics"]["f1_macro"], "met": False,
    }  # fmt: skip
    assert "is not known" in missing.stdout  # the classes have no terms


def test_the_same_command_again_does_nothing_and_another_is_refused(files):
    words = ask(files, "-o", "classes.csv")
    first = program(*words)
    before = Path("classes.csv").stat().st_mtime_ns

    again = program(*words)

    assert (first.exit_code, again.exit_code) == (0, 0)
    assert again.stdout == first.stdout
    assert Path("classes.csv").stat().st_mtime_ns == before
    refused(3, "E-F26", *words, "--seed", 1)
    assert program(*words, "--seed", 1, "--overwrite").exit_code == 0


FAILURES = {
    "no column": (("--labels-key", "kind"), 2, "E-U04", "kind"),
    "no model": (("-m", "nowhere"), 4, "E-M05", ""),
    "no annotator": (("-m", "{f}/pca"), 2, "E-U12", "annotation"),
    "kind of output": (("-o", "scores.xlsx"), 2, "E-U08", "json"),
    "rate": (("--error-rate", "1"), 2, "E-U02", "error-rate"),
    "gate": (("--min-macro-f1", "2"), 2, "E-U02", "min-macro-f1"),
    "two places": (("--use-raw", "--layer", "x"), 2, "E-U27", ""),
}


@pytest.mark.parametrize("what", sorted(FAILURES))
def test_a_mistake_is_refused_and_nothing_is_written(what, files):
    words, code, kind, text = FAILURES[what]

    refused(code, kind, *ask(files, *(w.format(f=files) for w in words)), match=text)


def test_help_and_early_errors_import_nothing_heavy(files):
    asked = in_own_process("evaluate", "--help")
    wrong = in_own_process("evaluate", "nowhere.h5ad", "-m", "x", "--labels-key", "cell_type")

    assert asked.returncode == 0
    assert asked.stdout.count("$ episome evaluate") == 3
    assert "HEAVY []" in asked.stderr
    assert wrong.returncode == 3
    assert "HEAVY []" in wrong.stderr
