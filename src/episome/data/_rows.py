"""Rows of a matrix in memory, copied into memory that was used before."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy import sparse

from episome.data._compiled import compiled, offsets_of
from episome.data._matrix import broken_structure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data._source import CellSource

#: Arrays of one type that a pool keeps: a batch that is used, and those that are made ahead.
_KEPT = 4
#: Longer arrays are left to the system: they are no batches, and would be held for good.
_LONGEST = 16 << 20
#: Values below which a kernel gains nothing over scipy, and may have to be compiled first.
FEW_VALUES = 1 << 16


def _references_of_unused() -> int:
    """Count the references that `ArrayPool.take` sees to an array that only its pool holds."""
    kept = [np.empty(0)]
    for array in kept:
        return sys.getrefcount(array)
    raise AssertionError


_UNUSED = _references_of_unused()


class ArrayPool:
    """Memory of batches that nobody holds any more, handed out again.

    The system gives new memory page by page, which costs more than filling it. An array is handed
    out again only when no other object refers to it, so a batch that is kept keeps its values.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, list[NDArray[Any]]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def take(self, size: int, dtype: str) -> NDArray[Any]:
        """Return an array of ``size`` numbers, with anything in it.

        Parameters
        ----------
        size
            Length.
        dtype
            Type of the numbers.
        """
        if size > _LONGEST:
            return np.empty(size, dtype=dtype)
        with self._lock:
            kept = self._kept.setdefault(dtype, [])
            for array in kept:
                if len(array) >= size and sys.getrefcount(array) == _UNUSED:
                    return array[:size]
            # A little more than asked for: the next batch is seldom of exactly this size.
            new = np.empty(size + size // 8, dtype=dtype)
            kept.append(new)
            if len(kept) > _KEPT:
                kept.pop(0)
            return new[:size]


@compiled
def _take(
    ptr: Any, idx: Any, val: Any, rows: Any, n_vars: Any, out_ptr: Any, out_idx: Any, out_val: Any
) -> bool:
    """Copy rows; return whether columns rise in every row and are columns of the matrix."""
    good = True
    for i in range(len(rows)):
        # Numbers without a sign, and one array per loop: otherwise nothing is vectorised.
        first, at = np.uint64(ptr[rows[i]]), np.uint64(out_ptr[i])
        n = np.uint64(ptr[rows[i] + 1]) - first
        for k in range(n):
            out_idx[at + k] = idx[first + k]
        for k in range(n):
            out_val[at + k] = val[first + k]
        falls = False
        for k in range(np.uint64(1), n):
            falls |= out_idx[at + k] <= out_idx[at + k - np.uint64(1)]
        if n and (falls or idx[first] < 0 or idx[first + n - np.uint64(1)] >= n_vars):
            good = False
    return good


def take_rows(
    block: sparse.csr_matrix, rows: NDArray[np.int64], pool: ArrayPool
) -> sparse.csr_matrix | None:
    """Return rows of a CSR matrix as canonical CSR float32, or ``None`` where it is none.

    Parameters
    ----------
    block
        The matrix; not modified.
    rows
        Row numbers in any order, repeated ones too.
    pool
        Where the memory of the values comes from.

    Returns
    -------
    ``None`` where there is little to gain, and where columns are unsorted, repeated or out of
    range, or row numbers are none: whoever calls says which.

    Raises
    ------
    InputDataError
        Pointers point outside the matrix (E-D23).
    """
    n, n_vars = block.shape
    ptr, idx, val = block.indptr, block.indices, block.data
    if len(ptr) != n + 1 or len(idx) != len(val) or val.dtype.kind not in "biuf":
        return None
    if len(rows) and not 0 <= rows.min() <= rows.max() < n:
        return None
    starts, stops = ptr[rows], ptr[rows + 1]
    if len(rows) and ((stops < starts).any() or starts.min() < 0 or stops.max() > len(idx)):
        raise broken_structure()
    out_ptr = offsets_of((stops - starts).astype(np.int64))
    total = int(out_ptr[-1])
    if total < FEW_VALUES:
        return None
    out_idx, out_val = pool.take(total, "int32"), pool.take(total, "float32")
    if not _take(ptr, idx, val, rows, n_vars, out_ptr, out_idx, out_val):
        return None
    return csr_of(out_val, out_idx, out_ptr, n_vars)


def csr_of(
    values: NDArray[np.float32],
    columns: NDArray[np.int32],
    indptr: NDArray[np.int64],
    n_vars: int,
) -> sparse.csr_matrix:
    """Return canonical CSR of parts that were looked at: the constructor would look again.

    Parameters
    ----------
    values, columns
        Stored values and their columns, rising in every row, (nnz,).
    indptr
        Where each row starts and ends, (n_rows + 1,).
    n_vars
        Number of columns.
    """
    kind = np.int32 if len(values) < 1 << 31 else np.int64
    block = sparse.csr_matrix((len(indptr) - 1, n_vars), dtype=np.float32)
    block.data, block.indices = values, columns.astype(kind, copy=False)
    block.indptr = indptr.astype(kind)
    block.has_canonical_format = True
    return block


class Held(Protocol):
    """Cells that were read and are handed out in batches."""

    def take(self, places: NDArray[np.int64], pool: ArrayPool) -> sparse.csr_matrix:
        """Return cells by their place among those that were read, canonical CSR float32."""
        ...


class HeldBlock:
    """Cells held as one block.

    Parameters
    ----------
    block
        Canonical CSR float32.
    """

    def __init__(self, block: sparse.csr_matrix) -> None:
        self.block = block

    def take(self, places: NDArray[np.int64], pool: ArrayPool) -> sparse.csr_matrix:
        """Return cells by their place among those that were read."""
        found = take_rows(self.block, places, pool)
        return self.block[places] if found is None else found


def hold(source: CellSource, rows: NDArray[np.int64]) -> Held:
    """Read cells that are to be handed out in batches.

    Parameters
    ----------
    source
        Where they are. A source with a method of this name says itself how it holds them: as what
        lies on the disk, which is smaller than a block of 32-bit numbers.
    rows
        Rising row numbers.
    """
    own = getattr(source, "hold", None)
    held: Held = HeldBlock(source.read(rows)) if own is None else own(rows)
    return held
