"""Rows of bad values that every annotator must hold, whoever wrote it.

Every row is a function of a class and of a model of it that was trained on ``cells()``; it must
leave the model as it is.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from _bad_cells import (
    cells,
    dense,
    logged,
    query,
    refused,
    said,
    same,
    scaled,
    unproven,
    warned,
    with_bad,
    with_x,
)
from scipy import sparse

from episome.data import read_cells
from episome.errors import InputDataError, UsageError
from episome.testing import Subject, fingerprint

#: Networks add float32 in another order where batches differ.
TOLERANCE = 1e-5

ROWS: dict[str, Callable[[type[Any], Any], None]] = {}


def row(name: str):
    """Say which row a function shows."""

    def add(function):
        assert name not in ROWS
        ROWS[name] = function
        return function

    return add


def refuses(cls, model, make, code: str, match: str = "", **how) -> None:
    """Set-up and the model refuse the cells; the model answers the next good call."""
    wanted = model.predict_proba(query())
    adata, asked = make(cells()), make(query())
    refused(
        lambda: cls.setup_anndata(adata, "cell_type", **how),
        adata,
        code=code,
        error=InputDataError,
        match=match,
    )
    for ask in (model.predict, model.predict_proba, model.annotate):
        refused(lambda a=ask: a(asked, **how), asked, code=code, error=InputDataError, match=match)
    pd.testing.assert_frame_equal(model.predict_proba(query()), wanted)


def warns(cls, model, make, code: str, match: str = "") -> pd.DataFrame:
    """Set-up and the model warn and go on; return the calls."""
    warned(lambda: cls.setup_anndata(make(cells()), "cell_type"), code, match)
    asked = make(query())
    before = fingerprint(asked)
    calls = warned(lambda: model.annotate(asked), code, match)
    assert fingerprint(asked) == before
    assert list(calls.index) == list(asked.obs_names)
    return calls


def train(cls, adata, **kwargs):
    """Train a short time, from the same seed."""
    return Subject(cls).train(adata, **kwargs)


# -- refused -------------------------------------------------------------------------------------


@row("D01")
def nan(cls, model):
    refuses(cls, model, lambda a: with_bad(a, np.nan), "E-D01", "NaN values")
    asked, clean = with_bad(query(), np.nan), with_bad(query(), 0)
    same(model, asked, clean, nan="zero", atol=TOLERANCE)
    said(model, asked, "1 NaN are read as zero", nan="zero")


@row("D02")
def sparse_nan(cls, model):
    def make(adata):
        x = adata.X.copy()
        x.data[5] = np.nan
        return with_x(adata, x)

    refuses(cls, model, make, "E-D01", "NaN values.*1 of")


@row("D03")
def infinite(cls, model):
    for value in (np.inf, -np.inf):
        refuses(cls, model, lambda a, v=value: with_bad(a, v), "E-D03", "infinite values")


@row("D04")
def negative(cls, model):
    refuses(cls, model, scaled, "E-D04", "scaled or centred")


@row("D05")
def some_negative(cls, model):
    def make(adata):
        x = dense(adata)
        x[np.random.default_rng(0).random(x.shape) < 0.01] = -1
        return with_x(adata, x)

    refuses(cls, model, make, "E-D04")


@row("D06")
def late(cls, model):
    def make(adata):
        many = anndata.concat([adata] * 18, index_unique="-")
        many.var = adata.var
        return with_bad(many, -1, [(many.n_obs - 1, 3)])

    refuses(cls, model, make, "E-D04", "negative values.*1 of")


@row("D07")
def log1p_as_counts(cls, model):
    refuses(cls, model, logged, "E-D07", "not integers", input_kind="counts")
    asked = unproven(query())
    refused(lambda: model.predict(asked), asked, code="E-D07", error=InputDataError)
    same(model, logged(query()), atol=1e-4)
    said(model, logged(query()), "log1p values are turned back")


@row("D13")
def zeros(cls, model):
    make = lambda a: with_x(a, sparse.csr_matrix(a.shape, dtype=np.float32))  # noqa: E731 - short
    refuses(cls, model, make, "E-D13", "every value is zero")


# -- used with a warning -------------------------------------------------------------------------


@row("D09")
def rounded(cls, model):
    def make(adata):
        x = dense(adata)
        return with_x(adata, np.rint(x / x.sum(1, keepdims=True) * 1e6).astype(np.float32))

    warns(cls, model, make, "E-D09", "every cell has the same sum")


@row("D10")
def fractional(cls, model):
    def make(adata):
        return with_x(adata, sparse.csr_matrix(adata.X * 0.93))

    warns(cls, model, make, "E-D10", "not integers")
    same(model, make(query()), allow_fractional=True, atol=1e-4)


@row("D11")
def twice(cls, model):
    adata = with_x(cells(), sparse.csr_matrix(np.log1p(dense(logged(cells())))))
    warned(lambda: cls.setup_anndata(adata, "cell_type"), "E-D11", "log1p twice")


@row("D12")
def empty_cells(cls, model):
    def make(adata):
        x = dense(adata)
        x[:10] = 0
        return with_x(adata, x)

    calls = warns(cls, model, make, "E-D12", r"10 of \d+")
    assert (calls["label"][:10] == "unknown").all()
    assert (calls["label_raw"][:10] == "").all()
    assert calls["confidence"][:10].isna().all()
    assert calls["confidence"][10:].notna().all()
    # what a cell is called does not hang on the empty ones beside it
    alone = model.predict_proba(query())[10:]
    np.testing.assert_allclose(model.predict_proba(make(query()))[10:], alone, atol=TOLERANCE)


@row("D15")
def binary(cls, model):
    warns(cls, model, lambda a: with_x(a, (dense(a) > 0).astype(np.float32)), "E-D15")


# -- the result of the clean input ---------------------------------------------------------------


@row("D16")
def types(cls, model):
    for kind in ("int64", "int32", "uint16", "float64", "float16"):
        asked = with_x(query(), dense(query()).astype(kind))
        same(model, asked, atol=TOLERANCE)
        assert asked.X.dtype == kind
    truth = with_x(query(), dense(query()) > 0)
    as_ones = with_x(query(), (dense(query()) > 0).astype(np.float32))
    same(model, truth, as_ones, atol=TOLERANCE)


@row("D19")
def by_genes(cls, model):
    same(model, with_x(query(), query().X.tocsc()), atol=TOLERANCE)


@row("D20")
def sparse_forms(cls, model):
    for form in (sparse.csr_array, sparse.csc_array):
        same(model, with_x(query(), form(query().X)), atol=TOLERANCE)


@row("D21")
def dense_forms(cls, model):
    x, adata = dense(query()), query()
    for form in (x, np.asfortranarray(x), x[::-1][::-1]):
        same(model, with_x(query(), form), atol=TOLERANCE)
    adata.layers["f"] = pd.DataFrame(x, adata.obs_names, adata.var_names)
    adata.layers["m"] = np.ma.masked_array(x, np.zeros_like(x, dtype=bool))
    for layer in ("f", "m"):
        same(model, adata, layer=layer, atol=TOLERANCE)


@row("D22")
def not_canonical(cls, model):
    x = query().X
    parts = (np.repeat(x.data / 2, 2), np.repeat(x.indices, 2), x.indptr * 2)
    halves = sparse.csr_matrix(parts, shape=x.shape)
    for i in range(x.shape[0]):
        rows = slice(halves.indptr[i], halves.indptr[i + 1])
        halves.indices[rows] = halves.indices[rows][::-1].copy()
        halves.data[rows] = halves.data[rows][::-1].copy()
    same(model, with_x(query(), halves), atol=TOLERANCE)


@row("D24")
def on_disk(cls, model):
    wanted = model.predict_proba(query())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "q.h5ad"
        query().write_h5ad(path)
        before = path.read_bytes()
        backed = read_cells(path, backed=True)
        for asked in (backed, path):
            got = model.predict_proba(asked)
            np.testing.assert_allclose(got, wanted, atol=TOLERANCE)
        backed.file.close()
        assert path.read_bytes() == before


@row("D26")
def view(cls, model):
    parent, wanted = query(), model.predict_proba(query())
    before, part = fingerprint(parent), parent[5:40]
    np.testing.assert_allclose(model.predict_proba(part), wanted[5:40], atol=TOLERANCE)
    assert part.is_view
    part = cells()[:50]
    refused(lambda: cls.setup_anndata(part, "cell_type"), part, code="E-U29", error=UsageError)
    assert fingerprint(parent) == before


@row("D31")
def no_cells(cls, model):
    calls, nothing = model.annotate(query()), model.annotate(query()[:0].copy())
    assert list(nothing.columns) == list(calls.columns)
    assert list(nothing.dtypes) == list(calls.dtypes)
    assert len(nothing) == 0
    assert model.predict_proba(query()[:0].copy()).shape == (0, 3)
    asked = cells()[:0].copy()
    refused(
        lambda: cls.setup_anndata(asked, "cell_type"), asked, code="E-D31", error=InputDataError
    )


@row("D32")
def one_cell(cls, model):
    got = model.predict_proba(query()[:1].copy())
    np.testing.assert_allclose(got, model.predict_proba(query())[:1], atol=TOLERANCE)
    asked = cells()[:1].copy()
    refused(
        lambda: cls.setup_anndata(asked, "cell_type"), asked, code="E-D32", error=InputDataError
    )


@row("D34")
def batch_of_one(cls, model):
    if "max_epochs" in inspect.signature(cls.train).parameters:
        quick = {"max_epochs": 1, "batch_size": 32, "train_size": 1.0, "accelerator": "cpu"}
        model = train(cls, cells(97), **quick)
    wanted = model.predict_proba(query())
    for size in (59, 20, 1):
        got = model.predict_proba(query(), batch_size=size)
        np.testing.assert_allclose(got, wanted, atol=TOLERANCE)


@row("D36")
def deep(cls, model):
    x = dense(query())
    x[:3] *= 100
    same(model, with_x(query(), x), atol=TOLERANCE)
    learnt = train(cls, with_x(cells(), dense(cells()) * 100))
    assert np.isfinite(learnt.predict_proba(with_x(query(), x))).all(axis=None)


@row("D39")
def order_of_cells(cls, model):
    wanted, order = model.predict_proba(query()), np.random.default_rng(0).permutation(60)
    got = model.predict_proba(query()[order].copy())
    np.testing.assert_allclose(got, wanted.iloc[order], atol=TOLERANCE)
    for size in (1, 7, 1000):
        got = model.predict_proba(query(), batch_size=size)
        np.testing.assert_allclose(got, wanted, atol=TOLERANCE)


@row("D40")
def read_only(cls, model):
    def locked(adata):
        for part in (adata.X.data, adata.X.indices, adata.X.indptr):
            part.flags.writeable = False
        return adata

    same(model, locked(query()), atol=TOLERANCE)
    learnt, wanted = train(cls, locked(cells())), train(cls, cells())
    np.testing.assert_allclose(
        learnt.predict_proba(query()), wanted.predict_proba(query()), atol=TOLERANCE
    )
