"""Rows of any matrix that AnnData can hold, as CSR blocks of float32.

Nothing here copies a whole matrix or writes to it: blocks of rows are taken and converted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from scipy import sparse

from episome.errors import InputDataError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Rows: TypeAlias = "slice | NDArray[np.int64]"


class Matrix(Protocol):
    """Anything two-dimensional that AnnData can hold and whose rows can be taken."""

    def __getitem__(self, rows: Any, /) -> Any: ...


def to_csr_block(block: object) -> sparse.csr_matrix:
    """Return any two-dimensional block as canonical CSR float32 (sorted, duplicates summed).

    Parameters
    ----------
    block
        Dense array, ``np.matrix``, masked array (masked entries become NaN), data frame, array of
        dask, or any scipy sparse matrix or array.

    Returns
    -------
    ``csr_matrix`` of dtype float32; shares memory with ``block`` where it already fits.

    Raises
    ------
    InputDataError
        E-D23 when indices or pointers of a sparse block are broken; E-D41 when values are no real
        numbers.
    """
    if hasattr(block, "dask"):
        block = block.compute()  # type: ignore[attr-defined]  # an array of dask
    if hasattr(block, "to_numpy"):
        block = block.to_numpy()
    if isinstance(block, np.ma.MaskedArray):
        block = np.ma.filled(block.astype(np.float32), np.nan)
    if sparse.issparse(block):
        check_structure(block)
        out = sparse.csr_matrix(block)
    else:
        out = sparse.csr_matrix(_numbers(block))
    if out.dtype != np.float32:
        out = sparse.csr_matrix(
            (out.data.astype(np.float32), out.indices, out.indptr), shape=out.shape
        )
    if not out.has_canonical_format:
        # sum_duplicates works in place: never on the caller's arrays.
        out = out.copy()
        out.sum_duplicates()
    return out


def _numbers(block: object) -> NDArray[np.generic]:
    """Return a dense block in a type that scipy holds."""
    array = np.asarray(block)
    if array.dtype == object:
        with contextlib.suppress(TypeError, ValueError):  # text is refused below
            array = array.astype(np.float32)
    if array.dtype.kind not in "biuf":
        raise InputDataError(
            "E-D41",
            f"the values are {array.dtype}, not numbers",
            why="expression is counts or log1p of them",
            fix="pass a numeric matrix",
        )
    return array.astype(np.float32) if array.dtype == np.float16 else array


def check_structure(block: sparse.spmatrix) -> None:
    """Refuse sparse data that would make compiled code read foreign memory."""
    if getattr(block, "format", None) not in {"csr", "csc"}:
        return
    major, minor = block.shape if block.format == "csr" else block.shape[::-1]
    indptr, indices = block.indptr, block.indices
    broken = (
        len(indptr) != major + 1
        or indptr[0] != 0
        or indptr[-1] > len(indices)
        or len(indices) != len(block.data)
        or (np.diff(indptr) < 0).any()
        or (len(indices) > 0 and (indices.min() < 0 or indices.max() >= minor))
    )
    if broken:
        raise broken_structure()


def broken_structure() -> InputDataError:
    """Return the error of sparse data whose pointers or columns are out of range."""
    return InputDataError(
        "E-D23",
        "broken sparse structure (pointers or column numbers out of range)",
        why="reading it would return foreign memory",
        fix="write the file again from the original data",
    )


def move_columns(
    block: sparse.csr_matrix, columns: NDArray[np.int64], n_features: int
) -> sparse.csr_matrix:
    """Return a block with its columns at other places.

    Parameters
    ----------
    block
        CSR; not modified.
    columns
        New place of every column, or -1 for those that are left out, int64 (n,).
    n_features
        Number of columns of the result.

    Returns
    -------
    CSR, columns sorted, those of one place summed.
    """
    target = columns[block.indices]
    keep = target >= 0
    kept = np.zeros(len(target) + 1, dtype=np.int64)
    np.cumsum(keep, out=kept[1:])
    out = sparse.csr_matrix(
        (block.data[keep], target[keep], kept[block.indptr]),
        shape=(block.shape[0], n_features),
    )
    out.sum_duplicates()
    return out


def iter_blocks(n_rows: int, block_rows: int) -> Iterator[slice]:
    """Yield consecutive row slices of at most ``block_rows``."""
    for start in range(0, n_rows, block_rows):
        yield slice(start, min(start + block_rows, n_rows))


def block_rows_for(n_vars: int, *, budget_bytes: int = 64 << 20) -> int:
    """Return the number of rows whose dense float32 form fits into ``budget_bytes``."""
    return int(np.clip(budget_bytes // (4 * max(n_vars, 1)), 16, 16384))


def require_rows(rows: Rows, n_obs: int, where: str) -> NDArray[np.int64]:
    """Return rows as numbers; refuse those that are none.

    Raises
    ------
    UsageError
        E-U39.
    """
    if isinstance(rows, slice):
        return np.arange(*rows.indices(n_obs), dtype=np.int64)
    rows = np.asarray(rows, dtype=np.int64)
    outside = (rows < 0) | (rows >= n_obs)
    if outside.any():
        raise UsageError(
            "E-U39",
            "row numbers that are no rows",
            where=where,
            count=int(outside.sum()),
            total=len(rows),
            examples=rows[outside][:3].tolist(),
            why=f"rows are counted from 0 to {n_obs - 1:,}",
            fix="pass row numbers of the cells that are given",
        )
    return rows
