"""Small cells and models, and what is claimed of them, for the catalogue of bad inputs."""

from __future__ import annotations

import functools
import logging
import re
import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse

from episome.data import simulate_cells
from episome.errors import (
    EpisomeError,
    EpisomeWarning,
    InputDataError,
)
from episome.models import NearestCentroid
from episome.testing import fingerprint

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


def normalised_with_raw(adata):
    """Scaled values of some genes in X, counts of all in raw."""
    shown = scaled(adata)[:, :25].copy()
    shown.raw = adata
    return shown


def labelled(values, adata=None, key="cell_type"):
    adata = cells() if adata is None else adata
    adata.obs[key] = values
    return adata


def types_of(adata):
    return adata.obs["cell_type"].astype(str).to_numpy(dtype=object).copy()


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


def copied(folder: Path, name: str = "copy") -> Path:
    """A saved model to spoil."""
    shutil.rmtree(folder / name, ignore_errors=True)
    model().save(folder / name)
    return folder / name


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
