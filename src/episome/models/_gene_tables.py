"""Tables of genes by group, whoever made them, and how far they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from episome.data import require_choice
from episome.errors import Problem, UsageError, warn

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["agreement", "gene_lists"]

#: Where scanpy keeps a differential expression.
RANKED = "rank_genes_groups"


def agreement(
    tables: Mapping[str, pd.DataFrame | AnnData] | Sequence[pd.DataFrame | AnnData],
    k: int = 20,
    *,
    names: Literal["gene", "gene_name"] = "gene",
    key: str = RANKED,
) -> pd.DataFrame:
    """Return how far tables of genes name the same ones for a group, pair by pair.

    Models, seeds, methods and ``scanpy.tl.rank_genes_groups`` can be compared.

    Parameters
    ----------
    tables
        Two or more, by name or in their order: what ``top_genes``, ``explain(groupby=)`` or
        ``explain_errors`` of a model gives, an AnnData object after
        ``scanpy.tl.rank_genes_groups``, or the frame of ``scanpy.get.rank_genes_groups_df``.
    k
        Genes of every group that are compared: the first ones that score above zero.
    names
        Column of a model's table: ``"gene"``, the identifiers that it was trained on, or
        ``"gene_name"``, symbols. Frames of ``explain`` have identifiers, scanpy ``var_names``.
    key
        Where ``uns`` of AnnData objects has the result.

    Returns
    -------
    One row per pair of tables and group that both have: ``first``, ``second``, ``group``,
    ``n_first``, ``n_second`` (genes compared, at most `k`), ``n_shared``, ``jaccard`` (shared of
    all; NaN where neither has a gene), ``mean_jaccard`` (over the groups of the pair).

    Raises
    ------
    UsageError
        Fewer than two tables, something that is none, or two without a common group (E-U79);
        ``k`` below one (E-U22); an unknown word (E-U30).
    """
    require_choice("names", names, ("gene", "gene_name"))
    if k < 1:
        raise UsageError("E-U22", f"k={k}", fix="pass k of at least 1")
    given = (
        dict(tables)
        if isinstance(tables, Mapping)
        else {f"table {i}": table for i, table in enumerate(tables)}
    )
    if len(given) < 2:
        raise UsageError(
            "E-U79", f"{len(given)} tables cannot agree", fix="pass two at least, by name"
        )
    lists = {
        str(n): gene_lists(t, names=names, key=key, where=f"tables[{n!r}]")
        for n, t in given.items()
    }
    return pd.concat([_pair(a, b, lists, k) for a, b in combinations(lists, 2)], ignore_index=True)


def _pair(first: str, second: str, lists: dict[str, dict[str, list[str]]], k: int) -> pd.DataFrame:
    mine, other = lists[first], lists[second]
    groups = [g for g in mine if g in other]
    if not groups:
        raise UsageError(
            "E-U79",
            f"{first!r} and {second!r} have no group in common",
            why=f"{first!r} has {_some(mine)}; {second!r} has {_some(other)}",
            fix="group both by the same column",
        )
    genes = [{g for of in t.values() for g in of} for t in (mine, other)]
    if genes[0] and genes[1] and not genes[0] & genes[1]:
        warn(
            Problem(
                "E-U95",
                f"{first!r} and {second!r} have no gene in common",
                where="agreement()",
                examples=[sorted(g)[0] for g in genes],
                why="identifiers and symbols are different names",
                fix='names="gene_name" compares symbols where the model knows them',
            ),
            stacklevel=4,
        )
    rows = []
    for group in groups:
        a, b = set(mine[group][:k]), set(other[group][:k])
        shared = len(a & b)
        rows.append((len(a), len(b), shared, shared / len(a | b) if a | b else np.nan))
    table = pd.DataFrame(rows, columns=["n_first", "n_second", "n_shared", "jaccard"])
    for i, (name, value) in enumerate((("first", first), ("second", second), ("group", groups))):
        table.insert(i, name, value)
    return table.assign(mean_jaccard=table["jaccard"].mean())


def _some(groups: Mapping[str, Any]) -> str:
    shown = ", ".join(list(groups)[:3])
    return (shown + (" ..." if len(groups) > 3 else "")) or "none"


def gene_lists(
    table: Any, *, names: str = "gene", key: str = RANKED, where: str = "table"
) -> dict[str, list[str]]:
    """Return the genes of every group that score above zero, best first.

    Parameters
    ----------
    table, names, key
        As for :func:`agreement`.
    where
        How messages name it.

    Raises
    ------
    UsageError
        It is no table of genes (E-U79).
    """
    if hasattr(table, "uns") and hasattr(table, "var_names"):
        return _of_scanpy(table, key, where)
    if not isinstance(table, pd.DataFrame):
        raise _no_table(where, f"it is a {type(table).__name__}")
    columns = set(map(str, table.columns))
    if {"type", "called", "gene"} <= columns:
        group = table["type"].astype(str) + " called " + table["called"].astype(str)
        return _listed(group, table["rank"], table[names])
    if {"group", "rank", "gene"} <= columns:
        return _listed(table["group"], table["rank"], table[names])
    if {"names", "scores"} <= columns:
        if "group" not in columns:
            raise _no_table(where, "it has no column 'group': it is of one group alone")
        table = table[table["scores"] > 0]
        return _listed(table["group"], -table["scores"].abs(), table["names"])
    if is_means(table):
        found = {}
        for name, row in zip(table.index, table.to_numpy(dtype=float), strict=True):
            order = np.argsort(-row, kind="stable")
            found[str(name)] = [str(table.columns[i]) for i in order[: int((row > 0).sum())]]
        return found
    raise _no_table(where, f"its columns are {_some(dict.fromkeys(map(str, table.columns)))}")


def is_means(table: pd.DataFrame) -> bool:
    """Whether a frame holds a number for every group and gene, as ``explain(groupby=)`` gives."""
    return table.index.name == "group" and all(
        pd.api.types.is_numeric_dtype(t) for t in table.dtypes
    )


def _listed(group: pd.Series, place: pd.Series, genes: pd.Series) -> dict[str, list[str]]:
    table = pd.DataFrame(
        {"group": group.astype(str), "place": place, "gene": genes.astype(str)}
    ).reset_index(drop=True)
    ordered = table.sort_values("place", kind="stable")
    return {
        str(name): list(dict.fromkeys(part["gene"]))
        for name, part in ordered.groupby("group", sort=False)
    }


def _of_scanpy(adata: AnnData, key: str, where: str) -> dict[str, list[str]]:
    found = adata.uns.get(key)
    if found is None or "names" not in found:
        raise _no_table(where, f"uns has no {key!r}: call scanpy.tl.rank_genes_groups first")
    names = found["names"]
    lists = {}
    for group in names.dtype.names:
        genes = np.asarray(names[group], dtype=object)
        if "scores" in found:
            genes = genes[np.asarray(found["scores"][group]) > 0]
        lists[str(group)] = [str(g) for g in genes]
    return lists


def _no_table(where: str, why: str) -> UsageError:
    return UsageError(
        "E-U79",
        "this is no table of genes by group",
        where=where,
        why=why,
        fix="pass what top_genes, explain(groupby=) or scanpy.tl.rank_genes_groups gives",
    )
