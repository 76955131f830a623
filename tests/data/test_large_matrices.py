"""Matrices that are no array in memory: dask, sharded zarr, more values than 32 bits count."""

from __future__ import annotations

import warnings

import anndata
import numpy as np
import pytest
import zarr
from scipy import sparse

from episome import models
from episome.data import (
    AnnDataSource,
    ManyCells,
    _read_zarr,
    cell_files,
    check_inputs,
    in_memory,
    inspect_values,
    open_source,
    read_cells,
    simulate_cells,
)
from episome.data._disk_rows import DiskRows
from episome.errors import InputFileError

COUNTS = sparse.csr_matrix(np.random.default_rng(0).poisson(0.6, (300, 40)).astype(np.float32))
ROWS = [
    slice(0, 300),
    slice(70, 20, -3),
    slice(4, 4),
    np.array([299, 0, 17, 17, 250]),
    np.arange(0, 300, 20),
    np.array([], dtype=np.int64),
]


# -- dask ----------------------------------------------------------------------------------------


@pytest.fixture(params=["csr_matrix", "csr_array", "csc_matrix", "dense"])
def dask_matrix(request):
    array = pytest.importorskip("dask.array", reason="dask is not installed")
    form = np.asarray if request.param == "dense" else getattr(sparse, request.param)
    values = COUNTS.toarray() if request.param == "dense" else COUNTS
    return array.from_array(form(values), chunks=(64, 40), asarray=False)


@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_rows_of_dask_arrays_are_those_of_memory(dask_matrix, rows):
    source = AnnDataSource(anndata.AnnData(dask_matrix))

    got = source.read(rows)

    assert isinstance(got, sparse.csr_matrix)
    assert got.has_canonical_format
    assert np.array_equal(got.toarray(), COUNTS.toarray()[rows])
    assert not in_memory(source)


def test_chunks_across_genes_are_joined():
    array = pytest.importorskip("dask.array", reason="dask is not installed")
    source = AnnDataSource(anndata.AnnData(array.from_array(COUNTS.toarray(), chunks=(50, 7))))

    assert np.array_equal(source.read(np.array([60, 3])).toarray(), COUNTS.toarray()[[60, 3]])


def test_only_chunks_that_hold_wanted_rows_are_computed():
    array = pytest.importorskip("dask.array", reason="dask is not installed")
    computed = []

    def block(info):
        first, last = info[0]["array-location"][0]
        computed.append(first)
        return COUNTS[first:last]

    def of(part, block_info=None):
        return block(block_info)

    lazy = array.zeros((300, 40), chunks=(50, 40), dtype=np.float32).map_blocks(
        of, dtype=np.float32, meta=sparse.csr_matrix((0, 0), dtype=np.float32)
    )
    source = AnnDataSource(anndata.AnnData(lazy))
    computed.clear()

    got = source.read(np.array([10, 20, 260]))

    assert np.array_equal(got.toarray(), COUNTS.toarray()[[10, 20, 260]])
    assert computed == [0, 250]


def test_a_model_of_dask_arrays_is_the_one_of_memory():
    array = pytest.importorskip("dask.array", reason="dask is not installed")
    cells = simulate_cells(120, 30, n_types=3)
    lazy = cells.copy()
    lazy.X = array.from_array(cells.X, chunks=(25, 30), asarray=False)
    fitted = []
    for data in (cells.copy(), lazy):
        models.LogisticRegression.setup_anndata(data, "cell_type")
        fitted.append(models.LogisticRegression(data))
        fitted[-1].train()

    one, other = (m.predict_proba(cells) for m in fitted)

    assert (one == other).all(axis=None)
    assert (fitted[0].predict_proba(lazy) == one).all(axis=None)
    assert hasattr(lazy.X, "dask")


# -- more stored values than 32 bits count -------------------------------------------------------


class FarValues:
    """An array of billions of values of which only the last are not in a hole."""

    def __init__(self, n: int, last: np.ndarray) -> None:
        self.shape, self.dtype, self._n, self._last = (n,), last.dtype, n, last

    def __getitem__(self, part: slice) -> np.ndarray:
        first = self._n - len(self._last)
        assert part.start >= first, "the hole is not read"
        return self._last[part.start - first : part.stop - first]


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint8])
def test_pointers_beyond_32_bits_are_kept(kind):
    tail = COUNTS[:5]
    n = (1 << 31) + 10 + tail.nnz
    # One row of everything that is not read, and five behind it.
    pointers = np.concatenate([[0], tail.indptr.astype(np.int64) + (n - tail.nnz)])
    parts = {
        "data": FarValues(n, tail.data),
        "indices": FarValues(n, tail.indices.astype(kind)),
        "indptr": pointers,
    }
    matrix = type("Sparse", (), {"shape": (6, 40), "group": parts, "format": "csr"})()

    rows = DiskRows(matrix, "far")

    assert np.array_equal(rows[slice(1, 6)].toarray(), tail.toarray())
    assert np.array_equal(rows[np.array([2, 5])].toarray(), tail[[1, 4]].toarray())


# -- zarr ----------------------------------------------------------------------------------------


def write_sharded(path, adata, *, chunks=64, shards=512, columns=None):
    """Write a store of version 3 with several chunks in a shard, as large stores are written."""

    def write(func, group, key, elem, dataset_kwargs, iospec):
        if iospec.encoding_type == "csr_matrix":
            dataset_kwargs = {**dataset_kwargs, "chunks": (chunks,), "shards": (shards,)}
        func(group, key, elem, dataset_kwargs=dataset_kwargs)

    if int(zarr.__version__.partition(".")[0]) < 3:
        pytest.skip("zarr 2 writes no shards")
    if columns is not None:
        adata.X.indices = adata.X.indices.astype(columns)
    group = zarr.open_group(path, mode="w", zarr_format=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of formats that anndata writes next year
        anndata.experimental.write_dispatched(group, "/", adata, write)


@pytest.fixture
def cells():
    adata = simulate_cells(300, 40, n_types=3, n_donors=3)
    adata.X = COUNTS.copy()
    return adata


@pytest.fixture
def sharded(tmp_path, cells):
    write_sharded(tmp_path / "cells.zarr", cells)
    return tmp_path / "cells.zarr"


@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_rows_of_a_sharded_store_are_those_of_memory(sharded, rows):
    assert zarr.open(sharded)["X/data"].shards == (512,)

    source = open_source(sharded, backed=True)

    assert not in_memory(source)
    assert np.array_equal(source.read(rows).toarray(), COUNTS.toarray()[rows])


def test_scattered_rows_are_one_reading(sharded, monkeypatch):
    source = open_source(sharded, backed=True)
    asked = []
    oindex = zarr.Array.get_orthogonal_selection
    monkeypatch.setattr(
        zarr.Array,
        "get_orthogonal_selection",
        lambda self, *a, **k: (asked.append(self.path), oindex(self, *a, **k))[1],
    )

    source.read(np.arange(0, 300, 30))

    assert sorted(asked) == ["X/data", "X/indices"]


def test_rows_without_values_are_empty(tmp_path, cells):
    cells.X = sparse.csr_matrix(cells.shape, dtype=np.float32)
    cells.write_zarr(tmp_path / "empty.zarr")

    got = open_source(tmp_path / "empty.zarr", backed=True).read(np.array([0, 90, 290]))

    assert got.shape == (3, 40)
    assert got.nnz == 0


def test_what_is_unpacked_at_once_is_a_chunk_and_no_shard(tmp_path, cells, monkeypatch):
    monkeypatch.setattr(_read_zarr, "CHUNK_LIMIT", 20_000)
    few = cells[:60].copy()
    write_sharded(tmp_path / "shards.zarr", few, shards=8192)
    write_sharded(tmp_path / "chunks.zarr", few, chunks=8192, shards=8192)

    assert read_cells(tmp_path / "shards.zarr", backed=True).n_obs == 60
    with pytest.raises(InputFileError, match=r"a chunk is larger.*E-F09"):
        read_cells(tmp_path / "chunks.zarr", backed=True)


# -- collections of annbatch ---------------------------------------------------------------------


@pytest.fixture
def collection(tmp_path, cells):
    """What annbatch writes: a group of stores, columns of few genes in eight bits."""
    place = tmp_path / "collection.zarr"
    root = zarr.open_group(place, mode="w", zarr_format=3)
    root.attrs.update({"encoding-type": "annbatch-preshuffled", "encoding-version": "0.1.0"})
    for i in range(12):
        part = cells[25 * i : 25 * (i + 1)].copy()
        write_sharded(place / f"dataset_{i}", part, columns=np.uint8)
    return place


def test_a_collection_is_one_set_of_cells(collection, cells):
    assert [p.name for p in cell_files(collection)] == [f"dataset_{i}" for i in range(12)]
    assert len(check_inputs(collection)) == 12

    source = open_source(collection)

    assert isinstance(source, ManyCells)
    assert not source.in_memory
    assert list(source.obs_names) == list(cells.obs_names)
    assert list(source.obs_column("cell_type")) == list(cells.obs["cell_type"])
    for rows in ROWS:
        assert np.array_equal(source.read(rows).toarray(), COUNTS.toarray()[rows])
    assert inspect_values(source).kind == "counts"


def test_a_model_learns_from_a_collection(collection):
    model = models.NearestCentroid(collection)

    model.train()

    assert len(model.predict(open_source(collection))) == 300


def test_columns_in_eight_bits_are_read_right(tmp_path, cells):
    write_sharded(tmp_path / "narrow.zarr", cells, columns=np.uint8)
    assert zarr.open(tmp_path / "narrow.zarr")["X/indices"].dtype == np.uint8

    source = open_source(tmp_path / "narrow.zarr", backed=True)

    for rows in ROWS:
        assert np.array_equal(source.read(rows).toarray(), COUNTS.toarray()[rows])


def test_a_collection_of_annbatch_itself_is_read(tmp_path, cells):
    annbatch = pytest.importorskip("annbatch", reason="annbatch is not installed")
    cells.write_h5ad(tmp_path / "cells.h5ad")
    place = tmp_path / "own.zarr"
    annbatch.DatasetCollection(place).add_adatas(
        [tmp_path / "cells.h5ad"], dataset_size=120, shuffle_chunk_size=10
    )

    source = open_source(place)

    found = {name: i for i, name in enumerate(source.obs_names)}
    rows = np.array([found[name] for name in cells.obs_names])
    assert np.array_equal(source.read(rows).toarray(), COUNTS.toarray())
