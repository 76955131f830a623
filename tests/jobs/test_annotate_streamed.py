"""Calls of more cells than are kept at once: the same as of few, and a stopped run goes on."""

from __future__ import annotations

import dataclasses
import json

import anndata
import numpy as np
import pandas as pd
import pytest

from episome.data import (
    AnnDataSource,
    open_source,
    read_split,
    simulate_cells,
    split_by_groups,
)
from episome.errors import InputDataError, ResourceError, UsageError
from episome.inference import Predictor
from episome.jobs import (
    AnnotateRequest,
    CorpusRequest,
    TrainRequest,
    _streamed,
    annotate,
    corpus_build,
    train,
)

READERS = {
    ".csv": lambda p: pd.read_csv(p, index_col=0, keep_default_na=False),
    ".tsv": lambda p: pd.read_csv(p, index_col=0, sep="\t", keep_default_na=False),
    ".parquet": pd.read_parquet,
}


@pytest.fixture(scope="module")
def model(files, tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "model"
    setup = {"labels_key": "cell_type"}
    reference = files / "reference.h5ad"
    train(TrainRequest(input=reference, output=path, method="centroid", setup=setup))
    return path


@pytest.fixture(scope="module")
def query(tmp_path_factory):
    """230 cells with all that an h5ad may hold."""
    cells = simulate_cells(230, 40, n_types=3, n_donors=5, seed=0)
    cells.obs["cluster"] = [f"c{i % 6}" for i in range(cells.n_obs)]
    cells.obs["_scvi_batch"] = 0
    cells.obsm["X_pca"] = np.ones((230, 3), dtype=np.float32)
    cells.layers["counts"] = cells.X.copy()
    cells.uns["title"] = "a study"
    cells.uns["_scvi_uuid"] = "x"
    cells.raw = cells.copy()
    path = tmp_path_factory.mktemp("query") / "query.h5ad"
    cells.write_h5ad(path)
    return path


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(_streamed, "PART", 64)


@pytest.fixture(scope="module")
def stores(query, tmp_path_factory):
    """The cells of the query in a corpus, in a folder of files, and the split of each."""
    folder = tmp_path_factory.mktemp("stores")
    made = CorpusRequest(
        inputs=(query,),
        output=folder / "cells.corpus",
        labels_key="cell_type",
        donor_keys=("donor_id",),
        columns=("cluster",),
    )
    corpus_build(made)
    (folder / "parts").mkdir()
    cells = anndata.read_h5ad(query)
    cells[:90].copy().write_h5ad(folder / "parts" / "a.h5ad")
    cells[90:, ::-1].copy().write_h5ad(folder / "parts" / "b.h5ad")
    for name in ("cells.corpus", "parts"):
        found = split_by_groups(open_source(folder / name), ["donor_id"])
        (folder / f"{name}.json").write_text(json.dumps(found))
    return folder


def ask(query, model, output, **kwargs):
    return AnnotateRequest(query, model, output, device="cpu", **kwargs)


#: Batches are the same with and without parts.
EVERYTHING = {"cluster_key": "cluster", "cellxgene": True, "error_rate": 0.2, "batch_size": 32}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_tables_are_those_of_calls_in_memory(query, model, tmp_path, suffix, monkeypatch):
    whole = tmp_path / f"whole{suffix}"
    known = annotate(ask(query, model, whole, **EVERYTHING))
    monkeypatch.setattr(_streamed, "PART", 64)
    path = tmp_path / f"parts{suffix}"

    found = annotate(ask(query, model, path, **EVERYTHING))

    assert found.calls is None
    assert (found.labels, found.status, found.n_obs) == (known.labels, known.status, 230)
    pd.testing.assert_frame_equal(READERS[suffix](path), READERS[suffix](whole))
    if suffix != ".parquet":
        assert path.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, whole.name]


def test_an_h5ad_is_copied_with_the_calls_in_it(query, model, tmp_path, monkeypatch):
    annotate(ask(query, model, tmp_path / "whole.h5ad", cluster_key="cluster"))
    monkeypatch.setattr(_streamed, "PART", 64)
    before = query.read_bytes()

    annotate(ask(query, model, tmp_path / "parts.h5ad", cluster_key="cluster"))

    found = anndata.read_h5ad(tmp_path / "parts.h5ad")
    known = anndata.read_h5ad(tmp_path / "whole.h5ad")
    pd.testing.assert_frame_equal(found.obs, known.obs)
    for a, b in ((found.X, known.X), (found.raw.X, known.raw.X)):
        assert (a != b).nnz == 0
    assert (found.layers["counts"] != known.layers["counts"]).nnz == 0
    np.testing.assert_array_equal(found.obsm["X_pca"], known.obsm["X_pca"])
    assert set(found.uns) == set(known.uns) == {"title", "episome"}
    assert found.uns["episome"] == known.uns["episome"]
    assert query.read_bytes() == before


@pytest.mark.parametrize("part", [64, 10_000])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("store", ["cells.corpus", "parts"])
def test_cells_in_blocks_get_the_calls_of_the_file(
    query, model, stores, tmp_path, monkeypatch, store, suffix, part
):
    annotate(ask(query, model, tmp_path / f"known{suffix}", cluster_key="cluster"))
    monkeypatch.setattr(_streamed, "PART", part)
    path = tmp_path / f"calls{suffix}"

    found = annotate(ask(stores / store, model, path, cluster_key="cluster"))

    names = list(open_source(stores / store).obs_names)
    known, got = READERS[suffix](tmp_path / f"known{suffix}"), READERS[suffix](path)
    assert list(got.index) == names
    assert (found.n_obs, found.calls is None) == (230, part == 64)
    assert (got["label"] == known.loc[names, "label"]).all()
    assert (got["cluster_label"] == known.loc[names, "cluster_label"]).all()
    np.testing.assert_allclose(got["confidence"], known.loc[names, "confidence"], rtol=1e-4)


@pytest.mark.parametrize("part", ["train", "validation", "test", None])
@pytest.mark.parametrize("store", ["cells.corpus", "parts"])
def test_a_part_of_a_split_is_annotated_alone(
    model, stores, tmp_path, small_parts, monkeypatch, store, part
):
    source, split = open_source(stores / store), stores / f"{store}.json"
    whole = annotate(ask(stores / store, model, tmp_path / "all.csv"))
    known = pd.read_csv(tmp_path / "all.csv", index_col=0)
    rows = getattr(read_split(split, source), part or "test")

    found = annotate(ask(stores / store, model, tmp_path / "c.csv", split=split, part=part))

    got = pd.read_csv(tmp_path / "c.csv", index_col=0)
    assert list(got.index) == list(source.obs_names[rows])
    assert found.n_obs == len(rows) < whole.n_obs
    assert (got["label"] == known["label"].to_numpy()[rows]).all()


def test_a_part_of_a_file_is_annotated(query, model, tmp_path):
    split = tmp_path / "split.json"
    source = AnnDataSource(anndata.read_h5ad(query))
    split.write_text(json.dumps(split_by_groups(source, ["donor_id"])))

    calls = annotate(ask(query, model, None, split=split, part="validation")).calls

    assert list(calls.index) == list(source.obs_names[read_split(split, source).validation])


@pytest.mark.parametrize(
    ("store", "options", "error", "text"),
    [
        ("cells.corpus", {"output": "c.h5ad"}, UsageError, r"a corpus in.*a table.*E-U09"),
        ("parts", {"output": "c.h5ad"}, UsageError, r"several files in parts.*E-U09"),
        ("parts", {"part": "test"}, UsageError, r"without a split.*--split.*E-U34"),
        ("parts", {"part": "tests"}, UsageError, r"--part.*\"validation\".*E-U30"),
        ("parts", {"split": "cells.corpus.json"}, InputDataError, "other cells.*E-L38"),
        ("parts", {"layer": "nothing"}, InputDataError, "E-D28"),
        ("cells.corpus", {"layer": "counts"}, UsageError, "E-U27"),
    ],
)
def test_what_cells_in_blocks_cannot_give_is_refused(
    model, stores, tmp_path, store, options, error, text
):
    given = {k: stores / v if k == "split" else v for k, v in options.items()}
    output = tmp_path / given.pop("output", "c.csv")

    with pytest.raises(error, match=text):
        annotate(ask(stores / store, model, output, **given))

    assert list(tmp_path.iterdir()) == []


def test_an_annotated_copy_of_a_part_is_refused(query, model, stores, tmp_path):
    request = ask(query, model, tmp_path / "c.h5ad", split=stores / "parts.json")

    with pytest.raises(
        UsageError, match=r"a part of a split in query\.h5ad.*-o calls\.csv.*E-U09"
    ):
        annotate(request)


def test_a_stopped_run_over_blocks_goes_on(model, stores, tmp_path, small_parts, monkeypatch):
    annotate(ask(stores / "parts", model, tmp_path / "known.csv"))
    request = ask(stores / "parts", model, tmp_path / "calls.csv")
    mend = stopping_after(2, monkeypatch)
    with pytest.raises(ResourceError, match="E-R02"):
        annotate(request)
    mend()
    seen = rows_called(monkeypatch)

    annotate(request)

    assert seen == list(range(128, 230))
    assert request.output.read_bytes() == (tmp_path / "known.csv").read_bytes()


def stopping_after(n_calls, monkeypatch):
    """Let the disk be full after some parts."""
    write, left = _streamed.write_file, [n_calls]

    def fails(path, data, **kwargs):
        if path.suffix == ".parquet":
            left[0] -= 1
            if left[0] < 0:
                raise ResourceError("E-R02", "the disk is full", fix="free space")
        return write(path, data, **kwargs)

    monkeypatch.setattr(_streamed, "write_file", fails)
    return lambda: monkeypatch.setattr(_streamed, "write_file", write)


def rows_called(monkeypatch):
    seen, calls = [], Predictor.calls

    def watched(self, query, *, rows=None, **kwargs):
        seen.extend(rows.tolist())
        return calls(self, query, rows=rows, **kwargs)

    monkeypatch.setattr(Predictor, "calls", watched)
    return seen


def test_a_stopped_run_goes_on_where_it_was(query, model, tmp_path, small_parts, monkeypatch):
    annotate(ask(query, model, tmp_path / "known.csv"))
    request = ask(query, model, tmp_path / "calls.csv")
    mend = stopping_after(2, monkeypatch)
    with pytest.raises(ResourceError, match="E-R02"):
        annotate(request)
    assert not request.output.exists()
    mend()
    seen = rows_called(monkeypatch)

    annotate(request)

    assert seen == list(range(128, 230))
    assert request.output.read_bytes() == (tmp_path / "known.csv").read_bytes()
    assert not (tmp_path / "calls.csv.parts").exists()


def test_parts_of_another_run_are_not_used(query, model, tmp_path, small_parts, monkeypatch):
    request = ask(query, model, tmp_path / "calls.csv")
    mend = stopping_after(2, monkeypatch)
    with pytest.raises(ResourceError):
        annotate(request)
    mend()
    seen = rows_called(monkeypatch)

    annotate(dataclasses.replace(request, min_confidence=0.99))

    assert seen == list(range(230))


def test_progress_counts_all_cells_also_when_going_on(query, model, tmp_path, small_parts):
    seen = []

    annotate(
        ask(query, model, tmp_path / "calls.csv", batch_size=50),
        progress=lambda done, total: seen.append((done, total)),
    )

    assert seen[-1] == (230, 230)
    assert [d for d, _ in seen] == sorted({d for d, _ in seen})
