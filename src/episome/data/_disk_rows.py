"""Rows of a sparse matrix that stays in an h5ad file or a zarr store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from episome.data._read_tree import check_pointers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data._matrix import Matrix, Rows

#: Rows between two wanted ones that cost less to read than another read.
_GAP = 16
#: Rows that are read at once, wanted or not.
_SPAN = 1024


class DiskRows:
    """A CSR matrix on disk of which the row pointers are in memory.

    anndata reads its pointers anew for every slice, which costs more than the rows do.

    Parameters
    ----------
    matrix
        anndata's sparse dataset, stored by rows.
    where
        How messages name it.

    Raises
    ------
    InputDataError
        Pointers, column numbers and values do not belong together (E-D23).
    """

    def __init__(self, matrix: Any, where: str) -> None:
        group = matrix.group
        self.shape: tuple[int, int] = matrix.shape
        self._data, self._indices = group["data"], group["indices"]
        self._indptr: NDArray[np.int64] = np.asarray(group["indptr"][...]).astype(np.int64)
        check_pointers(self._indptr, self._data.shape[0], where)
        check_pointers(self._indptr, self._indices.shape[0], where)

    def __getitem__(self, rows: Rows, /) -> sparse.csr_matrix:
        """Return rows, CSR float32.

        Parameters
        ----------
        rows
            A slice, or increasing row numbers.
        """
        if isinstance(rows, slice):
            start, stop, step = rows.indices(self.shape[0])
            if step == 1:
                return self._span(start, max(stop, start))
            rows = np.arange(start, stop, step)
        if not len(rows):
            return self._span(0, 0)
        parts = [
            self._span(span.start, span.stop)[rows[part] - span.start]
            if span.stop - span.start > part.stop - part.start
            else self._span(span.start, span.stop)
            for span, part in spans(rows)
        ]
        return parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")

    def _span(self, start: int, stop: int) -> sparse.csr_matrix:
        first, last = int(self._indptr[start]), int(self._indptr[stop])
        values = np.asarray(self._data[first:last]).astype(np.float32, copy=False)
        columns = np.asarray(self._indices[first:last])
        pointers = self._indptr[start : stop + 1] - first
        block = sparse.csr_matrix((stop - start, self.shape[1]), dtype=np.float32)
        # Structure is checked by who uses the block; scipy would look at all of it here.
        block.data, block.indices, block.indptr = values, columns, pointers.astype(columns.dtype)
        return block


def is_on_disk(matrix: Matrix) -> bool:
    """Whether a matrix is anndata's sparse dataset by rows."""
    return getattr(matrix, "format", None) == "csr" and hasattr(matrix, "group")


def spans(rows: NDArray[np.int64]) -> Iterator[tuple[slice, slice]]:
    """Yield ranges of rows that are best read at once, and which of the wanted rows they hold.

    Parameters
    ----------
    rows
        Wanted rows, increasing, int64.
    """
    borders = np.flatnonzero(np.diff(rows) > _GAP) + 1
    for first, last in zip([0, *borders], [*borders, len(rows)], strict=True):
        start = int(first)
        while start < last:
            stop = int(np.searchsorted(rows[start:last], rows[start] + _SPAN)) + start
            yield slice(int(rows[start]), int(rows[stop - 1]) + 1), slice(start, stop)
            start = stop
