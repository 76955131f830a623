"""The one k-nearest-neighbour vote, and mean, of episome."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from scipy import sparse

from episome.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Finds the neighbours of query cells: ``(query, k)`` to distances and rows of the reference, both
#: (n_query, k), nearest first.
Search: TypeAlias = (
    "Callable[[NDArray[np.float32], int], tuple[NDArray[np.floating], NDArray[np.int64]]]"
)

#: What a tie adds to the share of its winner: less than any vote, more than rounding takes away.
NUDGE = 1e-6


def knn_probabilities(
    reference: NDArray[np.float32],
    labels: NDArray[np.int64],
    query: NDArray[np.float32],
    *,
    n_classes: int,
    n_neighbors: int = 15,
    weights: Literal["uniform", "distance"] = "distance",
    metric: Literal["euclidean", "cosine"] = "euclidean",
    exclude: NDArray[np.int64] | None = None,
    ties: Literal["code", "distance"] = "code",
    search: Search | None = None,
    block: int = 2048,
) -> NDArray[np.float32]:
    """Vote shares of the nearest reference cells.

    Reference and query are taken as disjoint: no neighbour is dropped unless `exclude` says so.

    Parameters
    ----------
    reference
        Embedding of the labelled cells, (n_reference, d).
    labels
        Their class codes.
    query
        Embedding of the cells to call, (n_query, d).
    n_classes
        Width of the result.
    n_neighbors
        Votes per cell; at most ``n_reference``, less one with `exclude`.
    weights
        ``"distance"`` weighs a vote by the inverse distance; a neighbour at distance zero decides.
        ``"uniform"`` votes are equal.
    metric
        Distance.
    exclude
        Row of the reference that each query cell may not use, (n_query,): ``np.arange(n)`` for
        the reference itself leaves each cell out of its own vote. A negative number excludes
        none.
    ties
        Which class has the largest share of equally many uniform votes. ``"code"``: shares stay
        equal, so that the smallest class code comes first. ``"distance"``: the class whose
        voters have the smaller sum of distances; its share is larger by one millionth.
    search
        What finds the neighbours, such as an approximate index of `reference`, by distances that
        grow as those of `metric` do. By default all distances are computed.
    block
        Query rows at a time.

    Returns
    -------
    float32 (n_query, n_classes), rows sum to one.

    Raises
    ------
    UsageError
        `exclude` has not one row per query cell (E-U41), names rows that the reference does not
        have (E-U44), or leaves no neighbour (E-U43).
    """
    find = exact_search(reference, metric) if search is None else search
    out = np.zeros((len(query), n_classes), dtype=np.float32)
    found = _neighbors(query, len(reference), n_neighbors, exclude=exclude, find=find, block=block)
    for part, distance, rows in found:
        weight = _vote_weights(distance, weights)
        view = out[part]
        np.add.at(view, (np.arange(len(rows))[:, None], labels[rows]), weight)
        view /= view.sum(axis=1, keepdims=True)
        if weights == "uniform" and ties == "distance":
            _settle_ties(view, labels[rows], distance)
    return out


def knn_mean(
    reference: NDArray[np.float32],
    values: NDArray[np.floating] | sparse.csr_matrix,
    query: NDArray[np.float32],
    *,
    n_neighbors: int = 15,
    weights: Literal["uniform", "distance"] = "distance",
    metric: Literal["euclidean", "cosine"] = "euclidean",
    exclude: NDArray[np.int64] | None = None,
    search: Search | None = None,
    block: int = 2048,
) -> NDArray[np.float32]:
    """Mean values of the nearest reference cells.

    Neighbours and their weights are those of :func:`knn_probabilities`.

    Parameters
    ----------
    reference
        Embedding of the cells whose values are known, (n_reference, d).
    values
        Their values, dense or CSR (n_reference, n_values).
    query
        Embedding of the others, (n_query, d).
    n_neighbors, weights, metric, exclude, search, block
        As of :func:`knn_probabilities`.

    Returns
    -------
    float32 (n_query, n_values).

    Raises
    ------
    UsageError
        There are not as many values as reference cells (E-U41), or `exclude` cannot be used.
    """
    if values.shape[0] != len(reference):
        raise UsageError(
            "E-U41",
            f"{values.shape[0]:,} rows of values for {len(reference):,} reference cells",
            fix="pass one row per cell",
        )
    find = exact_search(reference, metric) if search is None else search
    out = np.zeros((len(query), values.shape[1]), dtype=np.float32)
    found = _neighbors(query, len(reference), n_neighbors, exclude=exclude, find=find, block=block)
    for part, distance, rows in found:
        weight = _vote_weights(distance, weights).astype(np.float64)
        weight /= weight.sum(axis=1, keepdims=True)
        ends = np.arange(len(rows) + 1) * rows.shape[1]
        shape = (len(rows), len(reference))
        mean = sparse.csr_matrix((weight.ravel(), rows.ravel(), ends), shape=shape) @ values
        out[part] = mean.toarray() if sparse.issparse(mean) else mean
    return out


def _neighbors(
    query: NDArray[np.float32],
    n_reference: int,
    n_neighbors: int,
    *,
    exclude: NDArray[np.int64] | None,
    find: Search,
    block: int,
) -> Iterator[tuple[slice, NDArray[np.floating], NDArray[np.int64]]]:
    """Yield distances and rows of the neighbours, block by block of the query."""
    if exclude is not None:
        exclude = _checked(np.asarray(exclude), len(query), n_reference)
    k = min(n_neighbors + (0 if exclude is None else 1), n_reference)
    for start in range(0, len(query), block):
        part = slice(start, start + block)
        distance, rows = find(query[part], k)
        if exclude is not None:
            distance, rows = _without(exclude[part], distance, rows)
        yield part, distance, rows


def exact_search(
    reference: NDArray[np.float32], metric: Literal["euclidean", "cosine"] = "euclidean"
) -> Search:
    """Return what finds neighbours by computing all distances; see :func:`knn_probabilities`."""
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(metric=metric, algorithm="brute").fit(reference)

    def find(query: NDArray[np.float32], k: int) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
        distance, rows = index.kneighbors(query, n_neighbors=k)
        return distance, rows

    return find


def _settle_ties(
    shares: NDArray[np.float32], codes: NDArray[np.int64], distance: NDArray[np.floating]
) -> None:
    """Raise the share of the nearest class among those with the most votes, in place."""
    # Shares of equally many votes are equal to the last bit: all are the same quotient.
    best = shares == shares.max(axis=1, keepdims=True)
    rows = np.flatnonzero(best.sum(axis=1) > 1)
    sums = np.zeros((len(rows), shares.shape[1]))
    np.add.at(sums, (np.arange(len(rows))[:, None], codes[rows]), distance[rows])
    winner = np.where(best[rows], sums, np.inf).argmin(axis=1)
    shares[rows, winner] += np.float32(NUDGE)
    shares[rows] /= shares[rows].sum(axis=1, keepdims=True)


def _checked(exclude: NDArray[np.int64], n_query: int, n_reference: int) -> NDArray[np.int64]:
    if exclude.shape != (n_query,):
        raise UsageError(
            "E-U41",
            f"exclude has shape {exclude.shape} for {n_query:,} query cells",
            fix="pass one row of the reference per query cell, or a negative number",
        )
    if (exclude >= n_reference).any():
        raise UsageError(
            "E-U44",
            f"exclude names row {exclude.max()} of a reference of {n_reference:,} cells",
            fix="rows count from 0; a negative number excludes none",
        )
    if n_reference < 2:
        raise UsageError(
            "E-U43",
            f"a reference of {n_reference} cells leaves no neighbour beside the excluded one",
            fix="pass a reference of two cells or more",
        )
    return exclude


def _without(
    exclude: NDArray[np.int64], distance: NDArray[np.floating], rows: NDArray[np.int64]
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """Take one neighbour from every cell: the excluded one, or the farthest where it is none."""
    keep = rows != exclude[:, None]
    keep[keep.all(axis=1), -1] = False
    shape = (len(rows), rows.shape[1] - 1)
    return distance[keep].reshape(shape), rows[keep].reshape(shape)


def _vote_weights(distance: NDArray[np.floating], kind: str) -> NDArray[np.floating]:
    if kind == "uniform":
        return np.ones_like(distance)
    exact = distance < 1e-12
    inverse = 1.0 / np.where(exact, 1.0, distance)
    return np.where(exact.any(axis=1, keepdims=True), exact.astype(float), inverse)
