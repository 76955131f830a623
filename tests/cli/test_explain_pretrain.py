"""`episome explain` and `episome pretrain` from end to end."""

from __future__ import annotations

import io
import json
from pathlib import Path

import anndata
import jsonschema
import numpy as np
import pandas as pd
import pytest
from _program import in_own_process, program, refused

from episome.cli._answers import answer_schema
from episome.data import simulate_cells
from episome.models import load

SCHEMA = answer_schema("")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model that explains, an ensemble of two, one that does not, and cells."""
    folder = tmp_path_factory.mktemp("cells")
    cells = simulate_cells(260, 40, n_types=3, n_donors=5)
    cells[:200].copy().write_h5ad(folder / "reference.h5ad")
    cells[200:, 2:].copy().write_h5ad(folder / "query.h5ad")
    train = ("train", "logreg", folder / "reference.h5ad", "--labels-key", "cell_type")
    assert program(*train, "-o", folder / "model").exit_code == 0
    more = ("--ensemble", 2, "--max-epochs", 2)
    train = ("train", "mlp", folder / "reference.h5ad", "--labels-key", "cell_type", *more)
    assert program(*train, "-o", folder / "two").exit_code == 0
    train = ("train", "knn", folder / "reference.h5ad", "--labels-key", "cell_type")
    assert program(*train, "-o", folder / "knn").exit_code == 0
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def ask(files, *more, model="model"):
    return ("explain", files / "query.h5ad", "-m", files / model, "--device", "cpu", *more)


def answer(result):
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    jsonschema.validate(found, SCHEMA)
    assert found["ok"] is (result.exit_code == 0)
    return found


def known(files):
    return load(files / "model"), anndata.read_h5ad(files / "query.h5ad")


# -- explain -------------------------------------------------------------------------------------


def test_the_table_is_that_of_the_model(files):
    model, cells = known(files)

    result = program(*ask(files, "--top", 4))

    assert result.exit_code == 0, result.output
    table = pd.read_csv("genes.csv")
    same = model.top_genes(cells, k=4).reset_index(drop=True)
    pd.testing.assert_frame_equal(table, same, check_dtype=False, rtol=1e-4)
    first = same[same["group"] == "type 0"]["gene_name"]
    assert f"    type 0: {', '.join(first)}" in result.stdout


@pytest.mark.parametrize("by", ["all", "donor_id"])
def test_cells_are_grouped_as_asked(files, by):
    model, cells = known(files)

    assert program(*ask(files, "--by", by, "-o", "g.parquet")).exit_code == 0

    same = model.top_genes(cells, None if by == "all" else by).reset_index(drop=True)
    pd.testing.assert_frame_equal(pd.read_parquet("g.parquet"), same, rtol=1e-4)


def test_every_cell_has_its_own_genes(files):
    model, cells = known(files)

    found = answer(program(*ask(files, "--by", "cells", "--top", 3, "--batch-size", 7, "--json")))

    table, whole = pd.read_csv("genes.csv"), model.explain(cells).toarray()
    assert found["n_obs"] == 60
    assert found["n_rows"] == len(table)
    for number, (name, part) in enumerate(table.groupby("cell", sort=False)):
        assert name == cells.obs_names[number]
        best = np.sort(whole[number])[::-1][:3]
        np.testing.assert_allclose(part["score"], best[best > 0], rtol=1e-4)
        assert list(part["rank"]) == list(range(1, len(part) + 1))
        at = [model.features.ids.index(g) for g in part["gene"]]
        np.testing.assert_allclose(whole[number, at], part["score"], rtol=1e-4)


def test_one_class_against_another(files):
    model, cells = known(files)

    words = ("--of", "type 1", "--against", "type 2", "--by", "all", "-o", "-", "-q")
    result = program(*ask(files, *words))

    table = pd.read_csv(io.StringIO(result.stdout))
    same = model.top_genes(cells, None, of="type 1", against="type 2").reset_index(drop=True)
    pd.testing.assert_frame_equal(table, same, check_dtype=False, rtol=1e-4)
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("by", ["prediction", "cells"])
def test_an_ensemble_explains_too(files, by):
    assert program(*ask(files, "--by", by, "--top", 2, model="two")).exit_code == 0

    assert pd.read_csv("genes.csv")["rank"].max() == 2


def test_no_cells_have_no_genes(files):
    cells = anndata.read_h5ad(files / "query.h5ad")[:0].copy()
    cells.write_h5ad("none.h5ad")

    words = ("-m", files / "model", "--by", "cells", "-o", "g.csv")
    assert program("explain", "none.h5ad", *words).exit_code == 0

    assert list(pd.read_csv("g.csv")) == [
        "cell",
        "rank",
        "gene",
        "gene_name",
        "score",
        "expression",
    ]


def test_the_same_command_again_does_nothing(files):
    first, again = program(*ask(files)), program(*ask(files))

    assert again.stdout == first.stdout
    refused(3, "E-F26", *ask(files, "--top", 3))


FAILURES = {
    "no attributions": (("-m", "{f}/knn"), 2, "E-U12", "explanation"),
    "no column": (("--by", "nothing"), 2, "E-U04", "nothing"),
    "no class": (("--of", "type 9"), 2, "E-U87", "type 9"),
    "kind of output": (("-o", "genes.h5ad"), 2, "E-U08", "parquet"),
    "top": (("--top", "0"), 2, "E-U02", "top"),
}


@pytest.mark.parametrize("what", sorted(FAILURES))
def test_a_mistake_is_refused_and_nothing_is_written(what, files):
    words, code, kind, text = FAILURES[what]

    refused(code, kind, *ask(files, *(w.format(f=files) for w in words)), match=text)


# -- pretrain ------------------------------------------------------------------------------------


def test_an_encoder_is_pretrained_and_another_model_starts_from_it(files):
    words = ("pretrain", "ssl", files / "reference.h5ad", "-o", "encoder", "--max-epochs", 1)
    small = ("--set", "hidden=[16]", "--set", "n_latent=4")

    found = answer(program(*words, *small, "--json"))

    assert (found["command"], found["n_cells"], found["n_classes"]) == ("pretrain", 180, 0)
    assert program("embed", files / "query.h5ad", "-m", "encoder").exit_code == 0
    again = answer(program(*words, *small, "--json"))
    assert again["repeated"]
    start = ("train", "ssl-classifier", files / "reference.h5ad", "--labels-key", "cell_type")
    more = ("--init", "encoder", "--max-epochs", 1, "-o", "classifier")
    assert program(*start, *more).exit_code == 0


def test_an_annotator_that_can_is_pretrained_without_labels_and_starts_itself(files):
    small = ("--set", "dim=16", "--set", "depth=1", "--set", "heads=2", "--max-epochs", 1)

    found = answer(
        program("pretrain", "scbert", files / "reference.h5ad", "-o", "enc", *small, "--json")
    )

    assert (found["command"], found["n_classes"]) == ("pretrain", 0)
    assert found["fit"]["pretext"] == "masked_expression"
    start = ("train", "scbert", files / "reference.h5ad", "--labels-key", "cell_type")
    assert program(*start, "--init", "enc", *small, "-o", "whole").exit_code == 0
    assert load("whole").pretraining_


def test_models_without_pretraining_say_which_have_it(files):
    words = (files / "reference.h5ad", "-o", "encoder")

    refused(2, "E-U12", "pretrain", "pca", *words, match="capabilities are embedding.*scbert.*ssl")
    refused(2, "E-U01", "pretrain", "ssl", *words, "--labels-key", "cell_type")


@pytest.mark.parametrize("verb", ["explain", "pretrain"])
def test_help_and_early_errors_import_nothing_heavy(verb):
    asked = in_own_process(verb, "--help")
    words = ("-m", "x") if verb == "explain" else ("-o", "x")
    first = () if verb == "explain" else ("ssl",)
    wrong = in_own_process(verb, *first, "nowhere.h5ad", *words)

    assert asked.returncode == 0
    assert asked.stdout.count(f"$ episome {verb}") >= 2
    assert "HEAVY []" in asked.stderr
    assert wrong.returncode == 3
    assert "HEAVY []" in wrong.stderr
