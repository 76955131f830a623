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


def file_modalities(
    path: str | Path, *, max_memory: int | None = None, trust: bool = False
) -> list[str]:
    """Return the names of the modalities of a file or zarr store of MuData, without reading it.

    Parameters
    ----------
    path
        Any path that ``read_any`` knows.
    max_memory, trust
        Of :func:`read_any`.

    Returns
    -------
    The names; none where the path holds cells of one modality, or where only reading tells, as of
    the files of 10x.

    Raises
    ------
    InputFileError
        As :func:`read_any`.

    Examples
    --------
    >>> file_modalities("cite.h5mu")  # doctest: +SKIP
    ['rna', 'prot']
    """
    path = check_readable(path)
    kind = kind_of(path)
    if kind not in {FileKind.H5MU, FileKind.ZARR}:
        return []
    limits = Limits.of(max_memory, trust=trust)
    if kind is FileKind.ZARR:
        return _held(_tree_of_zarr(path, limits))
    from episome.data._read_hdf5 import open_hdf5, walk

    with open_hdf5(path) as file:
        return _held(walk(file, name_of(path), limits))


def _held(tree: Tree) -> list[str]:
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
            fix="pass modality= (--modality) with one that is there"
            if names
            else "leave modality= (--modality) out",
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
    from episome.data._read_zarr import open_zarr_group

    _check(_tree_of_zarr(path, limits), path, modality, limits)
    with reading(name_of(path), "zarr"):
        return open_zarr_group(path, f"mod/{modality}")


def _tree_of_zarr(path: Path, limits: Limits) -> Tree:
    from episome.data._read_zarr import look_at

    return look_at(path, limits).tree


def _check(tree: Tree, path: Path, modality: str, limits: Limits) -> None:
    """Refuse what is not there and what would not fit; other modalities are not read."""
    from episome.data._read_tree import check_tree

    held = _held(tree)
    _require(modality, held, name_of(path))
    tables: tuple[Any, ...] = ("obs", "var", "obsm", "varm", "obsp", "varp", "uns", "obsmap")
    others = [f"mod/{m}" for m in held if m != modality]
    matrices = [f"mod/{modality}/{part}" for part in ("X", "layers", "raw/X")]
    check_tree(tree, name_of(path), limits, on_disk=(*tables, *others, *matrices))
