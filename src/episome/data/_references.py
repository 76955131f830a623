"""Several references as one: genes aligned by name, labels brought to common ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from episome.data._common_labels import common_labels
from episome.data._features import FeatureSpace
from episome.data._labels import clean_labels, definite_donors
from episome.data._query import require_choice
from episome.data._source import AnnDataSource, obs_column
from episome.data._values import check_values, inspect_values
from episome.errors import GeneMatchError, InputDataError, UsageError
from episome.log import get_logger

if TYPE_CHECKING:
    from anndata import AnnData

logger = get_logger(__name__)


def merge_references(
    references: Mapping[str, AnnData],
    labels_key: str | Mapping[str, str],
    *,
    genes: Literal["intersection", "union"] = "intersection",
    donor_key: str | Mapping[str, str] | None = None,
    layer: str | None = None,
    reference_key: str = "reference",
    unlabeled_category: str = "unknown",
    names: Mapping[str, str] | str | Path | None = None,
    by_term: bool = False,
    ontology_term_key: str | Mapping[str, str] | None = None,
) -> AnnData:
    """Put several references into one object, ready for ``setup_anndata``.

    Genes are aligned by name, whatever their order and the kind of their names; labels by a table
    of yours, and by terms of the Cell Ontology where that is asked for.

    Parameters
    ----------
    references
        At least two objects by their name. Not modified.
    labels_key
        Column of the labels, or the column by the name of the reference.
    genes
        ``"intersection"``: the genes that all have; ``"union"``: all genes, zero where a reference
        did not measure them.
    donor_key
        Column of the donor, or the column by the name of the reference.
    layer
        Where the values are; default ``X``.
    reference_key
        Name of the new column with the name of the reference.
    unlabeled_category
        Label of cells without one.
    names
        Common name by label, or a table of two columns (``.csv`` or ``.tsv``) that says so.
    by_term
        Labels with the same term in several references get its official name: by given terms, else
        by official names and exact synonyms. Two labels of one reference with one term stay two.
    ontology_term_key
        Column of the terms, or the column by the name of the reference.

    Returns
    -------
    A new object: ``X`` CSR float32; ``obs`` with ``cell_type``, the name of the reference, and
    ``donor_id`` (``reference:donor``; the name of the reference without a ``donor_key``), with
    terms ``cell_type_ontology_term_id`` (``unknown`` where there is none or several);
    ``obs_names`` ``reference:cell``; ``uns["merge_report"]``, lines that say what was done;
    ``uns["merge_labels"]``, a table of every reference's labels with their number of cells, term
    and common name.

    Raises
    ------
    UsageError
        Fewer than two references (E-U24), no such column (E-U04), or a table of names that is none
        (E-U105).
    InputDataError
        Counts beside values of another kind (E-D07), or genes that cannot be told apart (E-G11).
    GeneMatchError
        No gene is in all references (E-G02).

    Examples
    --------
    >>> from episome.data import simulate_cells
    >>> a, b = simulate_cells(30, 40, seed=0), simulate_cells(20, 40, seed=1)
    >>> both = merge_references({"a": a, "b": b[:, ::-1].copy()}, labels_key="cell_type")
    >>> both.shape
    (50, 40)
    """
    require_choice("genes", genes, ("intersection", "union"))
    if not isinstance(references, Mapping) or len(references) < 2:
        raise UsageError(
            "E-U24",
            f"{len(references)} references"
            if isinstance(references, Mapping)
            else f"references are a {type(references).__name__}",
            where="merge_references()",
            why="there is nothing to merge",
            fix='pass {"name": adata, "other name": adata}',
        )
    sources = {str(n): AnnDataSource(a, layer=layer) for n, a in references.items()}
    _require_one_kind(sources)
    space, places = _common_genes(sources, genes)
    blocks, tables, report = [], [], []
    own: dict[str, dict[str, str]] = {}
    for name, source in sources.items():
        adata = references[name]
        matrix, found = _on(space, source, places[name])
        blocks.append(matrix)
        labels = clean_labels(
            obs_column(adata, _of(labels_key, name), name=name),
            unlabeled_category=unlabeled_category,
            unlabeled="keep",
        )
        if ontology_term_key is not None:
            given = obs_column(adata, _of(ontology_term_key, name), name=name)
            own[name] = _terms(labels, given)
        donor = None if donor_key is None else obs_column(adata, _of(donor_key, name), name=name)
        tables.append(_cells(name, adata, labels, donor, reference_key))
        line = f"{name}: {source.n_obs:,} cells, {found:,} of {len(space):,} genes"
        report.append(line + ("; the others count as zero" if found < len(space) else ""))
    obs = pd.concat(tables)
    counts = {
        n: part["cell_type"][part["cell_type"] != unlabeled_category].value_counts().to_dict()
        for n, part in obs.groupby(reference_key, sort=False)
    }
    table, said = common_labels(counts, names=_table(names), terms=own, by_term=by_term)
    common = {(r.reference, r.label): r.merged for r in table.itertuples()}
    pairs = zip(obs[reference_key], obs["cell_type"], strict=True)
    obs["cell_type"] = [common.get(pair, pair[1]) for pair in pairs]
    report += said
    if by_term or ontology_term_key is not None:
        # One term for all cells of a common name, where the references agree on it.
        by_name = table.groupby("merged")["term"].unique()
        agreed = {n: t[0] for n, t in by_name.items() if len(t) == 1 and t[0]}
        obs["cell_type_ontology_term_id"] = obs["cell_type"].map(agreed).fillna("unknown")
    report += _alone(obs, reference_key, unlabeled_category)
    for line in report:
        logger.info("%s", line)
    var = pd.DataFrame(dict(space.other), index=pd.Index(space.ids))
    merged = anndata.AnnData(sparse.vstack(blocks, format="csr"), obs=obs, var=var)
    merged.uns["merge_report"] = np.array(report, dtype=object)
    merged.uns["merge_labels"] = table
    return merged


def _table(names: Mapping[str, str] | str | Path | None) -> dict[str, str]:
    """Return the common name by label, of a mapping or of a table of two columns."""
    if names is None or isinstance(names, Mapping):
        return {str(k): str(v) for k, v in dict(names or {}).items()}
    try:
        separator = "\t" if Path(names).suffix == ".tsv" else ","
        found = pd.read_csv(names, sep=separator, dtype=str, keep_default_na=False)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise _no_table(str(names), str(error)) from error
    if found.shape[1] < 2 or found.iloc[:, 0].duplicated().any():
        why = "it has one column" if found.shape[1] < 2 else "a label comes twice"
        raise _no_table(str(names), why)
    return dict(zip(found.iloc[:, 0], found.iloc[:, 1], strict=True))


def _no_table(where: str, why: str) -> UsageError:
    return UsageError(
        "E-U105",
        "the table of common names cannot be used",
        where=where,
        why=why,
        fix="write a label and its common name in every row, under a row of headings",
    )


def _terms(labels: np.ndarray, given: pd.Series) -> dict[str, str]:
    """Return the term of every label, where all its cells have the same."""
    text = given.astype("object").where(given.notna(), "").astype(str).to_numpy()
    by = pd.Series(text).groupby(np.asarray(labels, dtype=object)).unique()
    return {str(k): str(v[0]) for k, v in by.items() if len(v) == 1 and ":" in str(v[0])}


def _of(key: str | Mapping[str, str], name: str) -> str:
    return key if isinstance(key, str) else key[name]


def _require_one_kind(sources: Mapping[str, AnnDataSource]) -> None:
    """Refuse counts beside logged values: the same number would mean two things."""
    kinds = {name: check_values(inspect_values(s)) for name, s in sources.items()}
    if len(set(kinds.values())) > 1:
        raise InputDataError(
            "E-D07",
            "references hold values of different kinds",
            where="merge_references()",
            examples=[f"{name} holds {kind}" for name, kind in kinds.items()],
            why="a model reads all its cells by one rule",
            fix="pass counts for all, in X or in the layer that layer= names",
        )


def _common_genes(
    sources: Mapping[str, AnnDataSource], genes: str
) -> tuple[FeatureSpace, dict[str, np.ndarray]]:
    """Return the genes of the whole, and for every reference the place of each of its genes."""
    first, *_ = sources.values()
    space = FeatureSpace.from_var(first.var, where=first.where)
    for source in list(sources.values())[1:]:
        own = FeatureSpace.from_var(source.var, where=source.where)
        if genes == "union":
            new = space.match(source.var, where=source.where).columns < 0
            more = [i for i, fresh in zip(own.ids, new, strict=True) if fresh]
            # Other names are known for all genes or for none.
            space = FeatureSpace((*space.ids, *more), {} if more else space.other)
    places = {n: space.match(s.var, where=s.where).columns for n, s in sources.items()}
    if genes == "union":
        return space, places
    shared = np.logical_and.reduce([np.isin(np.arange(len(space)), p) for p in places.values()])
    if not shared.any():
        raise GeneMatchError(
            "E-G02",
            "no gene is in all references",
            where="merge_references()",
            examples=[f"{n}: {s.var.index[0]}" for n, s in sources.items()],
            why="names of genes are of different kinds or species",
            fix="use the same identifiers, or add a column of symbols to var",
        )
    keep = np.flatnonzero(shared)
    place = np.full(len(space) + 1, -1, dtype=np.int64)
    place[keep] = np.arange(len(keep))
    other = {k: tuple(np.array(v, dtype=object)[keep]) for k, v in space.other.items()}
    kept = FeatureSpace(tuple(np.array(space.ids, dtype=object)[keep]), other)
    return kept, {n: place[p] for n, p in places.items()}


def _on(
    space: FeatureSpace, source: AnnDataSource, places: np.ndarray
) -> tuple[sparse.csr_matrix, int]:
    """Return the values of a reference on the genes of the whole, and how many it has."""
    block = source.read(slice(0, source.n_obs)).astype(np.float32)
    known = np.flatnonzero(places >= 0)
    ones = np.ones(len(known), dtype=np.float32)
    move = sparse.csr_matrix((ones, (known, places[known])), shape=(len(places), len(space)))
    return sparse.csr_matrix(block @ move), len(np.unique(places[known]))


def _cells(
    name: str,
    adata: AnnData,
    labels: np.ndarray,
    donors: pd.Series | None,
    reference_key: str,
) -> pd.DataFrame:
    # Donors of two references are two donors; cells of no definite one stay so.
    known = [None] * adata.n_obs if donors is None else definite_donors(donors)
    absent = name if donors is None else None
    donor = [absent if d is None else f"{name}:{d}" for d in known]
    table = {"cell_type": labels, reference_key: name, "donor_id": donor}
    return pd.DataFrame(table, index=[f"{name}:{cell}" for cell in adata.obs_names])


def _alone(obs: pd.DataFrame, reference_key: str, unlabeled: str) -> list[str]:
    """Say which types only one reference has: often two words for one type."""
    by_type = obs.groupby("cell_type", observed=True)[reference_key].nunique()
    alone = [str(t) for t, n in by_type.items() if n == 1 and t != unlabeled]
    if not alone:
        return []
    return [f"{len(alone)} of {len(by_type)} types are in one reference only: {', '.join(alone)}"]
