"""The verbs as functions."""

from __future__ import annotations

import hashlib

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from episome import settings
from episome.errors import (
    GeneMatchError,
    InputFileError,
    ModelFileError,
    PluginError,
    ResourceError,
    UsageError,
)
from episome.io import read_manifest
from episome.jobs import (
    AnnotateRequest,
    TrainRequest,
    annotate,
    describe_input,
    device_arguments,
    train,
)


@pytest.fixture(autouse=True)
def _same_seed(monkeypatch):
    monkeypatch.setattr(settings, "seed", 0)


def request(files, output, **kwargs):
    options = {"method": "centroid", "setup": {"labels_key": "cell_type"}, **kwargs}
    return TrainRequest(input=files / "reference.h5ad", output=output, **options)


@pytest.fixture(scope="module")
def model(files, tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "model"
    train(request(files, path))
    return path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_train_leaves_a_folder_and_the_facts(files, tmp_path):
    before = digest(files / "reference.h5ad")

    result = train(request(files, tmp_path / "deep" / "model"))

    assert (result.model, result.n_cells, result.n_genes, result.n_classes) == (
        "centroid",
        150,
        40,
        3,
    )
    assert result.input_kind == "counts"
    assert result.fit["n_train"] == 150
    assert read_manifest(result.output)["model"]["spec"] == "centroid"
    assert digest(files / "reference.h5ad") == before


def test_train_passes_arguments_to_model_and_training_and_reports_progress(files, tmp_path):
    seen = []
    wanted = request(
        files,
        tmp_path / "model",
        method="sctab",
        model={"preset": "small", "n_d": 8, "n_a": 8},
        train={"max_epochs": 2, "batch_size": 64, "accelerator": "cpu"},
        setup={"labels_key": "cell_type", "donor_key": "donor_id"},
        seed=7,
    )

    result = train(wanted, progress=lambda done, total, metrics: seen.append((done, total)))

    manifest = read_manifest(tmp_path / "model")
    assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))
    assert (manifest["core"]["n_d"], manifest["fit"]["batch_size"]) == (8, 64)
    assert (result.fit["split_by"], result.fit["seed"]) == ("donor", 7)
    assert manifest["provenance"]["seed"] == 7


def test_labels_of_a_file_are_joined_and_said(files, tmp_path):
    adata = anndata.read_h5ad(files / "reference.h5ad")
    labels = adata.obs[["cell_type"]].iloc[20:].sample(frac=1, random_state=0)
    labels.to_csv(tmp_path / "labels.csv")

    result = train(request(files, tmp_path / "model", labels_file=tmp_path / "labels.csv"))

    assert result.fit["n_train"] == 130
    assert result.notes[0].startswith("labels for 130 of 150 cells; 20 cells have none")


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"method": "nope"}, PluginError, "E-P01"),
        (
            {"model": {"depth": 3}},
            UsageError,
            r"unknown arguments depth \(--set\) in centroid.*E-U24",
        ),
        ({"setup": {"labels_key": "x"}}, UsageError, "E-U04"),
        (
            {"setup": {"labels_key": "cell_type", "batch_key": "batch"}},
            UsageError,
            r"batch_key.*E-U24",
        ),
        ({"train": {"max_epochs": 2}}, UsageError, r"does not know max_epochs.*E-U16"),
        ({"labels_file": "none.csv"}, InputFileError, "E-F07"),
    ],
)
def test_a_refused_training_writes_nothing(files, tmp_path, kwargs, error, text):
    with pytest.raises(error, match=text):
        train(request(files, tmp_path / "model", **kwargs))
    assert list(tmp_path.iterdir()) == []


def test_existing_outputs_are_refused_before_the_data_are_read(
    files, tmp_path, model, monkeypatch
):
    from episome.jobs import _train

    monkeypatch.setattr(_train, "read_cells", lambda *a, **k: pytest.fail("the data were read"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").touch()

    with pytest.raises(InputFileError, match="E-F26"):
        train(request(files, model))
    with pytest.raises(InputFileError, match=r"no model folder.*E-F26"):
        train(request(files, tmp_path / "mine", overwrite=True))


# -- annotate ------------------------------------------------------------------------------------


def ask(files, model, output, **kwargs):
    return AnnotateRequest(input=files / "query.h5ad", model=model, output=output, **kwargs)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".h5ad"])
def test_annotate_writes_every_kind_of_table(files, model, tmp_path, suffix):
    before, seen = digest(files / "query.h5ad"), []
    truth = pd.read_csv(files / "truth.csv", index_col=0)["cell_type"]
    path = tmp_path / f"calls{suffix}"

    result = annotate(
        ask(files, model, path, batch_size=20),
        progress=lambda done, total: seen.append((done, total)),
    )

    readers = {
        ".csv": lambda p: pd.read_csv(p, index_col=0)["label"],
        ".tsv": lambda p: pd.read_csv(p, index_col=0, sep="\t")["label"],
        ".parquet": lambda p: pd.read_parquet(p)["label"],
        ".h5ad": lambda p: anndata.read_h5ad(p).obs["episome_label"],
    }
    assert readers[suffix](path).tolist() == result.calls["label"].tolist()
    assert (result.calls["label"] == truth).mean() > 0.95
    assert seen == [(20, 50), (40, 50), (50, 50)]
    assert (result.n_obs, result.n_vars) == (50, 40)
    assert digest(files / "query.h5ad") == before


def test_an_annotated_file_says_which_model_made_it(files, model, tmp_path):
    annotate(ask(files, model, tmp_path / "a.h5ad"))

    made = anndata.read_h5ad(tmp_path / "a.h5ad").uns["episome"]
    assert made["model"] == "NearestCentroid"
    assert made["model_sha256"] == read_manifest(model)["files"]["weights.safetensors"]["sha256"]


def test_annotate_without_output_writes_nothing(files, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert len(annotate(ask(files, model, None)).calls) == 50
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_gives_an_empty_table(files, model, tmp_path):
    anndata.read_h5ad(files / "query.h5ad")[:0].copy().write_h5ad(tmp_path / "empty.h5ad")

    result = annotate(AnnotateRequest(tmp_path / "empty.h5ad", model, tmp_path / "c.csv"))

    assert len(result.calls) == 0
    assert (tmp_path / "c.csv").read_text().startswith("cell,label,")


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"model": "nowhere"}, ModelFileError, "E-M05"),
        ({"input": "nowhere.h5ad"}, InputFileError, "E-F07"),
        ({"output": "calls.xlsx"}, UsageError, "E-U08"),
        ({"min_gene_overlap": 1.1}, GeneMatchError, "E-G03"),
        ({"layer": "counts"}, ValueError, "E-D28"),
    ],
)
def test_a_refused_annotation_writes_nothing(files, model, tmp_path, kwargs, error, text):
    from dataclasses import replace
    from pathlib import Path

    paths = {k: Path(v) for k, v in kwargs.items() if k in {"model", "input"}}
    if "output" in kwargs:
        paths["output"] = tmp_path / kwargs["output"]

    with pytest.raises(error, match=text):
        annotate(replace(ask(files, model, tmp_path / "calls.csv"), **{**kwargs, **paths}))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_table_is_replaced_only_when_asked_for(files, model, tmp_path):
    path = tmp_path / "calls.csv"
    path.write_text("mine")
    with pytest.raises(InputFileError, match="E-F26"):
        annotate(ask(files, model, path))
    assert path.read_text() == "mine"

    annotate(ask(files, model, path, overwrite=True))
    assert len(pd.read_csv(path)) == 50


def test_columns_that_exist_are_found_before_any_cell_is_annotated(
    files, model, tmp_path, monkeypatch
):
    from episome.jobs import _annotate

    adata = anndata.read_h5ad(files / "query.h5ad")
    adata.obs["episome_label"] = "mine"
    adata.write_h5ad(tmp_path / "q.h5ad")
    monkeypatch.setattr(_annotate, "_calls", lambda *a: pytest.fail("cells were annotated"))

    with pytest.raises(UsageError, match="E-L16"):
        annotate(AnnotateRequest(tmp_path / "q.h5ad", model, tmp_path / "out.h5ad"))


# -- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "wanted"),
    [
        ("auto", {"accelerator": "auto", "devices": "auto"}),
        ("cpu", {"accelerator": "cpu", "devices": 1}),
        ("cuda", {"accelerator": "gpu", "devices": 1}),
        ("cuda:3", {"accelerator": "gpu", "devices": [3]}),
    ],
)
def test_device_words(device, wanted, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)

    assert device_arguments(device) == wanted


def test_device_that_is_not_there_is_refused_with_what_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    with pytest.raises(ResourceError, match="has 2 of that kind.*E-R04"):
        device_arguments("cuda:2")


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "", "3"])
def test_other_device_words_are_refused(device):
    with pytest.raises(UsageError, match="E-U25"):
        device_arguments(device)


def test_an_input_is_described_by_its_digest(files):
    adata = anndata.read_h5ad(files / "query.h5ad")

    assert describe_input(files / "query.h5ad", adata) == {
        "path": str(files / "query.h5ad"),
        "sha256": digest(files / "query.h5ad"),
        "n_obs": 50,
        "n_vars": 40,
    }
    assert np.isfinite(adata.X.data).all()
