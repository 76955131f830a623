"""The task that asks what donor augmentation does to the variance of expression."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from scipy import sparse

from episome.benchmark import DONOR, LABEL, Case, Outcome, Task
from episome.data import donor_shifts
from episome.errors import UsageError
from episome.models import normalized_rows
from episome.nn import host_batch
from episome.train import DonorAugmentation

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 4096


class DonorVarianceTask(Task):
    """How much of expression type and donor explain, before and after donor augmentation.

    A linear model of type and donor is fitted to log1p expression of the training cells, as they
    are and augmented once. ``r2`` is the share of the variance, over all genes, that both explain
    together; ``r2_type`` that of the type alone; ``r2_donor`` what the donor adds to it.

    References
    ----------
    Fischer et al. (2024), Methods, data augmentation.
    """

    name = "donor-variance"
    metrics: ClassVar[dict[str, bool]] = {"r2": True, "r2_type": True, "r2_donor": False}
    main = "r2_donor"

    def run(self, case: Case) -> Outcome:
        """Fit both models before and after."""
        if DONOR not in case.train.obs:
            raise UsageError(
                "E-B05",
                "no donors are known",
                where=case.entry.name,
                fix="donor_key = of the data",
            )
        query = case.untrained().prepare(case.train)
        rows = np.arange(query.source.n_obs)
        labels, donors = (case.train.obs[c].to_numpy(dtype=object) for c in (LABEL, DONOR))
        codes = np.unique(labels.astype(str), return_inverse=True)[1].astype(np.int64)
        known = pd.notna(donors)
        shifts = donor_shifts(
            lambda some: normalized_rows(query, some),
            rows[known],
            codes,
            donors,
            seed=case.seed,
        )
        augment = DonorAugmentation(shifts, seed=case.seed)
        types, of = codes[known], pd.factorize(donors[known].astype(str))[0]
        before, after = Explained(types, of), Explained(types, of)
        for start in range(0, int(known.sum()), _BLOCK):
            block = normalized_rows(query, rows[known][start : start + _BLOCK])
            before.add(start, block)
            parts = host_batch({"X": block})["X"]
            indptr, indices, values = augment(parts).numpy()
            after.add(start, sparse.csr_matrix((values, indices, indptr), shape=block.shape))
        return Outcome({"before augmentation": before.shares, "after augmentation": after.shares})


class Explained:
    """Shares of variance that a linear model of type and donor explains, from blocks of cells.

    Parameters
    ----------
    types, donors
        Codes of every cell.
    """

    def __init__(self, types: NDArray[np.integer], donors: NDArray[np.integer]) -> None:
        self.of_type = _design(types)
        self.both = sparse.hstack([self.of_type, _design(donors)], format="csr")
        self._sums: NDArray[np.float64] | None = None
        self._squares = 0.0

    def add(self, start: int, block: sparse.csr_matrix) -> None:
        """Add the values of cells from number ``start``, CSR (n, n_genes)."""
        values = block.astype(np.float64)
        sums = (self.both[start : start + block.shape[0]].T @ values).toarray()
        self._sums = sums if self._sums is None else self._sums + sums
        self._squares += float(values.multiply(values).sum())

    @property
    def shares(self) -> dict[str, float]:
        """``r2`` of both, ``r2_type`` of the type, ``r2_donor`` what the donor adds to it."""
        if self._sums is None:
            return dict.fromkeys(("r2", "r2_type", "r2_donor"), float("nan"))
        n_types, n_cells = self.of_type.shape[1], self.of_type.shape[0]
        # Every cell has one type, so that the sums by type add up to those of all cells.
        whole = self._sums[:n_types].sum(axis=0)
        level = float((whole**2).sum()) / n_cells
        total = self._squares - level
        inside = [
            _inside(d, s)
            for d, s in ((self.of_type, self._sums[:n_types]), (self.both, self._sums))
        ]
        r2_type, r2 = (
            (i - level) / total if total > 1e-9 * self._squares else float("nan") for i in inside
        )
        return {"r2": r2, "r2_type": r2_type, "r2_donor": r2 - r2_type}


def _design(codes: NDArray[np.integer]) -> sparse.csr_matrix:
    n = len(codes)
    shape = (n, int(codes.max()) + 1)
    return sparse.csr_matrix((np.ones(n), (np.arange(n), codes)), shape=shape)


def _inside(design: sparse.csr_matrix, sums: NDArray[np.float64]) -> float:
    """Sum of squares of what a design fits, from its products with the values, (k, n_genes).

    Ranks may be short, as types and donors overlap.
    """
    gram = (design.T @ design).toarray()
    return float((sums * (np.linalg.pinv(gram, hermitian=True) @ sums)).sum())
