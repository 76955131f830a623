"""Cells as records: one run of bytes per cell, small enough to keep and quick to read.

A record holds first the gaps between the columns of the stored values, then the values, one byte
each. 255 says that four bytes follow with the number itself, so no count is too large. At usual
sparsity a value costs two bytes and a little, where CSR of 32-bit numbers costs eight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from episome.data._compiled import compiled, offsets_of
from episome.data._rows import ArrayPool, csr_of
from episome.errors import InputDataError, Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

#: What a byte cannot hold is said by this one, and four more.
ESCAPE = 255
MAX_COUNT = (1 << 32) - 1


@compiled
def _sizes(indptr: Any, indices: Any, counts: Any, sizes: Any) -> None:
    """Bytes of every record."""
    for row in range(len(indptr) - 1):
        size, before = 2 * (indptr[row + 1] - indptr[row]), np.int64(-1)
        for i in range(indptr[row], indptr[row + 1]):
            if indices[i] - before - 1 >= ESCAPE:
                size += 4
            if counts[i] >= ESCAPE:
                size += 4
            before = np.int64(indices[i])
        sizes[row] = size


@compiled
def _put(number: Any, out: Any, at: Any) -> Any:
    if number < ESCAPE:
        out[at] = number
        return at + 1
    out[at] = ESCAPE
    for byte in range(4):
        out[at + 1 + byte] = (number >> (8 * byte)) & 255
    return at + 5


@compiled
def _encode(indptr: Any, indices: Any, counts: Any, out: Any) -> None:
    at = 0
    for row in range(len(indptr) - 1):
        before = np.int64(-1)
        for i in range(indptr[row], indptr[row + 1]):
            at = _put(np.int64(indices[i]) - before - 1, out, at)
            before = np.int64(indices[i])
        for i in range(indptr[row], indptr[row + 1]):
            at = _put(np.int64(counts[i]), out, at)


@compiled
def _decode(
    records: Any, starts: Any, stops: Any, n_vars: Any, indptr: Any, indices: Any, counts: Any
) -> int:
    """Fill CSR arrays; return -1, or the first row whose record cannot be one."""
    for row in range(len(starts)):
        at, stop = starts[row], stops[row]
        first, last = indptr[row], indptr[row + 1]
        if at < 0 or stop > len(records) or stop - at < 2 * (last - first):
            return row
        before, n = np.int64(-1), last - first
        if stop - at == 2 * n:  # most records: an escape would make it longer
            for k in range(n):
                before += np.int64(records[at + k]) + 1
                indices[first + k] = before
            if before >= n_vars:
                return row
            for k in range(n):
                counts[first + k] = records[at + n + k]
            escapes = False
            for k in range(2 * n):
                escapes |= records[at + k] == ESCAPE
            if escapes:
                return row
            continue
        for i in range(first, last):
            if at >= stop:
                return row
            number = np.int64(records[at])
            at += 1
            if number == ESCAPE:
                if at + 4 > stop:
                    return row
                number = np.int64(records[at]) | np.int64(records[at + 1]) << 8
                number |= np.int64(records[at + 2]) << 16 | np.int64(records[at + 3]) << 24
                at += 4
            before += number + 1
            indices[i] = before
        if before >= n_vars:
            return row
        for i in range(first, last):
            if at >= stop:
                return row
            number = np.int64(records[at])
            at += 1
            if number == ESCAPE:
                if at + 4 > stop:
                    return row
                number = np.int64(records[at]) | np.int64(records[at + 1]) << 8
                number |= np.int64(records[at + 2]) << 16 | np.int64(records[at + 3]) << 24
                at += 4
            counts[i] = number
        if at != stop:
            return row
    return -1


@compiled
def _gather(records: Any, starts: Any, sizes: Any, out: Any) -> None:
    at = 0
    for row in range(len(starts)):
        for i in range(starts[row], starts[row] + sizes[row]):
            out[at] = records[i]
            at += 1


def encode(block: sparse.csr_matrix) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the records of the cells of a block, one after the other.

    Parameters
    ----------
    block
        CSR of whole counts, columns sorted, no explicit zeros.

    Returns
    -------
    The bytes, uint8, and where each record starts and ends, int64 of shape (n_rows + 1,).

    Raises
    ------
    InputDataError
        Values are no counts (E-D55), or above 4,294,967,295 (E-D56).
    """
    counts = whole_counts(block.data)
    sizes = np.empty(block.shape[0], dtype=np.int64)
    _sizes(block.indptr, block.indices, counts, sizes)
    offsets = offsets_of(sizes)
    out = np.empty(offsets[-1], dtype=np.uint8)
    _encode(block.indptr, block.indices, counts, out)
    return out, offsets


def whole_counts(values: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Return values as int64 where they are counts.

    Raises
    ------
    InputDataError
        They are none (E-D55), or too large (E-D56).
    """
    wrong = ~(np.isfinite(values) & (values >= 0) & (values == np.rint(values)))
    if wrong.any():
        raise InputDataError(no_counts(int(wrong.sum()), len(values), values[wrong][:3].tolist()))
    # Not compared with MAX_COUNT, which float32 would round up.
    large = values >= 2.0**32
    if large.any():
        raise InputDataError(
            "E-D56",
            "counts that are larger than a corpus holds",
            count=int(large.sum()),
            total=len(values),
            examples=values[large][:3].tolist(),
            why=f"the largest is {MAX_COUNT:,}",
            fix="look at these cells: no library has so many molecules",
        )
    return values.astype(np.int64)


def no_counts(count: int, total: int, examples: list[object], where: str | None = None) -> Problem:
    """Return the problem of values that are no whole counts."""
    return Problem(
        "E-D55",
        "values that are no whole counts",
        where,
        count,
        total,
        examples,
        "a corpus holds counts: models that want log1p values make them from counts",
        "pass the layer with raw counts (--layer, --use-raw)",
    )


def decode(
    records: NDArray[np.uint8],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    n_stored: NDArray[np.int64],
    n_vars: int,
    *,
    where: str,
    pool: ArrayPool | None = None,
) -> sparse.csr_matrix:
    """Return records as CSR float32 with sorted columns.

    Parameters
    ----------
    records
        Bytes that hold them, uint8.
    starts, stops
        Where each record starts and ends, int64 of shape (n_rows,).
    n_stored
        Stored values of each cell, int64 of shape (n_rows,).
    n_vars
        Number of genes.
    where
        How messages name the place.
    pool
        Where the memory of the values comes from; default new memory.

    Raises
    ------
    InputDataError
        A record is broken (E-D23); nothing outside ``records`` is ever read.
    """
    # A value takes two bytes at least; no memory is asked for before that is known.
    wrong = np.flatnonzero((n_stored < 0) | (2 * n_stored > stops - starts))
    if len(wrong):
        raise broken_record(where, int(wrong[0]))
    indptr = offsets_of(n_stored)
    total = int(indptr[-1])
    memory = ArrayPool() if pool is None else pool
    indices, counts = memory.take(total, "int32"), memory.take(total, "float32")
    bad = _decode(records, starts, stops, n_vars, indptr, indices, counts)
    if bad >= 0:
        raise broken_record(where, bad)
    return csr_of(counts, indices, indptr, n_vars)


def broken_record(where: str, row: int) -> InputDataError:
    """Return the error of a record that is none."""
    return InputDataError(
        "E-D23",
        "a broken record of a cell",
        where=where,
        examples=[f"row {row}"],
        why="its genes or counts could be anybody's",
        fix="`episome corpus verify` says which file is damaged; copy or build it again",
    )


def gather(
    records: NDArray[np.uint8], starts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Return runs of bytes one after the other, in the order asked for."""
    out = np.empty(int(sizes.sum()), dtype=np.uint8)
    _gather(records, starts, sizes, out)
    return out
