"""Weights of marker genes: of a table, or learned from labelled cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from episome.errors import GeneMatchError, Problem, warn
from episome_baselines.correlation import group_means

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

    from episome.data import FeatureSpace
    from episome.models import TrainingCells
    from episome_baselines.marker_table import MarkerTable

#: Standard deviation of log1p values below which a gene weighs no more: it is hardly ever seen.
LEAST_SPREAD = 0.1


def known_markers(table: MarkerTable, features: FeatureSpace) -> MarkerTable:
    """Return the part of a table that the data have, and say what they lack.

    Parameters
    ----------
    table
        Weights by type and gene.
    features
        Genes of the data.

    Raises
    ------
    GeneMatchError
        Fewer than two types are left (E-G24).
    """
    place = gene_places(table, features)
    kept = {
        cell_type: {g: w for g, w in genes.items() if place[g] >= 0}
        for cell_type, genes in table.items()
    }
    # A type that only lacks genes would be the call of every empty cell.
    lost = [t for t, genes in kept.items() if not any(w > 0 for w in genes.values())]
    missing = [g for g, p in place.items() if p < 0]
    if missing:
        warn(
            Problem(
                "E-G23",
                "markers that the data do not have",
                where="the table of markers",
                count=len(missing),
                total=len(place),
                examples=missing[:3],
                why="they are left out",
            )
        )
    problem = Problem(
        "E-G24",
        "types without a marker among the genes of the data",
        where="the table of markers",
        count=len(lost),
        total=len(table),
        examples=lost[:3],
        why="they can never be called, and at least two types are needed",
        fix="name genes as the data do, by symbol or Ensembl identifier, or take the types out",
    )
    if len(table) - len(lost) < 2:
        raise GeneMatchError(problem)
    if lost:
        warn(problem)
    return {t: genes for t, genes in kept.items() if t not in set(lost)}


def gene_places(table: MarkerTable, features: FeatureSpace) -> dict[str, int]:
    """Return where every gene of a table is among the genes of the data, or -1."""
    names = list(dict.fromkeys(g for genes in table.values() for g in genes))
    found = features.match(pd.DataFrame(index=names), where="the table of markers")
    return dict(zip(names, map(int, found.columns), strict=True))


def spread(values: sparse.csr_matrix) -> NDArray[np.float64]:
    """Return the standard deviation of every gene, float64 (n_genes,)."""
    # Sums over many cells in float32 would lose what the difference below is made of.
    n_cells, values = values.shape[0], values.astype(np.float64)
    squares = np.asarray(values.multiply(values).sum(axis=0)).ravel()
    mean = np.asarray(values.sum(axis=0)).ravel() / n_cells
    return np.sqrt(np.maximum(squares / n_cells - mean**2, 0.0))


def scaled_weights(weights: NDArray[np.float64], values: sparse.csr_matrix) -> NDArray[np.float64]:
    """Make of weights those of a mean over markers on their common scale.

    Parameters
    ----------
    weights
        By type and gene, (n_classes, n_genes).
    values
        Of training cells, CSR (n_cells, n_genes).
    """
    total = np.abs(weights).sum(axis=1, keepdims=True)
    scale = np.sqrt(np.maximum(spread(values), LEAST_SPREAD))
    return weights / np.where(total > 0, total, 1.0) / scale


def table_weights(
    table: MarkerTable, features: FeatureSpace, values: sparse.csr_matrix
) -> NDArray[np.float64]:
    """Return the weight of every gene for every type of a table, (n_classes, n_genes)."""
    place = gene_places(table, features)
    weights = np.zeros((len(table), len(features)))
    for row, genes in zip(weights, table.values(), strict=True):
        for gene, weight in genes.items():
            row[place[gene]] += weight
    return scaled_weights(weights, values)


def learned_weights(cells: TrainingCells, n_markers: int) -> NDArray[np.float64]:
    """Return the weight of every gene for every class, by the markers of labelled cells.

    Markers of a class are the genes with the highest t statistic (Welch) of its cells against all
    others, as far as it is positive; each weighs the same.

    Parameters
    ----------
    cells
        Training cells, at least one of each class.
    n_markers
        Most markers of a class.
    """
    n_cells, sizes = len(cells.codes), np.bincount(cells.codes, minlength=cells.n_classes)
    values = cells.values.astype(np.float64)
    means = group_means(values, cells.codes, cells.n_classes)
    squares = group_means(values.multiply(values).tocsr(), cells.codes, cells.n_classes)
    weights = np.zeros_like(means)
    for code, size in enumerate(sizes):
        others = max(n_cells - size, 1)
        rest, rest_squares = (
            (sizes @ part - size * part[code]) / others for part in (means, squares)
        )
        noise = np.maximum(squares[code] - means[code] ** 2, 0.0) / size
        noise += np.maximum(rest_squares - rest**2, 0.0) / others
        # One cell has no variance: the floor keeps a gene of no noise from being infinitely good.
        t = (means[code] - rest) / np.sqrt(noise + LEAST_SPREAD**2 / size)
        top = np.argsort(-t, kind="stable")[:n_markers]
        weights[code, top[t[top] > 0]] = 1.0
    return scaled_weights(weights, values)


def usual_scores(
    cells: TrainingCells, values: sparse.csr_matrix, weights: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the mean score of every class over cells of all classes, as if of equal size.

    Parameters
    ----------
    cells
        Training cells, at least one of each class.
    values
        Their markers, CSR (n_cells, n_markers).
    weights
        (n_classes, n_markers).
    """
    return weights @ group_means(values, cells.codes, cells.n_classes).mean(axis=0)
