"""The one k-nearest-neighbour vote of episome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from episome.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
        ``"uniform"`` votes are equal, so that the largest share of a tie is that of the smallest
        class code.
    metric
        Distance.
    exclude
        Row of the reference that each query cell may not use, (n_query,): ``np.arange(n)`` for
        the reference itself leaves each cell out of its own vote. A negative number excludes
        none.
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
    from sklearn.neighbors import NearestNeighbors

    if exclude is not None:
        exclude = _checked(np.asarray(exclude), len(query), len(reference))
    more = 0 if exclude is None else 1
    k = min(n_neighbors + more, len(reference))
    index = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(reference)
    out = np.zeros((len(query), n_classes), dtype=np.float32)
    for start in range(0, len(query), block):
        part = slice(start, start + block)
        distance, rows = index.kneighbors(query[part])
        if exclude is not None:
            distance, rows = _without(exclude[part], distance, rows)
        weight = _vote_weights(distance, weights)
        view = out[part]
        np.add.at(view, (np.arange(len(rows))[:, None], labels[rows]), weight)
        view /= view.sum(axis=1, keepdims=True)
    return out


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
