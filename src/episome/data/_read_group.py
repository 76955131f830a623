"""An AnnData object of a group in HDF5 or zarr, whose matrices stay where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from episome.data._read_tree import check_pointers

if TYPE_CHECKING:
    from anndata import AnnData

_SMALL = ("obs", "var", "obsm", "varm", "obsp", "varp", "uns")


def open_group(root: Any, name: str) -> AnnData:
    """Make an object whose matrices read their rows from the store when they are asked for.

    Parameters
    ----------
    root
        Group of ``h5py`` or ``zarr`` that anndata wrote.
    name
        How messages name it.

    Raises
    ------
    InputDataError
        Pointers of a sparse matrix are out of order or beyond the values (E-D23).
    """
    import anndata

    small = {key: anndata.io.read_elem(root[key]) for key in _SMALL if key in root}
    large: dict[str, Any] = {}
    if "X" in root:
        large["X"] = _matrix(root["X"], f"{name}, X")
    if "layers" in root:
        large["layers"] = {
            key: _matrix(root["layers"][key], f"{name}, layers/{key}") for key in root["layers"]
        }
    raw = root.get("raw")
    if hasattr(raw, "keys"):  # without raw there is an empty array of this name
        large["raw"] = {
            "X": _matrix(raw["X"], f"{name}, raw/X"),
            **{k: anndata.io.read_elem(raw[k]) for k in ("var", "varm") if k in raw},
        }
    return anndata.AnnData(**small, **large)


def _matrix(element: Any, where: str) -> Any:
    import anndata

    if not hasattr(element, "keys"):
        return element
    check_pointers(np.asarray(element["indptr"][...]), element["indices"].shape[0], where)
    return anndata.io.sparse_dataset(element)
