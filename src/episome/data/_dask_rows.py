"""Rows of a dask array: the chunks that hold them are computed, and no others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from episome.data._matrix import to_csr_block

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data._matrix import Matrix, Rows


class DaskRows:
    """A dask array of dense or sparse chunks.

    Chunks are computed one after the other and joined here: dask itself joins some kinds of
    sparse chunks only.

    Parameters
    ----------
    matrix
        ``dask.array.Array`` of two dimensions.
    """

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix
        self.shape: tuple[int, int] = matrix.shape
        self._starts: NDArray[np.int64] = np.concatenate([[0], np.cumsum(matrix.chunks[0])])
        self._n_across = len(matrix.chunks[1])

    def __getitem__(self, rows: Rows, /) -> sparse.csr_matrix:
        """Return rows, CSR float32.

        Parameters
        ----------
        rows
            A slice, or increasing row numbers.
        """
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.shape[0]))
        cuts = np.searchsorted(rows, self._starts)
        parts = [
            self._of_chunk(int(i), rows[cuts[i] : cuts[i + 1]] - self._starts[i])
            for i in np.flatnonzero(np.diff(cuts))
        ]
        if not parts:
            return sparse.csr_matrix((0, self.shape[1]), dtype=np.float32)
        return parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")

    def _of_chunk(self, i: int, rows: NDArray[np.int64]) -> sparse.csr_matrix:
        parts = [
            to_csr_block(self._matrix.blocks[i, j][rows].compute()) for j in range(self._n_across)
        ]
        return parts[0] if len(parts) == 1 else sparse.hstack(parts, format="csr")


def is_dask(matrix: Matrix) -> bool:
    """Whether a matrix is a dask array."""
    return hasattr(matrix, "dask") and hasattr(matrix, "blocks")
