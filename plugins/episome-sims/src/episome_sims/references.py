"""Several references as one, aligned by gene name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from episome.data import (
    AnnDataSource,
    FeatureSpace,
    check_values,
    clean_labels,
    definite_donors,
    inspect_values,
    obs_column,
    require_choice,
)
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
) -> AnnData:
    """Put several references into one object, ready for ``setup_anndata``.

    Genes are aligned by name, whatever their order and the kind of their names; labels are taken
    as they are: bring them to the same words first, by the terms of the Cell Ontology for example.

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

    Returns
    -------
    A new object: ``X`` CSR float32; ``obs`` with ``cell_type``, the name of the reference, and
    ``donor_id`` (``reference:donor``; the name of the reference without a ``donor_key``);
    ``obs_names`` ``reference:cell``; ``uns["merge_report"]``, lines that say what was done.

    Raises
    ------
    UsageError
        Fewer than two references (E-U24), or no such column (E-U04).
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
    if len(references) < 2:
        raise UsageError(
            "E-U24",
            f"{len(references)} references",
            where="merge_references()",
            why="there is nothing to merge",
            fix='pass {"name": adata, "other name": adata}',
        )
    sources = {str(n): AnnDataSource(a, layer=layer) for n, a in references.items()}
    _require_one_kind(sources)
    space, places = _common_genes(sources, genes)
    blocks, tables, report = [], [], []
    for name, source in sources.items():
        adata = references[name]
        matrix, found = _on(space, source, places[name])
        blocks.append(matrix)
        labels = clean_labels(
            obs_column(adata, _of(labels_key, name), name=name),
            unlabeled_category=unlabeled_category,
            unlabeled="keep",
        )
        donor = None if donor_key is None else obs_column(adata, _of(donor_key, name), name=name)
        tables.append(_cells(name, adata, labels, donor, reference_key))
        line = f"{name}: {source.n_obs:,} cells, {found:,} of {len(space):,} genes"
        report.append(line + ("; the others count as zero" if found < len(space) else ""))
    obs = pd.concat(tables)
    report += _alone(obs, reference_key, unlabeled_category)
    for line in report:
        logger.info("%s", line)
    var = pd.DataFrame(dict(space.other), index=pd.Index(space.ids))
    merged = anndata.AnnData(sparse.vstack(blocks, format="csr"), obs=obs, var=var)
    merged.uns["merge_report"] = np.array(report, dtype=object)
    return merged


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
