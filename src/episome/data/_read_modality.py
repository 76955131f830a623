"""One modality of cells that have several, read without the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from episome.data._read import read_any
from episome.data._read_guard import Limits, reading, unchanged
from episome.data._read_kind import FileKind, check_readable, kind_of
from episome.data._read_names import name_of
from episome.errors import UsageError

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from episome.data._read_tree import Tree


def read_modality(
    data: MuData | str | Path,
    modality: str,
    *,
    backed: bool = False,
    max_memory: int | None = None,
    trust: bool = False,
) -> AnnData:
    """Return one modality of a MuData object, or of a file that holds several.

    Parameters
    ----------
    data
        The object, or a path of any kind that ``read_any`` knows; never written to.
    modality
        Its name: ``"rna"``, ``"prot"``, ...
    backed
        Leave matrix, layers and ``raw`` of h5mu and of a zarr store of MuData on disk; nothing of
        other modalities is read.
    max_memory, trust
        Of :func:`read_any`.

    Raises
    ------
    UsageError
        There are no modalities, or none of this name (E-U60).
    InputFileError, InputDataError, MissingDependencyError
        As :func:`read_any`.

    Examples
    --------
    >>> proteins = read_modality("cite.h5mu", "prot", backed=True)  # doctest: +SKIP
    """
    if not isinstance(data, str | Path):
        return _of(data, modality, "mdata")
    path = check_readable(data)
    kind = kind_of(path)
    if backed and kind in {FileKind.H5MU, FileKind.ZARR}:
        limits = Limits.of(max_memory, trust=trust)
        with unchanged(path, name=name_of(path)):
            if kind is FileKind.H5MU:
                return _on_disk_hdf5(path, modality, limits)
            return _on_disk_zarr(path, modality, limits)
    found = read_any(path, max_memory=max_memory, trust=trust)
    return _of(found, modality, name_of(path))


def modality_names(data: MuData | Mapping[str, Any] | str | Path) -> list[str]:
    """Return the names of the modalities of an object or a file, without reading values.

    Parameters
    ----------
    data
        MuData, objects by the name of their modality, or a path; of one that is neither h5mu nor a
        zarr store of MuData all is read.

    Raises
    ------
    InputFileError
        The file cannot be read.
    """
    if not isinstance(data, str | Path):
        return [str(m) for m in getattr(data, "mod", data)]
    path = check_readable(data)
    kind = kind_of(path)
    if kind is FileKind.H5MU:
        from episome.data._read_hdf5 import open_hdf5, walk

        with open_hdf5(path) as file:
            return _held(walk(file, name_of(path), Limits.of(None, trust=False)))
    if kind is FileKind.ZARR:
        from episome.data._read_zarr import look_at

        if held := _held(look_at(path, Limits.of(None, trust=False)).tree):
            return held
    found: Mapping[str, Any] = getattr(read_any(path), "mod", {})
    return list(found)


def _held(tree: Tree) -> list[str]:
    """Return the modalities of a tree of groups."""
    held = [g.removeprefix("mod/") for g in sorted(tree.groups) if g.startswith("mod/")]
    return [g for g in held if "/" not in g]


def _of(data: object, modality: str, name: str) -> AnnData:
    held = getattr(data, "mod", data)
    _require(modality, held if isinstance(held, Mapping) else (), name)
    part: AnnData = held[modality]  # type: ignore[index]  # a mapping, or it was refused
    return part


def _require(modality: str, held: Iterable[str], name: str) -> None:
    names = list(held)
    if modality not in names:
        raise UsageError(
            "E-U60",
            f"modality {modality!r} is missing",
            where=name,
            why=f"the modalities are {', '.join(names)}" if names else "it holds no modalities",
            fix="pass modality= with one that is there" if names else "leave modality= out",
        )


def _on_disk_hdf5(path: Path, modality: str, limits: Limits) -> AnnData:
    from episome.data._read_group import open_group
    from episome.data._read_hdf5 import open_hdf5, opened_hdf5, walk

    with open_hdf5(path) as file:
        tree = walk(file, name_of(path), limits)
    _check(tree, path, modality, limits)
    with reading(name_of(path), "h5mu"):
        # Stays open as long as something reads from it.
        return open_group(opened_hdf5(path)[f"mod/{modality}"], f"{name_of(path)}, {modality}")


def _on_disk_zarr(path: Path, modality: str, limits: Limits) -> AnnData:
    from episome.data._read_zarr import look_at, open_zarr_group

    tree = look_at(path, limits).tree
    _check(tree, path, modality, limits)
    with reading(name_of(path), "zarr"):
        return open_zarr_group(path, f"mod/{modality}")


def _check(tree: Tree, path: Path, modality: str, limits: Limits) -> None:
    """Refuse what is not there and what would not fit; other modalities are not read."""
    from episome.data._read_tree import check_tree

    held = _held(tree)
    _require(modality, held, name_of(path))
    tables: tuple[Any, ...] = ("obs", "var", "obsm", "varm", "obsp", "varp", "uns", "obsmap")
    others = [f"mod/{m}" for m in held if m != modality]
    matrices = [f"mod/{modality}/{part}" for part in ("X", "layers", "raw/X")]
    check_tree(tree, name_of(path), limits, on_disk=(*tables, *others, *matrices))
