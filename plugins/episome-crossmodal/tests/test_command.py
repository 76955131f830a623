"""CrossModal from the command line: trained on MuData, in memory or in its file, and asked."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import sparse

from episome.cli._app import app
from episome.data import as_mudata
from episome.io import read_manifest
from episome.jobs import TrainRequest, train
from episome.models import load

SMALL = ("--max-epochs", "6", "--device", "cpu", "--set", "hidden=[24, 16]", "--set", "n_latent=6")

pytestmark = pytest.mark.filterwarnings("ignore:.*E-D64", "ignore:From 0.4 .update")


def program(*words):
    return CliRunner().invoke(app, [str(w) for w in words])


def cells(n_cells, seed, batches=("a", "b")):
    """RNA, and eight proteins that follow from it, but for the last; batches differ in counts."""
    rng = np.random.default_rng(seed)
    factors = rng.gamma(2.0, 1.0, (n_cells, 2))
    fixed = np.random.default_rng(99)
    loads, maps = fixed.gamma(0.5, 1.0, (2, 50)), fixed.gamma(1.0, 4.0, (2, 8))
    batch = rng.integers(0, len(batches), n_cells)
    counts = rng.poisson(factors @ loads * 2 + 0.1).astype(np.float32)
    proteins = rng.poisson(factors @ maps + 1 + 15 * batch[:, None]).astype(np.float32)
    proteins[:, 7] = rng.poisson(5, n_cells)
    names = [f"s{seed}c{i}" for i in range(n_cells)]
    obs = pd.DataFrame({"lab": np.array(batches)[batch]}, index=names)
    return as_mudata(
        {
            "rna": anndata.AnnData(
                sparse.csr_matrix(counts), obs, pd.DataFrame(index=[f"GENE{i}" for i in range(50)])
            ),
            "prot": anndata.AnnData(
                proteins, obs[[]].copy(), pd.DataFrame(index=[f"CD{i}" for i in range(8)])
            ),
        }
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model that knows two batches, and 70 other cells."""
    folder = tmp_path_factory.mktemp("crossmodal")
    cells(260, 0).write(folder / "cite.h5mu")
    query = cells(70, 1)
    query.write(folder / "query.h5mu")
    query.mod["rna"].write_h5ad(folder / "query.h5ad")
    done = train_to(folder, folder / "model")
    assert done.exit_code == 0, done.output
    assert "next: episome predict-modality" in done.stdout
    return folder


def train_to(files, output, *more, source="cite.h5mu"):
    options = ("--batch-key", "lab", "--set", "target=protein", *SMALL)
    return program("train", "crossmodal", files / source, "-o", output, *options, *more)


def ask(files, output, *more, query="query.h5ad"):
    words = ("predict-modality", files / query, "-m", files / "model", "-o", output)
    return program(*words, "--device", "cpu", *more)


def python(files, **kwargs):
    return load(files / "model").predict_modality(
        anndata.read_h5ad(files / "query.h5ad"), **kwargs
    )


# -- training ------------------------------------------------------------------------------------


def test_options_of_the_set_up_and_the_model_arrive(files):
    manifest = read_manifest(files / "model")

    model = load(files / "model")
    assert manifest["init_params"]["target"] == "protein"
    assert manifest["core"]["hidden"] == [24, 16]
    assert model.registry["setup_args"]["batch_key"] == "lab"
    assert model.batches == ("a", "b")
    assert model.target_features.modality == "protein"


@pytest.mark.parametrize("kind", ["h5mu", "zarr"])
def test_a_file_that_stays_on_disk_trains_the_same_model(files, tmp_path, kind):
    source = files / "cite.h5mu"
    if kind == "zarr":
        # Made anew: what mudata 0.4 reads of h5mu it cannot write as zarr 3.
        mudata.MuData(dict(mudata.read_h5mu(source).mod)).write_zarr(tmp_path / "cite.zarr")
        source = tmp_path / "cite.zarr"

    done = train_to(files, tmp_path / "m", "--backed", source=source)

    assert done.exit_code == 0, done.output
    query = anndata.read_h5ad(files / "query.h5ad")
    found = load(tmp_path / "m").predict_modality(query, interval=0.9)
    wanted = python(files, interval=0.9)
    np.testing.assert_allclose(found.X, wanted.X, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.layers["upper"], wanted.layers["upper"], rtol=1e-5, atol=1e-5)
    assert "mdata" not in read_manifest(tmp_path / "m")["init_params"]


def test_a_file_that_does_not_fit_into_memory_is_left_on_disk(files, tmp_path, monkeypatch):
    monkeypatch.setattr("mudata.read_h5mu", lambda *a, **k: pytest.fail("it was read whole"))
    size = {"hidden": [24, 16], "n_latent": 6}
    request = TrainRequest(
        method="crossmodal",
        input=files / "cite.h5mu",
        output=tmp_path / "m",
        setup={"target_modality": "prot"},
        model=size,
        train={"max_epochs": 1, "accelerator": "cpu"},
        max_memory=60_000,
    )

    result = train(request)

    assert result.notes[0] == (
        "cite.h5mu does not fit into memory: its cells are read while training"
    )
    assert load(tmp_path / "m").is_trained_


def test_layers_of_both_modalities_are_learned_from_on_disk(files, tmp_path):
    mdata = mudata.read_h5mu(files / "cite.h5mu")
    for part in mdata.mod.values():
        part.layers["counts"] = part.X.copy()
        part.X = part.X * 0
    mdata.write(tmp_path / "layers.h5mu")
    layers = ("--layer", "counts", "--target-layer", "counts", "--backed")

    done = train_to(files, tmp_path / "m", *layers, source=tmp_path / "layers.h5mu")

    assert done.exit_code == 0, done.output
    query = anndata.read_h5ad(files / "query.h5ad")
    found = load(tmp_path / "m").predict_modality(query)
    np.testing.assert_allclose(found.X, python(files).X, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--target-modality", "atac"), "E-U60", "prot"),
        (("--target-modality", "atac", "--backed"), "E-U60", "prot"),
        (("--rna-modality", "gex", "--backed"), "E-U6[03]", "prot"),
        (("--target-layer", "none"), "E-D28", "prot"),
        (("--target-layer", "none", "--backed"), "E-D28", "prot"),
        (("--set", "target=peaks"), "E-U30", "target"),
    ],
)
def test_what_is_not_there_is_refused(files, tmp_path, words, code, text):
    done = train_to(files, tmp_path / "m", *words)

    assert done.exit_code in {2, 3}, done.output
    assert pd.Series([done.stderr]).str.contains(rf"(?s){text}.*\[{code}\]").all(), done.stderr
    assert not (tmp_path / "m").exists()


# -- what is predicted ---------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["query.h5ad", "query.h5mu"])
def test_the_file_holds_what_python_says(files, tmp_path, query):
    wanted = python(files, interval=0.9)

    done = ask(files, tmp_path / "p.h5ad", "--interval", 0.9, query=query)

    assert done.exit_code == 0, done.output
    assert "8 features (protein) of 70 cells" in done.stdout
    assert "unit: log1p of counts" in done.stdout
    made = anndata.read_h5ad(tmp_path / "p.h5ad")
    np.testing.assert_array_equal(made.X, wanted.X)
    for name in ("lower", "upper"):
        np.testing.assert_array_equal(made.layers[name], wanted.layers[name])
    assert list(made.var["status"]) == list(wanted.var["status"])
    assert dict(made.uns)["unit"] == wanted.uns["unit"]
    assert list(made.obs.columns) == ["lab"]


def test_batches_of_the_query_are_told_and_others_are_not(files, tmp_path):
    untold = anndata.read_h5ad(files / "query.h5ad")
    del untold.obs["lab"]
    untold.write_h5ad(tmp_path / "untold.h5ad")

    for name, words in {
        "own": (),
        "a": ("--transform-batch", "a"),
        "b": ("--transform-batch", "b"),
    }.items():
        assert ask(files, tmp_path / f"{name}.h5ad", *words).exit_code == 0
    done = ask(files, tmp_path / "none.h5ad", "--json", query=tmp_path / "untold.h5ad")

    made = {n: anndata.read_h5ad(tmp_path / f"{n}.h5ad").X for n in ("own", "a", "b", "none")}
    lab = anndata.read_h5ad(files / "query.h5ad").obs["lab"].to_numpy()
    np.testing.assert_array_equal(
        made["own"], np.where((lab == "a")[:, None], made["a"], made["b"])
    )
    assert not np.allclose(made["a"], made["b"])
    assert not np.allclose(made["none"], made["own"])
    assert any("70 of 70 cells are of no batch" in n for n in json.loads(done.stdout)["notes"])
    assert "E-U110" in ask(files, tmp_path / "c.h5ad", "--transform-batch", "c").stderr


def test_sparse_predictions_are_the_dense_ones_without_small_values(files, tmp_path):
    assert ask(files, tmp_path / "d.h5ad").exit_code == 0

    done = ask(files, tmp_path / "s.h5ad", "--sparse-below", 2.0)

    assert done.exit_code == 0, done.output
    dense, made = (anndata.read_h5ad(tmp_path / f"{n}.h5ad").X for n in "ds")
    assert sparse.issparse(made)
    assert 0 < made.nnz < dense.size
    np.testing.assert_array_equal(made.toarray(), np.where(dense < 2.0, 0, dense))


def test_a_table_and_its_answer_in_json(files, tmp_path):
    Path(tmp_path / "wanted.txt").write_text("CD7\nCD2\n")
    words = ("--features", tmp_path / "wanted.txt", "--interval", 0.8, "--json")

    done = ask(files, tmp_path / "p.csv", *words)

    found = json.loads(done.stdout)
    assert found["ok"]
    assert (found["n_obs"], found["n_vars"], found["n_features"]) == (70, 50, 2)
    assert (found["kind"], found["unit"]) == ("protein", "log1p of counts")
    wanted = python(files, features=["CD7", "CD2"], interval=0.8)
    assert found["status"] == wanted.var["status"].value_counts().to_dict()
    if "not predictable" in found["status"]:
        assert [w["code"] for w in found["warnings"]] == ["E-D64"]
    table = pd.read_csv(tmp_path / "p.csv", index_col=0)
    assert list(table) == [f"{n}{e}" for n in ("CD7", "CD2") for e in ("", "_lower", "_upper")]
    np.testing.assert_array_equal(table[["CD7", "CD2"]].astype(np.float32), wanted.X)
    np.testing.assert_array_equal(
        table[["CD7_upper", "CD2_upper"]].astype(np.float32), wanted.layers["upper"]
    )


def test_what_is_there_stays_and_unknown_features_are_refused(files, tmp_path):
    assert ask(files, tmp_path / "p.h5ad").exit_code == 0
    before = (tmp_path / "p.h5ad").read_bytes()

    again = ask(files, tmp_path / "p.h5ad", "--sparse-below", 1.0)
    unknown = ask(files, tmp_path / "q.h5ad", "--features", "CD77")

    assert (again.exit_code, unknown.exit_code) == (3, 2)
    assert "E-F26" in again.stderr
    assert "E-U61" in unknown.stderr
    assert (tmp_path / "p.h5ad").read_bytes() == before
    assert not (tmp_path / "q.h5ad").exists()
