"""What kind of cells a path holds, by its content: a few bytes or a folder's list, never a name.

Nothing heavy is imported here: commands call :func:`check_readable` before anything else.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import zlib
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from episome.data._read_folders import find_matrix_folder
from episome.data._read_names import first_line, name_of, shown
from episome.errors import InputFileError, PluginError

if TYPE_CHECKING:
    from episome.plugins import SourceSpec

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
MUDATA_MAGIC = b"MuData"
GZIP_MAGIC = b"\x1f\x8b"
MTX_MAGIC = b"%%MatrixMarket"
_HEAD = 64 << 10
# HDF5 may start after a block of the user's, whose size is a power of two from 512.
_USER_BLOCKS = (0, *(512 << n for n in range(12)))
SEPARATORS = ("\t", ",", ";")
_TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".tab"})
_ZARR_MARKS = frozenset({"zarr.json", ".zgroup", ".zmetadata", ".zattrs"})
#: An address and no path: a word of two letters or more before a colon.
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]+:")
#: What the host reads by itself, and no plugin takes over.
_OWN_SUFFIXES = frozenset(
    {*_TABLE_SUFFIXES, ".gz", ".h5", ".h5ad", ".h5mu", ".hdf5", ".loom", ".mtx", ".zarr"}
)
_PART = re.compile(r"dataset_(\d+)")
_SOMA_MARK = "__tiledb_group.tdb"
_REMOTE = re.compile(
    r"^(https?|ftps?|sftp|ssh|s3a?|gs|gcs|az|abfss?|adl|hdfs|hf|github|dbfs|oss):/{1,2}(?=[^/])"
)
_FETCH = {
    "s3": "aws s3 cp {url} .",
    "s3a": "aws s3 cp {url} .",
    "gs": "gcloud storage cp {url} .",
    "gcs": "gcloud storage cp {url} .",
}

_R_FIX = "write it from R: anndataR::write_h5ad(readRDS('{name}'), 'cells.h5ad')"
_WEB = ("E-F03", "a web page, not data", "download the file itself")
#: First bytes -> code, what it is, what to do. Text is compared without leading blanks.
_OTHER_KINDS = (
    (b"version https://git-lfs", "E-F02", "a Git LFS pointer, not data", "run `git lfs pull`"),
    (b"<!DOCTYPE", *_WEB),
    (b"<!doctype", *_WEB),
    (b"<html", *_WEB),
    (b"<HTML", *_WEB),
    (b"<?xml", "E-F03", "an XML answer of a server, not data", "download the file itself"),
    (
        b"PK\x03\x04\x14\x00\x06\x00",
        "E-F06",
        "an Excel workbook or another office file",
        "save it as csv, cells in rows and genes in columns",
    ),
    (b"PK\x03\x04", "E-F05", "a zip archive", "run `unzip` on it first"),
    (b"\x28\xb5\x2f\xfd", "E-F05", "compressed with zstd", "run `zstd -d` on it first"),
    (b"BZh", "E-F05", "compressed with bzip2", "run `bunzip2` on it first"),
    (b"\xfd7zXZ\x00", "E-F05", "compressed with xz", "run `unxz` on it first"),
    (b"7z\xbc\xaf\x27\x1c", "E-F05", "a 7z archive", "run `7z x` on it first"),
    (b"RDX", "E-F06", "a file of R objects", _R_FIX.replace("readRDS", "get(load") + ")"),
    (b"X\n\x00\x00\x00", "E-F06", "an RDS file of R", _R_FIX),
    (b"A\n2\n", "E-F06", "an RDS file of R", _R_FIX),
    (b"A\n3\n", "E-F06", "an RDS file of R", _R_FIX),
    (
        b"PAR1",
        "E-F06",
        "a parquet table",
        "anndata.AnnData(pandas.read_parquet('{name}')).write_h5ad('cells.h5ad')",
    ),
    (
        b"\x93NUMPY",
        "E-F06",
        "a bare numpy array",
        "anndata.AnnData(array, obs=..., var=...).write_h5ad('cells.h5ad')",
    ),
    (
        b"\x80",
        "E-F06",
        "a pickle, which would run code",
        "write it as h5ad with the program that wrote it",
    ),
)


class FileKind(StrEnum):
    """A kind of file or folder that cells are read from.

    ``HDF5`` is any of ``H5AD``, ``TENX_H5`` and ``LOOM`` before the file was opened.
    """

    HDF5 = "HDF5"
    H5AD = "h5ad"
    TENX_H5 = "10x h5"
    LOOM = "loom"
    H5MU = "h5mu"
    ZARR = "zarr"
    MTX = "matrix market"
    TABLE = "table of text"
    CORPUS = "corpus"
    SOMA = "SOMA experiment"


def kind_of(path: str | Path, *, inside: bool = False) -> FileKind:
    r"""Tell what kind of cells a path holds, from its content and not from its name.

    Parameters
    ----------
    path
        File or folder.
    inside
        Open HDF5 to tell ``H5AD``, ``TENX_H5`` and ``LOOM`` apart, which needs h5py; otherwise
        they are all ``HDF5`` and nothing but a few bytes is read.

    Returns
    -------
    The kind.

    Raises
    ------
    InputFileError
        As :func:`check_readable`.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "cells.h5ad"
    >>> _ = file.write_text("cell,CD3E,CD19\nc1,1,0\n")
    >>> kind_of(file).value
    'table of text'
    """
    path = local_path(path)
    kind = _folder_kind(path) if path.is_dir() else _file_kind(path)
    if inside and kind is FileKind.HDF5:
        from episome.data._read_hdf5 import hdf5_kind

        kind = hdf5_kind(path)
    return kind


def check_readable(path: str | Path) -> Path:
    """Check that a path exists and holds a kind of cells; needs no heavy import.

    Parameters
    ----------
    path
        File or folder.

    Returns
    -------
    The path.

    Raises
    ------
    InputFileError
        It is missing, a folder of something else, or not allowed (E-F07), empty (E-F04), of
        another kind (E-F02, E-F03, E-F05, E-F06), cut short (E-F01), remote (E-F18), or a part of
        a zarr store (E-F20).
    """
    if registered_source(path) is not None:
        return Path(path)
    path = local_path(path)
    kind_of(path)
    return path


def registered_source(path: str | Path) -> SourceSpec | None:
    """Return what the host or a plugin registered for an address or the ending of a name.

    Raises
    ------
    PluginError
        More than one is registered for it (E-P03).
    """
    text = os.fspath(path)
    scheme = _SCHEME.match(text)
    if scheme is None and Path(text).suffix.lower() in _OWN_SUFFIXES:
        return None
    from episome import plugins

    own = plugins.SourceSpec("census", "episome.data._census:of_address", schemes=("census:",))
    found = [
        s
        for s in (replace(own, plugin="episome"), *plugins.sources().values())
        if (scheme is not None and scheme[0] in s.schemes)
        or any(text.rstrip("/").endswith(e) for e in s.suffixes if e not in _OWN_SUFFIXES)
    ]
    if len(found) > 1:
        raise PluginError(
            "E-P03",
            "more than one plugin reads this",
            where=text,
            examples=[f"{s.plugin}:{s.name}" for s in found],
            why="neither wins, so that installing a package never changes what is read",
            fix="EPISOME_BLOCK_PLUGINS switches plugins off",
        )
    return found[0] if found else None


def cell_files(path: str | Path) -> list[Path]:
    """Return the parts of a folder that holds several sets of cells.

    These are h5ad files, in order of their names, or the stores of a collection that annbatch
    wrote: a zarr group whose parts are stores of anndata.

    Parameters
    ----------
    path
        File or folder.

    Returns
    -------
    Files and stores; none where the path is one set of cells, or no folder.
    """
    if registered_source(path) is not None:
        return []
    path = local_path(path)
    if not path.is_dir() or find_matrix_folder(path) is not None:
        return []
    if {p.name for p in path.iterdir()} & _ZARR_MARKS:
        return _collected(path)
    return sorted(p for p in path.glob("*.h5ad") if not p.name.startswith("."))


def _collected(path: Path) -> list[Path]:
    """Return the stores of a collection by their numbers; none where the store is another."""
    try:
        root = json.loads((path / "zarr.json").read_bytes())
    except (OSError, ValueError):  # of version 2, or broken, which is said when it is read
        return []
    marks = root.get("attributes") if isinstance(root, dict) else None
    if not isinstance(marks, dict) or not str(marks.get("encoding-type")).startswith("annbatch"):
        return []
    parts = {m[1]: p for p in path.iterdir() if (m := _PART.fullmatch(p.name))}
    return [parts[n] for n in sorted(parts, key=int)]


def check_inputs(path: str | Path) -> list[Path]:
    """Check a path of cells, or every h5ad file of a folder, as :func:`check_readable` does.

    Returns
    -------
    The path, or the files.
    """
    return [check_readable(p) for p in cell_files(path) or [Path(path)]]


def local_path(path: str | Path) -> Path:
    """Return a path of this machine.

    Raises
    ------
    InputFileError
        It is remote (E-F18), or cannot be a path at all (E-F07).
    """
    text = os.fspath(path)
    if remote := _REMOTE.match(text):
        scheme = remote[1]
        url = f"{scheme}://{text[remote.end() :]}"
        fetch = _FETCH.get(scheme, "curl -fLO '{url}'").format(url=url)
        raise InputFileError(
            "E-F18",
            "the path is remote",
            where=url,
            why="nothing is downloaded without being asked for",
            fix=f"download it first, e.g. `{fetch}`",
        )
    path = Path(text)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # told later, with what is near
    except (OSError, ValueError) as error:  # no right, a name too long, a zero byte in it
        raise _not_opened(path, error) from error
    return path


# -- folders -------------------------------------------------------------------------------------


def _folder_kind(path: Path) -> FileKind:
    try:
        names = {p.name for p in path.iterdir()}
        if names & _ZARR_MARKS:
            return FileKind.ZARR
        if _is_corpus(path):
            return FileKind.CORPUS
        if _SOMA_MARK in names:
            return FileKind.SOMA
        found = find_matrix_folder(path)
    except InputFileError:
        raise
    except OSError as error:
        raise _not_opened(path, error) from error
    if found is not None:
        return _file_kind(found.matrix)
    if path.name.endswith(".zarr") or {"obs", "var"} <= names:
        raise InputFileError(
            "E-F20",
            "the zarr store has no metadata",
            where=name_of(path),
            why="zarr.json or .zgroup is missing, so it was copied or downloaded in part",
            fix="copy or download the whole folder again, hidden files too",
        )
    raise InputFileError(
        "E-F07",
        "this is a folder, not a file",
        where=shown(path),
        why=_holds(sorted(names)),
        fix="pass the path of an h5ad file, or a zarr store, a folder with matrix.mtx, "
        "barcodes.tsv and features.tsv, or the outs folder of Cell Ranger",
    )


def is_soma(path: str | Path) -> bool:
    """Whether a path is a folder of TileDB-SOMA: an experiment or a part of one."""
    try:
        return (Path(path) / _SOMA_MARK).is_file()
    except (OSError, ValueError):  # no right, or no name: said when it is read
        return False


def _is_corpus(path: Path) -> bool:
    """Whether the folder has a manifest that says so; `io` would import more than this needs."""
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
    except (OSError, ValueError):  # none, or no JSON
        return False
    return isinstance(manifest, dict) and manifest.get("kind") == "corpus"


def _holds(names: list[str]) -> str:
    shown = ", ".join(n for n in names if not n.startswith("."))
    return f"the folder holds {shown[:200]}" if shown else "the folder is empty"


# -- files ---------------------------------------------------------------------------------------


def _file_kind(path: Path) -> FileKind:
    if not path.is_file():
        raise _missing(path)
    try:
        with path.open("rb") as handle:
            head = handle.read(_HEAD)
            size = os.fstat(handle.fileno()).st_size
            start = _hdf5_start(handle, head, size)
            if start is not None:
                handle.seek(start)
                _check_length(name_of(path), handle.read(128), size)
    except InputFileError:
        raise
    except OSError as error:
        raise _not_opened(path, error) from error
    if not head:
        raise InputFileError(
            "E-F04", "the file is empty", where=name_of(path), fix="download or write it again"
        )
    if start is not None:
        return FileKind.H5MU if head.startswith(MUDATA_MAGIC) else FileKind.HDF5
    return _text_kind(path, head)


def _hdf5_start(handle: BinaryIO, head: bytes, size: int) -> int | None:
    """Where HDF5 begins in the file, or ``None``."""
    for start in _USER_BLOCKS:
        if start + 8 > size:
            return None
        if start + 8 > len(head):
            handle.seek(start)
            found = handle.read(8)
        else:
            found = head[start : start + 8]
        if found == HDF5_MAGIC:
            return start
    return None


def _check_length(name: str, block: bytes, size: int) -> None:
    """Compare the end of the file with the one its first block declares."""
    version = block[8] if len(block) > 8 else 0
    # Places of: size of an address, base address, end of the file.
    places = {0: (13, 24, 40), 1: (13, 28, 44), 2: (9, 12, 28), 3: (9, 12, 28)}.get(version)
    if places is None or len(block) < 64:
        return
    width = block[places[0]]
    if width not in (4, 8):
        return
    base_at, end_at = places[1:]
    end_at = end_at if width == 8 else base_at + (end_at - base_at) // 2
    end = int.from_bytes(block[end_at : end_at + width], "little")
    if size < end < 1 << 60:
        raise InputFileError(
            "E-F01",
            "the file was cut short",
            where=name,
            why=f"it ends at {size:,} of {end:,} bytes",
            fix="download or write the file again",
        )


def _text_kind(path: Path, head: bytes) -> FileKind:
    gzipped = head.startswith(GZIP_MAGIC)
    inner = gunzip_head(head) if gzipped else head
    if gzipped and (not inner or inner.startswith(HDF5_MAGIC) or inner[257:262] == b"ustar"):
        tar = inner[257:262] == b"ustar"
        raise InputFileError(
            "E-F05",
            "the file is a compressed tar archive" if tar else "the file is compressed with gzip",
            where=name_of(path),
            fix="run `tar -xzf` on it first" if tar else "run `gunzip` on it first",
        )
    _refuse_other(path, inner)
    if inner.startswith(MTX_MAGIC):
        return FileKind.MTX
    if looks_like_table(inner, path.name):
        return FileKind.TABLE
    raise InputFileError(
        "E-F06",
        "the file is no h5ad",
        where=name_of(path),
        why="its content is not HDF5, nor a matrix of text",
        fix="convert it, e.g. scanpy.read(...).write_h5ad('cells.h5ad')",
    )


def _refuse_other(path: Path, head: bytes) -> None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for magic, code, what, fix in _OTHER_KINDS:
        if text.startswith(magic):
            raise InputFileError(
                code,
                f"the file is {what}",
                where=name_of(path),
                why=_page_says(text) if code == "E-F03" else None,
                fix=fix.format(name=name_of(path)),
            )
    if head[257:262] == b"ustar":
        raise InputFileError(
            "E-F05",
            "the file is a tar archive",
            where=name_of(path),
            fix="run `tar -xf` on it first",
        )
    if text[:1] in (b"{", b"["):
        raise InputFileError(
            "E-F03",
            "the file is JSON, usually an error of a server, not data",
            where=name_of(path),
            why=_page_says(text),
            fix="download the file itself",
        )


def _page_says(text: bytes) -> str | None:
    """Find what a page or an answer of a server says about itself."""
    words = text[:4096].decode("utf-8", "replace")
    if title := re.search(r"<title[^>]*>\s*([^<]{1,200})", words, re.IGNORECASE):
        return f"its title is {' '.join(title[1].split())[:100]!r}"
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    if isinstance(answer, dict):
        for key in ("message", "error", "detail", "title"):
            if isinstance(answer.get(key), str):
                return f"it says {answer[key][:100]!r}"
    return None


def gunzip_head(head: bytes) -> bytes:
    """First bytes of what is compressed, as many as ``head`` yields; empty where it is no gzip."""
    try:
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(head, _HEAD)
    except zlib.error:
        return b""


def looks_like_table(head: bytes, name: str) -> bool:
    """Whether bytes are lines of fields: two separators in the first line, or a name that says it.

    A text of two columns is usually a list of labels, not cells and genes.
    """
    if b"\x00" in head:
        return head.startswith((b"\xff\xfe", b"\xfe\xff")) and _table_name(name)
    # A cut may fall into a character; what comes later is not looked at here.
    first = head.lstrip(b"\xef\xbb\xbf\r\n").partition(b"\n")[0]
    if sum(byte < 32 and byte not in b"\t\r" for byte in first):
        return False
    return max(first.count(s.encode()) for s in SEPARATORS) >= 2 or _table_name(name)


def _table_name(name: str) -> bool:
    suffixes = {s.lower() for s in Path(name.removesuffix(".gz")).suffixes[-1:]}
    return bool(suffixes & _TABLE_SUFFIXES)


def _missing(path: Path) -> InputFileError:
    if path.is_symlink():
        target = os.readlink(path)  # noqa: PTH115 - as it is written in the link
        what, why = "the link is broken", f"it points to {target}, which does not exist"
    elif path.exists():
        what, why = "this is neither a file nor a folder", None
    else:
        what, why = "there is no such file", _near(path)
    return InputFileError(
        "E-F07", what, where=shown(path), why=why, fix="pass the path of an h5ad file"
    )


def _not_opened(path: Path, error: OSError | ValueError) -> InputFileError:
    denied = isinstance(error, PermissionError)
    return InputFileError(
        "E-F07",
        "it cannot be opened",
        where=shown(path),
        why=getattr(error, "strerror", None) or first_line(error),
        fix=f"ask for the right to read it, e.g. `chmod u+r {name_of(path)}`" if denied else None,
    )


def _near(path: Path) -> str | None:
    parent = path.parent
    if not parent.is_dir():
        return f"the folder {parent} does not exist"
    try:
        there = [p.name for p in parent.iterdir()]
    except OSError:
        return None
    names = difflib.get_close_matches(path.name, there, n=3)
    return f"the folder holds {', '.join(names)}" if names else None
