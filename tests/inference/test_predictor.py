"""`Predictor`: from a folder to numbers without what trained it."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from episome import models, plugins
from episome.data import Labels
from episome.errors import EpisomeWarning, ModelFileError, PluginError, UsageError
from episome.inference import CALL_COLUMNS, Predictor, calls_frame, core_from_folder, pick_device
from episome.io import read_model_folder

NAMES = ("centroid", "sctab")


@pytest.fixture(params=NAMES)
def one(request, saved):
    return getattr(saved, request.param)


@pytest.fixture
def copied(saved, tmp_path):
    """A folder of its own that a test may change, with right checksums."""
    path = shutil.copytree(saved.centroid.folder, tmp_path / "model")

    def change(name=None, data=None, **manifest):
        if name is not None:
            (path / name).write_bytes(data)
        entries = json.loads((path / "manifest.json").read_text()) | manifest
        for file, entry in entries["files"].items():
            content = (path / file).read_bytes()
            entry |= {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        text = json.dumps(entries).encode()
        (path / "manifest.json").write_bytes(text)
        seal = f"{hashlib.sha256(text).hexdigest()}  manifest.json\n"
        (path / "manifest.sha256").write_text(seal)
        return path

    change.path = path
    return change


@pytest.mark.parametrize("name", NAMES)
def test_another_process_gives_the_same_bits_without_scvi_tools_or_lightning(
    saved, run_python, tmp_path, name
):
    one = getattr(saved, name)
    saved.query.write_h5ad(tmp_path / "query.h5ad")
    code = f"""
import sys
from episome.inference import Predictor
predictor = Predictor.from_folder({str(one.folder)!r}, device="cpu")
calls = predictor.predict_proba(predictor.prepare("query.h5ad"))
calls.to_parquet("proba.parquet")
print([m for m in ("scvi", "lightning", "pytorch_lightning") if m in sys.modules])
"""

    done = run_python(code)

    assert done.stdout.strip().splitlines()[-1:] == ["[]"], done.stderr[-2000:]
    got = pd.read_parquet(tmp_path / "proba.parquet")
    wanted = one.model.predict_proba(saved.query)
    assert np.array_equal(got.to_numpy(), wanted.to_numpy())
    assert got.index.tolist() == wanted.index.tolist()


def test_a_folder_equals_the_live_model(one, saved):
    predictor = Predictor.from_folder(one.folder, device="cpu")
    query = predictor.prepare(saved.query)

    pd.testing.assert_frame_equal(predictor.annotate(query), one.model.annotate(saved.query))
    pd.testing.assert_frame_equal(
        models.load(one.folder).predict_proba(saved.query), one.model.predict_proba(saved.query)
    )


@pytest.mark.parametrize("batch_size", [1, 7, 60, 5000])
def test_stream_covers_the_query_in_its_order(one, saved, batch_size):
    predictor = Predictor.from_folder(one.folder, device="cpu")
    query = predictor.prepare(saved.query)

    parts = list(predictor.stream(query, batch_size=batch_size))

    assert np.concatenate([p["ind_x"] for p in parts]).tolist() == list(range(60))
    assert max(len(p["ind_x"]) for p in parts) == min(batch_size, 60)
    np.testing.assert_allclose(
        np.concatenate([p["probabilities"] for p in parts]),
        predictor.predict_proba(query),
        atol=1e-5,
    )


def test_rows_and_keys_can_be_chosen(saved):
    predictor = Predictor.from_folder(saved.sctab.folder, device="cpu")
    query = predictor.prepare(saved.query)

    out = predictor.collect(query, ["latent"], rows=np.array([3, 1]))

    assert set(out) == {"latent", "empty"}
    assert len(out["latent"]) == 2
    with pytest.raises(UsageError, match=r"the model gives no 'mean'.*latent.*E-U12"):
        predictor.collect(query, ["mean"])


def test_cells_without_the_models_genes_are_empty(saved):
    predictor = Predictor.from_folder(saved.centroid.folder, device="cpu")
    values = saved.query.X.toarray()
    values[4] = 0
    query = saved.query.copy()
    query.X = sparse.csr_matrix(values)

    calls = predictor.annotate(predictor.prepare(query))

    assert calls["label"].eq("unknown").to_numpy().nonzero()[0].tolist() == [4]
    assert calls["confidence"].isna().to_numpy().nonzero()[0].tolist() == [4]
    assert any("1 of 60 cells have no counts" in n for n in predictor.prepare(query).notes)


def test_an_empty_query_gives_an_empty_table(one, saved):
    predictor = Predictor.from_folder(one.folder, device="cpu")
    query = predictor.prepare(saved.query[:0])

    assert predictor.predict_proba(query).shape == (0, 3)
    assert list(predictor.annotate(query).columns) == list(CALL_COLUMNS)
    assert len(predictor.annotate(query)) == 0


def test_calls_name_best_and_second_with_ties_in_class_order():
    labels = Labels(("a", "b", "c"), ("CL:1", "", "CL:3"), "?")
    probabilities = np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [0, 0, 1]], np.float32)

    calls = calls_frame(
        probabilities, np.array([False, False, True]), labels, pd.Index(list("xyz"))
    )

    assert calls["label"].tolist() == ["b", "a", "?"]
    assert calls["second"].tolist() == ["c", "b", ""]
    assert calls["label_ontology_term_id"].tolist() == ["", "CL:1", ""]
    assert calls["label_raw"].tolist() == ["b", "a", ""]
    np.testing.assert_array_equal(calls["confidence"], np.float32([0.5, 0.4, np.nan]))


# -- folders that do not fit ---------------------------------------------------------------------


def test_a_plugin_that_is_not_installed_is_named(copied):
    saved_by = {"class": "Foo", "spec": "foo", "plugin": "gone", "distribution": "episome-gone"}
    path = copied(model=saved_by)

    for load in (Predictor.from_folder, models.load):
        with pytest.raises(PluginError, match=r"'gone'.*pip install episome-gone.*E-P01"):
            load(path)


def test_a_blocked_plugin_is_not_used(saved, monkeypatch, fresh_manager):
    monkeypatch.setenv("EPISOME_BLOCK_PLUGINS", "baselines")
    plugins.reset_manager()

    with pytest.raises(PluginError, match=r"'baselines'.*not available.*E-P01"):
        Predictor.from_folder(saved.centroid.folder)


@pytest.mark.parametrize(
    "table",
    [
        "label\tontology_term_id\ntype 0\t\ntype 1\t\n",
        "label\tontology_term_id\ntype 0\t\ntype 1\t\ntype 1\t\n",
        "label\tontology_term_id\na\t\nb\t\nc\t\nd\t\n",
    ],
)
def test_labels_that_do_not_fit_the_outputs_are_refused(copied, table):
    path = copied("labels.tsv", table.encode())

    for load in (Predictor.from_folder, models.load):
        with pytest.raises(ModelFileError, match=r"3 model outputs.*E-M13"):
            load(path)


def test_genes_that_do_not_fit_the_inputs_are_refused(copied):
    path = copied("genes.tsv", b"id\nGENE0\nGENE1\n")

    for load in (Predictor.from_folder, models.load):
        with pytest.raises(ModelFileError, match=r"2 genes and 40 model inputs.*E-M13"):
            load(path)


@pytest.mark.parametrize("core", [{"n_features": 40, "n_classes": 4}, {"n_features": 40}])
def test_weights_that_do_not_fit_the_configuration_are_refused(copied, core):
    with pytest.raises(ModelFileError, match=r"E-M06|E-M13"):
        Predictor.from_folder(copied(core=core))


def test_unknown_configuration_of_a_network_is_refused(saved):
    folder = read_model_folder(saved.sctab.folder)
    folder.manifest["core"]["n_wings"] = 2

    with pytest.raises(ModelFileError, match=r"configuration does not fit.*n_wings.*E-M06"):
        core_from_folder(folder)


def test_cells_whose_zeros_are_stored_have_no_call(one, saved):
    query = saved.query.copy()
    query.X = sparse.csr_matrix(query.X)
    for row in (0, 3):
        query.X.data[query.X.indptr[row] : query.X.indptr[row + 1]] = 0
    predictor = Predictor.from_folder(one.folder, device="cpu")

    with pytest.warns(EpisomeWarning, match="E-D12"):
        calls = predictor.annotate(predictor.prepare(query))

    assert np.diff(query.X.indptr)[[0, 3]].min() > 0
    assert list(np.flatnonzero(calls["status"] == "low_quality")) == [0, 3]
    assert calls["confidence"].isna().sum() == 2


def test_a_model_without_labels_does_not_annotate(saved):
    live = saved.centroid.model
    predictor = Predictor(live.module, features=live.features, rule=live.input_rule)

    with pytest.raises(UsageError, match="E-U13"):
        predictor.annotate(predictor.prepare(saved.query))


def test_devices():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in {"cpu", "cuda"}
    assert pick_device(pick_device("cpu")) == pick_device("cpu")
