"""Folds of labelled cells: donors stay together, and no class is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def folds(
    codes: NDArray[np.int64],
    donors: NDArray[np.object_] | None = None,
    *,
    seed: int,
    n_folds: int = 5,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield positions to fit on and positions to predict, so that every class can be learned.

    Whole donors are held out where there are ``n_folds`` whose cells are never the only ones of a
    class; otherwise cells are, evenly within classes. Cells without a definite donor, and the only
    cell of a class, are never held out.

    Parameters
    ----------
    codes
        Class of every cell, int64 (n_cells,).
    donors
        Donor of every cell, or ``None`` entries.
    seed
        Of the draw.
    n_folds
        How many.
    """
    of_fold = _by_donor(codes, donors, seed, n_folds)
    if of_fold is None:
        of_fold = _by_class(codes, seed, n_folds)
    for fold in range(n_folds):
        held = np.flatnonzero(of_fold == fold)
        if len(held):
            yield np.flatnonzero(of_fold != fold), held


def _by_class(codes: NDArray[np.int64], seed: int, n_folds: int) -> NDArray[np.int64]:
    """Fold of every cell, evenly within classes; -1 for the only cell of a class."""
    rng = np.random.default_rng(seed)
    of_fold = np.full(len(codes), -1, dtype=np.int64)
    for code in np.unique(codes):
        members = rng.permutation(np.flatnonzero(codes == code))
        if len(members) > 1:
            of_fold[members] = (np.arange(len(members)) + rng.integers(n_folds)) % n_folds
    return of_fold


def _by_donor(
    codes: NDArray[np.int64], donors: NDArray[np.object_] | None, seed: int, n_folds: int
) -> NDArray[np.int64] | None:
    """Fold of every cell by donor, evenly by cells; ``None`` where a class would be lost."""
    if donors is None:
        return None
    known = np.array([d is not None for d in donors])
    names, which = np.unique(np.asarray(donors[known], dtype=str), return_inverse=True)
    if len(names) < n_folds:
        return None
    sizes = np.bincount(which)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]
    load, of_donor = np.zeros(n_folds), np.zeros(len(names), dtype=np.int64)
    for donor in order:
        of_donor[donor] = int(load.argmin())
        load[of_donor[donor]] += sizes[donor]
    of_fold = np.full(len(codes), -1, dtype=np.int64)
    of_fold[known] = of_donor[which]
    n_classes = len(np.unique(codes))
    whole = all(len(np.unique(codes[of_fold != f])) == n_classes for f in range(n_folds))
    return of_fold if whole else None
