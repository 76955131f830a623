"""What a folder keeps to know the cells and donors of its training again: no names."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data import CellSource

#: Smallest hashes of names that are kept of the cells of a training.
_SKETCH = 256
#: Cells of more are not looked at: all their names would be in memory at once.
_MOST = 2_000_000


def cell_sketch(names: pd.Index) -> list[str]:
    """Return the smallest hashes of the names of cells, sorted: by them the same cells are known.

    Parameters
    ----------
    names
        Of the cells that were trained on.

    References
    ----------
    Broder (1997), On the resemblance and containment of documents.
    """
    return [f"{h:016x}" for h in _hashes(names)[:_SKETCH]]


def known_share(sketch: Sequence[str], names: pd.Index) -> float:
    """Estimate the share of cells that have names of those that a sketch was made of.

    Parameters
    ----------
    sketch
        Of :func:`cell_sketch`.
    names
        Of the cells in question.

    Returns
    -------
    NaN where fewer than ten of the names could be compared.
    """
    if not sketch:
        return float("nan")
    hashes = _hashes(names)
    if len(sketch) == _SKETCH:
        hashes = hashes[hashes <= int(sketch[-1], 16)]
    if len(hashes) < 10:
        return float("nan")
    return float(np.isin(hashes, np.array([int(h, 16) for h in sketch], dtype=np.uint64)).mean())


def _hashes(names: pd.Index) -> NDArray[np.uint64]:
    values = pd.util.hash_array(np.asarray(names, dtype=object), categorize=False)
    return np.unique(values.astype(np.uint64))


def known_again(
    source: CellSource, rows: NDArray[np.int64], donors: NDArray[np.object_] | None
) -> dict[str, list[str]]:
    """Return what a folder keeps to know the cells and donors of its training again.

    Parameters
    ----------
    source
        Cells that were trained on.
    rows
        Rows of its training cells, those that chose the epoch among them.
    donors
        Of these rows, where they are known.
    """
    few = source.n_obs <= _MOST
    found = {"cell_sketch": cell_sketch(source.obs_names[rows])} if few else {}
    return found if donors is None else {**found, "donor_digests": donor_digests(donors)}


def digests_of_training(data: Any, *before: Collection[str]) -> list[str]:
    """Return the digests of the donors that an encoder has seen, sorted.

    Parameters
    ----------
    data
        A data module that was trained on.
    *before
        Digests of trainings that this one went on from.
    """
    found = {digest for digests in before for digest in digests}
    if data.donors is None:
        return sorted(found)
    # The validation cells chose the epoch: their donors are no unseen ones either.
    parts = (data.split.train, data.split.validation)
    rows = np.concatenate([np.asarray(p, dtype=np.int64) for p in parts])
    return sorted(found.union(donor_digests(data.donors[rows])))


def donor_digests(donors: Iterable[object] | None) -> list[str]:
    """Return a digest of every donor, sorted; what a folder keeps instead of names.

    Parameters
    ----------
    donors
        Names of donors; ``None`` where a cell has no definite one, and where none are known.
    """
    return sorted(_digest(d) for d in _named(donors))


def shared_donors(digests: Collection[str], donors: Iterable[object] | None) -> list[str]:
    """Return the donors whose digests are among others, sorted.

    Parameters
    ----------
    digests
        Of :func:`donor_digests`.
    donors
        Names of donors.
    """
    known = set(digests)
    return sorted(d for d in _named(donors) if _digest(d) in known)


def _named(donors: Iterable[object] | None) -> set[str]:
    """Return the donors that are named; columns of a table mark others by other than ``None``."""
    return set() if donors is None else {str(d) for d in donors if not pd.isna(d)}


def _digest(donor: str) -> str:
    return hashlib.sha256(donor.encode()).hexdigest()[:16]
