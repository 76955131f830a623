"""Calls of more cells than are kept at once: the same as of few, and a stopped run goes on."""

from __future__ import annotations

import dataclasses

import anndata
import numpy as np
import pandas as pd
import pytest

from episome.data import simulate_cells
from episome.errors import ResourceError
from episome.inference import Predictor
from episome.jobs import AnnotateRequest, TrainRequest, _streamed, annotate, train

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
