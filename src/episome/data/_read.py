"""Open a file of cells, by what is in it and not by its name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from episome.errors import InputFileError

if TYPE_CHECKING:
    from anndata import AnnData

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_OTHER_KINDS = (
    (b"version https://git-lfs", "E-F02", "a Git LFS pointer, not data", "run `git lfs pull`"),
    (b"<!DOCTYPE", "E-F03", "a web page, not data", "download the file itself"),
    (b"<html", "E-F03", "a web page, not data", "download the file itself"),
    (b"\x1f\x8b", "E-F05", "compressed with gzip", "run `gunzip` on it first"),
    (b"PK\x03\x04", "E-F05", "a zip archive", "run `unzip` on it first"),
    (b"\x28\xb5\x2f\xfd", "E-F05", "compressed with zstd", "run `zstd -d` on it first"),
)


def read_cells(path: str | Path, *, backed: bool = False) -> AnnData:
    """Read an ``h5ad`` file.

    Parameters
    ----------
    path
        The file.
    backed
        Leave the matrix on disk (read-only) and read rows when they are needed.

    Returns
    -------
    The AnnData object.

    Raises
    ------
    InputFileError
        The file is missing (E-F07), empty (E-F04), another kind (E-F02 to E-F06) or cut short
        (E-F01).
    """
    import anndata

    path = check_readable(path)
    try:
        return anndata.read_h5ad(path, backed="r" if backed else None)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise InputFileError(
            "E-F01",
            "the file cannot be read as h5ad",
            where=path.name,
            why=_first_line(error),
            fix="download or write the file again",
        ) from error


def check_readable(path: str | Path) -> Path:
    """Return ``path`` when it is an HDF5 file; the checks need no heavy import."""
    path = Path(path)
    if not path.is_file():
        raise InputFileError(
            "E-F07",
            "this is a folder, not a file" if path.is_dir() else "there is no such file",
            where=str(path),
            why=_near(path),
            fix="pass the path of an h5ad file",
        )
    try:
        with path.open("rb") as handle:
            head = handle.read(64)
    except OSError as error:
        raise InputFileError(
            "E-F07", "the file cannot be opened", where=str(path), why=_first_line(error)
        ) from error
    if not head:
        raise InputFileError(
            "E-F04", "the file is empty", where=path.name, fix="download or write it again"
        )
    if head.startswith(HDF5_MAGIC):
        return path
    for magic, code, what, fix in _OTHER_KINDS:
        if head.lstrip().startswith(magic):
            raise InputFileError(code, f"the file is {what}", where=path.name, fix=fix)
    raise InputFileError(
        "E-F06",
        "the file is no h5ad",
        where=path.name,
        why="its content is not HDF5",
        fix="convert it, e.g. scanpy.read(...).write_h5ad('cells.h5ad')",
    )


def _near(path: Path) -> str | None:
    parent = path.parent
    if not parent.is_dir():
        return f"the folder {parent} does not exist"
    names = difflib.get_close_matches(path.name, [p.name for p in parent.iterdir()], n=3)
    return f"the folder holds {', '.join(names)}" if names else None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
