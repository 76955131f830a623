"""Matrices and tables of every form, row by row of the catalogue of bad inputs.

Every row is one test whose id is the row's, from the side of the user: a refusal names its code
and leaves the caller's object as it was, a repair gives the result of the clean input and says
so, a warning names its count. What other tests show in depth is shown here once.
"""

from __future__ import annotations

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from _bad_cells import (
    cells,
    dense,
    logged,
    model,
    normalised_with_raw,
    query,
    refused,
    refused_twice,
    said,
    same,
    same_model,
    scaled,
    set_up,
    trained,
    with_x,
)
from _catalogue import Catalogue, marked
from scipy import sparse

from episome.data import AnnDataSource, inspect, read_cells
from episome.errors import (
    InputDataError,
    UsageError,
)
from episome.models import load
from episome.testing import fingerprint

CATALOGUE = Catalogue("test_bad_forms")
row = CATALOGUE.row

#: Rows that wait for what is not built yet: they are no tests.
LATER: dict[str, str] = {
    "D38": "a million cells on a small machine (measured, see the page on cells of any size)",
}

#: Rows, or parts of rows, that do not hold yet, and why. Their number may only go down.
OPEN: dict[str, str] = {}


@row("D19", "a matrix stored by genes (CSC)", "the result of CSR")
def by_genes(folder):
    same(model(), with_x(query(), query().X.tocsc()))
    same_model(with_x(cells(), cells().X.tocsc()))
    with_x(query(), query().X.tocsc()).write_h5ad(folder / "q.h5ad")
    same(model(), read_cells(folder / "q.h5ad", backed=True))


@row("D20", "sparse arrays, and other sparse formats", "the result of CSR")
def sparse_forms(folder):
    for form in (sparse.csr_array, sparse.csc_array):
        same(model(), with_x(query(), form(query().X)))
        same_model(with_x(cells(), form(cells().X)))
    adata = query()
    for form in ("coo", "lil", "dok", "bsr"):
        try:
            got = with_x(adata, adata.X.asformat(form))
        except (TypeError, ValueError):  # anndata itself does not take it
            continue
        same(model(), got)


@row("D21", "dense matrices of any layout, masked arrays, data frames", "the result of CSR")
def dense_forms(folder):
    x = dense(query())
    for form in (x, np.asfortranarray(x), np.matrix(x), x[::-1][::-1]):
        same(model(), with_x(query(), form))
    same_model(with_x(cells(), np.asfortranarray(dense(cells()))))
    framed = query()
    framed.layers["f"] = pd.DataFrame(x, framed.obs_names, framed.var_names)
    same(model(), framed, layer="f")
    masked = query()
    masked.layers["m"] = np.ma.masked_array(x, np.zeros_like(x, dtype=bool))
    same(model(), masked, layer="m")


@row("D22", "sparse rows that are not sorted, or name a gene twice", "sorted and summed")
def not_canonical(folder):
    def make(adata):
        x = adata.X
        halves = sparse.csr_matrix(
            (
                np.repeat(x.data / 2, 2),
                np.repeat(x.indices, 2),
                x.indptr * 2,
            ),
            shape=x.shape,
        )
        for i in range(x.shape[0]):
            rows = slice(halves.indptr[i], halves.indptr[i + 1])
            halves.indices[rows] = halves.indices[rows][::-1].copy()
            halves.data[rows] = halves.data[rows][::-1].copy()
        return with_x(adata, halves)

    same(model(), make(query()))
    same_model(make(cells()))


@row("D23", "a sparse matrix that points outside itself", "refused before it is used")
def out_of_range(folder):
    def break_indices(adata):
        adata = adata.copy()
        adata.X.indices[7] = 2**30
        return adata

    def break_pointers(adata):
        adata = adata.copy()
        adata.X.indptr[3] = adata.X.indptr[5] + 9
        return adata

    for make in (break_indices, break_pointers):
        refused_twice(make, "E-D23", "broken sparse structure")


@row("D24", "cells that stay on disk (h5ad, zarr)", "the same result; the file is not changed")
def on_disk(folder):
    query().write_h5ad(folder / "q.h5ad")
    before = (folder / "q.h5ad").read_bytes()
    backed = read_cells(folder / "q.h5ad", backed=True)
    for asked in (backed, folder / "q.h5ad", str(folder / "q.h5ad")):
        np.testing.assert_array_equal(model().predict_proba(asked), model().predict_proba(query()))
    backed.file.close()
    query().write_zarr(folder / "q.zarr")
    np.testing.assert_array_equal(
        model().predict_proba(folder / "q.zarr", backed=True), model().predict_proba(query())
    )
    cells().write_h5ad(folder / "train.h5ad")
    on_disk = read_cells(folder / "train.h5ad", backed=True)
    np.testing.assert_array_equal(
        trained(on_disk).predict_proba(query()), model().predict_proba(query())
    )
    on_disk.file.close()
    assert (folder / "q.h5ad").read_bytes() == before


@row("D25", "cells in chunks that are computed when they are read", "the same result")
def in_chunks(folder):
    array = pytest.importorskip("dask.array", reason="dask is not installed")
    for form in (query().X, sparse.csr_array(query().X), dense(query())):
        lazy = with_x(query(), array.from_array(form, chunks=(7, query().n_vars), asarray=False))
        same(model(), lazy)
        assert hasattr(lazy.X, "dask")
    lazy = with_x(cells(), array.from_array(cells().X, chunks=(50, cells().n_vars), asarray=False))
    same_model(lazy)


@row("D37", "more than 2^31 stored values", "rows behind them are read right")
def beyond_32_bits(folder):
    x, far = query().X.tocsr(), (1 << 31) + 7
    behind = anndata.concat([query()[:1], query()], merge="same")
    behind.obs_names_make_unique()
    behind.write_h5ad(folder / "far.h5ad")
    with h5py.File(folder / "far.h5ad", "r+") as file:
        for name, values in (("data", x.data), ("indices", x.indices)):
            del file["X"][name]
            # What is never written takes no room: the first cell is a hole of this many values.
            kept = file["X"].create_dataset(
                name, shape=(far + x.nnz,), dtype=values.dtype, chunks=(1 << 16,)
            )
            kept[far:] = values
        del file["X/indptr"]
        file["X/indptr"] = np.concatenate([[0], x.indptr.astype(np.int64) + far])
    source = AnnDataSource(read_cells(folder / "far.h5ad", backed=True, trust=True))
    rows = np.array([x.shape[0], 1, 9])
    np.testing.assert_array_equal(source.read(rows).toarray(), x[rows - 1].toarray())


@row("D26", "a view", "the same result, and it stays a view; set-up asks for a copy")
def view(folder):
    parent = query()
    before = fingerprint(parent)
    part = parent[5:40]
    np.testing.assert_allclose(
        model().predict_proba(part), model().predict_proba(query())[5:40], atol=1e-6
    )
    assert part.is_view
    part = cells()[:50]
    refused(
        lambda: set_up(part), part, code="E-U29", error=UsageError, match=r"adata = adata.copy\(\)"
    )
    assert fingerprint(parent) == before


@row("D27", "no X", "refused; the layers are listed")
def no_x(folder):
    refused_twice(
        lambda a: anndata.AnnData(obs=a.obs, var=a.var, layers={"counts": a.X}),
        "E-D27",
        r"X is None.*\['counts'\].*layer=",
    )
    asked = anndata.AnnData(obs=query().obs, var=query().var, layers={"counts": query().X})
    assert (model().predict(asked, layer="counts") == model().predict(query())).all()


@row("D28", "a layer that is not there", "refused; the layers are listed")
def no_layer(folder):
    def make(adata):
        adata.layers["counts"] = adata.X
        return adata

    refused_twice(make, "E-D28", r"layer 'count' is missing.*\['counts'\]", layer="count")


@row("D29", "a layer of another kind than X", "the layer that is used is what is looked at")
def other_layer(folder):
    asked = scaled(query())
    asked.layers["counts"] = query().X
    same(model(), asked, layer="counts")
    refused(lambda: model().predict(asked), asked, code="E-D04", error=InputDataError)
    asked = query()
    asked.layers["scaled"] = scaled(query()).X
    refused(
        lambda: model().predict(asked, layer="scaled"),
        asked,
        code="E-D04",
        error=InputDataError,
        match=r"layers\['scaled'\]",
    )
    same(model(), asked)


@row("D30", "counts only in raw", '`use_raw="auto"` takes them, with their genes, and says so')
def counts_in_raw(folder):
    asked = normalised_with_raw(query())
    same(model(), asked, use_raw="auto")
    said(model(), asked, "those of raw are used, with its genes", use_raw="auto")
    refused(lambda: model().predict(asked), asked, code="E-D04", error=InputDataError)
    got = trained(normalised_with_raw(cells()), use_raw="auto")
    np.testing.assert_array_equal(got.predict_proba(query()), model().predict_proba(query()))
    assert got.setup_args["use_raw"] is True
    np.testing.assert_array_equal(got.predict(), model().predict())
    got.save(folder / "model")
    back = load(folder / "model", adata=normalised_with_raw(cells()))
    np.testing.assert_array_equal(back.predict(), model().predict())
    # log1p values of raw are better than scaled ones of X
    shown = scaled(query())
    shown.raw = logged(query())
    said(model(), shown, "log1p values of raw are used", use_raw="auto")
    # where X holds counts, or raw holds nothing that can be used, X stays
    both = query()
    both.raw = logged(query())
    same(model(), both, use_raw="auto")
    neither = scaled(query())
    neither.raw = scaled(query())
    refused(
        lambda: model().predict(neither, use_raw="auto"),
        neither,
        code="E-D04",
        error=InputDataError,
        match="adata.X",
    )
    refused(lambda: model().predict(asked, use_raw="yes"), code="E-U30", error=UsageError)
    missing = query()
    refused(
        lambda: model().predict(missing, use_raw=True),
        missing,
        code="E-D30",
        error=InputDataError,
    )


@row("D31", "no cells", "an empty answer with the right columns; training refuses")
def no_cells(folder):
    calls, nothing = model().annotate(query()), model().annotate(query()[:0].copy())
    assert list(nothing.columns) == list(calls.columns)
    assert list(nothing.dtypes) == list(calls.dtypes)
    assert len(nothing) == 0
    assert model().predict_proba(query()[:0].copy()).shape == (0, 3)
    asked = cells()[:0].copy()
    refused(lambda: set_up(asked), asked, code="E-D31", error=InputDataError, match="too few")


@row("D32", "one cell", "it is called; training refuses with the smallest number")
def one_cell(folder):
    assert model().predict(query()[:1].copy())[0] == model().predict(query())[0]
    asked = cells()[:1].copy()
    refused(lambda: set_up(asked), asked, code="E-D32", error=InputDataError, match="at least 4")


@row("D33", "no genes", "refused")
def no_genes(folder):
    refused_twice(lambda a: a[:, :0].copy(), "E-D33", "there are no genes")


@row("D34", "a last batch of one cell", "trained and called as any other")
def batch_of_one(folder):
    from _episome_toy import ToyModel

    adata = cells(97)
    ToyModel.setup_anndata(adata, "cell_type")
    network = ToyModel(adata)
    network.train(max_epochs=1, batch_size=32, train_size=1.0, accelerator="cpu")
    wanted = network.predict_proba(query())
    for size in (59, 20, 1):
        np.testing.assert_allclose(
            network.predict_proba(query(), batch_size=size), wanted, atol=1e-5
        )


@row("D35", "genes as rows and cells as columns", "refused with `adata.T`")
def turned(folder):
    asked = query().T.copy()
    asked.obs["cell_type"] = ["a", "b"] * 20
    match = r"names of the cells look like genes.*first: ACTB.*adata\.T"
    refused(lambda: set_up(asked), asked, code="E-D35", error=InputDataError, match=match)
    refused(lambda: model().predict(asked), asked, code="E-D35", error=InputDataError, match=match)
    assert "E-D35" in {f.problem.code for f in inspect(asked).findings}
    same(model(), asked.T.copy())


@row("D36", "a few cells of a hundred times the depth", "used")
def deep(folder):
    x = dense(query())
    x[:3] *= 100
    asked = with_x(query(), x)
    same(model(), asked, atol=1e-5)
    assert np.isfinite(trained(with_x(cells(), dense(cells()) * 100)).predict_proba(asked)).all(
        axis=None
    )


@row("D39", "the same cells in another order, batch or number of threads", "the same calls")
def order_of_cells(folder):
    from episome.resources import set_threads

    wanted = model().predict_proba(query())
    order = np.random.default_rng(0).permutation(60)
    np.testing.assert_allclose(
        model().predict_proba(query()[order].copy()), wanted.iloc[order], atol=1e-6
    )
    for size in (1, 7, 1000):
        np.testing.assert_allclose(
            model().predict_proba(query(), batch_size=size), wanted, atol=1e-6
        )
    try:
        set_threads(2)
        np.testing.assert_allclose(model().predict_proba(query()), wanted, atol=1e-5)
    finally:
        set_threads(1)


@row("D40", "arrays that cannot be written to", "used; nothing is written")
def read_only(folder):
    np.save(folder / "x.npy", dense(query()))
    same(model(), with_x(query(), np.load(folder / "x.npy", mmap_mode="r")))
    x = query().X
    for part in (x.data, x.indices, x.indptr):
        part.flags.writeable = False
    same(model(), with_x(query(), x))
    x = cells().X
    for part in (x.data, x.indices, x.indptr):
        part.flags.writeable = False
    same_model(with_x(cells(), x))


# -- the rows ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:zarr v3 autosharding")
@pytest.mark.parametrize("name", marked(CATALOGUE, OPEN))
def test_bad_forms(name, tmp_path, toy):
    CATALOGUE[name].shows(tmp_path)
