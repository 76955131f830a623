"""Which features were measured in which cells, where cells of several origins stand together."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

from episome.errors import InputDataError

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


#: Rows that are read at a time.
_BLOCK = 4096
#: That chance is why any feature of any batch is zero in all cells has to be rarer than exp(-10).
_SURE = 10.0
#: Different patterns of NaN that are taken for panels.
_MOST = 1024


def measured_features(
    source: CellSource,
    batches: NDArray[np.int64] | None = None,
    present: NDArray[np.bool_] | None = None,
) -> GenePanels | None:
    """Find out which features of another modality were measured in which cells.

    What is NaN in a cell was not measured. With batches neither was a feature that is zero in all
    cells of a batch, though by the other batches so many of them should have a value (about
    twenty) that chance cannot be why; this is how panels of several studies look after they were
    joined. All values are read once.

    Parameters
    ----------
    source
        Values of the modality.
    batches
        Batch of every cell, int64 (n_obs,).
    present
        Which cells have the modality at all, bool (n_obs,).

    Returns
    -------
    Panels of this source's features; ``None`` where all were measured in all cells.

    Raises
    ------
    InputDataError
        NaN lie anywhere, in too many patterns for panels (E-D01).
    """
    there = np.ones(source.n_obs, dtype=bool) if present is None else present
    own: GenePanels | None = getattr(source, "panels", None)
    known = np.ones((1, source.n_vars), dtype=bool) if own is None else own.measured
    origin = np.zeros(source.n_obs, dtype=np.int64) if own is None else own.codes
    groups = np.zeros(source.n_obs, dtype=np.int64) if batches is None else batches
    n_groups = int(groups.max(initial=0)) + 1
    seen = np.zeros((n_groups, source.n_vars))
    patterns: dict[bytes, int] = {}
    pattern = np.zeros(source.n_obs, dtype=np.int64)
    for start in range(0, source.n_obs, _BLOCK):
        rows = slice(start, min(start + _BLOCK, source.n_obs))
        block = source.read(rows)
        missing = np.isnan(block.data)
        pattern[rows] = _patterns(block, missing, patterns)
        if len(patterns) > _MOST:
            raise InputDataError(
                "E-D01",
                "NaN values, in hundreds of patterns",
                where=source.where,
                why="NaN in another modality mean features that were not measured, and panels are "
                "few",
                fix="set features that were measured to their values, zero where there are none",
            )
        there_are = ((block.data != 0) & ~missing).astype(np.float64)
        counted = sparse.csr_matrix((there_are, block.indices, block.indptr), shape=block.shape)
        ends = np.arange(block.shape[0] + 1)
        member = sparse.csr_matrix((np.ones(block.shape[0]), groups[rows], ends))
        member.resize(block.shape[0], n_groups)
        seen += (member.T @ counted).toarray()
    table = np.array([np.frombuffer(k, dtype=bool) for k in patterns]).reshape(-1, source.n_vars)
    looked = np.ones((n_groups, source.n_vars), dtype=bool)
    if n_groups > 1:
        n_cells = np.bincount(groups[there], minlength=n_groups)[:, None]
        others, elsewhere = seen.sum(axis=0) - seen, n_cells.sum() - n_cells
        expected = n_cells * others / np.maximum(elsewhere, 1)
        looked = (seen > 0) | (expected < np.log(seen.size) + _SURE)
    origins, codes = np.unique(
        np.stack([origin, pattern, groups, there]), axis=1, return_inverse=True
    )
    measured = np.array([known[o] & ~table[p] & looked[g] & bool(t) for o, p, g, t in origins.T])
    return None if measured.all() else GenePanels(measured, codes.ravel().astype(np.int64))


def _patterns(
    block: sparse.csr_matrix, missing: NDArray[np.bool_], known: dict[bytes, int]
) -> NDArray[np.int64]:
    """Return the number of every row's pattern of NaN; new ones are added to those known."""
    nothing = known.setdefault(bytes(block.shape[1]), len(known))
    codes = np.full(block.shape[0], nothing, dtype=np.int64)
    bounds = np.concatenate([[0], np.cumsum(missing)])[block.indptr]
    columns = block.indices[missing]
    for i in np.flatnonzero(np.diff(bounds)):
        first, last = bounds[i], bounds[i + 1]
        mask = np.zeros(block.shape[1], dtype=bool)
        mask[columns[first:last]] = True
        codes[i] = known.setdefault(mask.tobytes(), len(known))
    return codes
