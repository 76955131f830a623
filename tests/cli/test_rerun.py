"""Records of runs, and their repetition."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path

import jsonschema
import pytest
from _program import program, refused

from episome.cli._answers import answer_schema
from episome.data import simulate_cells

SCHEMA = answer_schema("")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    simulate_cells(120, 30, n_types=3, n_donors=4).write_h5ad("cells.h5ad")


TRAIN = ("train", "centroid", "cells.h5ad", "--labels-key", "cell_type", "-o", "model")


def done(*words):
    result = program(*words)
    assert result.exit_code == 0, result.output
    return result


def annotated(*more):
    done(*TRAIN)
    return done("annotate", "cells.h5ad", "-m", "model", *more, "--run-folder", "run")


def record(folder="run"):
    return json.loads(Path(folder, "manifest.json").read_text())


def test_the_record_says_what_was_asked_of_what_and_what_came(monkeypatch):
    monkeypatch.setenv("EPISOME_ANNOTATE_BATCH_SIZE", "50")
    annotated("--max-memory", "2", "--where", "donor_id!=donor 1")

    found = record()

    assert found["command"] == "annotate"
    assert found["config"]["batch-size"] == {"value": 50, "origin": "environment"}
    digest = hashlib.sha256(Path("cells.h5ad").read_bytes()).hexdigest()
    assert {"path": "cells.h5ad", "sha256": digest} in found["inputs"]
    assert {i["path"] for i in found["inputs"]} == {"cells.h5ad", "model"}
    (output,) = found["outputs"]
    assert output["digest"] == hashlib.sha256(Path("calls.csv").read_bytes()).hexdigest()
    assert found["versions"]["episome-baselines"]
    assert (found["exit_code"], found["error"]) == (0, None)
    assert found["peak_memory"] > 1 << 20
    assert found["started"] <= found["finished"]
    assert str(Path.home()) not in json.dumps(found).replace(str(Path.cwd()), "")
    config = tomllib.loads(Path("run/config.toml").read_text())
    assert config["max-memory"] == 2
    messages = [json.loads(li)["message"] for li in Path("run/log.jsonl").read_text().splitlines()]
    assert any("of the model's 30 genes" in m for m in messages)


def test_a_run_is_repeated_and_comes_out_the_same():
    annotated("--max-memory", "2", "--cellxgene", "--where", "donor_id!=donor 1", "--prefix", "p_")
    before = Path("calls.csv").stat().st_mtime_ns

    result = program("rerun", "run/manifest.json", "--json")

    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    jsonschema.validate(found, SCHEMA)
    assert found["same"]
    assert Path("calls.csv").stat().st_mtime_ns == before
    assert done("rerun", "run").stdout == "calls.csv: the same\n"


def test_a_training_is_repeated_by_its_weights():
    train = ("train", "mlp", "cells.h5ad", "--labels-key", "cell_type", "--max-epochs", 2)
    done(*train, "-o", "net", "--set", "n_hidden=8", "--run-folder", "run")

    assert done("rerun", "run", "--keep", "again").stdout == "net: the same\n"
    assert Path("again/net/manifest.json").is_file()
    assert record()["outputs"][0]["kind"] == "model"


def test_what_comes_out_different_is_9():
    annotated()
    found = record()
    found["outputs"][0]["digest"] = "0" * 64
    found["versions"]["numpy"] = "0.1"
    Path("run/manifest.json").write_text(json.dumps(found))

    result = program("rerun", "run")

    assert result.exit_code == 9
    assert result.stdout.startswith("calls.csv: different (exit code 9)\n  numpy 0.1 then")


def test_inputs_that_changed_are_refused():
    annotated()
    simulate_cells(120, 30, n_types=3, n_donors=4, seed=2).write_h5ad("cells.h5ad")

    refused(3, "E-F35", "rerun", "run", match="not what it was in cells.h5ad")
    Path("cells.h5ad").unlink()
    refused(3, "E-F35", "rerun", "run", match="not there")


def test_what_is_no_record_is_refused():
    for text in ("{", "{}", '{"format": 9, "arguments": [], "inputs": [], "outputs": []}'):
        Path("wrong.json").write_text(text)
        refused(3, "E-F34", "rerun", "wrong.json")
    refused(3, "E-F34", "rerun", "nowhere.json")
    done("check", "cells.h5ad", "--run-folder", "checked")
    refused(2, "E-U122", "rerun", "checked", match="nothing that could be compared")


def test_a_run_that_fails_is_recorded_too():
    words = ("--labels-key", "nothing", "-o", "model", "--run-folder", "run")
    assert program("train", "centroid", "cells.h5ad", *words).exit_code == 2

    assert (record()["exit_code"], record()["error"]["code"]) == (2, "E-U04")
    refused(2, "E-U122", "rerun", "run", match="nothing that could be compared")


def test_a_folder_that_is_there_is_no_run_folder():
    Path("run").mkdir()

    refused(3, "E-F26", *TRAIN, "--run-folder", "run")


def test_a_short_run_that_was_not_asked_to_be_kept_leaves_nothing():
    done(*TRAIN)
    done("data", "convert", "cells.h5ad", "-o", "same.h5ad")

    made = {"cells.h5ad", "model", "model.run.json", "same.h5ad"}
    assert {p.name for p in Path.cwd().iterdir()} == made


def test_long_commands_leave_their_record_beside_the_output():
    done(*TRAIN)

    found = json.loads(Path("model.run.json").read_text())

    digest = hashlib.sha256(Path("cells.h5ad").read_bytes()).hexdigest()
    assert found["inputs"] == [{"path": "cells.h5ad", "sha256": digest}]
    assert (found["command"], found["seed"], found["exit_code"]) == ("train", 0, 0)
    assert found["outputs"][0]["kind"] == "model"
    assert str(Path.home()) not in json.dumps(found).replace(str(Path.cwd()), "")
    for named in ("model", "model.run.json"):
        assert done("rerun", named).stdout == "model: the same\n"


def test_a_file_of_others_in_the_place_of_the_record_stays():
    Path("model.run.json").write_text("mine")

    assert "the record of the run is not kept" in program(*TRAIN).stderr

    assert Path("model.run.json").read_text() == "mine"


def test_the_record_of_the_first_run_stays_when_nothing_is_done_again():
    done(*TRAIN)
    before = Path("model.run.json").read_bytes()

    done(*TRAIN)

    assert Path("model.run.json").read_bytes() == before


def test_a_corpus_is_known_by_its_manifest():
    done("corpus", "build", "cells.h5ad", "-o", "cells.corpus", "--run-folder", "made")
    train = ("train", "mlp", "cells.corpus", "--labels-key", "cell_type", "--max-epochs", 1)
    done(*train, "--set", "n_hidden=8", "-o", "net")
    seal = Path("cells.corpus/manifest.sha256").read_text().split()[0]

    assert record("made")["outputs"] == [
        {"path": "cells.corpus", "kind": "corpus", "digest": seal}
    ]
    found = json.loads(Path("net.run.json").read_text())
    assert found["inputs"] == [{"path": "cells.corpus", "sha256": seal}]
    assert done("rerun", "net").stdout == "net: the same\n"
