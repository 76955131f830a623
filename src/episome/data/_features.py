"""`FeatureSpace`: the one place where the genes of a query are aligned to those of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from episome.data._alignment import Alignment, AlignmentReport, missing_genes
from episome.data._gene_match import (
    clean_names,
    id_kind,
    placeholders,
    positions,
    strip_versions,
    without_version,
)
from episome.data._gene_problems import mixtures, repeated_genes, said_of_blanks, unnamed
from episome.data._gene_repairs import (
    GeneMap,
    look_like_dates,
    made_unique,
    read_gene_map,
    repairs,
)
from episome.data._keys import GENE_ID_COLUMNS, SYMBOL_COLUMNS
from episome.errors import Collector, GeneMatchError, InputDataError, Problem, raise_problems, warn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data._importance import GeneImportance


DEFAULT_MIN_OVERLAP = 0.5


@dataclass(frozen=True, slots=True)
class FeatureSpace:
    """An ordered list of features of one modality and their other names.

    Parameters
    ----------
    ids
        Unique identifiers in the model's order.
    other
        Other names of the same features by column, e.g. ``{"feature_name": (...)}``; they are
        tried when the identifiers of a query do not match.
    modality
        ``"rna"``, ``"protein"`` or ``"atac"``.
    """

    ids: tuple[str, ...]
    other: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    modality: str = "rna"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def digest(self) -> str:
        """SHA-256 of the identifiers in order; the same genes give the same digest."""
        return hashlib.sha256("\n".join(self.ids).encode()).hexdigest()

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbol of every gene where one is known, else its identifier."""
        known = next((self.other[c] for c in SYMBOL_COLUMNS if c in self.other), self.ids)
        return tuple(s or i for s, i in zip(known, self.ids, strict=True))

    @classmethod
    def from_var(
        cls,
        var: pd.DataFrame,
        *,
        where: str = "adata.var",
        duplicates: Literal["error", "sum"] = "error",
        modality: str = "rna",
    ) -> FeatureSpace:
        """Read the features of training data.

        Parameters
        ----------
        var
            Table of genes; its index holds the identifiers.
        where
            How messages name it.
        duplicates
            ``"sum"`` keeps one feature for equal names (their values are added), ``"error"``
            refuses.
        modality
            Of what; names of proteins and peaks are not judged as those of genes are.

        Raises
        ------
        InputDataError
            No genes (E-D33), names that are empty or not strings (E-G13), duplicates (E-G11),
            genes of several species (E-G16), other features beside genes (E-G18).
        """
        if len(var) == 0:
            raise InputDataError("E-D33", "there are no genes", where=where, fix="pass other data")
        names = clean_names(var.index)
        ids, _ = strip_versions(names)
        first = pd.Index(ids).duplicated(keep="first")
        genes = modality == "rna"
        problems = [*unnamed(var.index, names, where), *(mixtures(var, where) if genes else ())]
        if first.any() and duplicates == "error":
            repeated = pd.Index(ids)[first & (ids != "")].unique()
            problems += [repeated_genes(repeated, len(ids), where)] if len(repeated) else []
        raise_problems(InputDataError, problems)
        if genes and placeholders(ids):
            warn(
                Problem(
                    "E-G14",
                    "gene names are numbered placeholders",
                    where=where,
                    count=len(ids),
                    total=len(ids),
                    examples=list(ids[:3]),
                    why="another file's placeholders would match, whatever its genes are",
                    fix="set var_names to gene symbols or Ensembl identifiers",
                )
            )
        keep = ~first
        other = {
            str(c): tuple(clean_names(var[c])[keep]) for c in GENE_ID_COLUMNS if c in var.columns
        }
        return cls(tuple(ids[keep]), other, modality)

    def align(
        self,
        var: pd.DataFrame,
        *,
        min_gene_overlap: float = DEFAULT_MIN_OVERLAP,
        duplicates: Literal["error", "sum", "first"] = "error",
        gene_map: GeneMap | None = None,
        gene_case: Literal["as is", "upper"] = "as is",
        importance: GeneImportance | None = None,
        where: str = "adata.var",
    ) -> Alignment:
        """Map the genes of ``var`` to this space.

        Names are tried in this order: the index of ``var`` and its known identifier columns, each
        against the model's identifiers and their other names, with and without Ensembl version.
        The pair that finds most genes is taken first; genes it does not find are looked for in
        the others, and then by names put right: by the user's table, without a prefix of an
        assembly or an attached Ensembl identifier, as the genes that a spreadsheet turned into
        dates. No gene of the model is found twice that way.

        Parameters
        ----------
        var
            Gene table of the query.
        min_gene_overlap
            Smallest accepted share of this space's features, and of their ``importance``.
        duplicates
            What to do with query genes of one name that the model knows: refuse, add up, or take
            the first. Adding up also joins ``TBCE-1`` to ``TBCE``.
        gene_map
            Table from names in the data to names that the model knows, for aliases, another kind
            of identifier, or the genes of another species.
        gene_case
            ``"upper"`` reads symbols in capitals, for human genes in small letters.
        importance
            How much the model's calls rest on every gene.
        where
            How messages name the query.

        Returns
        -------
        An :class:`Alignment`.

        Raises
        ------
        GeneMatchError
            Fewer than ``min_gene_overlap`` features are found, or the found ones carry less of
            the model's weight (E-G02, E-G03).
        InputDataError
            Duplicated names among the matched genes (E-G11), genes of several species (E-G16),
            other features beside genes (E-G18).
        """
        if len(var) == 0 and len(self):
            raise InputDataError("E-D33", "there are no genes", where=where, fix="pass other data")
        raise_problems(InputDataError, mixtures(var, where))
        best, column, stripped = self._best_match(var)
        table = None if gene_map is None else read_gene_map(gene_map)
        repaired = said_of_blanks(var)
        repaired += self._find_more(best, var, table, upper=gene_case == "upper")
        repaired += self._join_made_unique(best, var, where, sum_up=duplicates == "sum")
        if duplicates == "first":
            first = pd.Series(best).where(best >= 0).duplicated().to_numpy() & (best >= 0)
            best = np.where(first, -1, best)
        matched = best[best >= 0]
        counts = np.bincount(matched, minlength=len(self))
        n_matched = int((counts > 0).sum())
        report = AlignmentReport(
            where=where,
            n_model=len(self),
            n_query=len(var),
            n_matched=n_matched,
            n_extra=int((best < 0).sum()),
            n_summed=int(counts.sum() - n_matched),
            id_column=column,
            versions_stripped=stripped,
            missing=tuple(np.asarray(self.ids, dtype=object)[counts == 0][:10]),
            repaired=tuple(repaired),
            lost=None if importance is None else importance.lost(counts > 0),
        )
        if n_matched and placeholders(np.asarray(self.ids, dtype=object)):
            warn(
                Problem(
                    "E-G14",
                    "genes were matched by numbered placeholders",
                    where=where,
                    count=n_matched,
                    total=len(self),
                    examples=self.ids[:3],
                    why="the calls mean nothing unless both files number the same genes alike",
                    fix="train on data with gene symbols or Ensembl identifiers",
                )
            )
        found = Collector()
        with found.collecting():
            if report.overlap < min_gene_overlap:
                self._refuse_overlap(var, report, min_gene_overlap)
            if report.weight is not None and report.weight < min_gene_overlap:
                raise GeneMatchError(_too_light(report, min_gene_overlap))
        with found.collecting():
            if report.n_summed and duplicates == "error":
                repeated = [self.ids[i] for i in np.flatnonzero(counts > 1)]
                raise InputDataError(_repeated_in_query(repeated, report))
        found.raise_all()
        if few := missing_genes(report):
            warn(few)
        self._warn_names(best, var, where)
        return Alignment(best, len(self), report)

    def _find_more(
        self,
        best: NDArray[np.int64],
        var: pd.DataFrame,
        gene_map: Mapping[str, str] | None,
        *,
        upper: bool,
    ) -> list[str]:
        """Find genes that the best pair of columns did not, in place; say how many and how."""
        said = []
        for label, names in self._columns(var):
            n = self._fill(best, clean_names(names))
            if n:
                said.append(f"{n:,} more were found by {label}")
        if (best >= 0).all():
            return said
        for repair in repairs(clean_names(var.index), gene_map=gene_map, upper=upper):
            n = sum(self._fill(best, names) for names in repair.names)
            if n:
                said.append(f"{n:,} names were {repair.what}")
        return said

    def _fill(self, best: NDArray[np.int64], names: NDArray[np.object_]) -> int:
        """Match genes that have none yet to model genes that nobody has; return their number."""
        n_before = int((best >= 0).sum())
        for ids in (self.ids, *self.other.values()):
            index = pd.Index(strip_versions(np.asarray(ids, dtype=object))[0])
            exact = positions(index, names)
            found = np.where(exact >= 0, exact, positions(index, without_version(names)))
            taken = np.isin(found, best[best >= 0])
            several = pd.Series(found).duplicated(keep=False).to_numpy()
            new = (best < 0) & (found >= 0) & ~taken & ~several
            best[new] = found[new]
        return int((best >= 0).sum()) - n_before

    def _join_made_unique(
        self, best: NDArray[np.int64], var: pd.DataFrame, where: str, *, sum_up: bool
    ) -> list[str]:
        """Add ``TBCE-1`` to ``TBCE`` where that is asked for, else say that it is left out."""
        names = clean_names(var.index)
        base = made_unique(names)
        position = pd.Series(best, index=names)[~pd.Index(names).duplicated()]
        target = position.reindex(base).fillna(-1).to_numpy(dtype=np.int64)
        late = (best < 0) & (target >= 0)
        if not late.any():
            return []
        if sum_up:
            best[late] = target[late]
            return [f"{late.sum():,} numbered duplicates were added to their gene"]
        warn(
            Problem(
                "E-G12",
                "genes that were numbered to tell duplicates apart",
                where=where,
                count=int(late.sum()),
                total=len(names),
                examples=list(names[late][:3]),
                why="only the first of each is read",
                fix='pass duplicates="sum" to add them up',
            )
        )
        return []

    def _warn_names(self, best: NDArray[np.int64], var: pd.DataFrame, where: str) -> None:
        """Say which names are dates, or of another case than the model's."""
        names = clean_names(var.index)
        dates = look_like_dates(names) & (best < 0)
        if dates.any():
            warn(
                Problem(
                    "E-G10",
                    "genes whose names a spreadsheet turned into dates",
                    where=where,
                    count=int(dates.sum()),
                    total=len(names),
                    examples=list(names[dates][:3]),
                    why="they are not among the genes of the model, or cannot be told apart",
                    fix="write the file again without a spreadsheet",
                )
            )

    def _columns(self, var: pd.DataFrame) -> list[tuple[str, object]]:
        """Return every list of names of the genes of a table, with what messages call it."""
        known = [(f"var[{c!r}]", var[c]) for c in GENE_ID_COLUMNS if c in var.columns]
        return [("var_names", var.index), *known]

    def _best_match(self, var: pd.DataFrame) -> tuple[NDArray[np.int64], str, int]:
        mine = [self.ids, *self.other.values()]
        theirs = self._columns(var)
        best = (np.full(len(var), -1, dtype=np.int64), "var_names", 0)
        hits = -1
        for label, column in theirs:
            names = clean_names(column)
            short = without_version(names)
            for ids in mine:
                index = pd.Index(strip_versions(np.asarray(ids, dtype=object))[0])
                exact = positions(index, names)
                found = np.where(exact >= 0, exact, positions(index, short))
                n = len(np.unique(found[found >= 0]))
                if n > hits:
                    best, hits = (found, label, int((found != exact).sum())), n
                if n == len(self):
                    return best
        return best

    def _refuse_overlap(self, var: pd.DataFrame, report: AlignmentReport, limit: float) -> None:
        theirs = list(map(str, var.index[:3]))
        in_capitals = np.full(len(var), -1, dtype=np.int64)
        for repair in repairs(clean_names(var.index), gene_map=None, upper=True):
            for names in repair.names:
                self._fill(in_capitals, names)
        if (in_capitals >= 0).sum() > max(report.n_matched, limit * len(self)):
            raise GeneMatchError(
                "E-G08",
                "gene names differ from the model's by their case",
                where=report.where,
                count=int((in_capitals >= 0).sum()),
                total=report.n_model,
                examples=theirs,
                why="Cd4 is how mouse genes are written, and a human model does not read those",
                fix='gene_case="upper" if the genes are human; gene_map= with the orthologues if '
                "they are of another species",
            )
        problem = Problem(
            "E-G02" if report.n_matched == 0 else "E-G03",
            "too few of the model's genes are found",
            where=report.where,
            count=report.n_matched,
            total=report.n_model,
            why=f"the model knows {', '.join(self.ids[:3])}, the data has {', '.join(theirs)} "
            f"({id_kind(self.ids)} against {id_kind(var.index)}), and a call made from "
            "missing genes would be a guess",
            fix="put identifiers of the model's kind into var_names or a column such as "
            f"var['feature_name'], pass a table as gene_map=, or lower min_gene_overlap (now "
            f"{limit:g})",
        )
        raise GeneMatchError([problem, *unnamed(var.index, clean_names(var.index), report.where)])


def _too_light(report: AlignmentReport, limit: float) -> Problem:
    """Return the refusal of a query whose genes are many, but not those that matter."""
    return Problem(
        "E-G03",
        "the genes on which the model's calls rest are missing",
        where=report.where,
        count=report.n_model - report.n_matched,
        total=report.n_model,
        examples=report.missing,
        why=f"the genes that are there carry {report.weight or 0.0:.0%} of the model's weight; "
        f"most is lost for {report.most_lost}, and a call made from the rest would be a guess",
        fix="pass all genes that were measured, train on the genes that the data have, or lower "
        f"min_gene_overlap (now {limit:g})",
        details={"lost": dict(report.lost or {})},
    )


def _repeated_in_query(repeated: list[str], report: AlignmentReport) -> Problem:
    return Problem(
        "E-G11",
        "duplicated gene names",
        where=report.where,
        count=len(repeated),
        total=report.n_query,
        examples=repeated,
        why="their columns cannot be told apart",
        fix='pass duplicates="sum" or "first", or make the names unique',
    )
