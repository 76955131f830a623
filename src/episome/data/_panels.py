"""Which genes were measured in which cells, where cells of several origins stand side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data._alignment import Alignment
    from episome.data._source import CellSource


class GenePanels(NamedTuple):
    """Genes that were measured, by the origin of the cell.

    Zeros of other genes say nothing: they were not looked for.

    Parameters
    ----------
    measured
        bool (n_origins, n_genes).
    codes
        Origin of every cell, int64 (n_obs,).
    """

    measured: NDArray[np.bool_]
    codes: NDArray[np.int64]


def measured_genes(source: CellSource, alignment: Alignment) -> GenePanels | None:
    """Return which genes of a model were measured in which cells; ``None``: all in all.

    Parameters
    ----------
    source
        Cells. One that joins cells of several origins says so by an attribute ``panels``, a
        :class:`GenePanels` of its own genes.
    alignment
        Its genes to the model's.
    """
    own: GenePanels | None = getattr(source, "panels", None)
    if own is None:
        whole = np.ones((1, source.n_vars), dtype=bool)
        own = GenePanels(whole, np.zeros(source.n_obs, dtype=np.int64))
    table = np.zeros((len(own.measured), alignment.n_features), dtype=bool)
    known = np.flatnonzero(alignment.columns >= 0)
    for origin, row in enumerate(own.measured):
        table[origin, alignment.columns[known[row[known]]]] = True
    return None if table.all() else GenePanels(table, own.codes)
