"""Names of the columns of a cell table, found before any value or the table itself is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from episome.data._read_guard import Limits
from episome.data._read_kind import FileKind, kind_of
from episome.data._read_names import name_of

#: Attribute of a table that lists its columns.
_ORDER = "column-order"


def cell_columns(
    path: str | Path, *, max_memory: int | None = None, trust: bool = False
) -> list[str] | None:
    """Return the names of the columns of a file's cell table, without reading its cells.

    Parameters
    ----------
    path
        An h5ad file or a zarr store; of anything else only reading it tells.
    max_memory, trust
        As for ``read_cells``.

    Returns
    -------
    The names; ``None`` where only reading tells.

    Raises
    ------
    InputFileError
        As for ``read_cells``.

    Examples
    --------
    >>> cell_columns("atlas.h5ad")  # doctest: +SKIP
    """
    path = Path(path)
    kind = kind_of(path)
    if kind is FileKind.HDF5:
        return _of_hdf5(path, Limits.of(max_memory, trust=trust))
    return _of_zarr(path) if kind is FileKind.ZARR else None


def _of_hdf5(path: Path, limits: Limits) -> list[str] | None:
    from episome.data._read_hdf5 import layout_of, open_hdf5, walk

    with open_hdf5(path) as file:
        # Where the table is not in another file.
        tree = walk(file, name_of(path), limits)
        if "obs" not in tree.groups or layout_of(file, name_of(path)) is not FileKind.H5AD:
            return None
        return _listed(file["obs"].attrs)


def _of_zarr(path: Path) -> list[str] | None:
    """Read the attributes of the table, of version 3 or 2."""
    if (path / "mod").is_dir():  # several modalities, each with a table
        return None
    for name in ("zarr.json", ".zattrs"):
        try:
            found = json.loads((path / "obs" / name).read_bytes())
            return _listed(found["attributes"] if name == "zarr.json" else found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # said when it is read
            continue
    return None


def _listed(attributes: Mapping[str, Any]) -> list[str] | None:
    order = attributes.get(_ORDER)
    return None if order is None else [_text(name) for name in order]


def _text(name: object) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
