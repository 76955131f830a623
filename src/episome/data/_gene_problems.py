"""What is wrong with a table of genes, before it is compared with a model's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from episome.data._gene_match import clean_names
from episome.data._gene_names import mixed_species
from episome.data._keys import FEATURE_KINDS, GENE_EXPRESSION
from episome.errors import Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray


def repeated_genes(
    names: pd.Index,
    total: int,
    where: str,
    fix: str = 'pass duplicates="sum" (--duplicates sum) to add them up, or make the names unique',
) -> Problem:
    return Problem(
        "E-G11",
        "duplicated gene names",
        where,
        len(names),
        total,
        list(names),
        "their columns cannot be told apart",
        fix,
    )


def mixtures(var: pd.DataFrame, where: str) -> list[Problem]:
    """Return what stands together in a matrix and must be taken apart first."""
    mixed = mixed_species(var.index, where)
    return [p for p in (mixed, _other_kinds(var, where)) if p is not None]


def _other_kinds(var: pd.DataFrame, where: str) -> Problem | None:
    """Return the problem of antibodies, peaks or guides that stand beside genes."""
    for column in ("feature_types", "feature_type"):
        counts = var[column].astype(str).value_counts() if column in var.columns else {}
        others = {str(k): int(counts[k]) for k in FEATURE_KINDS if k in counts}
        if others and GENE_EXPRESSION not in counts and sum(others.values()) == len(var):
            return Problem(
                "E-G18",
                f"no genes, but other features ({', '.join(others)})",
                where,
                len(var),
                len(var),
                list(var.index[:3]),
                "a model of genes would read them as expression",
                "pass the object that holds the genes",
            )
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


def unnamed(raw: pd.Index, names: NDArray[np.object_], where: str) -> list[Problem]:
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


def said_of_blanks(var: pd.DataFrame) -> list[str]:
    given = np.asarray(var.index.astype(str), dtype=object)
    n = int(((given != clean_names(var.index)) & var.index.notna()).sum())
    return [f"{n:,} names were freed of blanks and marks"] if n else []
