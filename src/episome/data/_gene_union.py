"""The genes of several files as one list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from episome.data._alignment import Alignment, AlignmentReport
from episome.data._features import FeatureSpace
from episome.data._gene_join import distinct_genes, find_genes, with_new_genes
from episome.data._keys import GENE_ID_COLUMNS
from episome.errors import GeneMatchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data._gene_join import JoinedFile

_SAID = {
    "differing": "genes were joined by name, though their identifiers differ",
    "renamed": "genes have the name of another gene, and stand apart from it under another",
    "summed": "genes were added up with another of their file, of the same name",
}


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
        Lines that say which files lack genes, and which genes were joined in spite of their
        identifiers, kept apart in spite of their names, or added up.
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
    """Find the genes of several tables in each other, by identifier or else by name.

    Identifiers of Ensembl in the index or a known column of two tables go first, unless names
    find more; names find genes that have none. Every gene of a table is one of the joined list,
    and no two are the same unless ``duplicates="sum"`` adds up genes of one name: a gene whose
    name another gene has stands under another of its names.

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
    files: list[_File] = []
    last: pd.DataFrame | None = None
    for var, where in tables:
        names = var[[c for c in GENE_ID_COLUMNS if c in var.columns]]
        if last is not None and names.equals(last):
            files.append(replace(files[-1], where=where))
            continue
        own = FeatureSpace.from_var(var, where=where, duplicates=duplicates)
        table, rows = distinct_genes(var, own)
        if last is None:
            space = own
        found = find_genes(space, table, where, sum_up=duplicates == "sum")
        _require_shared(found, own, len(space), where, min_gene_overlap)
        report = _report(found, var, len(space), where)
        space, places, renamed = with_new_genes(space, table, found.columns)
        columns = places[rows]
        summed = table.index[rows][pd.Index(columns).duplicated()]
        said = {"differing": found.differing, "renamed": renamed, "summed": tuple(summed)}
        files.append(_File(where, columns, report, said))
        last = names
    present = np.zeros((len(files), len(space)), dtype=bool)
    for row, file in zip(present, files, strict=True):
        row[file.columns] = True
    keep = np.ones(len(space), dtype=bool)
    if join == "inner":
        keep = present.min(axis=0)
    if join == "inner" and not keep.any():
        raise _no_genes(tables)
    place = np.where(keep, np.cumsum(keep) - 1, -1)
    alignments = tuple(Alignment(place[f.columns], int(keep.sum()), f.report) for f in files)
    notes = (*_notes(present, keep, [f.where for f in files], join), *_said(files, join))
    return JoinedGenes(_chosen(space, keep), alignments, notes)


@dataclass(frozen=True, slots=True)
class _File:
    """A file: where its genes are, what matching found, and which genes have to be spoken of."""

    where: str
    columns: NDArray[np.int64]
    report: AlignmentReport
    said: Mapping[str, tuple[str, ...]]


def _report(found: JoinedFile, var: pd.DataFrame, n_before: int, where: str) -> AlignmentReport:
    n_extra = int((found.columns < 0).sum())
    return AlignmentReport(
        where=where,
        n_model=n_before,
        n_query=len(var),
        n_matched=found.n_matched,
        n_extra=n_extra,
        n_summed=len(found.columns) - n_extra - found.n_matched,
        id_column=found.id_column,
        versions_stripped=found.versions_stripped,
        missing=(),
        repaired=found.repaired,
    )


def _require_shared(
    found: JoinedFile, own: FeatureSpace, n_before: int, where: str, min_gene_overlap: float
) -> None:
    smaller = min(n_before, len(own))
    if found.n_matched >= min_gene_overlap * smaller:
        return
    raise GeneMatchError(
        "E-G25",
        "the file shares too few genes with those before it",
        where=where,
        count=found.n_matched,
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


def _said(files: Sequence[_File], join: Literal["inner", "outer"]) -> list[str]:
    """Name the genes that did not go where their names alone would have put them."""
    lines = []
    for kind, what in _SAID.items():
        there = [(f.where, f.said[kind]) for f in files if f.said[kind]]
        if not there or (kind == "renamed" and join == "inner"):
            continue
        total = sum(len(genes) for _, genes in there)
        where, genes = max(there, key=lambda one: len(one[1]))
        examples = ", ".join(genes[:3])
        lines.append(
            f"{total:,} {what}, in {len(there):,} of {len(files):,} files ({where} "
            f"{len(genes):,}, first: {examples})"
        )
    return lines
