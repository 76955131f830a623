"""What aligning the genes of a query to a model's found, and the map that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from episome.data._gene_match import clean_names, id_kind
from episome.data._gene_problems import unnamed
from episome.data._matrix import move_columns
from episome.errors import MAX_EXAMPLES, Problem

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from scipy import sparse

#: Share of the model's genes below which a query is used with a warning.
FULL_OVERLAP = 0.8
#: The same of its weight: the heaviest genes are few, and calls go wrong without them.
FULL_WEIGHT = 0.95


@dataclass(frozen=True, slots=True)
class AlignmentReport:
    """How the genes of a query met those of the model.

    ``lost`` is the share of the model's weight that missing genes carried, by cell type, largest
    first; ``None`` where the model does not say how much its genes weigh.
    """

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
    lost: Mapping[str, float] | None = None

    @property
    def overlap(self) -> float:
        """Share of the model's genes that the query has."""
        return self.n_matched / max(self.n_model, 1)

    @property
    def weight(self) -> float | None:
        """Share of the model's weight that the found genes carry, mean over cell types."""
        if not self.lost:
            return None
        return 1.0 - sum(self.lost.values()) / len(self.lost)

    @property
    def most_lost(self) -> str:
        """The cell types that lose most, in words; empty where nothing is lost."""
        worst = [(n, s) for n, s in (self.lost or {}).items() if s >= 0.005][:MAX_EXAMPLES]
        return ", ".join(f"{name} {share:.0%}" for name, share in worst)

    @property
    def text(self) -> str:
        """One line for logs and results."""
        line = (
            f"{self.n_matched:,} of the model's {self.n_model:,} genes are in {self.where} "
            f"({self.overlap:.1%}, matched by {self.id_column})"
        )
        if self.missing:
            line += f"; {self.n_model - self.n_matched:,} missing ones count as zero"
            if self.weight is not None:
                line += f", {1 - self.weight:.1%} of the model's weight"
                line += f" (most: {self.most_lost})" if self.most_lost else ""
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
        return move_columns(block, self.columns, self.n_features)


def missing_genes(report: AlignmentReport) -> Problem | None:
    """Return the warning for a query that lacks many genes, or those that weigh most."""
    weight = 1.0 if report.weight is None else report.weight
    if report.n_model == 0 or (report.overlap >= FULL_OVERLAP and weight >= FULL_WEIGHT):
        return None
    left = f"{report.overlap:.0%} of the model's genes"
    if report.weight is not None:
        left += f" with {report.weight:.0%} of its weight"
    most = f"; most is lost for {report.most_lost}" if report.most_lost else ""
    return Problem(
        "E-G04",
        "genes of the model are missing",
        report.where,
        report.n_model - report.n_matched,
        report.n_model,
        report.missing,
        f"they count as zero, and {left} are left to call by{most}",
        "pass all genes that were measured, or train on the genes that the data have",
        {"lost": dict(report.lost or {})},
    )


def numbered_genes(ids: tuple[str, ...], report: AlignmentReport) -> Problem:
    """Return the warning for names that only say which row a gene had."""
    return Problem(
        "E-G14",
        "genes were matched by numbered placeholders",
        report.where,
        report.n_matched,
        report.n_model,
        ids[:3],
        "the calls mean nothing unless both files number the same genes alike",
        "train on data with gene symbols or Ensembl identifiers",
    )


def other_case(found: NDArray[np.int64], var: pd.DataFrame, report: AlignmentReport) -> Problem:
    """Return the refusal of genes that are the model's only when read in capitals."""
    return Problem(
        "E-G08",
        "gene names differ from the model's by their case",
        report.where,
        len(found),
        report.n_model,
        list(map(str, var.index[:3])),
        "Cd4 is how mouse genes are written, and a human model does not read those",
        'gene_case="upper" (--gene-case upper) if the genes are human; gene_map= (--gene-map) '
        "with the orthologues if they are of another species",
    )


def too_few_genes(
    ids: tuple[str, ...], var: pd.DataFrame, report: AlignmentReport, limit: float
) -> list[Problem]:
    """Return the refusal of a query without most genes, and what is wrong with its names."""
    theirs = list(map(str, var.index[:3]))
    if report.n_matched and id_kind(ids) == id_kind(var.index):
        return [
            Problem(
                "E-G03",
                "too few of the model's genes are found",
                report.where,
                report.n_matched,
                report.n_model,
                why=f"the names are of one kind, {report.n_model - report.n_matched:,} genes are "
                "not there, and a call made from missing genes would be a guess",
                fix="pass all genes that were measured, train on the genes that the data have, or "
                f"lower min_gene_overlap (--min-gene-overlap, now {limit:g})",
            ),
            *unnamed(var.index, clean_names(var.index), report.where),
        ]
    if report.n_matched >= 0.5 * len(var) > 0:
        # Their names are understood: there are few of them.
        problem = Problem(
            "E-G03",
            "the data have too few genes for the model",
            report.where,
            report.n_matched,
            report.n_model,
            why=f"of the data's {len(var):,} genes {report.n_matched:,} are the model's, which "
            f"was trained on {report.n_model:,}, and a call made from missing genes would be a "
            "guess",
            fix="pass all genes that were measured (raw or a layer may have them), train on the "
            f"genes that the data have, or lower min_gene_overlap (--min-gene-overlap, now "
            f"{limit:g})",
        )
        return [problem, *unnamed(var.index, clean_names(var.index), report.where)]
    problem = Problem(
        "E-G02" if report.n_matched == 0 else "E-G03",
        "too few of the model's genes are found",
        report.where,
        report.n_matched,
        report.n_model,
        why=f"the model knows {', '.join(ids[:3])}, the data has {', '.join(theirs)} "
        f"({id_kind(ids)} against {id_kind(var.index)}), and a call made from missing genes "
        "would be a guess",
        fix="put identifiers of the model's kind into var_names or a column such as "
        "var['feature_name'], pass a table as gene_map= (--gene-map), or lower min_gene_overlap "
        f"(--min-gene-overlap, now {limit:g})",
    )
    return [problem, *unnamed(var.index, clean_names(var.index), report.where)]


def too_light(report: AlignmentReport, limit: float) -> Problem:
    """Return the refusal of a query whose genes are many, but not those that matter."""
    return Problem(
        "E-G03",
        "the genes on which the model's calls rest are missing",
        report.where,
        report.n_model - report.n_matched,
        report.n_model,
        report.missing,
        f"the genes that are there carry {report.weight or 0.0:.0%} of the model's weight; most "
        f"is lost for {report.most_lost}, and a call made from the rest would be a guess",
        "pass all genes that were measured, train on the genes that the data have, or lower "
        f"min_gene_overlap (--min-gene-overlap, now {limit:g})",
        {"lost": dict(report.lost or {})},
    )
