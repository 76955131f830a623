"""`FeatureSpace`: the one place where the genes of a query are aligned to those of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from episome.data._alignment import (
    Alignment,
    AlignmentReport,
    missing_genes,
    numbered_genes,
    other_case,
    too_few_genes,
    too_light,
)
from episome.data._gene_match import (
    clean_names,
    placeholders,
    positions,
    strip_versions,
    without_version,
)
from episome.data._gene_problems import mixtures, repeated_genes, said_of_blanks, unnamed
from episome.data._gene_repairs import (
    GeneMap,
    read_gene_map,
)
from episome.data._gene_search import (
    best_match,
    find_more,
    in_capitals,
    join_made_unique,
    name_lists,
    several,
    warn_dates,
)
from episome.data._keys import GENE_ID_COLUMNS, SYMBOL_COLUMNS
from episome.errors import (
    Collector,
    GeneMatchError,
    InputDataError,
    Problem,
    UsageError,
    did_you_mean,
    raise_problems,
    warn,
)

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
    def _names(self) -> tuple[tuple[str, ...], ...]:
        """Every list of names of the features."""
        return (self.ids, *self.other.values())

    @property
    def digest(self) -> str:
        """SHA-256 of the identifiers in order; the same genes give the same digest."""
        return hashlib.sha256("\n".join(self.ids).encode()).hexdigest()

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbol of every gene where one is known, else its identifier."""
        known = next((self.other[c] for c in SYMBOL_COLUMNS if c in self.other), self.ids)
        return tuple(s or i for s, i in zip(known, self.ids, strict=True))

    def find(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Return where genes are by their identifier or another name, -1 for those not found.

        Parameters
        ----------
        names
            Identifiers, with or without a version of Ensembl, or symbols.

        Returns
        -------
        Positions in ``ids``, int64 (n_names,); -1 too for a name that several genes have.
        """
        asked = clean_names(list(names))
        found = np.full(len(asked), -1, dtype=np.int64)
        for known in map(pd.Index, self._names):
            for tried in (asked, without_version(asked)):
                found = np.where(found < 0, positions(known, tried), found)
        return found

    def places(self, names: Sequence[str], *, where: str = "genes") -> NDArray[np.int64]:
        """Return where genes are by their identifier or another name, in the order asked for.

        Parameters
        ----------
        names
            Identifiers, with or without a version of Ensembl, or symbols.
        where
            How messages name the list.

        Returns
        -------
        Positions in ``ids``, int64 (n_names,); a gene that is named twice comes twice.

        Raises
        ------
        UsageError
            Names that no gene has, or several have (E-U61).
        """
        asked = clean_names(list(names))
        found = self.find(names)
        several_have = np.zeros(len(asked), dtype=bool)
        for known in map(pd.Index, self._names):
            several_have |= np.isin(asked, known[known.duplicated() & (known != "")])
        problems = []
        if (unknown := (found < 0) & ~several_have).any():
            first = str(asked[unknown][0])
            problems.append(
                Problem(
                    "E-U61",
                    "genes that the model does not know",
                    where=where,
                    count=int(unknown.sum()),
                    total=len(asked),
                    examples=list(asked[unknown][:3]),
                    fix=did_you_mean(first, dict.fromkeys(n for of in self._names for n in of))
                    or "use identifiers of model.features.ids, or symbols of the model's genes",
                )
            )
        if (doubtful := (found < 0) & several_have).any():
            problems.append(
                Problem(
                    "E-U61",
                    "names that several genes of the model have",
                    where=where,
                    count=int(doubtful.sum()),
                    total=len(asked),
                    examples=list(asked[doubtful][:3]),
                    why="which is meant is not certain",
                    fix="use identifiers of model.features.ids",
                )
            )
        raise_problems(UsageError, problems)
        return found

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
        The pair that finds most genes is taken first, and where several find as many, with
        ``duplicates="error"`` the one that names fewest alike; genes it does not find are looked
        for in the others, and then by names put right: by the user's table, without a prefix of an
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
        alignment = self.match(
            var,
            duplicates=duplicates,
            gene_map=gene_map,
            gene_case=gene_case,
            importance=importance,
            where=where,
        )
        self.require_overlap(
            alignment, var, min_gene_overlap=min_gene_overlap, duplicates=duplicates
        )
        return alignment

    def match(
        self,
        var: pd.DataFrame,
        *,
        duplicates: Literal["error", "sum", "first"] = "error",
        gene_map: GeneMap | None = None,
        gene_case: Literal["as is", "upper"] = "as is",
        importance: GeneImportance | None = None,
        where: str = "adata.var",
    ) -> Alignment:
        """Look for the genes of ``var`` as :meth:`align` does, however few are found.

        What to use is still to be judged: see :meth:`require_overlap`.

        Raises
        ------
        InputDataError
            No genes (E-D33), genes of several species (E-G16), other features beside genes
            (E-G18).
        """
        if len(var) == 0 and len(self):
            raise InputDataError("E-D33", "there are no genes", where=where, fix="pass other data")
        raise_problems(InputDataError, mixtures(var, where))
        by = best_match(self._names, name_lists(var), prefer_unique=duplicates == "error")
        best = by.found
        table = None if gene_map is None else read_gene_map(gene_map)
        repaired = said_of_blanks(var)
        repaired += find_more(self._names, best, var, table, upper=gene_case == "upper")
        repaired += join_made_unique(best, var, where, sum_up=duplicates == "sum")
        if duplicates == "first":
            first = pd.Series(best).where(best >= 0).duplicated().to_numpy() & (best >= 0)
            best = np.where(first, -1, best)
        counts = np.bincount(best[best >= 0], minlength=len(self))
        n_matched = int((counts > 0).sum())
        report = AlignmentReport(
            where=where,
            n_model=len(self),
            n_query=len(var),
            n_matched=n_matched,
            n_extra=int((best < 0).sum()),
            n_summed=int(counts.sum() - n_matched),
            id_column=by.label,
            versions_stripped=by.versions_stripped,
            missing=self._heaviest(np.flatnonzero(counts == 0), importance),
            repaired=tuple(repaired),
            lost=None if importance is None else importance.lost(counts > 0),
        )
        return Alignment(best, len(self), report)

    def _heaviest(
        self, missing: NDArray[np.int64], importance: GeneImportance | None
    ) -> tuple[str, ...]:
        """Return the first ten missing genes, those that weigh most before the others."""
        if importance is not None:
            weights = importance.weights[:, missing].mean(axis=0)
            missing = missing[np.argsort(-weights, kind="stable")]
        return tuple(self.ids[i] for i in missing[:10])

    def require_overlap(
        self,
        alignment: Alignment,
        var: pd.DataFrame,
        *,
        min_gene_overlap: float = DEFAULT_MIN_OVERLAP,
        duplicates: Literal["error", "sum", "first"] = "error",
    ) -> None:
        """Refuse what :meth:`match` found where it is too little or repeated; warn of doubts.

        Raises
        ------
        GeneMatchError, InputDataError
            See :meth:`align`.
        """
        report, columns = alignment.report, alignment.columns
        if report.n_matched and placeholders(np.asarray(self.ids, dtype=object)):
            warn(numbered_genes(self.ids, report))
        found = Collector()
        with found.collecting():
            if report.overlap < min_gene_overlap:
                capitals = in_capitals(self._names, var)
                places = np.unique(capitals[capitals >= 0])
                if len(places) > max(report.n_matched, min_gene_overlap * len(self)):
                    columns = capitals
                    raise GeneMatchError(other_case(places, var, report))
                raise GeneMatchError(too_few_genes(self.ids, var, report, min_gene_overlap))
            if report.weight is not None and report.weight < min_gene_overlap:
                raise GeneMatchError(too_light(report, min_gene_overlap))
        with found.collecting():
            if duplicates == "error" and several(columns).any():
                label = report.id_column if columns is alignment.columns else "var_names"
                raise InputDataError(_found_twice(columns, var, report.where, label))
        found.raise_all()
        if few := missing_genes(report):
            warn(few)
        warn_dates(alignment.columns, var, report.where)


def _found_twice(columns: NDArray[np.int64], var: pd.DataFrame, where: str, label: str) -> Problem:
    """Return the refusal of genes that one list of names does not tell apart."""
    names = without_version(clean_names(dict(name_lists(var))[label]))
    return repeated_genes(
        pd.Index(names[several(columns)]).unique(),
        len(var),
        f"{where}, {label}",
        'pass duplicates="sum" or "first" (--duplicates sum), or make the names unique',
    )
