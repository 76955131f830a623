"""A digest of cells that does not depend on how their matrix is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from episome.data._source import CellSource

#: Cells of a block.
BLOCK = 4096


def cells_digest(source: CellSource, *, progress: Callable[[int, int], None] | None = None) -> str:
    """SHA-256 of the genes, the names of the cells, and the values, read in blocks.

    The same for the same cells as CSR, CSC or dense, in h5ad or zarr, with their genes in any
    order; another for cells in another order, and for other values as float32. Columns of the
    cell table play no part.

    Parameters
    ----------
    source
        The cells.
    progress
        Called with ``(cells done, cells)`` after every block.
    """
    genes = source.var.index.astype(str).to_numpy(dtype=object)
    order = np.argsort(genes, kind="stable")
    found = hashlib.sha256(b"episome cells 1\n")
    for names in (genes[order], source.obs_names):
        found.update(names_bytes(names))
    for start in range(0, source.n_obs, BLOCK):
        stop = min(start + BLOCK, source.n_obs)
        block = source.read(slice(start, stop))[:, order]
        block.sum_duplicates()
        block.eliminate_zeros()
        block.sort_indices()
        found.update(np.diff(block.indptr).astype("<i8").tobytes())
        found.update(block.indices.astype("<i8").tobytes())
        found.update(block.data.astype("<f4").tobytes())
        if progress is not None:
            progress(stop, source.n_obs)
    return found.hexdigest()


def names_bytes(names: Sequence[object]) -> bytes:
    """Return names with their number as bytes to digest.

    Parameters
    ----------
    names
        Anything that has a text.
    """
    return (f"{len(names)}\n" + "\n".join(map(str, names))).encode()
