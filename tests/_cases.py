"""Cells of any form with any faults, and what must come of them: the data of ``test_rules.py``.

A case knows the answer by its own arithmetic, never by asking the code under test.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd
from _bad_cells import ENSEMBL, SYMBOLS, query
from hypothesis import strategies as st
from scipy import sparse

if TYPE_CHECKING:
    from anndata import AnnData

FLOATS = ("float32", "float64", "float16")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "bool")
#: AnnData holds no other sparse formats; ``test_bad_forms[D20]`` tries them.
SPARSE = ("csr_matrix", "csr_array", "csc_matrix", "csc_array", "read-only csr_matrix")
DENSE = ("dense C", "dense F", "np.matrix", "masked", "read-only dense", "data frame")
FORMS = (*SPARSE, *DENSE)
#: AnnData holds these in layers only.
LAYERS_ONLY = frozenset({"masked", "data frame", "np.matrix"})

#: What the values are: counts, and what people make of them.
KINDS = ("counts", "log1p", "scaled", "fractional", "rounded", "binary", "zeros")
#: What stands among the values, and the code of it.
STRAY = {"nan": "E-D01", "inf": "E-D03", "negative": "E-D04"}
NAMES = ("symbols", "versions", "blanks", "foreign", "case")
COLUMNS = ("all", "missing", "extra", "duplicated")
N_MISSING = 10


@dataclass(frozen=True)
class Case:
    """A query: its form and its faults."""

    n: int = 20
    dtype: str = "float32"
    form: str = "csr_matrix"
    place: str = "X"
    view: bool = False
    order: int = 0
    kind: str = "counts"
    stray: tuple[str, ...] = ()
    nan_is_zero: bool = False
    n_empty: int = 0
    names: str = "symbols"
    columns: str = "all"
    repeated_cells: bool = False

    # -- the answer --------------------------------------------------------------------------

    @property
    def refused(self) -> set[str]:
        """Codes of everything for which it is refused; all are said at once."""
        return self.bad_values | self.bad_genes

    @property
    def bad_values(self) -> set[str]:
        """Codes of what is wrong with the values."""
        if self.n == 0:
            return set()
        found = {STRAY[s] for s in self.stray}
        if self.nan_is_zero:
            found -= {"E-D01"}
        if self.kind == "scaled":
            found |= {"E-D04"}
        if self.kind == "zeros" and not self._some_value:
            found |= {"E-D13"}
        # expm1 of every cell has one sum only while the cells have all genes.
        if self.kind == "log1p" and not found and not _even(np.expm1(self._read()).sum(1)):
            found |= {"E-D07"}
        return found

    @property
    def bad_at_set_up(self) -> set[str]:
        """Codes for which training cells are refused: no other model decides on their scale."""
        duplicated = {"E-G11"} if self.columns == "duplicated" else set()
        return (self.bad_values - {"E-D07"}) | duplicated

    def _read(self) -> np.ndarray:
        """Values of the file, with zero for what is NaN."""
        return np.nan_to_num(self.values()[0], nan=0.0)

    @property
    def _some_value(self) -> bool:
        return bool({"inf", "negative"} & set(self.stray)) or (
            "nan" in self.stray and not self.nan_is_zero
        )

    @property
    def bad_genes(self) -> set[str]:
        """Codes of what is wrong with the names of the genes."""
        if self.names == "foreign":  # two genes of one name that the model lacks do no harm
            return {"E-G02"}
        found = {"E-G08"} if self.names == "case" else set()
        return found | ({"E-G11"} if self.columns == "duplicated" else set())

    @property
    def warned(self) -> set[str]:
        """Codes of the warnings where it is used."""
        found = {"E-G04"} if self.columns == "missing" else set()
        if self.repeated_cells and self.n > 1:
            found |= {"E-L15"}
        if self.n == 0:
            return found
        if 0 < self.n_empty < self.n:
            found |= {"E-D12"}
        if self.kind == "fractional":
            found |= {"E-D10"}
        if self.kind == "binary":
            found |= {"E-D15"}
        if self.kind == "rounded" and self.n > 1 and _even(self._read().sum(1)):
            found |= {"E-D09"}
        return found

    @property
    def warned_at_set_up(self) -> set[str]:
        """Codes of the warnings of training cells."""
        return self.warned - {"E-G04", "E-L15"}

    @property
    def notes(self) -> list[str]:
        """What lines of the report must say where it is used."""
        found = []
        if self.names == "blanks":
            found.append(r"\d+ names were freed of blanks")
        if self.columns == "extra":
            found.append(r"5 genes unknown to the model are left out")
        if self.kind == "log1p" and self.n > 0:
            found.append("log1p values are turned back")
        if "nan" in self.stray and self.nan_is_zero and self.n > 0:
            found.append("NaN are read as zero")
        return found

    @property
    def how(self) -> dict[str, object]:
        """Arguments of the call."""
        found: dict[str, object] = {"layer": "counts"} if self.place == "layer" else {}
        if self.place == "raw":
            found["use_raw"] = True
        return found | ({"nan": "zero"} if self.nan_is_zero else {})

    @property
    def counts(self) -> np.ndarray:
        """The counts that a model must see, float64 (n, 40), genes in the model's order."""
        x = self._plain()
        for stray in self.stray:
            x[self._spot(stray)] = 0
        if self.kind == "log1p":
            x = np.expm1(x)
        if self.columns == "missing":
            x[:, :N_MISSING] = 0
        return x

    # -- the cells ---------------------------------------------------------------------------

    def _plain(self) -> np.ndarray:
        """Values without strays, float64, genes in the model's order."""
        x = query().X.toarray().astype(np.float64)[: self.n]
        if self.dtype in {"int8", "uint8", "bool"}:
            x = np.minimum(x, 100)
        sums = np.maximum(x.sum(1, keepdims=True), 1)
        if self.kind == "log1p":
            x = np.log1p(x / sums * 1e4)
        elif self.kind == "scaled":
            x = np.log1p(x) - 1.0
        elif self.kind == "fractional":
            x = x * 0.93
        elif self.kind == "rounded":
            x = np.rint(x / sums * 1e6)
        elif self.kind == "binary":
            x = (x > 0).astype(np.float64)
        elif self.kind == "zeros":
            x = np.zeros_like(x)
        x[: self.n_empty] = 0
        return x

    def _spot(self, stray: str) -> tuple[int, int]:
        # Behind the missing genes, in the last cell, which is never empty.
        return self.n - 1, N_MISSING + 2 + list(STRAY).index(stray)

    def values(self) -> tuple[np.ndarray, list[str]]:
        """Values and names of genes as the file has them."""
        x = self._plain()
        for stray in self.stray if self.n else ():
            x[self._spot(stray)] = {"nan": np.nan, "inf": np.inf, "negative": -3.0}[stray]
        names = self._names()
        if self.columns == "missing":
            x, names = x[:, N_MISSING:], names[N_MISSING:]
        elif self.columns == "extra":
            more = np.ones((self.n, 5)) * (x.max(1, keepdims=True, initial=0) > 0)
            x, names = np.hstack([x, more]), [*names, *(f"XTRA{c}" for c in "ABCDE")]
        elif self.columns == "duplicated":
            x, names = np.hstack([x, x[:, -1:]]), [*names, names[-1]]
        order = np.random.default_rng(self.order).permutation(len(names))
        if not self.order:
            order = np.arange(len(names))
        return x[:, order], [names[i] for i in order]

    def _names(self) -> list[str]:
        if self.names == "versions":
            return [f"{e}.{i}" for i, e in enumerate(ENSEMBL)]
        if self.names == "blanks":
            return [f" {s}\u00a0" if i % 2 else s for i, s in enumerate(SYMBOLS)]
        if self.names == "foreign":
            return [f"ENSMUSG{i:011d}" for i in range(40)]
        if self.names == "case":
            return [s.capitalize() for s in SYMBOLS]
        return list(SYMBOLS)

    def cells(self) -> AnnData:
        """Return the object that a caller has; what anndata says of it is no concern here."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._cells()

    def _cells(self) -> AnnData:
        x, names = self.values()
        matrix = formed(x.astype(self.dtype), self.form, names)
        obs = pd.DataFrame(index=[f"cell{i}" for i in range(self.n)])
        if self.repeated_cells and self.n > 1:
            obs.index = ["cell0", *obs.index[1:-1], "cell0"]
        var = pd.DataFrame(index=names)
        obs["cell_type"] = pd.Categorical(["a"] * self.n)
        other = sparse.csr_matrix(np.full(x.shape, 0.5, np.float32))
        if self.place == "X":
            adata = anndata.AnnData(matrix, obs=obs, var=var)
        elif self.place == "layer":
            if self.form == "data frame":
                matrix.index = obs.index
            adata = anndata.AnnData(other, obs=obs, var=var, layers={"counts": matrix})
        else:
            adata = anndata.AnnData(other[:, :9], obs=obs, var=var.iloc[:9])
            adata.raw = anndata.AnnData(matrix, obs=obs, var=var)
        return adata[: self.n] if self.view else adata


def _even(sums: np.ndarray) -> bool:
    """Whether the sums of all cells that are not empty agree within 0.1 %."""
    sums = sums[sums > 0]
    return bool(np.ptp(sums) <= 1e-3 * sums.max())


def formed(x: np.ndarray, form: str, names: list[str]) -> object:
    """Return values in one of the forms of matrices."""
    if form in SPARSE:
        wide = np.float32 if x.dtype == np.float16 else x.dtype  # scipy counts no float16
        made = getattr(sparse, form.removeprefix("read-only "))(x.astype(wide))
        if x.dtype == np.float16:
            made.data = made.data.astype(np.float16)
        if form.startswith("read-only"):
            for part in (made.data, made.indices, made.indptr):
                part.flags.writeable = False
        return made
    if form == "dense F":
        return np.asfortranarray(x)
    if form == "np.matrix":
        return np.matrix(x)
    if form == "masked":
        return np.ma.masked_array(x, np.zeros(x.shape, dtype=bool))
    if form == "data frame":
        return pd.DataFrame(x, columns=names)
    x = np.ascontiguousarray(x)
    x.flags.writeable = form != "read-only dense"
    return x


# -- strategies ----------------------------------------------------------------------------------


def _dtypes(kind: str, stray: tuple[str, ...]) -> tuple[str, ...]:
    """Types that hold the values."""
    strays = set(stray)
    if kind in {"log1p", "rounded"}:
        # float16 rounds log1p values so much that their sums prove nothing, and ends at 65,504.
        whole = kind == "rounded" and not {"nan", "inf"} & strays
        return (*FLOATS[:2], "int32", "int64") if whole else FLOATS[:2]
    if {"nan", "inf"} & strays or kind in {"scaled", "fractional"}:
        return FLOATS
    if "negative" in strays:
        return (*FLOATS, "int8", "int16", "int32", "int64")
    # Nothing but presence fits into a bool.
    return (*FLOATS, *INTEGERS) if kind == "binary" else (*FLOATS, *INTEGERS[:-1])


@st.composite
def cases(draw, *, n_faults: int = 9) -> Case:
    """Any query; with ``n_faults=0`` one without a fault."""
    faulty = n_faults > 0
    kind = draw(st.sampled_from(KINDS)) if faulty else "counts"
    stray = draw(st.lists(st.sampled_from(sorted(STRAY)), unique=True)) if faulty else []
    stray = tuple(sorted(stray)) if draw(st.booleans()) else ()
    dtype = draw(st.sampled_from(_dtypes(kind, stray)))
    form = draw(st.sampled_from(FORMS))
    places = ("layer",) if form in LAYERS_ONLY else ("X", "layer", "raw")
    if dtype == "float16" and form in SPARSE:  # see test_sparse_float16_is_as_float32
        form = "dense C"
    names = draw(st.sampled_from(NAMES)) if faulty else "symbols"
    columns = draw(st.sampled_from(COLUMNS)) if faulty else "all"
    if names == "case" and columns == "duplicated":  # see test_several_faults_are_all_named
        columns = "all"
    n = draw(st.sampled_from((20, 20, 3, 2, 1, 0)))
    return Case(
        n=n,
        dtype=dtype,
        form=form,
        place=draw(st.sampled_from(places)),
        view=draw(st.booleans()),
        order=draw(st.integers(0, 5)),
        kind=kind,
        stray=stray if n else (),
        nan_is_zero="nan" in stray and draw(st.booleans()),
        n_empty=draw(st.sampled_from((0, 0, 2))) if faulty and n == 20 else 0,
        names=names,
        columns=columns,
        repeated_cells=draw(st.booleans()) if faulty else False,
    )
