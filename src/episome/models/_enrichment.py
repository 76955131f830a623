"""Gene sets in which the genes behind calls are enriched."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from episome import settings
from episome.data import read_gmt, require_choice
from episome.errors import GeneMatchError, MissingDependencyError, UsageError
from episome.log import get_logger
from episome.models._gene_tables import gene_lists, is_means

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from episome.data import FeatureSpace
    from episome.models._capabilities import SupportsExplanation

logger = get_logger(__name__)

__all__ = ["enrichment"]

COLUMNS = (
    "group",
    "set",
    "n_set",
    "n_list",
    "n_found",
    "score",
    "p_value",
    "q_value",
    "genes",
)


def enrichment(
    table: pd.DataFrame,
    gmt: str | Path | Mapping[str, Collection[str]],
    *,
    model: SupportsExplanation | FeatureSpace | None = None,
    background: Sequence[str] | None = None,
    method: Literal["auto", "list", "ranking"] = "auto",
    k: int | None = None,
    min_size: int = 5,
    max_size: int = 500,
    n_permutations: int = 1000,
    seed: int | None = None,
) -> pd.DataFrame:
    """Return the gene sets in which the explained genes of every group are enriched.

    The tests are GSEApy's, on this machine: nothing is sent or downloaded. What a list is compared
    with are the genes of the model, as no other gene could have been in it.

    Parameters
    ----------
    table
        What ``top_genes`` or ``explain_errors`` gives (lists), or ``explain(groupby=)`` (a number
        for every gene).
    gmt
        File of gene sets, ``.gmt`` or ``.gmt.gz``: a line each with name, description and genes,
        separated by tabs. Or a mapping of names to genes.
    model
        The model that made the table, or its ``features``: its genes are the background, by
        identifier or by symbol, whichever the sets use.
    background
        Instead of a model the genes that could have been listed, named as in the column ``gene``.
        For ``explain(groupby=)`` neither is needed, as its columns are all genes of the model.
    method
        ``"list"``: over-representation in a list, by the hypergeometric distribution;
        ``"ranking"``: the running sum over the genes whose number is not zero in the group, ranked
        by it, with a p value from permuted genes (prerank). ``"auto"``: as the table is.
    k
        First genes of every list that are taken; default all that score above zero.
    min_size, max_size
        Sets with fewer or more genes in the background are not tested.
    n_permutations
        Of ``"ranking"``.
    seed
        Of the permutations; default ``episome.settings.seed``.

    Returns
    -------
    One row per group and tested set, most significant first: ``group``, ``set``, ``n_set`` (its
    genes in the background), ``n_list`` (genes of the list or ranking), ``n_found`` (genes in
    both; for a ranking the leading edge), ``score`` (odds ratio, or normalised enrichment score),
    ``p_value`` (of a ranking never below that of one permutation), ``q_value`` (Benjamini and
    Hochberg over all sets that were tested in the group; of a ranking GSEA's own), ``genes``
    (found, separated by ``;``).

    Raises
    ------
    UsageError
        No table of genes, or a ranking of lists (E-U79); the background is not known (E-U78); a
        number below one (E-U22); an unknown word (E-U30).
    GeneMatchError
        The sets name genes in another way than the model, or all are too small (E-U95).
    InputFileError
        The file is missing (E-F07) or cannot be read (E-F22).
    MissingDependencyError
        GSEApy is not installed: ``pip install "episome[enrichment]"`` (E-P02).

    References
    ----------
    Fang, Liu and Peltz (2023), 10.1093/bioinformatics/btac757 (GSEApy); Subramanian et al. (2005),
    10.1073/pnas.0506580102 (the running sum).
    """
    require_choice("method", method, ("auto", "list", "ranking"))
    numbers = (
        ("k", 1 if k is None else k),
        ("min_size", min_size),
        ("n_permutations", n_permutations),
    )
    for name, value in numbers:
        if value < 1:
            raise UsageError("E-U22", f"{name}={value}", fix=f"pass {name} of at least 1")
    gseapy = _gseapy()
    means = isinstance(table, pd.DataFrame) and is_means(table)
    if method == "ranking" and not means:
        raise UsageError(
            "E-U79",
            "a list of genes is no ranking of all genes",
            where="table",
            fix='pass model.explain(query, groupby=...), or method="list"',
        )
    lists = gene_lists(table)  # refuses what is no table of genes
    sets = dict(gmt) if isinstance(gmt, Mapping) else read_gmt(gmt)
    names = _named_as(sets, _background(table, model, background, means=means))
    tested = _tested(sets, names, min_size, max_size)
    if method == "ranking" or (method == "auto" and means):
        parts = [
            _ranking(
                gseapy, str(group), _numbers(row, names), tested, min_size, n_permutations, seed
            )
            for group, row in table.iterrows()
        ]
    else:
        known = set(names.values())
        parts = [
            _list(gseapy, group, {names[g] for g in genes[:k] if g in names}, tested, known)
            for group, genes in lists.items()
        ]
    kept = [p for p in parts if len(p)]
    if not kept:
        return pd.DataFrame({c: [] for c in COLUMNS})
    return pd.concat(kept, ignore_index=True)


def _gseapy() -> ModuleType:
    try:
        import gseapy
    except ImportError as error:
        raise MissingDependencyError(
            "E-P02",
            "GSEApy is not installed",
            why="it tests gene sets for enrichment",
            fix='pip install "episome[enrichment]"',
        ) from error
    found: ModuleType = gseapy
    return found


def _background(
    table: pd.DataFrame, model: Any, background: Sequence[str] | None, *, means: bool
) -> tuple[list[str], list[str]]:
    """Return identifiers and symbols of all genes that could have been listed."""
    if model is not None:
        features = getattr(model, "features", model)
        return [str(i) for i in features.ids], [str(s) for s in features.symbols]
    if background is not None:
        ids = [str(g) for g in background]
    elif means:
        ids = [str(g) for g in table.columns]
    else:
        raise UsageError(
            "E-U78",
            "the genes that could have been listed are not known",
            where="enrichment()",
            why="a list is enriched compared with all genes of its model",
            fix="pass the model that made the table: enrichment(table, gmt, model=model)",
        )
    return ids, ids


def _named_as(
    sets: Mapping[str, Collection[str]], genes: tuple[list[str], list[str]]
) -> dict[str, str]:
    """Return the name that the sets use of every gene, by identifier."""
    inside = {str(g) for genes_of in sets.values() for g in genes_of}
    ids, symbols = genes
    n_ids, n_symbols = (len(inside & set(names)) for names in genes)
    if not n_ids and not n_symbols:
        upper = {g.upper() for g in inside}
        cased = sum(s.upper() in upper for s in symbols)
        raise GeneMatchError(
            "E-U95",
            f"none of the model's {len(ids)} genes is in the gene sets",
            where="gmt",
            examples=[f"{ids[0]} ({symbols[0]})" if ids else "", *sorted(inside)[:2]],
            why=f"{cased} are but for upper and lower case: another species writes them so"
            if cased
            else "identifiers and symbols are different names, and other species have others",
            fix="use sets of the same kind of names and of the same species as the model",
        )
    return dict(zip(ids, symbols if n_symbols > n_ids else ids, strict=True))


def _tested(
    sets: Mapping[str, Collection[str]], names: Mapping[str, str], min_size: int, max_size: int
) -> dict[str, list[str]]:
    """Return the sets that are tested, of each the genes in the background."""
    known = set(names.values())
    inside = {str(n): sorted(known & {str(g) for g in genes}) for n, genes in sets.items()}
    found = {n: genes for n, genes in inside.items() if min_size <= len(genes) <= max_size}
    if not found:
        raise GeneMatchError(
            "E-U95",
            f"no gene set has {min_size} to {max_size} of the model's {len(known)} genes",
            where="gmt",
            count=0,
            total=len(sets),
            why=f"the largest has {max((len(g) for g in inside.values()), default=0)}",
            fix="lower min_size, raise max_size, or use other sets",
        )
    if left_out := [n for n in inside if n not in found]:
        logger.warning(
            "%d of %d gene sets have less than %d or more than %d of the model's genes and are "
            "not tested: %s",
            len(left_out),
            len(inside),
            min_size,
            max_size,
            ", ".join(left_out[:5]) + (" ..." if len(left_out) > 5 else ""),
        )
    return found


def _list(
    gseapy: ModuleType,
    group: str,
    chosen: set[str],
    tested: Mapping[str, list[str]],
    known: set[str],
) -> pd.DataFrame:
    """Test a list; sets without a gene of it have p = 1 and count in the correction."""
    if not chosen:
        return pd.DataFrame()
    rows = pd.DataFrame({"set": list(tested), "n_set": [len(g) for g in tested.values()]})
    hits = {n: sorted(chosen & set(genes)) for n, genes in tested.items()}
    rows["n_found"] = [len(hits[n]) for n in rows["set"]]
    rows["genes"] = [";".join(hits[n]) for n in rows["set"]]
    rows["score"], rows["p_value"] = 0.0, 1.0
    if rows["n_found"].any():
        done = gseapy.enrich(
            sorted(chosen), dict(tested), background=sorted(known), outdir=None, no_plot=True
        ).results.set_index("Term")
        at = rows["set"].isin(done.index)
        terms = rows.loc[at, "set"]
        rows.loc[at, "score"] = done.loc[terms, "Odds Ratio"].to_numpy(dtype=float)
        rows.loc[at, "p_value"] = done.loc[terms, "P-value"].to_numpy(dtype=float)
    rows["q_value"] = false_discovery_control(rows["p_value"].to_numpy(dtype=float))
    return _ordered(rows.assign(group=group, n_list=len(chosen)))


def _numbers(row: pd.Series, names: Mapping[str, str]) -> pd.Series:
    """Return the numbers that are not zero by the names that the sets use, one of a name."""
    numbers = pd.Series(
        row.to_numpy(dtype=float), index=[names.get(str(g), str(g)) for g in row.index]
    )
    numbers = numbers[numbers != 0]
    order = np.lexsort((numbers.index.to_numpy(dtype=str), -numbers.abs().to_numpy()))
    numbers = numbers.iloc[order]
    return numbers[~numbers.index.duplicated()].sort_values(ascending=False, kind="stable")


def _ranking(
    gseapy: ModuleType,
    group: str,
    numbers: pd.Series,
    tested: Mapping[str, list[str]],
    min_size: int,
    n_permutations: int,
    seed: int | None,
) -> pd.DataFrame:
    """Test a ranking; GSEApy gives p = 0 where no permutation was as good."""
    ranked = {n: [g for g in genes if g in numbers.index] for n, genes in tested.items()}
    ranked = {n: genes for n, genes in ranked.items() if len(genes) >= min_size}
    if not ranked:
        return pd.DataFrame()
    done = gseapy.prerank(
        numbers,
        ranked,
        outdir=None,
        no_plot=True,
        min_size=1,
        max_size=len(numbers),
        permutation_num=n_permutations,
        threads=1,
        seed=settings.stream_seed("enrichment", seed, bits=31),
    ).res2d
    leading = done["Lead_genes"].fillna("").astype(str)
    rows = pd.DataFrame(
        {
            "set": done["Term"].astype(str),
            "n_set": [len(ranked[str(t)]) for t in done["Term"]],
            "n_found": [len(g.split(";")) if g else 0 for g in leading],
            "genes": leading,
            "score": done["NES"].astype(float),
            "p_value": done["NOM p-val"].astype(float).clip(lower=1 / (n_permutations + 1)),
            "q_value": done["FDR q-val"].astype(float),
        }
    )
    return _ordered(rows.assign(group=group, n_list=len(numbers)))


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows.sort_values(["p_value", "q_value", "set"], kind="stable")
    return rows[list(COLUMNS)].reset_index(drop=True)
