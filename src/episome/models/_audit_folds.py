"""Who judges which cell: folds of an audit, donors apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from episome.data import folds

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: A class of fewer cells loses so many to a fold that what is left may not stand for it.
FEW = 10


class Folds(NamedTuple):
    """Fold of every cell, and how they were drawn.

    Parameters
    ----------
    of_cell
        int64 (n_cells,); -1 for cells that are never held out.
    by
        What is held out as a whole.
    n
        Number of folds.
    """

    of_cell: NDArray[np.int64]
    by: Literal["donor", "cell"]
    n: int


def audit_folds(
    codes: NDArray[np.int64], donors: NDArray[np.object_] | None, *, seed: int, n_folds: int
) -> Folds:
    """Return folds in which no donor is on both sides, or that are even within classes.

    With two donors or more whole donors are held out, in as many folds as leave every class to
    learn from; where none do, a class that only the held-out donors have cannot be learned, and
    its cells get no verdict there. Cells without a definite donor are held out by themselves.

    Parameters
    ----------
    codes
        Class of every cell.
    donors
        Donor of every cell, or ``None`` entries.
    seed, n_folds
        Of the draw; fewer folds where there are fewer donors.
    """
    known = np.zeros(len(codes), bool) if donors is None else donors != np.array(None)
    n_donors = 0 if donors is None else len(set(donors[known]))
    if donors is None or n_donors < 2:
        return Folds(_numbered(codes, None, seed, n_folds), "cell", n_folds)
    most = min(n_folds, n_donors)
    for n in range(most, 1, -1):
        found = _numbered(codes, donors, seed, n)
        if _apart(found, donors, known):
            break
    else:
        n, found = most, _numbered(np.zeros_like(codes), donors, seed, most)
    found = np.where(known, found, -1)
    alone = np.flatnonzero(~known)
    found[alone] = _numbered(codes[alone], None, seed, n)
    return Folds(found, "donor", n)


def _numbered(
    codes: NDArray[np.int64], donors: NDArray[np.object_] | None, seed: int, n_folds: int
) -> NDArray[np.int64]:
    found = np.full(len(codes), -1, dtype=np.int64)
    for fold, (_, held) in enumerate(folds(codes, donors, seed=seed, n_folds=n_folds)):
        found[held] = fold
    return found


def _apart(
    found: NDArray[np.int64], donors: NDArray[np.object_], known: NDArray[np.bool_]
) -> bool:
    """Whether every definite donor is in one fold."""
    pairs = set(zip(donors[known], found[known], strict=True))
    return len(pairs) == len(set(donors[known]))
