"""`episome embed` and `episome impute` from end to end."""

from __future__ import annotations

import io
import json
import subprocess
import sys
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
    """A model that embeds and reconstructs, one that annotates, and cells that lack two genes."""
    folder = tmp_path_factory.mktemp("cells")
    cells = simulate_cells(200, 40, n_types=3, n_donors=5)
    cells[:150].copy().write_h5ad(folder / "reference.h5ad")
    cells[150:, 2:].copy().write_h5ad(folder / "query.h5ad")
    train = ("train", "pca", folder / "reference.h5ad", "-o", folder / "pca")
    assert program(*train, "--set", "n_components=4").exit_code == 0
    labelled = ("--labels-key", "cell_type", "-o", folder / "centroid")
    assert program("train", "centroid", folder / "reference.h5ad", *labelled).exit_code == 0
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def answer(result):
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    jsonschema.validate(found, SCHEMA)
    assert found["ok"] is (result.exit_code == 0)
    return found


def ask(verb, files, *more):
    return (verb, files / "query.h5ad", "-m", files / "pca", "--device", "cpu", *more)


def expected(files, **kwargs):
    cells = anndata.read_h5ad(files / "query.h5ad")
    return load(files / "pca").get_normalized_expression(cells, library_size=1e4, **kwargs)


# -- success -------------------------------------------------------------------------------------


def test_embed_writes_a_table_and_says_how_many(files):
    result = program(*ask("embed", files))

    assert result.exit_code == 0, result.output
    assert result.stdout == "embedding.csv\n  4 dimensions of 50 cells\n"
    table = pd.read_csv("embedding.csv", index_col=0)
    cells = anndata.read_h5ad(files / "query.h5ad")
    known = load(files / "pca").get_latent_representation(cells)
    np.testing.assert_allclose(table, known, rtol=1e-5, atol=1e-5)


def test_embed_answers_in_json(files):
    found = answer(program(*ask("embed", files, "-o", "e.h5ad", "--key-added", "X_me", "--json")))

    assert (found["command"], found["n_obs"], found["n_vars"]) == ("embed", 50, 38)
    assert (found["n_latent"], found["key"]) == (4, "X_me")
    assert found["outputs"] == [{"path": "e.h5ad"}]
    assert any("38 of the model's 40 genes" in note for note in found["notes"])
    assert anndata.read_h5ad("e.h5ad").obsm["X_me"].shape == (50, 4)


def test_impute_writes_an_h5ad_and_says_what_was_imputed(files):
    result = program(*ask("impute", files, "--hide", "GENE5", "--log1p"))

    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "imputed.h5ad",
        "  40 genes of 50 cells",
        "  not in the query, and imputed: 2 of the model's genes",
        "  hidden from the model, and imputed: 1",
    ]
    made = anndata.read_h5ad("imputed.h5ad")
    np.testing.assert_allclose(
        made.X, np.log1p(expected(files, hide=["GENE5"])), rtol=1e-4, atol=1e-4
    )
    assert list(made.var_names[made.var["hidden"]]) == ["GENE5"]
    assert made.uns["episome"]["log1p"]


def test_impute_answers_in_json(files):
    genes = ("--genes", "GENE4", "--genes", "GENE1")
    found = answer(program(*ask("impute", files, "-o", "i.csv", *genes, "--json")))

    assert (found["n_obs"], found["n_genes"], found["n_missing"]) == (50, 2, 2)
    assert (found["n_hidden"], found["n_unknown"]) == (0, 0)
    assert found["inputs"][0]["path"] == str(files / "query.h5ad")
    assert any("2 of the model's 40 genes are not in the query" in n for n in found["notes"])
    assert list(pd.read_csv("i.csv", index_col=0)) == ["GENE4", "GENE1"]


def test_genes_are_read_from_a_file_and_the_size_is_chosen(files):
    Path("genes.txt").write_text("GENE7\nGENE0\n")

    words = ("-o", "i.tsv", "--genes", "genes.txt", "--hide", "genes.txt", "--library-size", 1)
    assert program(*ask("impute", files, *words)).exit_code == 0

    table = pd.read_csv("i.tsv", sep="\t", index_col=0)
    known = expected(files, hide=["GENE7", "GENE0"], gene_list=["GENE7", "GENE0"]) / 1e4
    np.testing.assert_allclose(table, known, rtol=1e-4)


@pytest.mark.parametrize("verb", ["embed", "impute"])
def test_a_dash_writes_the_table_to_standard_output(files, verb):
    result = program(*ask(verb, files, "-o", "-", "-q"))

    table = pd.read_csv(io.StringIO(result.stdout), index_col=0)
    assert table.shape == (50, 4 if verb == "embed" else 40)
    assert result.stderr == ""
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("verb", ["embed", "impute"])
def test_the_same_command_again_does_nothing_and_another_is_refused(files, verb):
    words = ask(verb, files, "-o", "o.h5ad")
    first = program(*words)
    before = Path("o.h5ad").stat().st_mtime_ns

    again = program(*words)

    assert (first.exit_code, again.exit_code) == (0, 0)
    assert again.stdout == first.stdout
    assert Path("o.h5ad").stat().st_mtime_ns == before
    refused(3, "E-F26", *words, "--min-gene-overlap", 0.1)
    assert program(*words, "--min-gene-overlap", 0.1, "--overwrite").exit_code == 0


def test_a_list_that_changed_is_another_command(files):
    Path("genes.txt").write_text("GENE7\n")
    words = ask("impute", files, "-o", "i.csv", "--genes", "genes.txt")
    assert program(*words).exit_code == 0
    Path("genes.txt").write_text("GENE8\n")

    refused(3, "E-F26", *words)


def test_training_names_the_command_that_follows(files):
    train = ("train", "pca", files / "reference.h5ad", "-o", "m", "--set", "n_components=4")

    assert "next: episome embed query.h5ad -m m -o embedding.csv" in program(*train).stdout


# -- failure -------------------------------------------------------------------------------------

FAILURES = {
    "no embedding": (("embed", "{q}", "-m", "{f}/centroid"), 2, "E-U12", "train one of"),
    "no expression": (("impute", "{q}", "-m", "{f}/centroid"), 2, "E-U12", "reconstruction"),
    "no model": (("embed", "{q}", "-m", "nowhere"), 4, "E-M05", ""),
    "no file": (("impute", "nowhere.h5ad", "-m", "{f}/pca"), 3, "E-F07", ""),
    "kind of output": (("embed", "{q}", "-m", "{f}/pca", "-o", "e.xlsx"), 2, "E-U08", "npy"),
    "array of genes": (("impute", "{q}", "-m", "{f}/pca", "-o", "i.npy"), 2, "E-U08", "h5ad"),
    "output is input": (("embed", "{q}", "-m", "{f}/pca", "-o", "{q}"), 3, "E-F25", ""),
    "unknown gene": (
        ("impute", "{q}", "-m", "{f}/pca", "--genes", "GEN1"), 2, "E-U61", "did you mean `GENE1`",
    ),
    "unknown hidden gene": (
        ("impute", "{q}", "-m", "{f}/pca", "--hide", "xxxxxxxx"), 2, "E-U61", "hide .--hide.",
    ),
    "no list": (("impute", "{q}", "-m", "{f}/pca", "--genes", "a.txt"), 3, "E-F07", "a.txt"),
    "size": (("impute", "{q}", "-m", "{f}/pca", "--library-size", "0"), 2, "E-U02", ""),
    "two places": (
        ("embed", "{q}", "-m", "{f}/pca", "--use-raw", "--layer", "x"), 2, "E-U27", "",
    ),
    "no layer": (("impute", "{q}", "-m", "{f}/pca", "--layer", "x"), 3, "E-D28", ""),
    "no such option": (("embed", "{q}", "-m", "{f}/pca", "--genes", "x"), 2, "E-U01", ""),
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(FAILURES))
def test_a_mistake_is_refused_and_nothing_is_written(what, files):
    words, code, kind, text = FAILURES[what]
    places = {"q": str(files / "query.h5ad"), "f": str(files)}

    refused(code, kind, *(w.format(**places) for w in words), match=text)


# -- what is imported ----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["embed", "impute"])
def test_help_and_early_errors_import_nothing_heavy(files, verb):
    asked = in_own_process(verb, "--help")
    wrong = in_own_process(verb, "nowhere.h5ad", "-m", files / "pca")

    assert asked.returncode == 0
    assert len([li for li in asked.stdout.splitlines() if li.strip().startswith("$ epi")]) >= 2
    assert "HEAVY []" in asked.stderr
    assert wrong.returncode == 3
    assert "HEAVY []" in wrong.stderr


def test_commands_need_no_scvi_and_no_lightning(files):
    code = (
        "import sys\nfrom episome.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n"
        "    print(sorted({'scvi', 'lightning'} & set(sys.modules)), file=sys.stderr)\n    raise\n"
    )
    words = [str(w) for w in ask("impute", files, "-o", "i.h5ad", "-q")]

    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("[]\n")
