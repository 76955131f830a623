"""Differences between donors, as vectors that augment training cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from episome import settings
from episome.errors import UsageError
from episome.log import get_logger

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = get_logger(__name__)

MAX_CELLS = 500_000
MAX_PAIRS = 300
MIN_CELLS = 5
THRESHOLD, LIMIT = 0.25, 1.5
N_VECTORS = 5_000
N_CLUSTERS = 50
#: Share of the pool above which a cluster is kept: the published 2,000 of about 49,000 vectors.
MIN_SHARE = 0.04
#: Pools of fewer vectors per cluster are too small to cluster, and kept whole.
MIN_PER_CLUSTER = 20


@dataclass(frozen=True, slots=True)
class DonorShifts:
    """How mean expression differs between two donors of one type.

    Parameters
    ----------
    vectors
        Differences of log1p expression, CSR float32 (n_vectors, n_genes); absolute values are
        above 0.25 and at most 1.5.
    donors
        Donors that they come from.
    n_pairs
        Pairs of donors that were compared, over all types.
    n_types
        Types that gave at least one pair.
    """

    vectors: sparse.csr_matrix
    donors: tuple[str, ...]
    n_pairs: int
    n_types: int

    @property
    def facts(self) -> dict[str, object]:
        """What a model's manifest records."""
        n, g = self.vectors.shape
        return {
            "kind": "donor",
            "n_vectors": n,
            "n_pairs": self.n_pairs,
            "n_types": self.n_types,
            "n_donors": len(self.donors),
            "density": round(self.vectors.nnz / max(n * g, 1), 4),
        }


def donor_shifts(
    read: Callable[[NDArray[np.int64]], sparse.csr_matrix],
    rows: NDArray[np.int64],
    codes: NDArray[np.int64],
    donors: NDArray[np.object_],
    *,
    n_vectors: int = N_VECTORS,
    max_pairs: int = MAX_PAIRS,
    min_cells: int = MIN_CELLS,
    seed: int | None = None,
) -> DonorShifts:
    """Build the augmentation table of scTab from training cells.

    For every type, mean expression is taken per donor, and donors are compared in pairs;
    differences up to 0.25 become 0, larger ones end at 1.5. From large pools k-means (50 clusters)
    drops the rare directions. The published thresholds are numbers of vectors in a pool of 164
    types; here they are shares, so that small references keep what they have.

    Parameters
    ----------
    read
        Function from row numbers to normalised log1p values, CSR (n, n_genes).
    rows
        Training cells; no others are looked at.
    codes, donors
        Class code and donor (or ``None``) of every cell that ``rows`` can name.
    n_vectors
        Most vectors to keep.
    max_pairs
        Most pairs of donors per type.
    min_cells
        Cells that a donor must have of a type to be compared: the mean of fewer is the noise of
        single cells. The published code has no such bound.
    seed
        Default ``episome.settings.seed``; the stream is ``"augment"``.

    Raises
    ------
    UsageError
        No type has two donors with enough cells, or their means do not differ (E-U35).

    References
    ----------
    Fischer et al. (2024), Methods, data augmentation.
    """
    rng = np.random.default_rng(settings.stream_seed("augment", seed))
    here = rows[(codes[rows] >= 0) & (donors[rows] != np.array(None))]
    here = _sample(here, codes, rng)
    pool: list[sparse.csr_matrix] = []
    used: set[str] = set()
    n_types = n_pairs = 0
    for part in _by_type(here, codes):
        names, groups = _frequent_donors(part, donors, min_cells)
        pairs = _pairs(len(names), max_pairs, rng)
        if not len(pairs):
            continue
        means = _means(read, part, groups, len(names))
        pool.append(_clipped(means[pairs[:, 0]] - means[pairs[:, 1]]))
        used.update(names[np.unique(pairs)])
        n_types, n_pairs = n_types + 1, n_pairs + len(pairs)
    vectors = sparse.vstack(pool, format="csr") if pool else None
    if vectors is None or vectors.nnz == 0:
        raise _no_pairs(here, codes, donors, min_cells, found=n_pairs)
    vectors = _common_directions(vectors[np.diff(vectors.indptr) > 0], rng)
    if vectors.shape[0] > n_vectors:
        vectors = vectors[np.sort(rng.choice(vectors.shape[0], n_vectors, replace=False))]
    return DonorShifts(vectors, tuple(sorted(map(str, used))), n_pairs, n_types)


def _sample(
    rows: NDArray[np.int64], codes: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw at most ``MAX_CELLS``, a cell of a rare type more likely, without replacement."""
    if len(rows) <= MAX_CELLS:
        return rows
    # The smallest of exponential draws, each divided by its weight, are a weighted sample.
    draws = rng.exponential(size=len(rows)) * np.bincount(codes[rows])[codes[rows]]
    return np.sort(rows[np.argpartition(draws, MAX_CELLS)[:MAX_CELLS]])


def _by_type(rows: NDArray[np.int64], codes: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    order = rows[np.argsort(codes[rows], kind="stable")]
    yield from np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)


def _frequent_donors(
    rows: NDArray[np.int64], donors: NDArray[np.object_], min_cells: int
) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Donors with enough cells, and the number of each cell's donor among them, -1 for others."""
    names, group, counts = np.unique(
        donors[rows].astype(str), return_inverse=True, return_counts=True
    )
    enough = counts >= min_cells
    number = np.where(enough, np.cumsum(enough) - 1, -1)
    return names[enough], number[group]


def _pairs(n: int, limit: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Unordered pairs of n things, all of them or `limit` drawn without replacement, (k, 2)."""
    total = n * (n - 1) // 2
    chosen = np.arange(total) if total <= limit else rng.choice(total, limit, replace=False)
    # The k-th pair (i, j) with j < i, counted row by row of the triangle.
    i = np.floor((1 + np.sqrt(1 + 8 * chosen)) / 2).astype(np.int64)
    i -= i * (i - 1) // 2 > chosen
    return np.stack([i, chosen - i * (i - 1) // 2], axis=1)


def _means(
    read: Callable[[NDArray[np.int64]], sparse.csr_matrix],
    rows: NDArray[np.int64],
    groups: NDArray[np.int64],
    n_groups: int,
) -> NDArray[np.float64]:
    """Mean expression of the cells of every group, (n_groups, n_genes)."""
    rows, groups = rows[groups >= 0], groups[groups >= 0]
    shape = (n_groups, len(rows))
    member = sparse.csr_matrix((np.ones(len(rows)), (groups, np.arange(len(rows)))), shape=shape)
    counts = np.bincount(groups, minlength=n_groups)
    means: NDArray[np.float64] = (member @ read(rows)).toarray() / counts[:, None]
    return means


def _clipped(difference: NDArray[np.float64]) -> sparse.csr_matrix:
    large = np.where(np.abs(difference) > THRESHOLD, difference, 0.0)
    return sparse.csr_matrix(np.clip(large, -LIMIT, LIMIT).astype(np.float32))


def _common_directions(pool: sparse.csr_matrix, rng: np.random.Generator) -> sparse.csr_matrix:
    """Keep the vectors of large clusters; all of a pool too small to cluster."""
    if pool.shape[0] < MIN_PER_CLUSTER * N_CLUSTERS:
        return pool
    from sklearn.cluster import KMeans

    state = int(rng.integers(2**31))
    found = KMeans(N_CLUSTERS, random_state=state, n_init=1, max_iter=50).fit_predict(pool)
    large = np.bincount(found, minlength=N_CLUSTERS) > MIN_SHARE * pool.shape[0]
    if not large.any():
        logger.info("no cluster of donor differences is large: all are kept")
        return pool
    return pool[large[found]]


def _no_pairs(
    rows: NDArray[np.int64],
    codes: NDArray[np.int64],
    donors: NDArray[np.object_],
    min_cells: int,
    *,
    found: int,
) -> UsageError:
    n_donors = len(set(donors[rows]))
    what = (
        f"the means of {found} pairs of donors differ by {THRESHOLD} nowhere"
        if found
        else f"no type has {min_cells} training cells from each of two donors"
    )
    return UsageError(
        "E-U35",
        f'augment="donor" has nothing to learn from: {what}',
        where="training cells",
        why=f"{len(rows)} labelled cells with a definite donor, {n_donors} donors, "
        f"{len(set(codes[rows]))} types",
        fix="set up with donor_key=, a column of several donors, or leave augment out",
    )
