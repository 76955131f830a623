"""What `CorrelationClassifier` predicts with: rank correlations and their fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.stats import rankdata

from episome.inference import ArrayCore

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Bytes of ranked profiles of sets of classes that are kept between batches.
KEPT_BYTES = 1 << 28
#: Cells that are ranked at a time: a dense block of them has one column per chosen gene.
BLOCK = 1024


class CorrelationClassifierCore(ArrayCore):
    """Profiles of every class, the genes that tell each pair apart, and a temperature.

    ``profiles`` is (n_profiles, n_chosen), ``classes`` the class of each, in increasing order;
    ``pair_genes[pair_starts[p] : pair_starts[p + 1]]`` are the places in ``genes`` of those that
    are higher in class ``p // n_classes`` than in class ``p % n_classes``.
    """

    array_names = ("genes", "profiles", "classes", "pair_genes", "pair_starts", "scale")

    def prepare(self) -> None:
        """Check the shapes, and rank the profiles on all genes."""
        n_classes = int(self.config["n_classes"])
        n_genes = len(self.require("genes", None))
        n_profiles = len(self.require("classes", None))
        self.require("profiles", n_profiles, n_genes)
        self.require("pair_genes", None)
        self.require("pair_starts", n_classes**2 + 1)
        self.require("scale", 1)
        self._kept: dict[bytes, Tuned] = {}
        self._whole = Tuned(
            np.arange(n_genes),
            standard_ranks(self.arrays["profiles"]),
            self.arrays["classes"],
            np.arange(n_classes),
        )

    def forward(self, batch: Mapping[str, object]) -> dict[str, NDArray[np.floating]]:
        """Return scaled scores as logits; the best is the class that fine-tuning ends with."""
        scores = self.scores(batch["X"][:, self.arrays["genes"]])
        return {"logits": (scores * self.arrays["scale"][0]).astype(np.float32)}

    def scores(self, values: sparse.csr_matrix) -> NDArray[np.float64]:
        """Return how far every class is from the best, in the round that decided about it.

        Parameters
        ----------
        values
            Of the chosen genes, CSR (n_cells, n_chosen).

        Returns
        -------
        float64 (n_cells, n_classes), 0 for the class that is called and at most 0 elsewhere; all
        zeros for a cell whose values are all the same.
        """
        blocks = range(0, values.shape[0], BLOCK)
        parts = [self._scores(values[start : start + BLOCK]) for start in blocks]
        return np.concatenate([np.empty((0, int(self.config["n_classes"]))), *parts])

    def _scores(self, values: sparse.csr_matrix) -> NDArray[np.float64]:
        tolerance = float(self.config["tolerance"])
        said = self._distances(values, self._whole)
        left = said >= -tolerance
        open_ = np.flatnonzero(left.sum(axis=1) > 1)
        while len(open_):
            sets, which = np.unique(left[open_], axis=0, return_inverse=True)
            again = []
            for number, classes in enumerate(sets):
                cells = open_[which.ravel() == number]
                tuned = self._tuned(classes)
                found = self._distances(values[cells], tuned)
                said[np.ix_(cells, tuned.called)] = found
                kept = found >= -tolerance
                left[np.ix_(cells, tuned.called)] = kept
                # A set that lost nothing has the same genes and the same scores next time.
                n_kept = kept.sum(axis=1)
                again.append(cells[(n_kept > 1) & (n_kept < classes.sum())])
            open_ = np.sort(np.concatenate(again))
        return said

    def _distances(self, values: sparse.csr_matrix, tuned: Tuned) -> NDArray[np.float64]:
        """Score of every class in question less the best one, (n_cells, n_called)."""
        whole = len(tuned.genes) == values.shape[1]
        correlations = correlate(values if whole else values[:, tuned.genes], tuned.profiles)
        scores = np.empty((values.shape[0], len(tuned.called)))
        for place, code in enumerate(tuned.called):
            of_class = correlations[:, tuned.classes == code]
            scores[:, place] = np.quantile(of_class, float(self.config["quantile"]), axis=1)
        return scores - scores.max(axis=1, keepdims=True)

    def _tuned(self, chosen: NDArray[np.bool_]) -> Tuned:
        """Genes between the chosen classes, and their profiles ranked on these genes."""
        key = np.packbits(chosen).tobytes()
        if key not in self._kept:
            while self._kept and sum(t.profiles.nbytes for t in self._kept.values()) > KEPT_BYTES:
                self._kept.pop(next(iter(self._kept)))
            a, called = self.arrays, np.flatnonzero(chosen)
            genes = self._genes_between(called)
            mine = chosen[a["classes"]]
            ranks = standard_ranks(a["profiles"][np.ix_(mine, genes)])
            self._kept[key] = Tuned(genes, ranks, a["classes"][mine], called)
        return self._kept[key]

    def _genes_between(self, called: NDArray[np.int64]) -> NDArray[np.int64]:
        a, n_classes = self.arrays, int(self.config["n_classes"])
        pairs = (called[:, None] * n_classes + called).ravel()
        starts = a["pair_starts"]
        return np.unique(
            np.concatenate([a["pair_genes"][starts[p] : starts[p + 1]] for p in pairs])
        )


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """What some classes are told apart by.

    Parameters
    ----------
    genes
        Places among the chosen genes, int64 (n,), in increasing order.
    profiles
        Standardised ranks, float64 (n_profiles, n).
    classes
        Class of each profile, int64 (n_profiles,).
    called
        The classes, int64, in increasing order.
    """

    genes: NDArray[np.int64]
    profiles: NDArray[np.float64]
    classes: NDArray[np.int64]
    called: NDArray[np.int64]


def standard_ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Average ranks of every row, centred and of unit length; zeros for a constant row."""
    if values.shape[1] == 0:
        return np.zeros(values.shape)
    # Newer scipy ranks float32 in float32, which is too coarse to be centred.
    ranks = rankdata(values.astype(np.float64), axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    length = np.linalg.norm(ranks, axis=1, keepdims=True)
    return ranks / np.where(length > 0, length, 1.0)


def correlate(values: sparse.csr_matrix, profiles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman correlation of sparse rows with standardised ranks.

    Profiles are centred, so a constant taken from all ranks of a cell changes no product. The rank
    that all zeros of a cell share is taken away, and only values other than zero are left.

    Parameters
    ----------
    values
        CSR (n_cells, n_genes).
    profiles
        Of :func:`standard_ranks`, (n_profiles, n_genes).

    Returns
    -------
    float64 (n_cells, n_profiles); 0 for cells or profiles that are constant.
    """
    ranks, length = ranks_above_zero(values)
    # A product of dense blocks is faster than a sparse one from a few per cent of values on.
    products = ranks.toarray() @ profiles.T
    return products / np.where(length > 0, length, np.inf)[:, None]


def ranks_above_zero(
    values: sparse.csr_matrix,
) -> tuple[sparse.csr_matrix, NDArray[np.float64]]:
    """Rank every row, ties by their average, without touching its zeros.

    Parameters
    ----------
    values
        CSR (n_cells, n_genes).

    Returns
    -------
    Rank of every value less the rank of the row's zeros, float64 CSR of the same shape; length of
    the centred ranks of the whole row, float64 (n_cells,).
    """
    n_cells, width = values.shape
    rows = np.repeat(np.arange(n_cells), np.diff(values.indptr))
    some = values.data != 0
    rows, columns, data = rows[some], values.indices[some], values.data[some]
    n_some = np.bincount(rows, minlength=n_cells)
    n_below = np.bincount(rows[data < 0], minlength=n_cells)
    n_zero = width - n_some
    order = np.lexsort((data, rows))
    of_row, sorted_ = rows[order], data[order]
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (of_row[1:] != of_row[:-1]) | (sorted_[1:] != sorted_[:-1])
    first = np.flatnonzero(begins)
    n_tied = np.diff(np.append(first, len(order)))
    place = np.repeat(first + (n_tied + 1) / 2, n_tied) - (np.cumsum(n_some) - n_some)[of_row]
    ranks = np.empty(len(order))
    ranks[order] = place + np.where(sorted_ > 0, n_zero[of_row], 0)
    middle, of_zero = (width + 1) / 2, n_below + (n_zero + 1) / 2
    squares = n_zero * (of_zero - middle) ** 2
    squares += np.bincount(rows, (ranks - middle) ** 2, minlength=n_cells)
    starts = np.concatenate([[0], np.cumsum(n_some)])
    above = sparse.csr_matrix((ranks - of_zero[rows], columns, starts), shape=values.shape)
    # Rounding leaves a speck where all ranks are the same.
    return above, np.sqrt(np.where(squares > 1e-9, squares, 0.0))
