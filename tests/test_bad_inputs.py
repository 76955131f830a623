"""Bad values, genes, labels and model folders, row by row of the catalogue of bad inputs.

Every row is one test whose id is the row's, from the side of the user: a refusal names its code
and leaves the caller's object as it was, a repair gives the result of the clean input and says
so, a warning names its count. What other tests show in depth is shown here once. The page
``docs/user_guide/bad_inputs.md`` is written from the same table.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import pickle
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from scipy import sparse

from episome.data import inspect, read_cells, simulate_cells
from episome.errors import (
    EpisomeError,
    EpisomeWarning,
    GeneMatchError,
    InputDataError,
    InputFileError,
    LabelError,
    ModelFileError,
    ModelMismatchError,
    PluginError,
    UntrustedModelError,
    UsageError,
)
from episome.io import write_calls
from episome.jobs import AnnotateRequest, CheckRequest, annotate, check
from episome.metrics import class_table, macro_f1
from episome.models import MajorityClass, NearestCentroid, load
from episome.testing import fingerprint

PAGE = Path(__file__).parents[1] / "docs" / "user_guide" / "bad_inputs.md"

#: Rows that wait for what is not built yet: they are no tests.
LATER = {
    "D25": "cells in chunks that are computed when they are read",
    "D37": "more than 2^31 stored values",
    "D38": "a million cells on a small machine",
    "L20": "the same cells or donors in training and test",
    "M02": "converting a file of another program",
    "M17": "a model in an archive or on a hub",
    "M18": "a download whose checksum is wrong",
}

#: Rows, or parts of rows, that do not hold yet, and why. Their number may only go down.
OPEN = {
    "G03b": "issue B: no core says how much weight its genes have",
    "L06b": "issue B: tables of scores do not know the classes of the training",
    "L13b": "issue B: calls are text, whatever the labels were",
    "L18": "issue B: the whole of obs is read, also from a backed file",
}
N_OPEN = 4


@dataclass(frozen=True)
class Row:
    """One line of the catalogue: what comes in, what happens, and the proof."""

    what: str
    outcome: str
    shows: Callable[[Path], None]


ROWS: dict[str, Row] = {}


def row(name: str, what: str, outcome: str):
    """Say which row of the catalogue a function shows."""

    def add(function: Callable[[Path], None]) -> Callable[[Path], None]:
        assert name not in ROWS
        ROWS[name] = Row(what, outcome, function)
        return function

    return add


# -- cells ---------------------------------------------------------------------------------------

# fmt: off
SYMBOLS = [
    "ACTB", "B2M", "GAPDH", "MALAT1", "EEF1A1", "RPLP0", "RPLP1", "RPS27",
    "RPL10", "RPL13", "TMSB4X", "FTL", "FTH1", "UBC", "TPT1", "NACA",
    "HSP90AA1", "HSPA8", "JUN", "FOS", "VIM", "CD74", "LYZ", "S100A9",
    "CD3D", "CD3E", "MS4A1", "NKG7", "GNLY", "CD14", "ALB", "INS",
    "GCG", "COL1A1", "SNAP25", "MBP", "CD4", "CD8A", "MARCHF1", "SEPTIN9",
]
# fmt: on
ENSEMBL = [f"ENSG{i:011d}" for i in range(1, 41)]
ALIASES = {f"old{i}": s for i, s in enumerate(SYMBOLS)}


@functools.cache
def _both():
    adata = simulate_cells(180, 40, n_types=3, n_donors=4, fold_change=2.0, depth=400.0, seed=3)
    adata.var_names = SYMBOLS
    return adata


def cells(n: int = 120):
    """Cells to train on."""
    return _both()[:n].copy()


def query(n: int = 60):
    """Other cells of the same types."""
    return _both()[120 : 120 + n].copy()


def with_x(adata, x, **kwargs):
    """Return the cells with other values."""
    return anndata.AnnData(x, obs=adata.obs.copy(), var=adata.var.copy(), **kwargs)


def named(adata, names, **columns):
    """Return the cells with other names of genes."""
    adata = adata.copy()
    adata.var_names = names
    for column, values in columns.items():
        adata.var[column] = values
    return adata


def dense(adata):
    return adata.X.toarray()


def logged(adata, target: float = 1e4):
    x = dense(adata)
    return with_x(adata, sparse.csr_matrix(np.log1p(x / x.sum(1, keepdims=True) * target)))


def scaled(adata):
    x = np.asarray(logged(adata).X.todense())
    return with_x(adata, ((x - x.mean(0)) / (x.std(0) + 1e-6)).astype(np.float32))


def unproven(adata):
    """Log1p values whose cells have different sums."""
    return with_x(adata, sparse.csr_matrix(np.log1p(dense(adata) * 1.5)))


def with_bad(adata, value: float, places=((1, 2),)):
    x = dense(adata)
    for place in places:
        x[place] = value
    return with_x(adata, x)


# -- models --------------------------------------------------------------------------------------


def trained(adata, labels_key: str = "cell_type", **setup):
    NearestCentroid.setup_anndata(adata, labels_key, **setup)
    model = NearestCentroid(adata)
    model.train()
    return model


@functools.cache
def model():
    return trained(cells())


@functools.cache
def log_model():
    return trained(logged(cells()))


@functools.cache
def ensembl_model():
    return trained(named(cells(), ENSEMBL))


@functools.cache
def wide_model():
    """A model that knows both names of its genes."""
    return trained(named(cells(), ENSEMBL, feature_name=SYMBOLS))


# -- what is claimed -----------------------------------------------------------------------------


def state(adata) -> tuple[object, ...]:
    """What a call may not change, with scvi-tools' bookkeeping, which a refusal takes back."""
    kept = (list(adata.obs.columns), sorted(map(str, adata.uns)), adata.is_view)
    if adata.X is None or adata.isbacked:
        return (*kept, sorted(k for k in adata.layers if k is not None))
    return (*kept, fingerprint(adata))


def refused(call, *objects, code: str, error: type[EpisomeError], match: str = "") -> str:
    """The call raises in the one form of messages, and the objects are as before."""
    before = [state(o) for o in objects]
    with pytest.raises(error, match=rf"(?s){match}.*\[{code}\]") as caught:
        call()
    assert [state(o) for o in objects] == before
    text = str(caught.value)
    assert all(len(str(p).splitlines()) <= 6 for p in caught.value.problems)
    assert code in {p.code for p in caught.value.problems}
    return text


def refused_twice(
    make, code: str, match: str = "", error=InputDataError, of=None, **setup
) -> None:
    """Set-up refuses the cells, and a model refuses them as a query."""
    adata = make(cells())
    refused(
        lambda: NearestCentroid.setup_anndata(adata, "cell_type", **setup),
        adata,
        code=code,
        error=error,
        match=match,
    )
    asked = make(query())
    used = of or model()
    for ask in (used.predict, used.annotate, used.prepare):
        refused(lambda ask=ask: ask(asked, **setup), asked, code=code, error=error, match=match)
    same(used, query())  # a model that raised answers the next good call


def same(of, got, wanted=None, atol: float = 1e-6, **how) -> None:
    """A query gives the calls of the clean one, and is as it was."""
    wanted = query() if wanted is None else wanted
    before = state(got)
    probabilities, clean = of.predict_proba(got, **how), of.predict_proba(wanted)
    np.testing.assert_allclose(probabilities, clean, atol=atol)
    assert (of.predict(got, **how) == of.predict(wanted)).all()
    assert list(probabilities.index) == list(clean.index)
    assert state(got) == before


def same_model(adata, **setup) -> None:
    """Training on the cells gives the calls of training on the clean ones."""
    before = fingerprint(adata)
    got = trained(adata, **setup)
    np.testing.assert_allclose(
        got.predict_proba(query()), model().predict_proba(query()), atol=1e-5
    )
    assert fingerprint(adata) == before


def warned(call, code: str, match: str = "") -> object:
    """The call goes on and warns of the code."""
    with pytest.warns(EpisomeWarning, match=rf"(?s){match}.*\[{code}\]"):
        return call()


def set_up(adata, labels_key: str = "cell_type", **kwargs) -> None:
    NearestCentroid.setup_anndata(adata, labels_key, **kwargs)


def warned_twice(make, code: str, match: str = "", **how) -> None:
    """Set-up warns of the cells, and a model warns of them as a query."""
    warned(lambda: set_up(make(cells()), **how), code, match)
    asked = make(query())
    before = state(asked)
    calls = warned(lambda: model().annotate(asked, **how), code, match)
    assert len(calls) == asked.n_obs
    assert state(asked) == before


def said(of, asked, text: str, **how) -> None:
    """One line of the input report says what was put right."""
    notes = of.prepare(asked, **how).notes
    assert any(re.search(text, note) for note in notes), notes


# -- values --------------------------------------------------------------------------------------


@row("D01", "one NaN in a dense matrix", 'refused; `nan="zero"` reads it as zero and says so')
def one_nan(folder):
    refused_twice(
        lambda a: with_bad(a, np.nan), "E-D01", r"NaN values.*1 of.*cell\d+ gene GAPDH.*nan="
    )
    asked, clean = with_bad(query(), np.nan), with_bad(query(), 0)
    same(model(), asked, clean, nan="zero")
    said(model(), asked, "1 NaN are read as zero", nan="zero")
    learnt = trained(with_bad(cells(), np.nan), nan="zero")
    wanted = trained(with_bad(cells(), 0))
    same(learnt, query())
    np.testing.assert_array_equal(learnt.predict_proba(query()), wanted.predict_proba(query()))
    np.testing.assert_array_equal(learnt.predict(), wanted.predict())  # its own cells too
    learnt.save(folder / "model")
    same(load(folder / "model"), query())
    refused(
        lambda: model().predict(query(), nan="mean"), code="E-U30", error=UsageError, match="zero"
    )
    empty = with_bad(query(), np.nan, [(0, slice(None))])
    assert model().annotate(empty, nan="zero")["label"].iloc[0] == "unknown"


@row("D02", "NaN stored in a sparse matrix", "as D01")
def sparse_nan(folder):
    def stored(adata):
        x = adata.X.copy()
        x.data[5] = np.nan
        return with_x(adata, x)

    refused_twice(stored, "E-D01", "NaN values.*1 of")
    clean = query()
    clean.X.data[5] = 0
    same(model(), stored(query()), clean, nan="zero")


@row("D03", "an infinite value", "refused")
def infinite(folder):
    for value in (np.inf, -np.inf):
        refused_twice(lambda a, v=value: with_bad(a, v), "E-D03", "infinite values.*1 of")


@row("D04", "scaled values, negative everywhere", "refused; the message names layers and raw")
def negative(folder):
    refused_twice(scaled, "E-D04", r"scaled or centred.*layer=.*use_raw=True")


@row("D05", "one in a hundred values is negative", "refused: all values are looked at")
def some_negative(folder):
    rng = np.random.default_rng(0)

    def make(adata):
        x = dense(adata)
        x[rng.random(x.shape) < 0.01] = -1
        return with_x(adata, x)

    refused_twice(make, "E-D04")


@row("D06", "bad values behind the first thousand cells", "refused: all values are looked at")
def late(folder):
    many = simulate_cells(1100, 40, n_types=3)
    many.var_names = SYMBOLS
    asked = with_bad(many, -1, [(1050, 3)])
    refused(lambda: set_up(asked), asked, code="E-D04", error=InputDataError, match="cell1050")
    refused(lambda: model().predict(asked), asked, code="E-D04", error=InputDataError)


@row(
    "D07",
    "log1p values given as counts",
    "refused; turned back for a model of counts where the sums prove that this is right",
)
def log1p_as_counts(folder):
    refused_twice(logged, "E-D07", r"not integers.*expm1.*input_kind=", input_kind="counts")
    asked = unproven(query())
    refused(
        lambda: model().predict(asked),
        asked,
        code="E-D07",
        error=InputDataError,
        match="sums of expm1 differ",
    )
    same(model(), logged(query()), atol=1e-4)
    said(model(), logged(query()), "log1p values are turned back")


@row("D08", "counts given to a model of log1p values", "normalised, and said")
def counts_for_log1p(folder):
    few = with_x(query(), sparse.csr_matrix(np.minimum(dense(query()), 9)))
    same(log_model(), few, logged(few), atol=1e-4)
    said(log_model(), few, "counts are scaled to 10000 and log1p is taken")


@row("D09", "counts scaled to one sum and rounded", "used, with a warning")
def rounded(folder):
    def make(adata):
        x = dense(adata)
        return with_x(adata, np.rint(x / x.sum(1, keepdims=True) * 1e6).astype(np.float32))

    warned_twice(make, "E-D09", "every cell has the same sum")


@row("D10", "counts that are not integers", "used, with a warning; `allow_fractional=True`")
def fractional(folder):
    def make(adata):
        return with_x(adata, sparse.csr_matrix(adata.X * 0.93))

    warned_twice(make, "E-D10", r"\d+ of [\d,]+\. .*allow_fractional=True")
    same(model(), make(query()), allow_fractional=True, atol=1e-4)


@row("D11", "log1p taken twice", "used, with a warning")
def twice(folder):
    asked = with_x(query(), sparse.csr_matrix(np.log1p(dense(logged(query())))))
    warned(lambda: set_up(asked.copy()), "E-D11", "log1p twice")
    warned(lambda: log_model().predict(asked), "E-D11", "log1p twice")


@row("D12", "cells without any count", "called unknown, without a confidence; a warning")
def empty_cells(folder):
    def make(adata):
        x = dense(adata)
        x[:10] = 0
        return with_x(adata, x)

    warned_twice(make, "E-D12", r"10 of \d+")
    calls = model().annotate(make(query()))
    assert (calls["label"][:10] == "unknown").all()
    assert (calls["label_raw"][:10] == "").all()
    assert calls["confidence"][:10].isna().all()
    assert (calls["label"][10:] != "unknown").all()
    assert calls["confidence"][10:].notna().all()


@row("D13", "nothing but zeros", "refused")
def zeros(folder):
    refused_twice(lambda a: with_x(a, sparse.csr_matrix(a.shape)), "E-D13", "every value is zero")


@row("D14", "genes without any count", "used")
def empty_genes(folder):
    def make(adata):
        x = dense(adata)
        x[:, :5] = 0
        return with_x(adata, x)

    assert len(trained(make(cells())).predict(query())) == 60
    same(model(), make(query()), query()[:, 5:].copy(), atol=1e-6)


@row("D15", "only presence and absence", "used, with a warning")
def binary(folder):
    warned_twice(lambda a: with_x(a, (dense(a) > 0).astype(np.float32)), "E-D15", "every value")


@row("D16", "other types of numbers", "used as float32; a warning where float16 rounded")
def types(folder):
    for kind in ("int64", "int32", "uint16", "float64", "float16"):
        asked = with_x(query(), dense(query()).astype(kind))
        same(model(), asked)
        assert asked.X.dtype == kind
        same_model(with_x(cells(), dense(cells()).astype(kind)))
    truth = with_x(query(), dense(query()) > 0)
    same(model(), truth, with_x(query(), (dense(query()) > 0).astype(np.float32)))
    warned_twice(lambda a: with_x(a, with_bad(a, 4096).X.astype(np.float16)), "E-D16", "not exact")


@row("D17", "the largest value is the largest of its integer type", "used, with a warning")
def wrapped(folder):
    def make(adata):
        return with_x(adata, np.minimum(with_bad(adata, 255).X, 255).astype(np.uint8))

    warned_twice(make, "E-D17", "uint8")


@row("D18", "counts that float32 does not hold exactly", "used, with a warning")
def large(folder):
    warned_twice(
        lambda a: with_x(a, with_bad(a, 2**24 + 2).X.astype(np.int64)), "E-D18", "16777218"
    )


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


def normalised_with_raw(adata):
    """Scaled values of some genes in X, counts of all in raw."""
    shown = scaled(adata)[:, :25].copy()
    shown.raw = adata
    return shown


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
    # where X holds counts, or raw holds none, X stays
    both = query()
    both.raw = logged(query())
    same(model(), both, use_raw="auto")
    neither = scaled(query())
    neither.raw = logged(query())
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


# -- genes ---------------------------------------------------------------------------------------


@row("G01", "genes in another order", "aligned by name; the same bits")
def order_of_genes(folder):
    order = np.random.default_rng(0).permutation(40)
    asked = query()[:, order].copy()
    np.testing.assert_array_equal(model().predict_proba(asked), model().predict_proba(query()))


@row("G02", "none of the model's genes", "refused; shows both kinds of names")
def foreign(folder):
    asked = named(query(), [f"ENSMUSG{i:011d}" for i in range(40)])
    refused(
        lambda: model().predict(asked),
        asked,
        code="E-G02",
        error=GeneMatchError,
        match=r"0 of 40.*ACTB, B2M, GAPDH.*ENSMUSG.*symbols against Ensembl",
    )


@row("G03", "one gene in common", "refused below `min_gene_overlap`")
def one_gene(folder):
    asked = named(query(), ["ACTB", *(f"NOGENE{c}A" for c in range(39))])
    refused(
        lambda: model().predict(asked),
        asked,
        code="E-G03",
        error=GeneMatchError,
        match=r"1 of 40.*min_gene_overlap \(now 0.5\)",
    )


@row("G03b", "few of the genes that matter to the model", "refused by their share of its weight")
def little_weight(folder):
    assert hasattr(model().prepare(query()).alignment.report, "weight_overlap")


@row("G04", "a quarter of the genes is missing", "they count as zero; a warning")
def some_missing(folder):
    asked = query()[:, 10:].copy()
    x = dense(query())
    x[:, :10] = 0
    warned(lambda: model().predict(asked), "E-G04", r"10 of 40, first: ACTB.*75%")
    same(model(), asked, with_x(query(), x))
    said(model(), asked, "30 of the model's 40 genes.*75.0%.*10 missing ones count as zero")


@row("G05", "more genes than the model's", "left out and counted; the size factor by its rule")
def extra(folder):
    more = anndata.concat(
        [query(), named(query(), [f"{s}X" for s in SYMBOLS])], axis=1, merge="first"
    )
    same(model(), more)
    said(model(), more, "40 genes unknown to the model are left out")
    every = trained(cells(), size_factor="all_genes")
    half = with_x(query(), dense(query()))
    np.testing.assert_allclose(every.predict_proba(half), model().predict_proba(half), atol=1e-6)
    # all genes make up the size, so every value is half of what it is without the others
    halved = every.prepare(more).loader()
    sizes = np.concatenate([np.asarray(batch["size_factor"]).ravel() for batch in halved])
    np.testing.assert_allclose(sizes, 2 * dense(query()).sum(1))


@row("G06", "Ensembl identifiers with a version", "the version is taken off where that is unique")
def versions(folder):
    asked = named(query(), [f"{e}.{i}" for i, e in enumerate(ENSEMBL)])
    np.testing.assert_array_equal(
        ensembl_model().predict_proba(asked),
        ensembl_model().predict_proba(named(query(), ENSEMBL)),
    )
    got = trained(named(cells(), list(asked.var_names)))
    assert got.features.ids == tuple(ENSEMBL)


@row("G07", "symbols for Ensembl identifiers, or the reverse", "by a column or a table; refused")
def other_kind(folder):
    wanted = model().predict_proba(query())
    np.testing.assert_array_equal(wide_model().predict_proba(query()), wanted)
    beside = named(query(), ENSEMBL, gene_symbols=SYMBOLS)
    np.testing.assert_array_equal(model().predict_proba(beside), wanted)
    said(model(), beside, "matched by var.'gene_symbols'")
    asked = named(query(), ENSEMBL)
    same(model(), asked, gene_map=dict(zip(ENSEMBL, SYMBOLS, strict=True)))
    refused(
        lambda: model().predict(asked),
        asked,
        code="E-G02",
        error=GeneMatchError,
        match="feature_name.*gene_map=",
    )


@row("G08", "symbols in another case", 'refused; `gene_case="upper"` reads them')
def case(folder):
    asked = named(query(), [s.capitalize() for s in SYMBOLS])
    refused(
        lambda: model().predict(asked),
        asked,
        code="E-G08",
        error=GeneMatchError,
        match='mouse genes.*gene_case="upper"',
    )
    same(model(), asked, gene_case="upper")
    said(model(), asked, "names were read in capitals", gene_case="upper")


@row("G09", "aliases and former symbols", "by a table of the user, counted; else unknown")
def aliases(folder):
    asked = named(query(), [f"old{i}" if i < 6 else s for i, s in enumerate(SYMBOLS)])
    same(model(), asked, gene_map=ALIASES)
    said(model(), asked, "6 names were translated by the table", gene_map=ALIASES)
    said(model(), asked, "34 of the model's 40.*6 genes unknown")


@row("G10", "genes that a spreadsheet turned into dates", "the known ones are read; a warning")
def dates(folder):
    names = ["1-Mar" if s == "MARCHF1" else "2023-09-09" if s == "SEPTIN9" else s for s in SYMBOLS]
    same(model(), named(query(), names))
    said(model(), named(query(), names), "2 names were read as genes, not dates")
    names[0] = "3-Dec"
    warned(lambda: model().predict(named(query(), names)), "E-G10", "1 of 40, first: 3-Dec")


@row("G11", "two genes of one name", 'refused; `duplicates="sum"` or `"first"`')
def duplicates(folder):
    def make(adata):
        x = dense(adata)
        half = np.floor(x[:, :1] / 2)
        x = np.hstack([half, x])
        x[:, 1:2] -= half
        var = pd.DataFrame(index=["ACTB", *SYMBOLS])
        return anndata.AnnData(sparse.csr_matrix(x), obs=adata.obs.copy(), var=var)

    refused_twice(make, "E-G11", r'1 of 41, first: ACTB.*duplicates="sum"')
    same(model(), make(query()), duplicates="sum")
    said(model(), make(query()), "1 duplicated genes were summed", duplicates="sum")
    same_model(make(cells()), duplicates="sum")
    first = with_x(query(), np.hstack([dense(make(query()))[:, :1], dense(query())[:, 1:]]))
    same(model(), make(query()), first, duplicates="first")


@row("G12", "names that were numbered to tell them apart", "one is read; a warning")
def numbered(folder):
    more = anndata.concat([query(), named(query(), [f"{s}-1" for s in SYMBOLS])], axis=1)
    warned(lambda: model().predict(more), "E-G12", r"40 of 80, first: ACTB-1")
    same(model(), more)


@row("G13", "no names of genes, or row numbers", "refused")
def unnamed(folder):
    numbers = list(map(str, range(40)))
    refused_twice(
        lambda a: named(a, numbers), "E-G13", "row numbers", (InputDataError, GeneMatchError)
    )
    asked = named(cells(), ["", *SYMBOLS[1:]])
    refused(
        lambda: set_up(asked), asked, code="E-G13", error=InputDataError, match="without.*1 of 40"
    )
    missing = named(cells(), [np.nan, np.nan, *SYMBOLS[2:]])
    refused(lambda: set_up(missing), code="E-G13", error=InputDataError, match="2 of 40")


@row("G14", "blanks and marks around names", "taken off, counted")
def blanks(folder):
    ends = [" {}", "{}\r", "\ufeff{}", "\u00a0{}", "{}"]
    names = [ends[i % 5].format(s) for i, s in enumerate(SYMBOLS)]
    same(model(), named(query(), names))
    said(model(), named(query(), names), "32 names were freed of blanks")
    same_model(named(cells(), names))


@row("G15", "a prefix or suffix that nearly all names have", "taken off, and said")
def affixes(folder):
    for form in ("GRCh38_{}", "hg19-{}"):
        asked = named(query(), [form.format(s) for s in SYMBOLS])
        same(model(), asked)
        said(model(), asked, "40 names were freed of the prefix")
    asked = named(query(), [f"{s}_{e}" for s, e in zip(SYMBOLS, ENSEMBL, strict=True)])
    same(model(), asked)
    said(model(), asked, "split into symbol and Ensembl identifier")


@row("G16", "genes of two species in one file", "refused; counts of each")
def two_species(folder):
    mouse = [f"ENSMUSG{i:011d}" for i in range(40)]
    forms = (
        (ENSEMBL, mouse),
        ([f"GRCh38_{s}" for s in SYMBOLS], [f"mm10___{s.title()}" for s in SYMBOLS]),
    )
    for ours, theirs in forms:

        def make(adata, ours=ours, theirs=theirs):
            parts = [named(adata, ours), named(adata, theirs)]
            return anndata.concat(parts, axis=1, merge="first")

        refused_twice(make, "E-G16", r"genes of 2 species \(human 40, mouse 40\)")
        assert "E-G16" in {f.problem.code for f in inspect(make(query())).findings}


@row("G17", "the names stand in a column", "found by overlap; the column is named")
def in_a_column(folder):
    for column in ("feature_name", "gene_ids", "gene_symbol"):
        asked = named(query(), [f"row{c}" for c in SYMBOLS], **{column: SYMBOLS})
        same(model(), asked)
        said(model(), asked, f"matched by var.'{column}'")


@row(
    "G18", "antibodies, peaks or guides beside genes", "refused with the line that takes them out"
)
def other_features(folder):
    for kind in ("Antibody Capture", "Peaks", "CRISPR Guide Capture"):

        def make(adata, kind=kind):
            genes = named(adata, SYMBOLS, feature_types="Gene Expression")
            others = named(adata[:, :4].copy(), ["TAG1A", "CD4-AB", "TAGB", "TAGC"])
            others.var["feature_types"] = kind
            both = anndata.concat([genes, others], axis=1, merge="first")
            both.var["feature_types"] = both.var["feature_types"].astype("category")
            return both

        fix = r'adata\[:, adata.var\["feature_types"\] == "Gene Expression"\].copy\(\)'
        refused_twice(make, "E-G18", rf"{kind} 4\).*4 of 44, first: TAG1A.*{fix}")
        assert "E-G18" in {f.problem.code for f in inspect(make(query())).findings}
        both = make(query())
        same(model(), both[:, both.var["feature_types"] == "Gene Expression"].copy())
    only = named(cells(), SYMBOLS, feature_types="Gene Expression")
    set_up(only)


@row("G19", "a panel of a few of the model's genes", "a warning, or refused, as G03 and G04")
def panel(folder):
    asked = query()[:, :12].copy()
    refused(
        lambda: model().predict(asked), asked, code="E-G03", error=GeneMatchError, match="12 of 40"
    )
    warned(lambda: model().predict(asked, min_gene_overlap=0.2), "E-G04", "28 of 40.*30%")


@row("G20", "variable genes in X, all in raw", "as D30")
def variable_in_x(folder):
    asked = logged(query())[:, :12].copy()
    asked.raw = query()
    same(model(), asked, use_raw="auto")
    refused(lambda: model().predict(asked), asked, code="E-G03", error=GeneMatchError)


# -- labels --------------------------------------------------------------------------------------


def labelled(values, adata=None, key="cell_type"):
    adata = cells() if adata is None else adata
    adata.obs[key] = values
    return adata


def types_of(adata):
    return adata.obs["cell_type"].astype(str).to_numpy(dtype=object).copy()


@row("L01", "cells without a label", 'refused with their number; `unlabeled="keep"` or `"drop"`')
def missing_labels(folder):
    values = types_of(cells())
    values[:7] = np.nan
    asked = labelled(values)
    refused(
        lambda: set_up(asked),
        asked,
        code="E-L01",
        error=LabelError,
        match=r'7 of 120, first: cell\d+.*unlabeled="keep"',
    )
    for choice in ("keep", "drop"):
        assert trained(labelled(values), unlabeled=choice).fit_["n_train"] == 113


@row("L02", "labels that look like none", "classes, with a warning; only one word means none")
def empty_labels(folder):
    values = types_of(cells())
    for i, word in enumerate(["", "nan", "NA", "-"]):
        values[4 * i : 4 * i + 4] = word
    warned(lambda: set_up(labelled(values)), "E-L02", "16 of 120, first: '', '-', 'NA'")
    values = types_of(cells())
    values[:5] = "unknown"
    got = warned(lambda: trained(labelled(values)), "E-L06", "'unknown'.*5 of 120")
    assert "unknown" not in got.labels.names


@row("L03", "one class", "refused at set-up")
def one_class(folder):
    asked = labelled("T cell")
    refused(lambda: set_up(asked), asked, code="E-L03", error=LabelError, match="one class")


@row("L04", "a class of one cell", "the cell is trained on; a warning")
def rare(folder):
    from _episome_toy import ToyModel

    values = types_of(cells())
    values[3] = "rare"
    adata = labelled(values)
    warned(lambda: ToyModel.setup_anndata(adata, "cell_type"), "E-L04", "1 of 4, first: rare")
    network = ToyModel(adata)
    network.train(max_epochs=1, accelerator="cpu")
    assert 3 in network.train_indices_
    assert "rare" in network.labels.names


@row("L05", "a class for nearly every cell; thousands of classes", "refused; run")
def many_classes(folder):
    asked = labelled([f"c{i}" for i in range(120)])
    refused(
        lambda: set_up(asked), asked, code="E-L05", error=LabelError, match=r"120 of 120.*names"
    )
    many = anndata.AnnData(
        sparse.csr_matrix(np.random.default_rng(0).poisson(3.0, (10_000, 6)).astype(np.float32)),
        obs=pd.DataFrame({"t": [f"t{i % 5000}" for i in range(10_000)]}),
        var=pd.DataFrame(index=SYMBOLS[:6]),
    )
    many.obs_names = [f"c{i}" for i in range(10_000)]
    MajorityClass.setup_anndata(many, "t")
    frequent = MajorityClass(many)
    frequent.train()
    assert len(frequent.labels) == 5000
    assert frequent.predict_proba(many[:3].copy()).shape == (3, 5000)


@row("L06", "classes that only the test cells have", "macro F1 counts them as missed")
def unseen(folder):
    truth, called = ["a", "a", "b", "c"], ["a", "a", "b", "b"]
    assert macro_f1(truth, called) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert class_table(truth, called).loc["c", "f1"] == 0


@row("L06b", "classes that only the test cells have", "marked as not in training")
def unseen_marked(folder):
    assert "in_training" in class_table(["a", "c"], ["a", "a"]).columns


@row("L07", "a query without labels", "called")
def no_labels(folder):
    asked = query()
    asked.obs = asked.obs[[]]
    same(model(), asked)


@row("L08", "a query with labels that the model does not know", "called")
def unknown_labels(folder):
    same(model(), labelled("new type", query()))


@row("L09", "a query of new donors and batches, or without the columns", "called without them")
def new_batch(folder):
    got = trained(cells(), donor_key="donor_id")
    wanted = got.predict(query())
    assert (got.predict(labelled("new", query(), "donor_id")) == wanted).all()
    asked = query()
    asked.obs = asked.obs.drop(columns=["donor_id", "batch"])
    assert (got.predict(asked) == wanted).all()


ODD = ["αβ T細胞 🧬", 'מאקרופאג, "x"\nline', "x" * 300]


@row("L10", "labels in any script, with line ends, very long", "kept exactly, everywhere")
def unicode_labels(folder):
    import matplotlib as mpl

    mpl.use("Agg")
    from episome.pl import confusion

    names = dict(zip(sorted(set(types_of(cells()))), ODD, strict=True))
    got = trained(labelled([names[t] for t in types_of(cells())]))
    wanted = np.array([names[t] for t in model().predict(query())], dtype=object)
    got.save(folder / "model")
    back = load(folder / "model")
    assert set(back.labels.names) == set(ODD)
    calls = back.annotate(query())
    assert (calls["label"].to_numpy() == wanted).all()
    for name in ("calls.csv", "calls.tsv", "calls.parquet"):
        write_calls(folder / name, calls)
    tables = [
        pd.read_csv(folder / "calls.csv"),
        pd.read_csv(folder / "calls.tsv", sep="\t"),
        pd.read_parquet(folder / "calls.parquet"),
    ]
    write_calls(folder / "calls.h5ad", calls, adata=query())
    labels = [t["label"] for t in tables]
    labels.append(read_cells(folder / "calls.h5ad").obs["episome_label"])
    assert all((column.astype(str).to_numpy() == wanted).all() for column in labels)
    assert (np.array(json.loads(json.dumps(calls["label"].tolist()))) == wanted).all()
    confusion(wanted, wanted).figure.canvas.draw()


@row("L11", "labels that differ by case or blanks", "stay apart; a warning lists the pairs")
def near(folder):
    values = types_of(cells())
    values[:5] = "Type 0 "
    warned(lambda: set_up(labelled(values)), "E-L11", r"first: 'Type 0 ' / 'type 0'|'type 0' / 'T")


@row("L12", "labels that are HTML or a formula", "kept exactly")
def markup(folder):
    odd = dict(
        zip(sorted(set(types_of(cells()))), ["<script>x</script>", "=1+1", "@a"], strict=True)
    )
    got = trained(labelled([odd[t] for t in types_of(cells())]))
    calls = got.annotate(query())
    assert set(calls["label"]) == set(odd.values())
    write_calls(folder / "calls.csv", calls)
    assert set(pd.read_csv(folder / "calls.csv")["label"]) == set(odd.values())


@row("L12b", "labels that are HTML, in the card of a model", "escaped")
def markup_in_the_card(folder):
    values = np.where(types_of(cells()) == "type 0", "<script>x</script>", "b")
    trained(labelled(values)).save(folder / "model")
    assert "<script>" not in (folder / "model" / "README.md").read_text()


@row("L13", "labels that are numbers, booleans or mixed", "become text, and that is said")
def numbers(folder):
    codes = np.array([int(t[-1]) for t in types_of(cells())])
    mixed = codes.astype(object)
    mixed[codes == 2] = "two"
    for values, wanted in (
        (codes, {"0", "1", "2"}),
        (codes.astype(float), {"0", "1", "2"}),
        (codes > 0, {"False", "True"}),
        (mixed, {"0", "1", "two"}),
    ):
        lines = logged_lines(lambda v=values: set_up(labelled(v)))
        assert any("labels that are no text become text" in line for line in lines)
        got = trained(labelled(values))
        assert set(got.labels.names) == wanted
        assert set(got.predict(query())) <= wanted


@row("L13b", "labels that are numbers", "calls are numbers again")
def numbers_back(folder):
    codes = np.array([int(t[-1]) for t in types_of(cells())])
    assert trained(labelled(codes)).annotate(query())["label"].dtype.kind == "i"


def logged_lines(call) -> list[str]:
    """Messages of the log while a call runs."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    logger, handler = logging.getLogger("episome"), Keep()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        call()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return lines


@row("L14", "categories that no cell has", "no classes")
def unused(folder):
    adata = cells()
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.add_categories(["nobody"])
    assert "nobody" not in trained(adata).labels.names


@row("L15", "cells of one name", "called by position, with a warning; joined by name: refused")
def repeated_cells(folder):
    from episome.jobs import TrainRequest, train

    asked = query()
    asked.obs_names = ["a", "a", *asked.obs_names[2:]]
    calls = warned(lambda: model().annotate(asked), "E-L15", "1 of 60, first: a")
    assert list(calls.index) == list(asked.obs_names)
    assert (calls["label"].to_numpy() == model().predict(query())).all()
    asked.write_h5ad(folder / "q.h5ad")
    (folder / "labels.csv").write_text("cell,type\na,x\n")
    request = TrainRequest(
        "centroid",
        folder / "q.h5ad",
        folder / "m",
        {"labels_key": "type"},
        labels_file=folder / "labels.csv",
    )
    refused(lambda: train(request), code="E-L15", error=UsageError, match="wrong cell")
    assert not (folder / "m").exists()


@row("L16", "the columns of the answer exist", "refused, unless `overwrite` or another prefix")
def column_exists(folder):
    asked, calls = query(), model().annotate(query())
    asked.obs["episome_label"] = "mine"
    refused(
        lambda: write_calls(folder / "out.h5ad", calls, adata=asked),
        asked,
        code="E-L16",
        error=UsageError,
        match=r"first: episome_label.*overwrite=True",
    )
    assert not (folder / "out.h5ad").exists()
    write_calls(folder / "out.h5ad", calls, adata=asked, prefix="new_")
    kept = read_cells(folder / "out.h5ad").obs
    assert (kept["episome_label"] == "mine").all()
    assert (kept["new_label"].astype(str).to_numpy() == calls["label"].to_numpy()).all()
    assert (asked.obs["episome_label"] == "mine").all()


@row("L17", "a column whose name h5ad cannot hold", "written under another name, and said")
def slash(folder):
    asked = labelled(1, query(), "x/y")
    write_calls(folder / "out.h5ad", model().annotate(query()), adata=asked)
    assert "x/y" not in read_cells(folder / "out.h5ad").obs.columns


@row("L18", "very many columns of obs", "only those that are needed are read")
def wide_obs(folder):
    asked = query()
    extra = pd.DataFrame(1, asked.obs_names, [f"c{i}" for i in range(300)])
    asked.obs = asked.obs.join(extra)
    asked.write_h5ad(folder / "q.h5ad")
    backed = read_cells(folder / "q.h5ad", backed=True)
    try:
        assert not isinstance(backed.obs, pd.DataFrame)
    finally:
        backed.file.close()


@row("L19", "identifiers among names, obsolete terms", "looked up and replaced, listed")
def terms(folder):
    values = types_of(cells())
    names = {"type 0": "T cell", "type 1": "CL:0000236", "type 2": "monocyte"}
    adata = labelled([names[v] for v in values])
    lines = logged_lines(lambda: set_up(adata))
    got = trained(adata)
    assert dict(zip(got.labels.names, got.labels.term_ids, strict=True)) == {
        "T cell": "CL:0000084",
        "CL:0000236": "CL:0000236",
        "monocyte": "CL:0000576",
    }
    assert any("by identifier" in line for line in lines)
    obsolete, current = obsolete_term()
    adata = labelled([names[v] for v in values])
    adata.obs["term"] = [{"T cell": obsolete}.get(n, "") for n in adata.obs["cell_type"]]
    lines = logged_lines(lambda: set_up(adata, ontology_term_key="term"))
    assert current in NearestCentroid(adata).labels.term_ids
    assert any("1 obsolete replaced" in line and obsolete in line for line in lines)


def obsolete_term() -> tuple[str, str]:
    """A term of the installed release that was replaced by another."""
    from episome.ontology import cell_ontology

    ontology = cell_ontology()
    for number in range(1, 3000):
        term = f"CL:{number:07d}"
        found = ontology.resolve(["x"], term_ids=[term])
        if found.term_ids[0] not in {"", term}:
            return term, found.term_ids[0]
    raise AssertionError


# -- model folders -------------------------------------------------------------------------------


def copied(folder: Path, name: str = "copy") -> Path:
    """A saved model to spoil."""
    shutil.rmtree(folder / name, ignore_errors=True)
    model().save(folder / name)
    return folder / name


def resealed(place: Path, **changes) -> Path:
    """Write right checksums over a spoilt model, as somebody with bad intentions can."""
    manifest = json.loads((place / "manifest.json").read_text())
    manifest |= changes
    for name, entry in manifest["files"].items():
        data = (place / name).read_bytes()
        entry |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    text = json.dumps(manifest).encode()
    (place / "manifest.json").write_bytes(text)
    line = f"{hashlib.sha256(text).hexdigest()}  manifest.json\n"
    (place / "manifest.sha256").write_text(line)
    return place


def manifest_of(place: Path) -> dict:
    return json.loads((place / "manifest.json").read_text())


def not_loaded(place: Path, code: str, match: str = "", error=ModelFileError) -> None:
    """Neither the model nor a predictor is made of the folder, and the folder stays as it is."""
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()} if place.is_dir() else {}
    for way in (load, NearestCentroid.load):
        refused(lambda way=way: way(place), code=code, error=error, match=match)
    assert {p: p.read_bytes() for p in before} == before


class Bomb:
    """A pickle of it writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@row("M01", "a pickle in the place of a model", "never executed")
def pickled(folder):
    mark = folder / "executed"
    data = pickle.dumps(Bomb(mark))
    place = folder / "foreign"
    place.mkdir()
    for name in ("model.pt", "model.pkl"):
        (place / name).write_bytes(data)
        not_loaded(place, "E-M02", "may run code", UntrustedModelError)
        not_loaded(place / name, "E-M02", "may run code", UntrustedModelError)
        (place / name).unlink()
    place = copied(folder)
    (place / "weights.safetensors").write_bytes(data)
    not_loaded(place, "E-M03", "weights.safetensors")
    not_loaded(resealed(place), "E-M03", "weights.safetensors")
    assert not mark.exists()


@row("M03", "one flipped bit in any file of a model", "refused; the file is named")
def flipped(folder):
    place = copied(folder)
    rng = np.random.default_rng(0)
    names = [*manifest_of(place)["files"], "manifest.json", "manifest.sha256"]
    for name in names:
        good = (place / name).read_bytes()
        for _ in range(4):
            bad = bytearray(good)
            bad[rng.integers(len(bad))] ^= 1 << int(rng.integers(8))
            (place / name).write_bytes(bytes(bad))
            wanted = "manifest" if name.startswith("manifest") else re.escape(name)
            refused(lambda: load(place), code="E-M03", error=ModelFileError, match=wanted)
        (place / name).write_bytes(good)
    same(load(place), query())


@row("M04", "a file of a model that is cut short or empty", "refused; it is named")
def cut(folder):
    place = copied(folder)
    for name in manifest_of(place)["files"]:
        good = (place / name).read_bytes()
        for bad in (good[:-1], b""):
            (place / name).write_bytes(bad)
            refused(lambda: load(place), code="E-M03", error=ModelFileError, match=re.escape(name))
        (place / name).write_bytes(good)
    same(load(place), query())


@row("M04b", "a pointer of Git LFS in the place of weights", "the message says what it is")
def pointer(folder):
    place = copied(folder)
    (place / "weights.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    refused(lambda: load(place), code="E-M04", error=ModelFileError, match="Git LFS")


@row("M05", "a file is missing, or one too many", "refused; left alone with a line")
def missing_file(folder):
    place = copied(folder)
    for name in (*manifest_of(place)["files"], "manifest.json", "manifest.sha256"):
        good = (place / name).read_bytes()
        (place / name).unlink()
        refused(lambda: load(place), code="E-M05", error=ModelFileError, match=re.escape(name))
        (place / name).write_bytes(good)
    (place / "notes.txt").write_text("mine")
    assert any("notes.txt" in line for line in logged_lines(lambda: load(place)))
    not_loaded(folder / "nowhere", "E-M05", "no such folder")


@row("M06", "a tensor too many, too few, or of another shape", "refused")
def tensors(folder):
    good = safetensors.numpy.load((copied(folder) / "weights.safetensors").read_bytes())
    name = "centroids"
    assert name in good
    for bad in (
        {k: v for k, v in good.items() if k != name},
        {**good, "extra": good[name]},
        {**good, name: good[name][:, :-1].copy()},
    ):
        place = copied(folder)
        (place / "weights.safetensors").write_bytes(safetensors.numpy.save(bad))
        not_loaded(resealed(place), "E-M06", "centroids|extra")


@row("M07", "weights that are not finite", "neither saved nor loaded")
def not_finite(folder):
    place = copied(folder)
    good = safetensors.numpy.load((place / "weights.safetensors").read_bytes())
    bad = {k: np.full_like(v, np.nan) if k == "centroids" else v for k, v in good.items()}
    (place / "weights.safetensors").write_bytes(safetensors.numpy.save(bad))
    not_loaded(resealed(place), "E-M07", "first: centroids")
    spoilt = trained(cells())
    spoilt.module.arrays["centroids"] = np.full((3, 40), np.inf, np.float32)
    refused(lambda: spoilt.save(folder / "new"), code="E-M07", error=ModelFileError)
    assert not (folder / "new").exists()


@row("M08", "the folder of another class", "refused; both and the right call are named")
def other_class(folder):
    from episome.models import SCTab

    place = copied(folder)
    refused(
        lambda: SCTab.load(place),
        code="E-M08",
        error=ModelMismatchError,
        match=r"NearestCentroid, not a SCTab.*NearestCentroid\.load",
    )


@row("M09", "a model of a plugin that is not installed", "refused with the line that installs it")
def no_plugin(folder):
    place = copied(folder)
    entry = manifest_of(place)["model"] | {"plugin": "ghost", "distribution": "episome-ghost"}
    resealed(place, model=entry)
    refused(
        lambda: load(place), code="E-P01", error=PluginError, match="pip install episome-ghost"
    )


@row("M10", "a folder of a newer format", "refused; upgrade")
def newer(folder):
    not_loaded(
        resealed(copied(folder), format_version=[99, 0]),
        "E-M10",
        "format 99.0.*pip install -U episome",
        ModelMismatchError,
    )


@row("M11", "weights that declare more than there is", "refused before anything is allocated")
def bombs(folder):
    def file(header: dict | bytes, size: int | None = None, data: bytes = b"") -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return (len(text) if size is None else size).to_bytes(8, "little") + text + data

    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    for bad in (
        file(b"{}", 10 << 30),
        file({"a": tensor, "b": tensor}, data=b"\0" * 4),
        file({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}, data=b"\0" * 4),
        file({"a": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 0]}}),
    ):
        place = copied(folder)
        (place / "weights.safetensors").write_bytes(bad)
        not_loaded(resealed(place), "E-M03", "weights.safetensors")


@row("M12", "names and links that leave the folder", "refused")
def tricks(folder):
    for name in ("../secret", "/etc/passwd", "files/../../x", "a\\b"):
        place = copied(folder)
        manifest = manifest_of(place)
        files = manifest["files"] | {name: {"sha256": "0" * 64, "size": 1}}
        text = json.dumps({**manifest, "files": files}).encode()
        (place / "manifest.json").write_bytes(text)
        seal = f"{hashlib.sha256(text).hexdigest()}  manifest.json\n"
        (place / "manifest.sha256").write_text(seal)
        not_loaded(place, "E-M12", "leaves the folder")
    place = copied(folder)
    shutil.move(place / "labels.tsv", folder / "labels.tsv")
    (place / "labels.tsv").symlink_to(folder / "labels.tsv")
    not_loaded(place, "E-M12", "labels.tsv")
    refused(
        lambda: model().save(folder / "new", prefix="../../x_"), code="E-U18", error=UsageError
    )


@row("M13", "labels or genes that do not fit the network", "refused")
def cross_check(folder):
    def with_lines(name: str, change) -> Path:
        place = copied(folder)
        lines = (place / name).read_text().splitlines()
        (place / name).write_text("\n".join(change(lines)) + "\n")
        return resealed(place)

    not_loaded(with_lines("labels.tsv", lambda x: x[:-1]), "E-M13", "2 labels.*3 model outputs")
    not_loaded(with_lines("labels.tsv", lambda x: [*x[:-1], x[1]]), "E-M13", "2 different")
    not_loaded(with_lines("genes.tsv", lambda x: x[:-1]), "E-M13", "39 genes and 40")


def in_child(action: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return pid


@row("M14", "a save over a model that is killed", "the old or the new model, whole")
def killed(folder):
    place = copied(folder)
    other = trained(cells(60))
    wanted = [m.predict_proba(query()) for m in (model(), other)]
    rng = np.random.default_rng(0)

    def keep_saving() -> None:
        for i in range(1000):
            (model(), other)[i % 2].save(place, overwrite=True)

    for _ in range(6):
        pid = in_child(keep_saving)
        time.sleep(rng.uniform(0.01, 0.1))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        got = load(place).predict_proba(query())
        assert any(np.array_equal(got, w) for w in wanted)


@row("M15", "two programs save to one place", "one of the models, whole")
def two_writers(folder):
    place = copied(folder)
    models = (model(), trained(cells(60)))
    wanted = [m.predict_proba(query()) for m in models]

    def save(which: int) -> None:
        for _ in range(5):
            try:
                models[which].save(place, overwrite=True)
            except InputFileError:  # the other was faster
                continue

    children = [in_child(lambda i=i: save(i)) for i in range(2)]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0]
    got = load(place).predict_proba(query())
    assert any(np.array_equal(got, w) for w in wanted)


@row("M16", "a model of another device", "loaded on what is there")
def other_device(folder):
    place = copied(folder)
    text = (place / "manifest.json").read_text()
    assert "cuda" not in text
    fit = manifest_of(place)["fit"] | {"device": "cuda:7"}
    same(load(resealed(place, fit=fit), accelerator="cpu"), query())


@row("M19", "the same weights on another machine", "the calls of the formula, in float64")
def formula(folder):
    adata, x = query(), dense(query()).astype(np.float64)
    values = np.log1p(1e4 * x / x.sum(1, keepdims=True))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    back = load(copied(folder), accelerator="cpu")
    scores = values @ back.module.arrays["centroids"].astype(np.float64).T
    scores *= float(back.module.arrays["scale"][0])
    weights = np.exp(scores - scores.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    np.testing.assert_allclose(back.predict_proba(adata), weights, atol=1e-4)
    names = np.array(back.labels.names, dtype=object)
    assert (back.predict(adata) == names[weights.argmax(1)]).all()


@row("M20", "a model that was not trained", "neither saved nor used")
def untrained(folder):
    adata = cells()
    set_up(adata)
    raw = NearestCentroid(adata)
    for call in (lambda: raw.save(folder / "m"), lambda: raw.predict(query())):
        refused(call, code="E-M20", error=UsageError, match=r"call train\(\) first")
    assert not (folder / "m").exists()


# -- the rows ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:zarr v3 autosharding")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            n, marks=pytest.mark.xfail(strict=True, raises=AssertionError, reason=OPEN[n])
        )
        if n in OPEN
        else n
        for n in sorted(ROWS)
    ],
)
def test_bad_inputs(name, tmp_path, toy):
    ROWS[name].shows(tmp_path)


def test_every_row_has_its_test():
    rows = {
        f"{s}{n:02d}"
        for s, last in (("D", 40), ("G", 20), ("L", 20), ("M", 20))
        for n in range(1, last + 1)
    }

    assert rows - set(ROWS) == set(LATER)
    assert {n.rstrip("b") for n in ROWS} <= rows


def test_open_rows_are_counted():
    print(f"{len(OPEN)} of {len(ROWS)} rows are open: {', '.join(sorted(OPEN))}")

    assert set(OPEN) <= set(ROWS)
    assert len(OPEN) == N_OPEN


def test_the_same_is_said_by_the_command(tmp_path):
    with_bad(cells(), np.nan).write_h5ad(tmp_path / "cells.h5ad")

    found = check(CheckRequest(tmp_path / "cells.h5ad")).inspection

    assert "E-D01" in {f.problem.code for f in found.findings}


@pytest.mark.parametrize("options", [{"nan": "zero"}, {"use_raw": "auto"}])
def test_files_are_put_right_as_objects_are(options, tmp_path):
    asked = with_bad(query(), np.nan) if "nan" in options else normalised_with_raw(query())
    asked.write_h5ad(tmp_path / "q.h5ad")

    found = annotate(AnnotateRequest(tmp_path / "q.h5ad", copied(tmp_path), None, **options))

    assert (found.calls["label"] == model().predict(asked, **options)).all()
    assert any("NaN are read as zero" in n or "those of raw" in n for n in found.notes)


def test_the_command_takes_what_python_takes(tmp_path):
    from click.testing import CliRunner

    from episome.cli import _app

    adata = normalised_with_raw(cells())
    adata.write_h5ad(tmp_path / "cells.h5ad")
    run = CliRunner().invoke
    output = str(tmp_path / "model")

    words = ["--labels-key", "cell_type", "--auto-raw", "--nan", "zero", "-o", output]
    done = run(_app.app, ["train", "centroid", str(tmp_path / "cells.h5ad"), *words])

    assert done.exit_code == 0, done.output
    assert load(output).setup_args["use_raw"] is True
    assert load(output).setup_args["nan"] == "zero"


# -- the page ------------------------------------------------------------------------------------


def page() -> str:
    """What bad input gets, as a page of the documentation."""
    lines = [
        "# What bad input gets",
        "",
        "Nothing is read wrong without a word: input is refused before anything is computed, put",
        "right in a copy with a line in the report, or used with a warning that names counts. The",
        "caller's object is never changed. Every row is a test of its name in",
        "`tests/test_bad_inputs.py`, from which this page is written.",
    ]
    titles = {"D": "Values", "G": "Genes", "L": "Labels and cells", "M": "Model folders"}
    for section, title in titles.items():
        lines += ["", f"## {title}", "", "| Id | Input | What happens | Codes | Test |"]
        lines.append("|---|---|---|---|---|")
        names = sorted(n for n in {*ROWS, *LATER} if n.startswith(section))
        lines += [_line(n) for n in names]
    return "\n".join([*lines, ""])


def _line(name: str) -> str:
    if name in LATER:
        return f"| {name} | {LATER[name]} | later |  |  |"
    shown = ROWS[name]
    outcome = f"not yet: {shown.outcome}" if name in OPEN else shown.outcome
    codes = re.findall(r"E-[A-Z]\d+", _source_of(shown.shows))
    names = ", ".join(f"`{c}`" for c in dict.fromkeys(codes))
    return f"| {name} | {shown.what} | {outcome} | {names} | `test_bad_inputs[{name}]` |"


def _source_of(function: Callable[[Path], None]) -> str:
    import inspect as python_inspect

    return python_inspect.getsource(function)


def test_the_page_is_up_to_date():
    if os.environ.get("EPISOME_WRITE_PAGES"):
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(), encoding="utf-8")

    assert PAGE.read_text(encoding="utf-8") == page(), "run it again with EPISOME_WRITE_PAGES=1"
