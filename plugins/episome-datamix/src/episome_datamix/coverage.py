"""How much of a target a set of training cells covers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.neighbors import NearestNeighbors

from episome.data import log_counts, variable_genes
from episome_datamix.pools import NO_TYPE
from episome_datamix.scale import mean_molecules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

_DIMENSIONS, _GENES, _FITTED = 30, 2000, 20_000
#: Share of the training cells whose nearest other training cell is near.
NEAR = 0.95


@dataclass(frozen=True, slots=True)
class Coverage:
    """Shares of a target that training cells cover.

    Parameters
    ----------
    cells
        Share of the target's cells with a training cell as near as training cells are to each
        other (95 % of them).
    types
        Share of the target's cells whose type is a type of training; NaN where none is known.
    genes
        Share of the genes with more than one molecule in 10,000 in the target that have as many in
        training.
    """

    cells: float
    types: float
    genes: float


class CoverageOf:
    """Measures what a set of training cells covers.

    Parameters
    ----------
    train
        Counts of training cells.
    types
        Their types; ``"unknown"`` where there is none.
    seed
        Of the space in which cells are near or far.
    """

    def __init__(self, train: AnnData, types: Sequence[str], *, seed: int = 0) -> None:
        logs = log_counts(train.X)
        self._genes = variable_genes(logs, _GENES)
        values = logs[:, self._genes]
        n = max(min(_DIMENSIONS, values.shape[1] - 1, values.shape[0] - 1), 1)
        rng = np.random.default_rng(seed)
        few = rng.choice(values.shape[0], min(values.shape[0], _FITTED), replace=False)
        self._svd = TruncatedSVD(n, random_state=seed).fit(values[np.sort(few)])
        space = self._svd.transform(values)
        self._near = NearestNeighbors(n_neighbors=min(2, len(space))).fit(space)
        own = self._near.kneighbors(space)[0][:, -1]
        self._limit = float(np.quantile(own, NEAR))
        self._types = set(types) - {NO_TYPE}
        self._means = mean_molecules(train.X)

    def __call__(self, target: AnnData, types: Sequence[str]) -> Coverage:
        """Return what is covered of a target on the same genes.

        Parameters
        ----------
        target
            Counts.
        types
            Of its cells.
        """
        space = self._svd.transform(log_counts(target.X)[:, self._genes])
        distance = self._near.kneighbors(space, n_neighbors=1)[0][:, 0]
        known = np.array([t for t in types if t != NO_TYPE], dtype=object)
        seen = np.isin(known.astype(str), list(self._types)) if len(known) else None
        expressed = mean_molecules(target.X) > 1
        both = (self._means > 1) & expressed
        return Coverage(
            float((distance <= self._limit).mean()),
            float("nan") if seen is None or not self._types else float(seen.mean()),
            float(both.sum() / expressed.sum()) if expressed.any() else float("nan"),
        )
