"""The genes of several files as one list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from episome.data._alignment import Alignment, AlignmentReport
from episome.data._features import FeatureSpace
from episome.data._gene_match import clean_names, id_kind, strip_versions
from episome.data._keys import GENE_ID_COLUMNS
from episome.errors import GeneMatchError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class JoinedGenes:
    """Genes of several files.

    Parameters
    ----------
    space
        The genes, those of the first file first.
    alignments
        Map of the genes of each file to them.
    notes
        Lines that say which files lack genes.
    """

    space: FeatureSpace
    alignments: tuple[Alignment, ...]
    notes: tuple[str, ...]

    @property
    def var(self) -> pd.DataFrame:
        """The table of genes: identifiers in the index, other names in columns."""
        other = {k: np.array(v, dtype=object) for k, v in self.space.other.items()}
        return pd.DataFrame(other, index=pd.Index(self.space.ids, dtype=object))


def join_genes(
    tables: Sequence[tuple[pd.DataFrame, str]],
    *,
    join: Literal["inner", "outer"] = "outer",
    duplicates: Literal["error", "sum"] = "error",
    min_gene_overlap: float = 0.5,
) -> JoinedGenes:
    """Find the genes of several tables in each other, by the names that match best.

    Parameters
    ----------
    tables
        Table of genes of every file, and how messages name it.
    join
        ``"outer"`` keeps every gene, ``"inner"`` those of all files.
    duplicates
        Of genes of one name in one file.
    min_gene_overlap
        Smallest accepted share of shared genes, of the smaller of two lists.

    Raises
    ------
    GeneMatchError
        A file shares too few genes with those before it (E-G25).
    InputDataError
        A table cannot be used (see ``FeatureSpace.from_var``).
    """
    space = FeatureSpace(())
    found: list[NDArray[np.int64]] = []
    reports: list[AlignmentReport] = []
    last: pd.Index | None = None
    for var, where in tables:
        if last is not None and var.index.equals(last):
            found.append(found[-1])
            reports.append(replace(reports[-1], where=where))
            continue
        own = FeatureSpace.from_var(var, where=where, duplicates=duplicates)
        if last is None:
            space = own
        matched = space.match(var, duplicates=duplicates, where=where)
        _require_shared(matched, own, min_gene_overlap)
        space, columns = _extended(space, var, matched.columns)
        found.append(columns)
        reports.append(matched.report)
        last = var.index
    present = np.zeros((len(found), len(space)), dtype=bool)
    for row, columns in zip(present, found, strict=True):
        row[columns[columns >= 0]] = True
    keep = np.ones(len(space), dtype=bool)
    if join == "inner":
        keep = present.min(axis=0)
    if join == "inner" and not keep.any():
        raise _no_genes(tables)
    place = np.append(np.where(keep, np.cumsum(keep) - 1, -1), -1)
    alignments = tuple(
        Alignment(place[columns], int(keep.sum()), report)
        for columns, report in zip(found, reports, strict=True)
    )
    notes = _notes(present, keep, [where for _, where in tables], join)
    return JoinedGenes(_chosen(space, keep), alignments, notes)


def _require_shared(matched: Alignment, own: FeatureSpace, min_gene_overlap: float) -> None:
    report = matched.report
    smaller = min(report.n_model, len(own))
    if report.n_matched >= min_gene_overlap * smaller:
        return
    raise GeneMatchError(
        "E-G25",
        "the file shares too few genes with those before it",
        where=report.where,
        count=report.n_matched,
        total=smaller,
        examples=list(own.ids[:3]),
        why="genes of other names, or of another species, would stand beside each other as if "
        "they were different",
        fix="use identifiers of one kind in all files, or lower min_gene_overlap "
        f"(now {min_gene_overlap:g})",
    )


def _no_genes(tables: Sequence[tuple[pd.DataFrame, str]]) -> GeneMatchError:
    return GeneMatchError(
        "E-G25",
        "no gene is in all files",
        where=", ".join(where for _, where in tables[:3]),
        fix='pass join="outer", or fewer files',
    )


def _extended(
    space: FeatureSpace, var: pd.DataFrame, columns: NDArray[np.int64]
) -> tuple[FeatureSpace, NDArray[np.int64]]:
    """Add the genes of a table that nobody had yet, under names of the same kind."""
    new = np.flatnonzero(columns < 0)
    names = _names_like(space.ids, var)
    # A name that another gene has already is left out: which of both is meant is not certain.
    new = new[~pd.Index(names[new]).isin([*space.ids, ""])]
    codes, ids = pd.factorize(names[new])
    columns = columns.copy()
    columns[new] = len(space) + codes
    other = {}
    for key in dict.fromkeys((*space.other, *(c for c in GENE_ID_COLUMNS if c in var.columns))):
        values = np.full(len(space) + len(ids), "", dtype=object)
        values[: len(space)] = space.other.get(key, ("",) * len(space))
        if key in var.columns:
            known = (columns >= 0) & (values[columns] == "")
            values[columns[known]] = clean_names(var[key])[known]
        other[key] = tuple(map(str, values))
    return FeatureSpace((*space.ids, *map(str, ids)), other), columns


def _names_like(ids: Sequence[str], var: pd.DataFrame) -> NDArray[np.object_]:
    """Return the names of a table's genes that are of the kind of some identifiers."""
    kind = id_kind(ids)
    tries = [var.index, *(var[c] for c in GENE_ID_COLUMNS if c in var.columns)]
    lists = [strip_versions(clean_names(t))[0] for t in tries]
    return next((names for names in lists if id_kind(names) == kind), lists[0])


def _chosen(space: FeatureSpace, keep: NDArray[np.bool_]) -> FeatureSpace:
    if keep.all():
        return space

    def some(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(n for n, k in zip(names, keep, strict=True) if k)

    return FeatureSpace(some(space.ids), {k: some(v) for k, v in space.other.items()})


def _notes(
    present: NDArray[np.bool_],
    keep: NDArray[np.bool_],
    names: Sequence[str],
    join: Literal["inner", "outer"],
) -> tuple[str, ...]:
    """Say how many files lack how many genes, and what becomes of these."""
    if present.all():
        return ()
    if join == "inner":
        return (
            f"{int((~keep).sum()):,} of {len(keep):,} genes are not in all {len(names):,} files "
            "and are left out",
        )
    lacking = (~present).sum(axis=1)
    worst = [int(i) for i in np.argsort(-lacking, kind="stable")[:3] if lacking[i]]
    examples = ", ".join(f"{names[i]} {lacking[i]:,}" for i in worst)
    return (
        f"{int((lacking > 0).sum()):,} of {len(names):,} files lack some of the {len(keep):,} "
        f"genes, which are zero there ({examples})",
    )
