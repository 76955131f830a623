"""Kernels of the data path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def compiled(function: Any) -> Any:
    """Compile a kernel of the data path on its first call, cached where that is possible."""
    import numba

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except (RuntimeError, OSError):  # no folder can hold the cache
        return numba.njit(**options)(function)


def offsets_of(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each of several runs starts and ends, int64 of shape (n + 1,)."""
    offsets = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return offsets
