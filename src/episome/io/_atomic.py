"""Writing so that a reader finds the old thing or the new one, whole, at any moment."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from episome.errors import InputFileError, ResourceError
from episome.log import get_logger

logger = get_logger(__name__)

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_file(
    path: str | Path, data: bytes | Callable[[Path], None], *, overwrite: bool = False
) -> Path:
    """Write one file: beside it first, flushed to disk, then renamed over.

    Parameters
    ----------
    path
        Where the file is to be.
    data
        Its bytes, or a function that writes to the path it is given (same extension).
    overwrite
        Replace an existing file.

    Raises
    ------
    InputFileError
        The file exists (E-F26) or its folder cannot be written (E-F27).
    ResourceError
        The disk is full (E-R02); what was there before is untouched.
    """
    path = Path(path)
    ensure_free(path, overwrite=overwrite)
    if path.is_dir():
        raise _occupied(path, by="a folder, not a file")
    temporary = _temporary(path)
    with disk_errors(path), _removing(temporary):
        if callable(data):
            data(temporary)
        else:
            temporary.write_bytes(data)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    return path


def write_folder(path: str | Path, files: Mapping[str, bytes], *, overwrite: bool = False) -> Path:
    """Write a folder of files beside its place and swap it in.

    On Linux an existing folder is exchanged in one step; elsewhere it is renamed aside first, and
    :func:`recover` brings it back if the program died in between.

    Raises
    ------
    InputFileError, ResourceError
        As :func:`write_file`.
    """
    path = Path(path)
    ensure_free(path, overwrite=overwrite)
    if path.is_file():
        raise _occupied(path, by="a file, not a folder")
    temporary = _temporary(path)
    with disk_errors(path), _removing(temporary):
        for name, data in files.items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            sync(target)
        for folder in {(temporary / n).parent for n in files} | {temporary}:
            sync(folder)
        _swap(temporary, path)
        sync(path.parent)
    return path


def adopt_folder(folder: Path, path: Path, *, overwrite: bool = False) -> Path:
    """Put a folder that is complete, and lies on the same disk, in its place at once.

    Parameters
    ----------
    folder
        What was written; every file in it is flushed to disk already.
    path
        Where it is to be.
    overwrite
        Replace what is there, as :func:`write_folder` does.

    Raises
    ------
    InputFileError, ResourceError
        As :func:`write_file`.
    """
    ensure_free(path, overwrite=overwrite)
    if path.is_file():
        raise _occupied(path, by="a file, not a folder")
    with disk_errors(path):
        for inner in (*(p for p in folder.rglob("*") if p.is_dir()), folder):
            sync(inner)
        _swap(folder, path)
        sync(path.parent)
    return path


@contextlib.contextmanager
def folder_beside(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a name beside a place to write a folder under; it takes the place when it is complete.

    Parameters
    ----------
    path
        Where it is to be.
    overwrite
        Replace what is there, as :func:`write_folder` does.

    Raises
    ------
    InputFileError, ResourceError
        As :func:`write_file`; after any error nothing is left, and what was there stays.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.tmp-") as place:
        folder = Path(place) / path.name
        yield folder
        for file in folder.rglob("*"):
            if file.is_file():
                sync(file)
        adopt_folder(folder, path, overwrite=overwrite)


def ensure_free(path: Path, *, overwrite: bool) -> None:
    """Check before any work that ``path`` can be written.

    Raises
    ------
    InputFileError
        It exists and ``overwrite`` is false (E-F26), or its folder cannot be written (E-F27).
    """
    if path.exists() and not overwrite:
        raise InputFileError(
            "E-F26",
            "the output exists already",
            where=str(path),
            fix="pass overwrite=True (--overwrite)",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.parent / f".episome-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputFileError(
            "E-F27",
            "the folder of the output cannot be written",
            where=str(path.parent),
            why=error.strerror or str(error),
            fix="choose another place",
        ) from error


def _occupied(path: Path, *, by: str) -> InputFileError:
    return InputFileError(
        "E-F26",
        f"the output is {by}",
        where=str(path),
        why="it is not replaced by something of another kind",
        fix="choose another name",
    )


def recover(path: Path) -> None:
    """Bring back a folder that was renamed aside by a save that never finished."""
    if path.exists() or not path.parent.is_dir():
        return
    aside = sorted(
        path.parent.glob(f".{glob.escape(path.name)}.old-*"), key=lambda p: p.stat().st_mtime
    )
    if aside:
        logger.warning("an unfinished save of %s was found: the older folder is back", path)
        aside[-1].rename(path)


def _swap(new: Path, path: Path) -> None:
    if not path.exists():
        new.rename(path)
        return
    if _exchange(new, path):
        shutil.rmtree(new)
        return
    aside = path.parent / f".{path.name}.old-{uuid.uuid4().hex[:8]}"
    path.rename(aside)
    new.rename(path)
    # Another name first: `recover` must never meet a folder that is half deleted.
    shutil.rmtree(aside.rename(_temporary(path)))


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two paths in one step where the kernel and the file system can."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    done = renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE)
    return bool(done == 0)


def _temporary(path: Path) -> Path:
    return path.parent / f".{path.stem[:100]}.tmp-{uuid.uuid4().hex[:12]}{path.suffix}"


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    flags = os.O_RDONLY | (getattr(os, "O_DIRECTORY", 0) if path.is_dir() else 0)
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot flush a folder; the rename is still atomic there.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _removing(temporary: Path) -> Iterator[None]:
    try:
        yield
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say of a full disk that it is one (E-R02)."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            free = shutil.disk_usage(path.parent).free
            raise ResourceError(
                "E-R02",
                "the disk is full",
                where=str(path.parent),
                why=f"{free / 1e6:,.0f} MB are free; what was there before is untouched",
                fix="free space, or choose another place",
            ) from error
        raise
