"""In which order cells of a corpus are drawn; a mix takes the first of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.decomposition import TruncatedSVD

from episome.data import log_counts
from episome_datamix.scale import BLOCK

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data import CellSource

#: Dimensions and cells of the space in which a sketch is drawn, and its boxes at most.
_DIMENSIONS, _FITTED, _BOXES = 20, 20_000, 4096


def order_of(
    source: CellSource,
    rows: NDArray[np.int64],
    types: NDArray[np.object_],
    design: str,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return positions in ``rows`` in the order in which they are drawn.

    Parameters
    ----------
    source
        The cells.
    rows
        Those that may be drawn.
    types
        Cell type of each.
    design
        ``"random"``; ``"balanced"``: types in turn, until one is used up; ``"sketch"``: boxes of
        the space of principal components in turn, so that sparse regions are drawn as dense ones.
    rng
        What draws.

    Returns
    -------
    int64 (n_rows,), each once.
    """
    shuffled = rng.permutation(len(rows))
    if design == "random":
        return shuffled
    groups = types if design == "balanced" else _boxes(source, rows, rng)
    codes = pd.factorize(groups, sort=True)[0]
    return _in_turn(shuffled, codes, rng)


def _in_turn(
    shuffled: NDArray[np.int64], codes: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """First one of every group, in a random order of groups, then a second one, and so on."""
    of = codes[shuffled]
    turn = pd.Series(of).groupby(of).cumcount().to_numpy()
    rank = rng.permutation(int(codes.max()) + 1)[of]
    return shuffled[np.lexsort((rank, turn))]


def _boxes(
    source: CellSource, rows: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the box of the space of principal components that every cell lies in, (n_rows,)."""
    few = np.sort(rng.choice(len(rows), min(len(rows), _FITTED), replace=False))
    dimensions = min(_DIMENSIONS, source.n_vars - 1, len(few) - 1)
    svd = TruncatedSVD(max(dimensions, 1), random_state=int(rng.integers(2**31)))
    svd.fit(log_counts(source.read(rows[few])))
    parts = [
        svd.transform(log_counts(source.read(rows[i : i + BLOCK])))
        for i in range(0, len(rows), BLOCK)
    ]
    space = np.concatenate(parts)
    low, width = space.min(axis=0), float(np.ptp(space, axis=0).max()) or 1.0
    boxes = np.zeros(len(rows), dtype=np.int64)
    side, smallest, largest = width, width / 256, width
    # The side of a box that leaves about as many boxes as are wanted, by halving.
    wanted = min(_BOXES, max(len(rows) // 8, 1))
    for _ in range(16):
        keys = np.floor((space - low) / side).astype(np.int64)
        boxes = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
        if int(boxes.max()) + 1 > wanted:
            smallest = side
        else:
            largest = side
        side = (smallest + largest) / 2
    return boxes
