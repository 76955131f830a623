"""Bad values, row by row of the catalogue of bad inputs.

Every row is one test whose id is the row's, from the side of the user: a refusal names its code
and leaves the caller's object as it was, a repair gives the result of the clean input and says
so, a warning names its count. What other tests show in depth is shown here once.
"""

from __future__ import annotations

import numpy as np
import pytest
from _bad_cells import (
    SYMBOLS,
    cells,
    dense,
    log_model,
    logged,
    model,
    query,
    refused,
    refused_twice,
    said,
    same,
    same_model,
    scaled,
    set_up,
    trained,
    unproven,
    warned,
    warned_twice,
    with_bad,
    with_x,
)
from _catalogue import Catalogue, marked
from scipy import sparse

from episome.data import simulate_cells
from episome.errors import (
    InputDataError,
    UsageError,
)
from episome.models import load

CATALOGUE = Catalogue("test_bad_values")
row = CATALOGUE.row

#: Rows that wait for what is not built yet: they are no tests.
LATER: dict[str, str] = {}

#: Rows, or parts of rows, that do not hold yet, and why. Their number may only go down.
OPEN: dict[str, str] = {}


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
    # What the model says is the same; genes that are not there at all lower how sure it is.
    asked = (make(query()), query()[:, 5:].copy())
    raw = [model().predict_proba(q, calibrated=False) for q in asked]
    np.testing.assert_allclose(*raw, atol=1e-6)


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


# -- the rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", marked(CATALOGUE, OPEN))
def test_bad_values(name, tmp_path, toy):
    CATALOGUE[name].shows(tmp_path)
