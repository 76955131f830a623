"""The one k-nearest-neighbour vote of episome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

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
    block: int = 2048,
) -> NDArray[np.float32]:
    """Vote shares of the nearest reference cells.

    Reference and query are taken as disjoint: no neighbour is dropped.

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
        Votes per cell; at most ``n_reference``.
    weights
        ``"distance"`` weighs a vote by the inverse distance; a neighbour at distance zero decides.
    metric
        Distance.
    block
        Query rows at a time.

    Returns
    -------
    float32 (n_query, n_classes), rows sum to one.
    """
    from sklearn.neighbors import NearestNeighbors

    k = min(n_neighbors, len(reference))
    index = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(reference)
    out = np.zeros((len(query), n_classes), dtype=np.float32)
    for start in range(0, len(query), block):
        distance, rows = index.kneighbors(query[start : start + block])
        weight = _vote_weights(distance, weights)
        view = out[start : start + len(rows)]
        np.add.at(view, (np.arange(len(rows))[:, None], labels[rows]), weight)
        view /= view.sum(axis=1, keepdims=True)
    return out


def _vote_weights(distance: NDArray[np.floating], kind: str) -> NDArray[np.floating]:
    if kind == "uniform":
        # Ties go to the smaller summed distance: a tiny share of the weight breaks them.
        return 1.0 - 1e-6 * distance / max(float(distance.max()), 1e-12)
    exact = distance < 1e-12
    inverse = 1.0 / np.where(exact, 1.0, distance)
    return np.where(exact.any(axis=1, keepdims=True), exact.astype(float), inverse)
