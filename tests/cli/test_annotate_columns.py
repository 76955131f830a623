"""Options of the command line for columns of calls, and training by a table of markers."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import sparse

from episome import settings
from episome.cli import _app
from episome.cli._errors import guarded
from episome.data import simulate_cells
from episome.io import read_manifest


@pytest.fixture(autouse=True)
def _settings(monkeypatch, fresh_manager):
    monkeypatch.setattr(settings, "seed", 0)


def blood() -> anndata.AnnData:
    """Cells of three types that express two markers each."""
    codes = np.arange(120) % 3
    mean = np.full((120, 8), 0.3)
    mean[:, 6:] = 20.0
    mean[np.arange(120), 2 * codes] = mean[np.arange(120), 2 * codes + 1] = 15.0
    counts = np.random.default_rng(0).poisson(mean).astype(np.float32)
    cells = anndata.AnnData(sparse.csr_matrix(counts))
    cells.var_names = ["CD79A", "MS4A1", "CD3D", "CD3E", "LYZ", "CD14", "ACTB", "GAPDH"]
    cells.obs["truth"] = np.array(["B cell", "T cell", "monocyte"])[codes]
    return cells


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    cells = simulate_cells(200, 40, n_types=3, n_donors=5)
    cells.obs["leiden"] = pd.Categorical((np.arange(200) % 3).astype(str))
    cells[:150].copy().write_h5ad(folder / "reference.h5ad")
    query = cells[150:].copy()
    query.obs = query.obs[["leiden"]]
    query.write_h5ad(folder / "query.h5ad")
    query.obs["episome_label"] = "mine"
    query.write_h5ad(folder / "called.h5ad")
    blood().write_h5ad(folder / "blood.h5ad")
    markers = {"B cell": "CD79A MS4A1", "T cell": "CD3D CD3E", "monocyte": "LYZ CD14"}
    lines = [f"{t},{gene}" for t, genes in markers.items() for gene in genes.split()]
    (folder / "markers.csv").write_text("\n".join(["cell_type,gene", *lines]))
    return folder


def run(*arguments):
    return CliRunner().invoke(_app.app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def model(files, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model"
    words = ["--labels-key", "cell_type", "-o", path]
    found = run("train", "centroid", files / "reference.h5ad", *words)
    assert found.exit_code == 0, found.output
    return path


def test_options_of_columns_reach_the_file(files, model, tmp_path):
    out = tmp_path / "calls.csv"

    found = run(
        "annotate", files / "query.h5ad", "-m", model, "-o", out,
        "--prefix", "x_", "--cluster-key", "leiden",
    )  # fmt: skip

    assert found.exit_code == 0
    columns = list(pd.read_csv(out, index_col=0).columns)
    assert columns[0] == "x_label"
    assert columns[-4:] == [
        "x_cluster_label", "x_cluster_agreement", "x_cluster_low", "x_cluster_high",
    ]  # fmt: skip


def test_the_prefix_reaches_standard_output(files, model):
    found = run("annotate", files / "query.h5ad", "-m", model, "-o", "-", "-q", "--prefix", "x_")

    assert found.stdout.startswith("cell,x_label,x_label_ontology_term_id,")


def test_columns_of_the_schema_are_added(files, model, tmp_path):
    words = ["-o", tmp_path / "a.h5ad", "--cellxgene"]
    found = run("annotate", files / "query.h5ad", "-m", model, *words)

    assert found.exit_code == 0
    assert "E-L30" in found.stderr
    obs = anndata.read_h5ad(tmp_path / "a.h5ad").obs
    assert set(obs["cell_type_ontology_term_id"]) == {"unknown"}


def test_columns_that_exist_are_replaced_only_when_told(files, model, tmp_path, capsys):
    words = ["annotate", str(files / "called.h5ad"), "-m", str(model), "-o"]

    refused = guarded(_app.app, [*words, str(tmp_path / "a.h5ad")])

    assert refused == 2
    assert "episome_label" in (said := capsys.readouterr().err)
    assert "--overwrite-columns" in said
    assert run(*words, tmp_path / "b.h5ad", "--overwrite-columns").exit_code == 0
    assert run(*words, tmp_path / "c.h5ad", "--prefix", "new_").exit_code == 0
    assert set(anndata.read_h5ad(tmp_path / "c.h5ad").obs["episome_label"]) == {"mine"}


def test_a_table_of_markers_needs_no_labels(files, tmp_path):
    path, cells = tmp_path / "model", files / "blood.h5ad"

    trained = run(
        "train", "markers", cells, "--markers", files / "markers.csv", "-o", path, "--json"
    )
    called = run("annotate", cells, "-m", path, "-o", tmp_path / "calls.csv")

    assert (trained.exit_code, called.exit_code) == (0, 0)
    assert json.loads(trained.stdout)["n_classes"] == 3
    assert read_manifest(path)["registry"]["setup_args"].get("labels_key") is None
    found = pd.read_csv(tmp_path / "calls.csv")
    assert (found["label"].to_numpy() == blood().obs["truth"].to_numpy()).mean() > 0.95
    assert set(found["label_ontology_term_id"]) == {"CL:0000236", "CL:0000084", "CL:0000576"}


def test_a_changed_table_of_markers_is_read_again(files, tmp_path):
    table, path = tmp_path / "markers.csv", tmp_path / "model"
    table.write_text((files / "markers.csv").read_text())
    words = ["train", "markers", files / "blood.h5ad", "--markers", table, "-o", path]
    assert run(*words).exit_code == 0
    table.write_text(table.read_text().replace("monocyte", "phagocyte"))

    assert run(*words, "--overwrite").exit_code == 0

    assert "phagocyte" in (path / "labels.tsv").read_text()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["markers"], 2, "E-U80"),
        (["markers", "--markers", "none.csv"], 3, "E-F07"),
        (["markers", "--labels-file", "labels.csv"], 2, "--labels-key"),
        (["centroid"], 2, "--labels-key"),
        (["centroid", "--labels-key", "leiden", "--markers", "m.csv"], 2, "E-U24"),
    ],
)
def test_what_cannot_be_trained_is_said(files, tmp_path, capsys, words, code, text):
    method, *options = words

    found = guarded(
        _app.app,
        ["train", method, str(files / "query.h5ad"), "-o", str(tmp_path / "model"), *options],
    )

    assert found == code
    assert text in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
