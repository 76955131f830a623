"""The task that asks what donor augmentation does to the variance of expression."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
import torch

from episome.benchmark import DONOR, LABEL, Case, Outcome, Task
from episome.data import donor_shifts
from episome.errors import UsageError
from episome.models import normalized_rows
from episome.train import DonorAugmentation

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
        before = normalized_rows(query, rows[known]).toarray()
        augment = DonorAugmentation(shifts, seed=case.seed)
        after = augment(torch.as_tensor(before)).numpy()
        of = codes[known], pd.factorize(donors[known].astype(str))[0]
        return Outcome(
            {
                "before augmentation": explained(before, *of),
                "after augmentation": explained(after, *of),
            }
        )


def explained(
    values: NDArray[np.floating], types: NDArray[np.integer], donors: NDArray[np.integer]
) -> dict[str, float]:
    """Return the shares of variance that a linear model of type and donor explains.

    Parameters
    ----------
    values
        (n_cells, n_genes).
    types, donors
        Codes of every cell.
    """
    values = np.asarray(values, dtype=np.float64)
    total = float(((values - values.mean(axis=0)) ** 2).sum())
    of_type = _design(types)
    both = np.hstack([of_type, _design(donors)])
    left = [_residual(values, design) for design in (of_type, both)]
    r2_type, r2 = (1 - r / total if total > 0 else float("nan") for r in left)
    return {"r2": r2, "r2_type": r2_type, "r2_donor": r2 - r2_type}


def _design(codes: NDArray[np.integer]) -> NDArray[np.float64]:
    return np.eye(int(codes.max()) + 1)[codes]


def _residual(values: NDArray[np.float64], design: NDArray[np.float64]) -> float:
    """Sum of squares that a design leaves; ranks may be short, as types and donors overlap."""
    # An orthonormal basis of the design: no G x G matrix, and one pass over the values.
    left, size, _ = np.linalg.svd(design, full_matrices=False)
    basis = left[:, size > size[0] * 1e-9]
    inside = basis.T @ values
    return float((values**2).sum() - (inside**2).sum())
