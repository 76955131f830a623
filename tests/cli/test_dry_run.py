"""Dry runs of training and annotation: everything is checked, nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import jsonschema
import pytest
from _program import program, refused, tree

from episome.cli._answers import answer_schema
from episome.data import simulate_cells
from episome.inference import Predictor

SCHEMA = answer_schema("")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    cells = simulate_cells(200, 30, n_types=3, n_donors=4)
    cells.write_h5ad(folder / "cells.h5ad")
    train = ("train", "centroid", folder / "cells.h5ad", "--labels-key", "cell_type")
    assert program(*train, "-o", folder / "model").exit_code == 0
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def planned(*words) -> dict:
    """What a dry run says; nothing is written, and the same again is no repetition."""
    before = tree()
    text = program(*words, "--dry-run")
    assert text.exit_code == 0, text.output
    assert "nothing is" in text.stdout
    found = json.loads(program(*words, "--dry-run", "--json").stdout)
    jsonschema.validate(found, SCHEMA)
    assert found["dry_run"]
    assert "repeated" not in found
    assert tree() == before
    return found


@pytest.mark.parametrize("output", ["calls.csv", "calls.parquet", "annotated.h5ad"])
def test_annotate_says_how_many_cells_and_columns(files, output):
    words = ("annotate", files / "cells.h5ad", "-m", files / "model", "-o", output)

    found = planned(*words, "--score", "S=GENE1,GENE2", "--cellxgene", "--overwrite-columns")

    assert (found["n_obs"], found["n_vars"]) == (200, 30)
    assert found["n_bytes"] > 0
    assert found["seconds"] > 0
    assert {"label", "score_S", "cell_type_ontology_term_id"} <= set(found["columns"])
    assert any("30 of the model's 30 genes" in note for note in found["notes"])


def test_annotate_calls_a_few_cells_only(files, monkeypatch):
    asked = []
    real = Predictor.annotate

    def watched(self, query, **kwargs):
        asked.append(len(kwargs["rows"]))
        return real(self, query, **kwargs)

    monkeypatch.setattr(Predictor, "annotate", watched)
    monkeypatch.setattr("episome.jobs._annotate_plan.SAMPLE", 16)

    planned("annotate", files / "cells.h5ad", "-m", files / "model")

    assert set(asked) == {16}


def test_a_dry_run_refuses_what_the_run_would(files):
    words = ("annotate", files / "cells.h5ad", "-m", files / "model", "--dry-run")
    Path("there.csv").write_text("mine")
    refused(3, "E-F26", *words, "-o", "there.csv")
    refused(2, "E-U04", *words, "--cluster-key", "nothing")
    refused(3, "E-D28", *words, "--layer", "nothing")
    cells = anndata.read_h5ad(files / "cells.h5ad")
    cells.obs["episome_label"] = "x"
    cells.write_h5ad("has.h5ad")
    refused(2, "E-L16", "annotate", "has.h5ad", *words[2:], "-o", "new.h5ad")


def test_no_cells_take_no_time(files):
    anndata.read_h5ad(files / "cells.h5ad")[:0].copy().write_h5ad("none.h5ad")

    found = planned("annotate", "none.h5ad", "-m", files / "model", "-o", "calls.csv")

    assert (found["n_obs"], found["seconds"], found["n_bytes"]) == (0, 0, 0)


@pytest.mark.parametrize(("method", "more"), [("centroid", ()), ("mlp", ("--ensemble", 2))])
def test_train_says_what_would_be_trained(files, method, more):
    words = ("train", method, files / "cells.h5ad", "--labels-key", "cell_type", "-o", "new")

    found = planned(*words, *more)

    assert (found["n_cells"], found["n_genes"]) == (200, 30)
    assert found["labels"] == ["type 0", "type 1", "type 2"]
    assert (found["n_parameters"] > 0) is (method == "mlp")


def test_train_refuses_what_the_run_would(files):
    words = (files / "cells.h5ad", "--labels-key", "cell_type", "-o", "new", "--dry-run")
    refused(2, "E-U24", "train", "centroid", *words, "--set", "nonsense=1")
    refused(2, "E-U76", "train", "auto", *words, match="no dry run")
    refused(2, "E-U04", "train", "centroid", words[0], "--labels-key", "x", *words[3:])


def test_pretrain_has_one_too(files):
    words = ("pretrain", "ssl", files / "cells.h5ad", "-o", "new", "--set", "hidden=[8]")

    found = planned(*words, "--set", "n_latent=4")

    assert (found["command"], found["labels"]) == ("pretrain", [])
