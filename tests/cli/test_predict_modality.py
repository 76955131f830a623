"""`episome predict-modality`, and training on two modalities, from end to end."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import _toy
import anndata
import jsonschema
import mudata
import numpy as np
import pandas as pd
import pytest
from _program import in_own_process, program, refused

from episome.cli._answers import answer_schema
from episome.models import load

SCHEMA = answer_schema("")
PROTEINS = [f"CD{i}" for i in range(6)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model from RNA to proteins, one that annotates, and cells that lack two genes."""
    folder = tmp_path_factory.mktemp("cells")
    pairs = _toy.pairs(240)
    pairs.write(folder / "cite.h5mu")
    query = _toy.pairs(50, start=260)
    rna = query.mod["rna"][:, 2:].copy()
    rna.write_h5ad(folder / "query.h5ad")
    mudata.MuData({"rna": rna, "prot": query.mod["prot"]}).write(folder / "query.h5mu")
    two = ("train", "ridge", folder / "cite.h5mu", "-o", folder / "ridge", "--device", "cpu")
    done = program(*two, "--target-modality", "prot", "--donor-key", "donor_id")
    assert done.exit_code == 0, done.output
    pairs.mod["rna"].write_h5ad(folder / "reference.h5ad")
    (folder / "parts").mkdir()
    rna.write_h5ad(folder / "parts" / "a.h5ad")
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


def ask(files, *more, query="query.h5ad"):
    return ("predict-modality", files / query, "-m", files / "ridge", "--device", "cpu", *more)


def expected(files, **kwargs):
    cells = anndata.read_h5ad(files / "query.h5ad")
    return load(files / "ridge").predict_modality(cells, **kwargs)


# -- success -------------------------------------------------------------------------------------


def test_an_h5ad_is_written_and_said(files):
    result = program(*ask(files))

    assert result.exit_code == 0, result.output
    wanted = expected(files)
    lines = result.stdout.splitlines()
    assert lines[:2] == ["predicted.h5ad", "  6 features (protein) of 50 cells"]
    assert lines[2] == f"  unit: {wanted.uns['unit']}"
    assert lines[3] == "  how well they are predicted is not known: nothing was held out to tell"
    made = anndata.read_h5ad("predicted.h5ad")
    np.testing.assert_array_equal(made.X, wanted.X)
    assert list(made.obs["cell_type"]) == list(
        anndata.read_h5ad(files / "query.h5ad").obs["cell_type"]
    )


def test_the_answer_in_json(files):
    words = ("-o", "p.csv", "--features", "CD4", "--features", "CD1", "--json")
    found = answer(program(*ask(files, *words)))

    assert (found["command"], found["n_obs"], found["n_features"]) == ("predict-modality", 50, 2)
    assert (found["n_vars"], found["n_empty"], found["kind"]) == (38, 0, "protein")
    assert found["unit"] == expected(files).uns["unit"]
    assert found["status"] == {}
    assert found["inputs"][0]["path"] == str(files / "query.h5ad")
    assert found["outputs"] == [{"path": "p.csv"}]
    assert any("38 of the model's 40 genes" in note for note in found["notes"])
    table = pd.read_csv("p.csv", index_col=0)
    assert list(table) == ["CD4", "CD1"]
    wanted = expected(files, features=["CD4", "CD1"]).X
    np.testing.assert_array_equal(table.astype(np.float32), wanted)


def test_of_mudata_the_rna_is_read_and_small_values_are_left_out(files):
    Path("wanted.txt").write_text("CD5\nCD0\n")
    words = ("--features", "wanted.txt", "--sparse-below", 2, "-o", "p.h5ad")

    result = program(*ask(files, *words, "--modality", "rna", query="query.h5mu"))

    assert result.exit_code == 0, result.output
    wanted = expected(files, features=["CD5", "CD0"], sparse_below=2)
    assert (anndata.read_h5ad("p.h5ad").X != wanted.X).nnz == 0
    assert 0 < wanted.X.nnz < wanted.X.shape[0] * 2


def test_a_dash_writes_the_table_to_standard_output(files):
    result = program(*ask(files, "-o", "-", "-q"))

    assert pd.read_csv(io.StringIO(result.stdout), index_col=0).shape == (50, 6)
    assert result.stderr == ""
    assert list(Path.cwd().iterdir()) == []


def test_the_same_command_again_does_nothing_and_another_is_refused(files):
    Path("wanted.txt").write_text("CD5\n")
    words = ask(files, "-o", "o.h5ad", "--features", "wanted.txt")
    first = program(*words)
    before = Path("o.h5ad").stat().st_mtime_ns

    again = program(*words)

    assert (first.exit_code, again.exit_code) == (0, 0)
    assert again.stdout == first.stdout
    assert Path("o.h5ad").stat().st_mtime_ns == before
    refused(3, "E-F26", *words, "--sparse-below", 1)
    Path("wanted.txt").write_text("CD4\n")
    refused(3, "E-F26", *words)
    assert program(*words, "--overwrite").exit_code == 0


# -- training ------------------------------------------------------------------------------------


def test_training_names_the_command_that_follows(files):
    train = ("train", "ridge", files / "cite.h5mu", "-o", "m", "--device", "cpu")

    done = program(*train)

    assert "next: episome predict-modality query.h5ad -m m -o predicted.h5ad" in done.stdout
    assert done.exit_code == 0


def test_cells_may_stay_in_their_file(files):
    train = ("train", "ridge", files / "cite.h5mu", "-o", "m", "--device", "cpu", "--backed")

    done = program(*train, "--donor-key", "donor_id")

    assert done.exit_code == 0, done.output
    cells = anndata.read_h5ad(files / "query.h5ad")
    found = load("m").predict_modality(cells)
    np.testing.assert_allclose(found.X, expected(files).X, rtol=1e-4, atol=1e-4)


def test_a_check_of_a_query_names_the_command_that_uses_it(files):
    found = answer(program("check", files / "query.h5ad", "-m", files / "ridge", "--json"))

    (command,) = found["next"]
    assert command.startswith("episome predict-modality ")
    assert command.endswith("-o predicted.h5ad")


def test_a_layer_of_the_other_modality_is_learned_from(files):
    pairs = mudata.read_h5mu(files / "cite.h5mu")
    pairs.mod["prot"].layers["twice"] = 2 * pairs.mod["prot"].X
    pairs.write("layers.h5mu")
    train = ("train", "ridge", "layers.h5mu", "-o", "m", "--device", "cpu")

    assert program(*train, "--target-layer", "twice").exit_code == 0

    args = load("m").registry["setup_args"]
    assert (args["target_layer"], args["target_modality"]) == ("twice", "prot")
    cells = anndata.read_h5ad(files / "query.h5ad")
    twice, once = (load(f).predict_modality(cells).X for f in ("m", files / "ridge"))
    assert (twice > once).mean() > 0.9


# -- failure -------------------------------------------------------------------------------------

FAILURES = {
    "no translation": (("{q}", "-m", "{f}/centroid"), 2, "E-U12", "translation.*ridge"),
    "no model": (("{q}", "-m", "nowhere"), 4, "E-M05", ""),
    "no file": (("nowhere.h5ad", "-m", "{f}/ridge"), 3, "E-F07", ""),
    "kind of output": (("{q}", "-m", "{f}/ridge", "-o", "p.npy"), 2, "E-U08", "h5ad"),
    "output is input": (("{q}", "-m", "{f}/ridge", "-o", "{q}"), 3, "E-F25", ""),
    "unknown feature": (
        ("{q}", "-m", "{f}/ridge", "--features", "CD44"), 2, "E-U61", "did you mean `CD4",
    ),
    "no list": (("{q}", "-m", "{f}/ridge", "--features", "a.txt"), 3, "E-F07", "features"),
    "no level": (("{q}", "-m", "{f}/ridge", "--interval", "90"), 2, "E-U02", ""),
    "no modality": (("{q}", "-m", "{f}/ridge", "--modality", "x"), 2, "E-U60", "leave.*out"),
    "no batch": (
        ("{q}", "-m", "{f}/ridge", "--transform-batch", "x"), 2, "E-U110", "no batches.*leave it",
    ),
    "no number": (("{q}", "-m", "{f}/ridge", "--sparse-below", "nan"), 2, "E-U22", ""),
    "no such option": (("{q}", "-m", "{f}/ridge", "--genes", "x"), 2, "E-U01", ""),
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(FAILURES))
def test_a_mistake_is_refused_and_nothing_is_written(what, files):
    words, code, kind, text = FAILURES[what]
    places = {"q": str(files / "query.h5ad"), "f": str(files)}

    refused(code, kind, "predict-modality", *(w.format(**places) for w in words), match=text)


TRAINING = {
    "one modality": (("{f}/reference.h5ad",), 2, "E-U63", "one in this file.*cells.h5mu"),
    "one modality and a name": (
        ("{f}/reference.h5ad", "--target-modality", "prot"), 2, "E-U63", "ridge is trained on",
    ),
    "several files": (("{f}/parts",), 2, "E-U63", "one in several files"),
    "no such modality": (
        ("{f}/cite.h5mu", "--target-modality", "atac"), 2, "E-U60", "prot",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(TRAINING))
def test_training_cells_that_do_not_fit_are_refused(what, files):
    words, code, kind, text = TRAINING[what]
    given = ("train", "ridge", *(w.format(f=files) for w in words), "-o", "m", "--device", "cpu")

    done = program(*given)

    assert done.exit_code == code, done.output
    assert pd.Series([done.stderr]).str.contains(rf"(?s){text}.*\[(?:{kind})\]").all(), done.stderr
    assert list(Path.cwd().iterdir()) == []


# -- what is imported ----------------------------------------------------------------------------


def test_help_and_early_errors_import_nothing_heavy(files):
    asked = in_own_process("predict-modality", "--help")
    wrong = in_own_process("predict-modality", "nowhere.h5ad", "-m", files / "ridge")

    assert asked.returncode == 0
    assert len([li for li in asked.stdout.splitlines() if li.strip().startswith("$ epi")]) >= 2
    assert "HEAVY []" in asked.stderr
    assert wrong.returncode == 3
    assert "HEAVY []" in wrong.stderr


def test_the_command_needs_no_scvi_and_no_lightning(files):
    code = (
        "import sys\nfrom episome.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n"
        "    print(sorted({'scvi', 'lightning'} & set(sys.modules)), file=sys.stderr)\n    raise\n"
    )
    words = [str(w) for w in ask(files, "-o", "p.h5ad", "-q", query="query.h5mu")]

    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("[]\n")
