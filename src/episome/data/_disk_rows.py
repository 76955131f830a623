"""Rows of a sparse matrix that stays in an h5ad file or a zarr store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from episome.data._read_tree import check_pointers
from episome.errors import InputFileError

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
        self._where, self._file = where, getattr(group, "file", None)
        self._state = _state_of(self._file)

    def __getitem__(self, rows: Rows, /) -> sparse.csr_matrix:
        """Return rows, CSR float32.

        Parameters
        ----------
        rows
            A slice, or increasing row numbers.

        Raises
        ------
        InputFileError
            The file was written to since it was opened (E-F16).
        """
        found = self._rows(rows)
        # HDF5 reads what is beyond the end of a file that was cut as zeros.
        if _state_of(self._file) != self._state:
            raise InputFileError(
                "E-F16",
                "the file changed while it was read",
                where=self._where,
                why="cells that were read and cells to come may belong to different contents",
                fix="wait until nothing writes to it, and run again",
            )
        return found

    def _rows(self, rows: Rows) -> sparse.csr_matrix:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(self.shape[0])
            if step == 1:
                return self._span(start, max(stop, start))
            rows = np.arange(start, stop, step)
        if not len(rows):
            return self._span(0, 0)
        ranges = list(spans(rows))
        if len(ranges) > 1 and hasattr(self._data, "oindex"):
            return self._scattered(rows)
        parts = [
            self._span(span.start, span.stop)[rows[part] - span.start]
            if span.stop - span.start > part.stop - part.start
            else self._span(span.start, span.stop)
            for span, part in ranges
        ]
        return parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")

    def _scattered(self, rows: NDArray[np.int64]) -> sparse.csr_matrix:
        """Return rows of a zarr store at once: it opens every chunk that holds some of them once.

        One range after the other costs two to five times as much, above all in its overhead.
        """
        starts = self._indptr[rows]
        pointers = np.concatenate([[0], np.cumsum(self._indptr[rows + 1] - starts)])
        lengths = np.diff(pointers)
        places = np.repeat(starts - pointers[:-1], lengths) + np.arange(pointers[-1])
        if not len(places):
            return sparse.csr_matrix((len(rows), self.shape[1]), dtype=np.float32)
        return self._block(self._data.oindex[places], self._indices.oindex[places], pointers)

    def _span(self, start: int, stop: int) -> sparse.csr_matrix:
        first, last = int(self._indptr[start]), int(self._indptr[stop])
        pointers = self._indptr[start : stop + 1] - first
        return self._block(self._data[first:last], self._indices[first:last], pointers)

    def _block(
        self, values: object, columns: object, pointers: NDArray[np.int64]
    ) -> sparse.csr_matrix:
        values, columns = np.asarray(values), np.asarray(columns)
        # A store may keep columns in 8 bits, which pointers do not fit into.
        wide = columns.dtype.itemsize > 4 or pointers[-1] > np.iinfo(np.int32).max
        kind = np.int64 if wide else np.int32
        block = sparse.csr_matrix((len(pointers) - 1, self.shape[1]), dtype=np.float32)
        # Structure is checked by who uses the block; scipy would look at all of it here.
        block.data = values.astype(np.float32, copy=False)
        block.indices = columns.astype(kind, copy=False)
        block.indptr = pointers.astype(kind)
        return block


def _state_of(file: Any) -> tuple[int, int] | None:
    """Return size and time of an open HDF5 file; nothing for stores that are no plain file."""
    if getattr(file, "driver", None) != "sec2":
        return None
    stat = os.fstat(file.id.get_vfd_handle())
    return stat.st_size, stat.st_mtime_ns


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
