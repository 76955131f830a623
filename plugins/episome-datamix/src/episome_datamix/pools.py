"""Cells of a corpus or an evaluation set that may be drawn."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome import plugins
from episome.confidence import classes_within
from episome.data import (
    AnnDataSource,
    CellSource,
    cells_where,
    clean_labels,
    existing_columns,
    open_source,
)
from episome.errors import InputDataError, UsageError
from episome.ontology import cell_ontology
from episome_datamix.scale import BLOCK

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome_datamix.plan import Corpus, Plan

#: Column of the terms of the Cell Ontology, where a corpus names none.
TERM = "cell_type_ontology_term_id"
#: Beginning of an address such as ``census:...`` or ``s3://...``.
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:")
#: Type of a cell without one.
NO_TYPE = "unknown"
#: Mitochondrial genes of human and mouse that code for proteins, by Ensembl identifier.
_MITO = frozenset(
    [
        f"ENSG00000{n}"
        for n in (
            "198888",
            "198763",
            "198804",
            "198712",
            "228253",
            "198899",
            "198938",
            "198840",
            "212907",
            "198886",
            "198786",
            "198695",
            "198727",
        )
    ]
    + [
        f"ENSMUSG00000{n}"
        for n in (
            "064341",
            "064345",
            "064351",
            "064354",
            "064356",
            "064357",
            "064358",
            "064360",
            "065947",
            "064363",
            "064367",
            "064368",
            "064370",
        )
    ]
)


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The cells of a corpus or evaluation set that may be drawn.

    Parameters
    ----------
    name
        Of the corpus.
    corpus
        What it is.
    source
        All of its cells.
    rows
        Those that may be drawn, int64, ascending.
    lost
        How many were left out, by why.
    """

    name: str
    corpus: Corpus
    source: CellSource
    rows: NDArray[np.int64]
    lost: Mapping[str, int]

    def types(self, rows: NDArray[np.int64]) -> NDArray[np.object_]:
        """Return the cell type of rows of the source; ``"unknown"`` where there is none."""
        if self.corpus.labels_key is None:
            return np.full(len(rows), NO_TYPE, dtype=object)
        given = self.source.obs_column(self.corpus.labels_key).iloc[rows]
        found: NDArray[np.object_] = clean_labels(
            given, unlabeled_category=NO_TYPE, unlabeled="keep"
        )
        return found

    def terms(self, rows: NDArray[np.int64]) -> NDArray[np.object_]:
        """Return the term of rows of the source; empty where there is none."""
        key = self.corpus.term_key
        if key is None:
            key = next(iter(existing_columns(self.source, [TERM])), None)
        if key is None:
            return np.full(len(rows), "", dtype=object)
        return self.source.obs_column(key).iloc[rows].astype(str).to_numpy(dtype=object)

    def donors(self, rows: NDArray[np.int64]) -> NDArray[np.object_]:
        """Return the donor of rows of the source, with its study; ``None`` where unknown."""
        if self.corpus.donor_key is None:
            return np.full(len(rows), None, dtype=object)
        given = self.source.obs_column(self.corpus.donor_key).iloc[rows]
        return np.array(
            [None if pd.isna(d) else f"{self.corpus.of}/{d}" for d in given], dtype=object
        )

    def names(self, rows: NDArray[np.int64]) -> NDArray[np.object_]:
        """Return the names of rows of the source, with their study."""
        return np.array(
            [f"{self.corpus.of}/{n}" for n in self.source.obs_names[rows]], dtype=object
        )


def pool_of(plan: Plan, name: str, base: Path, *, evaluation: bool = False) -> Pool:
    """Return the cells of a corpus or evaluation set that may be drawn.

    Parameters
    ----------
    plan
        Whose it is.
    name
        Of the corpus, or of the evaluation set.
    base
        Folder that paths are relative to.
    evaluation
        Of the evaluation sets.

    Raises
    ------
    UsageError
        A column is missing (E-U04), or a condition is none (E-U90).
    InputDataError
        No cells are left (E-B06), or no mitochondrial gene is known (E-B05).
    """
    corpus = (plan.evaluation if evaluation else plan.corpora)[name]
    held = () if evaluation else plan.hold_out
    return _pool(name, corpus, json.dumps(plan.to_dict()["qc"]), tuple(held), str(base))


@lru_cache(maxsize=64)
def _pool(name: str, corpus: Corpus, qc: str, hold_out: tuple[str, ...], base: str) -> Pool:
    source = _opened(corpus, base)
    kept = cells_where(source, corpus.where)
    lost = {"where": int((~kept).sum())}
    good = _good_cells(source, json.loads(qc))
    lost["qc"] = int((kept & ~good).sum())
    kept &= good
    found = Pool(name, corpus, source, np.flatnonzero(kept), lost)
    if corpus.half:
        mine = _of_half(found)
        lost["half"] = int((~mine).sum())
        found = Pool(name, corpus, source, found.rows[mine], lost)
    if hold_out:
        held = held_out(found, hold_out)
        lost["hold_out"] = int(held.sum())
        found = Pool(name, corpus, source, found.rows[~held], lost)
    if not len(found.rows):
        raise InputDataError(
            "E-B06",
            f"no cells are left of {source.n_obs:,}",
            where=name,
            why=", ".join(f"{n:,} by {why}" for why, n in lost.items() if n),
            fix="look at where =, hold_out = and [qc]",
        )
    return found


def _of_half(pool: Pool) -> NDArray[np.bool_]:
    """Return which cells that may be drawn are of the half that is asked for.

    Donors, or cells where no donor is known, are put in an order that their names decide, and
    every second one is of the second half.
    """
    units = pool.donors(pool.rows)
    unknown = np.array([u is None for u in units])
    units[unknown] = pool.names(pool.rows[unknown])
    names = sorted(set(units), key=lambda u: hashlib.sha256(str(u).encode()).digest())
    wanted = set(names[0 if pool.corpus.half == "first" else 1 :: 2])
    return np.array([u in wanted for u in units], dtype=bool)


def _opened(corpus: Corpus, base: str) -> CellSource:
    path = Path(base) / corpus.source
    if not path.exists() and corpus.source in (known := plugins.datasets()):
        spec = known[corpus.source]
        cells = plugins.load_object(spec.target, plugin=spec.plugin)()
        return AnnDataSource(cells, layer=corpus.layer, name=corpus.source)
    # An address is opened as it is; whatever else is missing is missing where the plan is.
    address = not path.exists() and _ADDRESS.match(corpus.source)
    return open_source(corpus.source if address else str(path), layer=corpus.layer)


def _good_cells(source: CellSource, qc: Mapping[str, Any]) -> NDArray[np.bool_]:
    asked = qc["max_mito"] is not None
    if not asked and not qc["min_counts"] and not qc["min_genes"] and qc["max_counts"] is None:
        return np.ones(source.n_obs, dtype=bool)
    mito = mitochondrial(source.var)
    if asked and not mito.any():
        raise InputDataError(
            "E-B05",
            "max_mito is asked for, and no mitochondrial gene is known",
            where=source.where,
            why="neither symbols (MT-ND1) nor Ensembl identifiers of these genes are there",
            fix="leave max_mito out, or pass cells with these genes",
        )
    good = np.ones(source.n_obs, dtype=bool)
    for start in range(0, source.n_obs, BLOCK):
        rows = slice(start, min(start + BLOCK, source.n_obs))
        block = source.read(rows)
        sums = np.asarray(block.sum(axis=1)).ravel()
        good[rows] &= sums >= qc["min_counts"]
        good[rows] &= np.diff(block.indptr) >= qc["min_genes"]
        if qc["max_counts"] is not None:
            good[rows] &= sums <= qc["max_counts"]
        if asked:
            of = np.asarray(block[:, np.flatnonzero(mito)].sum(axis=1)).ravel()
            good[rows] &= of <= qc["max_mito"] * sums
    return good


def mitochondrial(var: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which genes are mitochondrial, by symbol or Ensembl identifier, bool (n_genes,).

    Parameters
    ----------
    var
        Gene table; its index and all columns of text are looked at.
    """
    found = np.zeros(len(var), dtype=bool)
    columns = [var.index.astype(str).to_series(), *(var[c] for c in var if _is_text(var[c]))]
    for column in columns:
        names = column.astype(str)
        known = names.str.replace(r"\.\d+$", "", regex=True).isin(_MITO)
        found |= (names.str.upper().str.startswith("MT-") | known).to_numpy()
    return found


def _is_text(column: pd.Series) -> bool:
    return not pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def held_out(pool: Pool, hold_out: tuple[str, ...]) -> NDArray[np.bool_]:
    """Return which cells that may be drawn are of held-out types or kinds of them, bool.

    Parameters
    ----------
    pool
        The cells.
    hold_out
        Labels, or terms of the Cell Ontology.
    """
    types = pool.types(pool.rows)
    terms = pool.terms(pool.rows)
    table = pd.DataFrame({"type": types, "term": terms}).drop_duplicates()
    names = table["type"].astype(str).to_list()
    known = [t if str(t).startswith("CL:") else "" for t in table["term"]]
    ontology = cell_ontology()
    resolved = ontology.resolve(names, term_ids=known)
    ids = [t or "" for t in resolved.term_ids]
    mask = np.zeros(len(names), dtype=bool)
    for one in hold_out:
        try:
            mask |= classes_within(names, ids, (one,), ontology)
        except UsageError as error:
            # A corpus need not have every type that is held out.
            if error.problems[0].code != "E-L43":
                raise
    held = set(zip(table["type"][mask], table["term"][mask], strict=True))
    return np.array([pair in held for pair in zip(types, terms, strict=True)], dtype=bool)
