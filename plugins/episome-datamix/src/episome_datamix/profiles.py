"""How like a target mixes are, before anything is trained on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from episome.data import log_counts, variable_genes
from episome_datamix.mixing import MixedCells, gene_space
from episome_datamix.pools import pool_of
from episome_datamix.scale import mean_molecules, mean_of_source

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from episome_datamix.plan import Plan

#: Genes on which profiles are compared.
_GENES = 1000


class Profiles:
    """Correlation of the mean profile of mixes with that of a target.

    Parameters
    ----------
    plan
        Whose corpora are mixed.
    target
        One of its evaluation sets.
    base
        Folder that paths are relative to.
    """

    def __init__(self, plan: Plan, target: str, base: Path) -> None:
        genes = gene_space(plan, base)
        pool = pool_of(plan, target, base, evaluation=True)
        cells = MixedCells([(pool, pool.rows)], genes, column="of", where=target)
        counts = cells.read(slice(None))
        chosen = variable_genes(log_counts(counts), min(_GENES, cells.n_vars))
        self._target = np.log1p(mean_molecules(counts)[chosen])
        means = []
        for name in plan.corpora:
            of = pool_of(plan, name, base)
            one = MixedCells([(of, of.rows)], genes, column="of", where=name)
            means.append(
                mean_of_source(lambda a, b, c=one: c.read(slice(a, b)), one.n_obs)[chosen]
            )
        self._means = np.stack(means)
        self._names = list(plan.corpora)

    def __call__(
        self, shares: NDArray[np.floating], have: Mapping[str, int], n_cells: int
    ) -> NDArray[np.floating]:
        """Return Pearson's correlation of log1p profiles, (n_mixes,).

        Parameters
        ----------
        shares
            Of the cells that are added, (n_mixes, n_corpora).
        have
            Cells of every corpus that are there already.
        n_cells
            Cells that are added.
        """
        weights = np.array([have[n] for n in self._names]) + n_cells * np.atleast_2d(shares)
        profiles = np.log1p(weights / weights.sum(axis=1, keepdims=True) @ self._means)
        return np.array([np.corrcoef(p, self._target)[0, 1] for p in profiles])
