"""The order in which cells on disk are visited, and how they are read."""

from __future__ import annotations

import logging

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from episome.data import (
    AnnDataSource,
    BlockOrder,
    CellLoader,
    FeatureSpace,
    InputRule,
    _disk_rows,
    in_memory,
    prepare_query,
    read_cells,
)
from episome.errors import InputDataError, UsageError

N, GENES = 600, [f"G{i}" for i in range(20)]


@pytest.fixture(scope="module")
def cells():
    counts = np.random.default_rng(0).poisson(0.6, (N, 20)).astype(np.float32)
    counts[:, 0] = np.arange(N) % 97 + 1
    obs = pd.DataFrame(index=[f"c{i}" for i in range(N)])
    return anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=GENES))


@pytest.fixture(scope="module", params=["h5ad", "zarr", "dense"])
def path(request, cells, tmp_path_factory):
    path = tmp_path_factory.mktemp("disk") / f"cells.{request.param}"
    adata = cells.copy()
    if request.param == "zarr":
        adata.write_zarr(path)
    else:
        adata.X = adata.X.toarray() if request.param == "dense" else adata.X
        adata.write_h5ad(path)
    return path


def loader(data, **kwargs):
    """A loader of 32 cells a batch whose buffer holds 128 of these cells."""
    backed = not isinstance(data, anndata.AnnData)
    query = prepare_query(data, FeatureSpace(tuple(GENES)), InputRule("counts"), backed=backed)
    settings = {"batch_size": 32, "shuffle": True, "seed": 3, "buffer_bytes": 1 << 20, **kwargs}
    return CellLoader(query.source, query.alignment, rule=query.rule, kind=query.kind, **settings)


def order_of(loader):
    return np.concatenate([batch["ind_x"] for batch in loader])


# -- the same batches as in memory ---------------------------------------------------------------


def test_sources_say_where_they_are(cells, path):
    assert in_memory(AnnDataSource(cells))
    assert not in_memory(AnnDataSource(read_cells(path, backed=True)))
    assert in_memory(object())


def test_cells_that_fit_into_the_buffer_come_as_in_memory(cells, path):
    memory, disk = loader(cells), loader(path)

    for epoch in range(2):
        memory.set_epoch(epoch)
        disk.set_epoch(epoch)
        for one, other in zip(memory, disk, strict=True):
            np.testing.assert_array_equal(one["ind_x"], other["ind_x"])
            np.testing.assert_array_equal(one["size_factor"], other["size_factor"])
            assert (one["X"] != other["X"]).nnz == 0


def test_the_order_in_memory_stays_a_permutation(cells):
    small = loader(cells, buffer_bytes=1)

    np.testing.assert_array_equal(order_of(small), order_of(loader(cells)))


# -- blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [None, np.r_[5:200, 210:600:2]])
def test_an_epoch_of_blocks_visits_every_cell_once(path, rows, cells):
    blocks = loader(path, rows=rows, buffer_bytes=16_000)

    seen = order_of(blocks)

    assert not blocks.block_order().is_exact
    np.testing.assert_array_equal(np.sort(seen), np.arange(N) if rows is None else rows)
    assert (np.diff(seen) == 1).mean() < 0.2
    for batch in blocks:
        assert (batch["X"] != cells.X[batch["ind_x"]]).nnz == 0


def test_order_of_blocks_follows_seed_and_epoch(path):
    def epoch(n, **kwargs):
        blocks = loader(path, buffer_bytes=16_000, **kwargs)
        blocks.set_epoch(n)
        return order_of(blocks)

    np.testing.assert_array_equal(epoch(1), epoch(1))
    assert (epoch(1) != epoch(2)).any()
    assert (epoch(1) != epoch(1, seed=4)).any()


def test_blocks_can_be_asked_for_and_refused(cells, path):
    asked = order_of(loader(cells, order="blocks", buffer_bytes=16_000))
    refused = order_of(loader(path, order="exact", buffer_bytes=16_000))

    np.testing.assert_array_equal(refused, order_of(loader(cells)))
    assert (asked != refused).any()
    with pytest.raises(UsageError, match="order='sorted'.*E-U30"):
        loader(cells, order="sorted")


def test_incomplete_batches_come_last_or_not_at_all(path):
    kept = loader(path, rows=np.arange(200), buffer_bytes=8_000)
    dropped = loader(path, rows=np.arange(200), buffer_bytes=8_000, drop_last=True)

    assert [len(b["ind_x"]) for b in kept] == [32] * 6 + [8]
    assert [len(b["ind_x"]) for b in dropped] == [32] * 6


def test_labels_belong_to_their_cells_in_every_order(path):
    labels = np.arange(N) % 7

    for batch in loader(path, labels=labels, buffer_bytes=16_000):
        np.testing.assert_array_equal(batch["labels"], batch["ind_x"] % 7)


def test_a_source_is_read_once_for_a_buffer(path, monkeypatch):
    blocks = loader(path, buffer_bytes=16_000)
    per_buffer = blocks.block_order().buffer_rows
    read = []
    original = AnnDataSource.read
    monkeypatch.setattr(
        AnnDataSource, "read", lambda self, rows: read.append(rows) or original(self, rows)
    )

    order_of(blocks)

    buffers = [r for r in read if not isinstance(r, slice)]
    assert len(buffers) == -(-N // per_buffer)
    assert all((np.diff(r) > 0).all() for r in buffers)


def test_the_mixing_is_stated_in_one_line(path, caplog):
    caplog.set_level(logging.DEBUG, logger="episome")

    order_of(loader(path, buffer_bytes=16_000))

    lines = [r.getMessage() for r in caplog.records if "mixed in a buffer" in r.getMessage()]
    assert len(lines) == 1
    assert "600 cells are visited in blocks of 8" in lines[0]


# -- how well blocks are mixed -------------------------------------------------------------------


def deviation(order, donors, batch_size):
    """Mean L1 distance of the donors of a batch from those of all cells."""
    n_donors = donors.max() + 1
    whole = np.bincount(donors, minlength=n_donors) / len(donors)
    n = len(order) // batch_size
    batches = donors[order[: n * batch_size]].reshape(n, batch_size)
    shares = np.stack([np.bincount(b, minlength=n_donors) for b in batches]) / batch_size
    return np.abs(shares - whole).sum(axis=1).mean()


@pytest.mark.parametrize(
    ("batch_size", "buffer_rows", "block"), [(256, 8_192, 64), (256, 32_768, 26), (1024, 8_192, 8)]
)
def test_batches_deviate_as_much_as_is_said(batch_size, buffer_rows, block):
    n = 200_000
    donors = np.arange(n) * 20 // n  # one after the other, as files are written
    order = BlockOrder(n, batch_size, buffer_rows, block)
    rng = np.random.default_rng(0)

    mixed = deviation(order.epoch(np.arange(n), rng), donors, batch_size)

    random = deviation(rng.permutation(n), donors, batch_size)
    assert mixed / random == pytest.approx(order.mixing, rel=0.08)


def test_blocks_and_buffers_follow_memory_and_batches():
    small = BlockOrder.choose(10**6, batch_size=256, row_bytes=8_000)
    large = BlockOrder.choose(10**6, batch_size=2048, row_bytes=8_000)
    tight = BlockOrder.choose(10**6, batch_size=2048, row_bytes=8_000, buffer_bytes=1)

    assert small.mixing <= 1.1
    assert small.buffer_rows * 8_000 <= 256 << 20
    assert small.buffer_rows % 256 == large.buffer_rows % 2048 == 0
    assert (large.block_rows, tight.buffer_rows) == (8, 2048)
    assert BlockOrder.choose(10_000, batch_size=256, row_bytes=8_000).is_exact


# -- rows of a file ------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [0, 3, 1000])
@pytest.mark.parametrize("span", [4, 1024])
def test_rows_are_right_however_they_are_gathered(cells, path, gap, span, monkeypatch):
    monkeypatch.setattr(_disk_rows, "_GAP", gap)
    monkeypatch.setattr(_disk_rows, "_SPAN", span)
    source = AnnDataSource(read_cells(path, backed=True))
    rng = np.random.default_rng(gap)

    for rows in (
        rng.integers(0, N, 90),
        np.arange(100, 160),
        np.array([599, 0]),
        np.array([], dtype=np.int64),
        slice(3, 50),
        slice(10, 4),
    ):
        found = source.read(rows)
        assert found.shape == cells.X[rows].shape
        assert (found != cells.X[rows]).nnz == 0


def test_broken_pointers_of_a_file_are_refused(cells, tmp_path):
    import h5py

    path = tmp_path / "broken.h5ad"
    cells.copy().write_h5ad(path)
    backed = read_cells(path, backed=True)
    backed.file.close()
    with h5py.File(path, "r+") as file:
        pointers = file["X/indptr"][...]
        pointers[5] = pointers[-1]
        file["X/indptr"][...] = pointers

    with pytest.raises(InputDataError, match="E-D23"):
        AnnDataSource(anndata.read_h5ad(path, backed="r"))


@pytest.mark.parametrize("done", [1, 4, 6, 18])
def test_blocks_go_on_with_the_next_batch_and_read_nothing_of_before(path, done):
    small = {"buffer_bytes": 128 * 12 * 8}
    whole = list(loader(path, **small))
    again = loader(path, **small)
    again.load_state_dict({"epoch": 0, "batches": done})
    reads = []
    real = again.source.read

    class Counting:
        def __getattr__(self, name):
            return getattr(inner, name)

        def read(self, rows):
            reads.append(rows)
            return real(rows)

    inner, again.source = again.source, Counting()
    rest = list(again)

    assert not again.block_order().is_exact
    assert len(rest) == len(whole) - done
    for one, other in zip(rest, whole[done:], strict=True):
        assert np.array_equal(one["ind_x"], other["ind_x"])
        assert (one["X"] != other["X"]).nnz == 0
    before = np.concatenate([b["ind_x"] for b in whole[:done]])
    read = np.concatenate([r for r in reads if not isinstance(r, slice)])
    assert not set(before) & set(read)
    assert sorted(read) == sorted(np.concatenate([b["ind_x"] for b in rest]))
