"""When and how the neighbours of a cell are searched without computing all distances."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from episome.errors import MissingDependencyError
from episome.log import get_logger

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = get_logger(__name__)

#: Reference cells above which ``"auto"`` takes an approximate index.
APPROXIMATE_ABOVE = 200_000
#: Reference cells below which an index has no use.
FEW_CELLS = 1_000
#: Cells whose neighbours are compared with the exact ones, for the recall.
N_COMPARED = 500

Metric: TypeAlias = Literal["euclidean", "cosine"]
IndexKind: TypeAlias = Literal["auto", "exact", "approximate"]


def wants_approximate(index: IndexKind, n_reference: int, *, model: str = "KNNClassifier") -> bool:
    """Whether neighbours among so many cells are searched by an approximate index.

    Parameters
    ----------
    index
        What was asked for.
    n_reference
        Number of cells.
    model
        Who asks, for the message.

    Raises
    ------
    MissingDependencyError
        It was asked for, and pynndescent is not installed (E-P02).
    """
    installed = find_spec("pynndescent") is not None
    if index == "approximate" and not installed:
        raise MissingDependencyError(
            "E-P02",
            "the package 'pynndescent' is not installed",
            where=f'{model}(index="approximate")',
            why="it makes and searches the approximate index",
            fix='pip install "episome-baselines[ann]", or index="exact"',
        )
    if index == "exact" or n_reference < FEW_CELLS:
        return False
    if index == "auto" and n_reference > APPROXIMATE_ABOVE and not installed:
        logger.info(
            "all distances to %d cells are computed; an index is quicker: "
            'pip install "episome-baselines[ann]"',
            n_reference,
        )
        return False
    return index == "approximate" or n_reference > APPROXIMATE_ABOVE


class ApproximateIndex:
    """Nearest neighbours by pynndescent, the same for every process and batch.

    Parameters
    ----------
    reference
        Cells to find, float32 (n, d).
    n_neighbors
        Neighbours that will be asked for.
    metric
        Distance.
    """

    def __init__(
        self, reference: NDArray[np.float32], *, n_neighbors: int, metric: Metric
    ) -> None:
        from pynndescent import NNDescent

        self.reference, self.metric = np.ascontiguousarray(reference, dtype=np.float32), metric
        # One seed and one thread: an index that is built again gives the same neighbours.
        self._index = NNDescent(
            self.reference,
            metric=metric,
            n_neighbors=max(30, 2 * n_neighbors),
            random_state=0,
            n_jobs=1,
        )
        self._index.prepare()

    def __call__(
        self, query: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
        """Return distances and rows of the reference, both (n_query, k), nearest first."""
        rows, distance = self._index.query(query, k=k, epsilon=0.2)
        short = np.flatnonzero((rows < 0).any(axis=1))
        if len(short):
            # The walk ended before it had met k cells.
            distance[short], rows[short] = exact_neighbors(
                self.reference, query[short], k, self.metric
            )
        return distance, rows.astype(np.int64)

    def recall(self, k: int, *, seed: int) -> float:
        """Return the share of the k nearest other cells that it finds, on sampled cells."""
        n = len(self.reference)
        k = min(k, n - 1)
        sample = np.random.default_rng(seed).choice(n, min(N_COMPARED, n), replace=False)
        cells = self.reference[sample]
        _, wanted = exact_neighbors(self.reference, cells, k + 1, self.metric)
        _, found = self(cells, k + 1)
        hits = [
            len(set(w[w != own][:k]) & set(f))
            for own, w, f in zip(sample, wanted, found, strict=True)
        ]
        return float(np.mean(hits) / k)


def exact_neighbors(
    reference: NDArray[np.float32], query: NDArray[np.float32], k: int, metric: Metric
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """Return distances and rows of the k nearest cells, (n_query, k), from all distances."""
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(metric=metric, algorithm="brute").fit(reference)
    distance, rows = index.kneighbors(query, n_neighbors=k)
    return distance, rows
