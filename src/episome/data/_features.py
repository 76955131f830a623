"""`FeatureSpace`: the one place where the genes of a query are aligned to those of a model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from episome.data._gene_names import mixed_species
from episome.data._gene_repairs import (
    GeneMap,
    look_like_dates,
    made_unique,
    read_gene_map,
    repairs,
)
from episome.data._keys import FEATURE_KINDS, GENE_EXPRESSION, GENE_ID_COLUMNS, SYMBOL_COLUMNS
from episome.errors import GeneMatchError, InputDataError, Problem, raise_problems, warn

if TYPE_CHECKING:
    from numpy.typing import NDArray


_VERSION = re.compile(r"^(ENS[A-Z]*[GTP]\d{6,})\.\d+$")
_PLACEHOLDER = re.compile(r"^(gene|Gene|feature|var|col|column|x|v|g)[ _.-]?\d+$")
DEFAULT_MIN_OVERLAP = 0.5
#: Share of the model's genes below which a query is used with a warning.
FULL_OVERLAP = 0.8


@dataclass(frozen=True, slots=True)
class AlignmentReport:
    """How the genes of a query met those of the model."""

    where: str
    n_model: int
    n_query: int
    n_matched: int
    n_extra: int
    n_summed: int
    id_column: str
    versions_stripped: int
    missing: tuple[str, ...]
    repaired: tuple[str, ...] = ()

    @property
    def overlap(self) -> float:
        """Share of the model's genes that the query has."""
        return self.n_matched / max(self.n_model, 1)

    @property
    def text(self) -> str:
        """One line for logs and results."""
        line = (
            f"{self.n_matched:,} of the model's {self.n_model:,} genes are in {self.where} "
            f"({self.overlap:.1%}, matched by {self.id_column})"
        )
        if self.missing:
            line += f"; {self.n_model - self.n_matched:,} missing ones count as zero"
        if self.n_extra:
            line += f"; {self.n_extra:,} genes unknown to the model are left out"
        if self.n_summed:
            line += f"; {self.n_summed:,} duplicated genes were summed"
        return "; ".join([line, *self.repaired])


@dataclass(frozen=True, slots=True)
class Alignment:
    """A map from the genes of a query to those of a model.

    Parameters
    ----------
    columns
        For every query gene its position in the model, or -1; int64 of shape (n_query,).
    n_features
        Number of genes of the model.
    report
        What was found.
    """

    columns: NDArray[np.int64]
    n_features: int
    report: AlignmentReport

    @property
    def is_identity(self) -> bool:
        """Whether the query has the model's genes in the model's order."""
        return len(self.columns) == self.n_features and bool(
            (self.columns == np.arange(self.n_features)).all()
        )

    def apply(self, block: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return ``block`` with the model's genes in the model's order; missing genes are zero.

        Parameters
        ----------
        block
            CSR of shape (n, n_query); not modified.

        Returns
        -------
        CSR of shape (n, n_features), columns sorted, duplicates summed.
        """
        if self.is_identity:
            return block
        target = self.columns[block.indices]
        keep = target >= 0
        kept = np.zeros(len(target) + 1, dtype=np.int64)
        np.cumsum(keep, out=kept[1:])
        out = sparse.csr_matrix(
            (block.data[keep], target[keep], kept[block.indptr]),
            shape=(block.shape[0], self.n_features),
        )
        out.sum_duplicates()
        return out


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
        problems = [*_unnamed(var.index, names, where), *_mixtures(var, where)]
        if first.any() and duplicates == "error":
            repeated = pd.Index(ids)[first & (ids != "")].unique()
            problems += [_repeated(repeated, len(ids), where)] if len(repeated) else []
        raise_problems(InputDataError, problems)
        if _placeholders(ids):
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
        return cls(tuple(ids[keep]), other)

    def align(
        self,
        var: pd.DataFrame,
        *,
        min_gene_overlap: float = DEFAULT_MIN_OVERLAP,
        duplicates: Literal["error", "sum", "first"] = "error",
        gene_map: GeneMap | None = None,
        gene_case: Literal["as is", "upper"] = "as is",
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
            Smallest accepted share of this space's features.
        duplicates
            What to do with query genes of one name that the model knows: refuse, add up, or take
            the first. Adding up also joins ``TBCE-1`` to ``TBCE``.
        gene_map
            Table from names in the data to names that the model knows, for aliases, another kind
            of identifier, or the genes of another species.
        gene_case
            ``"upper"`` reads symbols in capitals, for human genes in small letters.
        where
            How messages name the query.

        Returns
        -------
        An :class:`Alignment`.

        Raises
        ------
        GeneMatchError
            Fewer than ``min_gene_overlap`` features are found (E-G02, E-G03).
        InputDataError
            Duplicated names among the matched genes (E-G11), genes of several species (E-G16),
            other features beside genes (E-G18).
        """
        if len(var) == 0 and len(self):
            raise InputDataError("E-D33", "there are no genes", where=where, fix="pass other data")
        raise_problems(InputDataError, _mixtures(var, where))
        best, column, stripped = self._best_match(var)
        table = None if gene_map is None else read_gene_map(gene_map)
        repaired = _said_of_blanks(var)
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
        )
        if n_matched and _placeholders(np.asarray(self.ids, dtype=object)):
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
        if report.overlap < min_gene_overlap:
            self._refuse_overlap(var, report, min_gene_overlap)
        if report.n_summed and duplicates == "error":
            repeated = [self.ids[i] for i in np.flatnonzero(counts > 1)]
            raise InputDataError(
                "E-G11",
                "duplicated gene names",
                where=where,
                count=len(repeated),
                total=len(var),
                examples=repeated,
                why="their columns cannot be told apart",
                fix='pass duplicates="sum" or "first", or make the names unique',
            )
        _warn_overlap(report)
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
            exact = _positions(index, names)
            found = np.where(exact >= 0, exact, _positions(index, _without_version(names)))
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
            short = _without_version(names)
            for ids in mine:
                index = pd.Index(strip_versions(np.asarray(ids, dtype=object))[0])
                exact = _positions(index, names)
                found = np.where(exact >= 0, exact, _positions(index, short))
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
            f"({_id_kind(self.ids)} against {_id_kind(var.index)}), and a call made from "
            "missing genes would be a guess",
            fix="put identifiers of the model's kind into var_names or a column such as "
            f"var['feature_name'], pass a table as gene_map=, or lower min_gene_overlap (now "
            f"{limit:g})",
        )
        raise GeneMatchError([problem, *_unnamed(var.index, clean_names(var.index), report.where)])


def clean_names(names: object) -> NDArray[np.object_]:
    """Return names as stripped strings (BOM and non-breaking spaces too); missing becomes ''."""
    series = pd.Series(np.asarray(names, dtype=object))
    text = series.where(series.notna(), "").astype(str)
    clean: NDArray[np.object_] = text.str.replace("\ufeff", "", regex=False).str.strip().to_numpy()
    return clean.astype(object)


def _said_of_blanks(var: pd.DataFrame) -> list[str]:
    given = np.asarray(var.index.astype(str), dtype=object)
    n = int(((given != clean_names(var.index)) & var.index.notna()).sum())
    return [f"{n:,} names were freed of blanks and marks"] if n else []


def _warn_overlap(report: AlignmentReport) -> None:
    if report.overlap < FULL_OVERLAP and report.n_model:
        warn(
            Problem(
                "E-G04",
                "genes of the model are missing",
                report.where,
                report.n_model - report.n_matched,
                report.n_model,
                report.missing,
                f"they count as zero: {report.overlap:.0%} of the model's genes are left to "
                "call by",
                "pass all genes that were measured, or train on the genes that the data have",
            )
        )


def strip_versions(names: NDArray[np.object_]) -> tuple[NDArray[np.object_], int]:
    """Remove Ensembl version suffixes, except where two genes would become one.

    Returns
    -------
    The names and how many were changed.
    """
    short = _without_version(names)
    if (short == names).all():
        return names, 0
    several = pd.Series(names).groupby(short).transform("nunique").to_numpy() > 1
    kept = np.where(several, names, short)
    return kept, int((kept != names).sum())


def _without_version(names: NDArray[np.object_]) -> NDArray[np.object_]:
    return np.array([_VERSION.sub(r"\1", n) for n in names], dtype=object)


def _positions(index: pd.Index, names: NDArray[np.object_]) -> NDArray[np.int64]:
    """Position of every name in ``index``; a name that stands twice there counts as unknown."""
    once = np.flatnonzero(~index.duplicated(keep=False) & (index != ""))
    if len(once) == 0:
        return np.full(len(names), -1, dtype=np.int64)
    where = pd.Series(once, index=index[once]).reindex(names).fillna(-1)
    found: NDArray[np.int64] = where.to_numpy(dtype=np.int64)
    return found


def _repeated(names: pd.Index, total: int, where: str) -> Problem:
    return Problem(
        "E-G11",
        "duplicated gene names",
        where,
        len(names),
        total,
        list(names),
        "their columns cannot be told apart",
        'pass duplicates="sum" to add them up, or make the names unique',
    )


def _mixtures(var: pd.DataFrame, where: str) -> list[Problem]:
    """Return what stands together in a matrix and must be taken apart first."""
    mixed = mixed_species(var.index, where)
    return [p for p in (mixed, _other_kinds(var, where)) if p is not None]


def _other_kinds(var: pd.DataFrame, where: str) -> Problem | None:
    """Return the problem of antibodies, peaks or guides that stand beside genes."""
    for column in ("feature_types", "feature_type"):
        counts = var[column].astype(str).value_counts() if column in var.columns else {}
        others = {str(k): int(counts[k]) for k in FEATURE_KINDS if k in counts}
        if others and GENE_EXPRESSION in counts:
            shown = ", ".join(f"{k} {n:,}" for k, n in others.items())
            return Problem(
                "E-G18",
                f"other features beside genes ({shown})",
                where,
                sum(others.values()),
                len(var),
                list(var.index[var[column].astype(str).isin(list(others))][:3]),
                "they would count as genes and change the size of every cell",
                f'adata = adata[:, adata.var["{column}"] == "{GENE_EXPRESSION}"].copy()',
            )
    return None


def _unnamed(raw: pd.Index, names: NDArray[np.object_], where: str) -> list[Problem]:
    numbers = pd.api.types.is_numeric_dtype(raw) or all(n.isdigit() for n in names[:50])
    # A missing name is "nan" once anndata made text of it; one alone is a gene of the fly.
    empty = (names == "") | ((names == "nan") & ((names == "nan").sum() > 1))
    if not numbers and not empty.any():
        return []
    return [
        Problem(
            "E-G13",
            "gene names are row numbers" if numbers else "genes without a name",
            where=where,
            count=len(names) if numbers else int(empty.sum()),
            total=len(names),
            why="a query could only be matched by position, which is how labels go wrong",
            fix="set var_names to gene symbols or Ensembl identifiers",
        )
    ]


def _placeholders(names: NDArray[np.object_]) -> bool:
    """Whether most names are a word and a number, such as ``gene_17``: nothing a genome has."""
    sample = [str(n) for n in names[:500]]
    return sum(bool(_PLACEHOLDER.match(n)) for n in sample) > 0.9 * len(sample)


def _id_kind(names: Sequence[str] | pd.Index) -> str:
    sample = [str(n) for n in list(names)[:200]]
    ensembl = sum(n.startswith("ENS") for n in sample)
    if ensembl > 0.8 * len(sample):
        return "Ensembl identifiers"
    lower = sum(n[:1].isupper() and n[1:].islower() for n in sample if n[1:].isalpha())
    return "mouse-style symbols" if lower > 0.3 * len(sample) else "symbols"
