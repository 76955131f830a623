"""HDF5 before it is trusted: every object is looked at, nothing of their data is read.

A file of HDF5 can name other files, declare terabytes in a few bytes, ask for code of plug-ins and
contain itself. All of that is found here, from its tree alone, before a reader allocates anything.
"""

from __future__ import annotations

import errno
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5t, h5z

from episome.data._read_guard import Limits, reading
from episome.data._read_kind import FileKind
from episome.data._read_names import name_of
from episome.data._read_tree import (
    CHUNK_LIMIT,
    TEXT_BYTES,
    Tree,
    check_pointers,
    refuse_chunk,
    refuse_other_file,
)
from episome.errors import InputFileError
from episome.log import get_logger

logger = get_logger(__name__)

LOCK_SECONDS = 10.0
_BUILT_IN_FILTERS = frozenset({1, 2, 3, 4, 5, 6, 32000})
_FILTER_NAMES = {
    307: "bzip2",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstandard",
    32017: "sz",
    32018: "fcidecomp",
    32024: "sz3",
    32026: "blosc2",
}


@contextmanager
def open_hdf5(path: Path, *, wait: float | None = None) -> Iterator[h5py.File]:
    """Open a file for reading; wait while another program has it locked.

    Parameters
    ----------
    path
        The file.
    wait
        Seconds to wait for a lock; default ``LOCK_SECONDS``.

    Raises
    ------
    InputFileError
        It stays locked (E-F15), or cannot be opened (E-F01).
    """
    file = opened_hdf5(path, wait=wait)
    try:
        yield file
    finally:
        file.close()


def opened_hdf5(path: Path, *, wait: float | None = None) -> h5py.File:
    """Open a file that stays open for as long as something reads from it, as `open_hdf5` does."""
    return _open(path, LOCK_SECONDS if wait is None else wait)


def _open(path: Path, wait: float) -> h5py.File:
    end, said = time.monotonic() + wait, False
    while True:
        try:
            with reading(name_of(path), "HDF5"):
                return h5py.File(path, "r")
        except InputFileError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or not _locked(cause):
                raise
            if _by_us(cause) or time.monotonic() >= end:
                raise _is_locked(path, cause) from cause
            if not said:
                logger.info("%s is locked by another program: waiting", name_of(path))
                said = True
            time.sleep(0.2)


def _locked(error: OSError) -> bool:
    text = str(error)
    return isinstance(error, BlockingIOError) or any(
        word in text for word in ("unable to lock file", "already open for", "h5clear")
    )


def _by_us(error: OSError) -> bool:
    """Whether waiting is in vain: this process has it open, or its writer died."""
    return "unable to lock file" not in str(error) and not isinstance(error, BlockingIOError)


def _is_locked(path: Path, error: OSError) -> InputFileError:
    if error.errno in {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}:
        return InputFileError(
            "E-F15",
            "the file cannot be locked",
            where=name_of(path),
            why="the file system has no locks",
            fix="set HDF5_USE_FILE_LOCKING=FALSE before Python starts",
        )
    if "h5clear" in str(error):
        why, fix = "its writer did not close it, or still writes", "run `h5clear -s` on a copy"
    elif _by_us(error):
        why, fix = "this program has it open for writing", "close it first"
    else:
        why = _holder(path) or "another program has it open for writing"
        fix = "wait until it is done, or end it"
    return InputFileError("E-F15", "the file is locked", where=name_of(path), why=why, fix=fix)


def _holder(path: Path) -> str | None:
    """Name the process that holds the lock, where the system says."""
    try:
        inode = str(path.stat().st_ino)
        locks = Path("/proc/locks").read_text(encoding="utf-8").splitlines()
        for line in locks:
            words = line.split()
            if len(words) > 5 and words[5].rpartition(":")[2] == inode and words[4].isdigit():
                name = Path(f"/proc/{words[4]}/comm").read_text(encoding="utf-8").strip()
                return f"process {words[4]} ({name}) has it open for writing"
    except (OSError, ValueError):
        return None
    return None


def hdf5_kind(path: Path) -> FileKind:
    """Tell which kind of HDF5 a file is.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    InputFileError
        None that cells are read from (E-F06); see also :func:`open_hdf5`.
    """
    with open_hdf5(path) as file, reading(name_of(path), "HDF5"):
        return layout_of(file, name_of(path))


def layout_of(file: h5py.File, name: str) -> FileKind:
    """Tell the kind of an open file by the names at its top.

    Raises
    ------
    InputFileError
        E-F06.
    """
    top = set(file)
    encoding = file.attrs.get("encoding-type", "")
    if encoding == "MuData" or ("mod" in top and "obs" in top):
        return FileKind.H5MU
    if encoding == "anndata" or {"obs", "var"} <= top:
        return FileKind.H5AD
    if {"matrix", "row_attrs", "col_attrs"} <= top:
        return FileKind.LOOM
    if "matrix" in top and _holds(file, "matrix", {"barcodes", "data", "indices", "indptr"}):
        return FileKind.TENX_H5
    if any(_holds(file, g, {"barcodes", "genes", "gene_names", "indptr"}) for g in sorted(top)):
        return FileKind.TENX_H5
    if {"assays", "cell.names"} <= top:
        why = "it is an h5Seurat file"
        fix = "write it from R: anndataR::write_h5ad(SeuratDisk::LoadH5Seurat(...), 'cells.h5ad')"
    else:
        shown = ", ".join(sorted(top)[:6]) or "nothing"
        why = f"its top level holds {shown}: neither h5ad, 10x, loom nor h5mu"
        fix = "write it as h5ad with the program that made it"
    raise InputFileError(
        "E-F06", "the HDF5 file is of no kind that is read", where=name, why=why, fix=fix
    )


def _holds(file: h5py.File, group: str, names: set[str]) -> bool:
    link = file.get(group, getlink=True)
    if not isinstance(link, h5py.HardLink):
        return False
    found = file[group]
    return isinstance(found, h5py.Group) and names <= set(found)


# -- the walk ------------------------------------------------------------------------------------


def walk(file: h5py.File, name: str, limits: Limits) -> Tree:
    """Look at every object of a file as a reader would meet it, without its data.

    Objects are counted once per way that leads to them, as a reader copies them: links that form
    a circle or double at every level meet the limits like a tree of that size.

    Parameters
    ----------
    file
        Open for reading.
    name
        For messages.
    limits
        What is allowed.

    Returns
    -------
    What it declares.

    Raises
    ------
    InputFileError
        A link to another file (E-F11), a filter that is not built in (E-F12), a tree that is too
        large (E-F09).
    """
    looking = _Walk(name, limits)
    with reading(name, "HDF5"):
        looking.enter(file.id, "", 0)
        # Links inside the file come last: by then every way to another file was met and refused.
        for links in (looking.hard, looking.soft):
            while links:
                looking.follow(*links.pop())
                while looking.hard:
                    looking.follow(*looking.hard.pop())
    return looking.tree


class _Walk:
    def __init__(self, name: str, limits: Limits) -> None:
        self.name, self.limits, self.tree = name, limits, Tree()
        self.hard: list[tuple[h5g.GroupID, bytes, str, int]] = []
        self.soft: list[tuple[h5g.GroupID, bytes, str, int]] = []

    def enter(self, group: h5g.GroupID, path: str, depth: int) -> None:
        """Look at the links of a group."""
        self._count(len(group) + h5a.get_num_attrs(group), depth)
        self.tree.groups.add(path)
        for link in group:
            inside = f"{path}/{link.decode('utf-8', 'surrogateescape')}".lstrip("/")
            kind = group.links.get_info(link).type
            if kind == h5l.TYPE_HARD:
                self.hard.append((group, link, inside, depth + 1))
            elif kind == h5l.TYPE_SOFT:
                self.soft.append((group, link, inside, depth + 1))
            elif not self.limits.trust:
                refuse_other_file(f"{self.name}, {inside}", "a link to another file")

    def follow(self, group: h5g.GroupID, link: bytes, path: str, depth: int) -> None:
        """Open what a link points to."""
        try:
            found = h5o.open(group, link)
        except KeyError:
            # A soft link that points nowhere; a reader that wants it says so.
            if group.links.get_info(link).type == h5l.TYPE_SOFT:
                return
            raise
        if isinstance(found, h5g.GroupID):
            self.enter(found, path, depth)
        elif isinstance(found, h5d.DatasetID):
            self.dataset(found, path)

    def dataset(self, found: h5d.DatasetID, path: str) -> None:
        """Look at what a dataset declares."""
        self._count(h5a.get_num_attrs(found), 0)
        where = f"{self.name}, {path}"
        settings = found.get_create_plist()
        layout = settings.get_layout()
        if not self.limits.trust:
            if layout == h5d.VIRTUAL:
                refuse_other_file(where, "a virtual dataset, made of other files")
            if settings.get_external_count():
                refuse_other_file(where, "data stored in another file")
        for n in range(settings.get_nfilters()):
            number, _, _, said = settings.get_filter(n)
            self._filter(where, number, said)
        width = _width(found.get_type())
        shape = found.shape or ()
        if layout == h5d.CHUNKED and not self.limits.trust:
            size_of_chunk = math.prod(settings.get_chunk()) * width
            if size_of_chunk > CHUNK_LIMIT:
                refuse_chunk(where, size_of_chunk)
        self.tree.datasets[path] = (tuple(shape), math.prod(shape) * width)
        self.tree.stored += found.get_storage_size()

    def _count(self, more: int, depth: int) -> None:
        self.tree.n_objects += more
        self.limits.check_count(self.name, self.tree.n_objects, depth)

    def _filter(self, where: str, number: int, said: bytes) -> None:
        if number in _BUILT_IN_FILTERS and h5z.filter_avail(number):
            return
        # Asking for any other filter makes HDF5 load code from its folder of plug-ins; only what
        # the user loaded himself is used.
        loaded = self.limits.trust or "hdf5plugin" in sys.modules
        if loaded and h5z.filter_avail(number):
            return
        known = _FILTER_NAMES.get(number) or said.decode("utf-8", "replace").strip("\0")[:40]
        raise InputFileError(
            "E-F12",
            f"compressed with filter {number}" + (f" ({known})" if known else ""),
            where=where,
            why="HDF5 does not have it built in",
            fix="pip install hdf5plugin and `import hdf5plugin` first, or write the file again "
            "with compression='gzip'",
        )


def _width(kind: h5t.TypeID) -> int:
    """Bytes of one value in memory."""
    text = isinstance(kind, h5t.TypeStringID) and kind.is_variable_str()
    if text or kind.get_class() == h5t.VLEN:
        return TEXT_BYTES
    return int(kind.get_size())


def check_matrices_on_disk(path: Path, tree: Tree, groups: tuple[str, ...]) -> None:
    """Check the row pointers of sparse matrices that stay on disk.

    Their column numbers are checked block by block, when they are read.

    Parameters
    ----------
    path
        The file.
    tree
        What it declares.
    groups
        Paths of the matrices.

    Raises
    ------
    InputDataError
        Pointers are out of order or beyond the values (E-D23).
    """
    sparse = [g for g in groups if f"{g}/indptr" in tree.datasets and g in tree.groups]
    with open_hdf5(path) as file:
        for group in sparse:
            with reading(name_of(path), "h5ad"):
                pointers = np.asarray(file[f"{group}/indptr"][...])
            (n,) = tree.datasets[f"{group}/indices"][0]
            check_pointers(pointers, n, f"{name_of(path)}, {group}")
