"""zarr stores: looked at from their metadata and the list of their chunks, then read."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from episome.data._read_group import open_group
from episome.data._read_guard import Limits, reading
from episome.data._read_names import name_of
from episome.data._read_tree import (
    CHUNK_LIMIT,
    TEXT_BYTES,
    Tree,
    check_tree,
    refuse_chunk,
    refuse_other_file,
)
from episome.errors import InputFileError, Problem, warn
from episome.log import get_logger

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

logger = get_logger(__name__)

_METADATA = frozenset({"zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata"})
_METADATA_LIMIT = 64 << 20
#: What a reader takes from the list of a store.
_DECLARES = (
    "shape",
    "dtype",
    "data_type",
    "chunks",
    "chunk_grid",
    "filters",
    "compressor",
    "codecs",
)
#: Codecs that only turn bytes into bytes or arrays. `pickle` runs code; others are not known.
_CODECS = frozenset(
    ("adler32", "astype", "base64", "bitround", "blosc", "bytes", "bz2", "cast_value")
    + ("categorize", "crc32", "crc32c", "delta", "endian", "fixedscaleoffset", "fletcher32")
    + ("gzip", "jenkins_lookup3", "json2", "lz4", "lzma", "msgpack2", "packbits", "pcodec")
    + ("quantize", "scale_offset", "sharding_indexed", "shuffle", "transpose", "vlen-array")
    + ("vlen-bytes", "vlen-utf8", "zfpy", "zlib", "zstd")
)
#: Of a sparse matrix or a list of names: a chunk of nothing but zeros or empty names is no data.
_NEVER_EMPTY = re.compile(r"(^|/)(data|indices)$")


@dataclass(slots=True)
class Store:
    """What a store declares, and the chunks that it should have and has not."""

    tree: Tree = field(default_factory=Tree)
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    arrays: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Path of an array -> (chunks that are not there, chunks that there should be).
    missing: dict[str, tuple[int, int]] = field(default_factory=dict)


def read_zarr(path: Path, limits: Limits, *, backed: bool = False) -> AnnData | MuData:
    """Read a zarr store of anndata or mudata, version 2 or 3.

    Parameters
    ----------
    path
        The folder.
    limits
        What is allowed.
    backed
        Leave the matrix and the layers on disk.

    Raises
    ------
    InputFileError
        Parts are missing (E-F20) or broken (E-F01); see also ``check_tree``.
    """
    store = look_at(path, limits)
    encoding = store.attributes.get("", {}).get("encoding-type")
    _check_is_cells(store, name_of(path), encoding)
    mudata = encoding == "MuData"
    check_tree(
        store.tree,
        name_of(path),
        limits,
        on_disk=("X", "layers", "raw/X") if backed and not mudata else (),
        can_back=not (backed or mudata),
    )
    _check_chunks(store, name_of(path))
    with reading(name_of(path), "zarr"):
        if mudata:
            import mudata as md

            return md.read_zarr(os.fspath(path))
        if backed and "raw.X" not in store.tree.groups:
            return open_zarr_group(path)
        import anndata

        return anndata.read_zarr(os.fspath(path))


def open_zarr_group(path: Path, group: str = "") -> AnnData:
    """Make an object of a store, or of a part of it, whose matrices stay there."""
    import zarr

    root: Any = zarr.open_group(os.fspath(path), mode="r", path=group)
    return open_group(root, f"{name_of(path)}, {group}" if group else name_of(path))


# -- the look at it ------------------------------------------------------------------------------


def look_at(path: Path, limits: Limits) -> Store:
    """Read the metadata of a store and list its chunks.

    Parameters
    ----------
    path
        The folder.
    limits
        What is allowed.

    Raises
    ------
    InputFileError
        Broken metadata (E-F01), a listed array that is not there (E-F20), a link out of the folder
        (E-F11), a codec that is not known or runs code (E-F12), too many objects (E-F09).
    """
    store, root = Store(), path.resolve()
    listed: dict[str, dict[str, Any]] = {}
    for folder, files, size, depth in _folders(path, root, limits):
        name = folder.relative_to(path).as_posix().removeprefix(".")
        metadata = _metadata(folder, files, name_of(path))
        if not name:
            listed = _listed(metadata)
        if metadata.get("attributes") is not None:
            store.attributes[name] = metadata["attributes"]
        store.tree.n_objects += 1
        limits.check_count(name_of(path), store.tree.n_objects, depth)
        if metadata.get("array") is None:
            store.tree.groups.add(name)
            continue
        store.tree.stored += size
        store.arrays[name] = metadata["array"]
        _array(store, name, metadata["array"], len(files - _METADATA), name_of(path), limits)
    _check_listed(store, listed, name_of(path))
    return store


def _folders(
    path: Path, root: Path, limits: Limits
) -> Iterator[tuple[Path, frozenset[str], int, int]]:
    """Every group and array: its folder, files (chunks with their way), their size, its depth."""
    stack = [(path, 0)]
    while stack:
        folder, depth = stack.pop()
        with os.scandir(folder) as entries:
            inside = sorted(entries, key=lambda e: e.name)
        files, size, folders = set(), 0, []
        for entry in inside:
            if entry.is_symlink() and not limits.trust:
                _check_link(Path(entry.path), root)
            if entry.is_dir():
                folders.append(Path(entry.path))
            else:
                files.add(entry.name)
                size += entry.stat().st_size
        is_array = ".zarray" in files or ("zarr.json" in files and _is_array(folder))
        if is_array:
            for below in folders:
                for sub, _, names in os.walk(below):
                    files |= {f"{sub}/{n}" for n in names}
                    size += sum((Path(sub) / n).stat().st_size for n in names)
        elif not files & _METADATA:
            continue  # no part of the store
        else:
            stack += [(f, depth + 1) for f in folders]
        yield folder, frozenset(files), size, depth


def _is_array(folder: Path) -> bool:
    return _json(folder / "zarr.json", folder.name).get("node_type") == "array"


def _check_link(link: Path, root: Path) -> None:
    if not link.resolve().is_relative_to(root):
        refuse_other_file(f"{root.name}, {link.name}", "a link to another folder")


def _json(path: Path, name: str) -> dict[str, Any]:
    if path.stat().st_size > _METADATA_LIMIT:
        raise _damaged(name, f"{name_of(path)} is larger than any metadata")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _damaged(name, f"{name_of(path)} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise _damaged(name, f"{name_of(path)} holds no object")
    return content


def _damaged(name: str, why: str) -> InputFileError:
    return InputFileError(
        "E-F01",
        "the store cannot be read as zarr",
        where=name,
        why=why,
        fix="download or write it again",
    )


def _metadata(folder: Path, files: frozenset[str], name: str) -> dict[str, Any]:
    """Array metadata, attributes and the list of everything below, of either version."""
    out: dict[str, Any] = {}
    if "zarr.json" in files:
        content = _json(folder / "zarr.json", name)
        out["attributes"] = content.get("attributes") or {}
        if content.get("node_type") == "array":
            out["array"] = content
        below = content.get("consolidated_metadata")
        if isinstance(below, dict) and isinstance(below.get("metadata"), dict):
            out["listed"] = below["metadata"]
        return out
    if ".zattrs" in files:
        out["attributes"] = _json(folder / ".zattrs", name)
    if ".zarray" in files:
        out["array"] = _json(folder / ".zarray", name)
    if ".zmetadata" in files:
        out["listed"] = _json(folder / ".zmetadata", name).get("metadata", {})
    return out


def _listed(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Arrays that the root lists: readers believe the list and not the folders."""
    listed = metadata.get("listed")
    if not isinstance(listed, dict):
        return {}
    out = {}
    for key, content in listed.items():
        if not isinstance(content, dict):
            continue
        if key.endswith("/.zarray") or key == ".zarray":
            out[key.removesuffix(".zarray").rstrip("/")] = content
        elif content.get("node_type") == "array":
            out[key] = content
    return out


def _check_listed(
    store: Store,
    listed: Mapping[str, dict[str, Any]],
    name: str,
) -> None:
    lost = sorted(set(listed) - set(store.arrays))
    if lost:
        raise InputFileError(
            "E-F20",
            "arrays that the zarr store lists are not there",
            where=name,
            count=len(lost),
            total=len(listed),
            examples=lost,
            why="it was copied or downloaded in part, and they would be read as zeros",
            fix="copy or download the whole folder again",
        )
    stale = [
        path
        for path, content in listed.items()
        if any(content.get(k) != store.arrays[path].get(k) for k in _DECLARES)
    ]
    if stale:
        raise InputFileError(
            "E-F20",
            "arrays are not what the zarr store lists",
            where=name,
            count=len(stale),
            total=len(listed),
            examples=stale,
            why="readers believe the list, which is older than the arrays",
            fix="zarr.consolidate_metadata(path), or write the store again",
        )


def _array(
    store: Store,
    path: str,
    content: Mapping[str, Any],
    n_files: int,
    name: str,
    limits: Limits,
) -> None:
    """Look at one array: its codecs, its size, its chunks."""
    _check_codecs(content, f"{name}, {path}", limits)
    shape, size = _declares(content, name)
    chunk = _chunk_shape(content, shape, name)
    width = size // math.prod(shape) if math.prod(shape) else 1
    if (
        one := math.prod(_unpacked_at_once(content, chunk)) * width
    ) > CHUNK_LIMIT and not limits.trust:
        refuse_chunk(f"{name}, {path}", one)
    store.tree.datasets[path] = (shape, size)
    expected = math.prod(-(-n // c) for n, c in zip(shape, chunk, strict=True))
    if n_files < expected:
        store.missing[path] = (expected - n_files, expected)


def _declares(content: Mapping[str, Any], name: str) -> tuple[tuple[int, ...], int]:
    """Shape of an array and its bytes in memory."""
    shape = content.get("shape")
    if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise _damaged(name, f"an array has the shape {shape!r:.80}")
    return tuple(shape), math.prod(shape) * _width(content, name)


def _width(content: Mapping[str, Any], name: str) -> int:
    kind = content.get("dtype", content.get("data_type"))
    if isinstance(kind, dict):
        length = kind.get("configuration", {}).get("length_bytes", TEXT_BYTES)
        return length if isinstance(length, int) and length > 0 else TEXT_BYTES
    if isinstance(kind, list):
        return TEXT_BYTES * len(kind)
    if kind in {"string", "bytes", "variable_length_utf8", "variable_length_bytes", "|O"}:
        return TEXT_BYTES
    try:
        return max(np.dtype(str(kind)).itemsize, 1)
    except TypeError as error:
        raise _damaged(name, f"an array has the type {kind!r:.80}") from error


def _chunk_shape(content: Mapping[str, Any], shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    chunk = content.get("chunks")
    grid = content.get("chunk_grid")
    if isinstance(grid, dict):
        chunk = grid.get("configuration", {}).get("chunk_shape")
    fits = isinstance(chunk, list) and len(chunk) == len(shape)
    if not fits or not all(isinstance(n, int) and n > 0 for n in chunk or ()):
        raise _damaged(name, f"an array has chunks of shape {chunk!r:.80}")
    return tuple(chunk or ())


def _unpacked_at_once(content: Mapping[str, Any], chunk: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of what is read whole: of a shard the chunks inside it, else a chunk."""
    for step in content.get("codecs") or ():
        inside = step.get("configuration") if isinstance(step, dict) else None
        if isinstance(inside, dict) and step.get("name") == "sharding_indexed":
            shape = inside.get("chunk_shape")
            if isinstance(shape, list) and all(isinstance(n, int) and n > 0 for n in shape):
                return tuple(shape)
    return chunk


def _check_codecs(content: Mapping[str, Any], where: str, limits: Limits) -> None:
    unknown = sorted(set(_codecs(content)) - _CODECS)
    if not unknown or (limits.trust and "pickle" not in unknown):
        return
    raise InputFileError(
        "E-F12",
        f"compressed with {', '.join(unknown)[:80]}",
        where=where,
        why="it would run code that the store brings"
        if "pickle" in unknown
        else "it is no codec of zarr itself",
        fix="write the store again with zstd or blosc",
    )


def _codecs(content: Mapping[str, Any]) -> Iterator[str]:
    steps = [content.get("compressor"), *(content.get("filters") or ())]
    steps += content.get("codecs") or []
    for step in steps:
        if not isinstance(step, dict):
            continue
        yield str(step.get("id", step.get("name", ""))).removeprefix("numcodecs.")
        inside = step.get("configuration")
        if isinstance(inside, dict):
            yield from _codecs({"codecs": inside.get("codecs")})
            yield from _codecs({"codecs": inside.get("index_codecs")})


# -- what it means -------------------------------------------------------------------------------


def _check_is_cells(store: Store, name: str, encoding: object) -> None:
    groups = store.tree.groups
    if encoding in {"anndata", "MuData"} or {"obs", "var"} <= groups | set(store.arrays):
        lost = sorted(
            {"obs", "var"} - groups - set(store.arrays) if encoding != "MuData" else set()
        )
        if lost:
            raise InputFileError(
                "E-F20",
                f"{' and '.join(lost)} not there",
                where=name,
                why="the zarr store was copied or downloaded in part",
                fix="copy or download the whole folder again",
            )
        return
    inside = sorted(g for g in groups if g.startswith("tables/") and g.count("/") == 1)
    shown = ", ".join(sorted({g.partition("/")[0] for g in groups | set(store.arrays)} - {""}))
    raise InputFileError(
        "E-F06",
        "the zarr store holds no AnnData object",
        where=name,
        why=f"its top level holds {shown[:100] or 'nothing'}",
        fix=f"pass the path of a table inside, e.g. {name}/{inside[0]}"
        if inside
        else "write the cells with adata.write_zarr(path)",
    )


def _check_chunks(store: Store, name: str) -> None:
    """Refuse holes where zeros mean nothing, and name the others: zarr reads them as zeros."""
    names = _name_columns(store)
    holes = {
        path: count
        for path, count in store.missing.items()
        if path in names or (_NEVER_EMPTY.search(path) and _is_sparse(store, path))
    }
    if holes:
        first = next(iter(sorted(holes)))
        raise InputFileError(
            "E-F20",
            f"chunks are missing from {first}",
            where=name,
            count=holes[first][0],
            total=holes[first][1],
            why="the zarr store was copied or downloaded in part, and they would be read as zeros",
            fix="copy or download the whole folder again",
        )
    # A column of one value has no chunks at all, which is how zarr writes it.
    odd = {
        path: (gone, total)
        for path, (gone, total) in store.missing.items()
        if gone < total or path == "X" or path.startswith(("layers/", "raw/X"))
    }
    if odd:
        warn(
            Problem(
                "E-F20",
                "chunks are not there and are read as zeros",
                where=name,
                count=sum(gone for gone, _ in odd.values()),
                total=sum(total for _, total in odd.values()),
                examples=sorted(odd),
                why="zarr leaves out chunks of zeros, and a copy in part looks the same",
                fix="compare with the source if the store was copied",
            ),
            stacklevel=5,
        )


def _is_sparse(store: Store, path: str) -> bool:
    group = path.rpartition("/")[0]
    encoding = str(store.attributes.get(group, {}).get("encoding-type", ""))
    if encoding not in {"csr_matrix", "csc_matrix"}:
        return False
    # The only column of a matrix of one column is number zero, everywhere.
    shape = store.attributes[group].get("shape")
    minor = 1 if encoding == "csr_matrix" else 0
    narrow = isinstance(shape, list) and len(shape) == 2 and shape[minor] == 1
    return not (narrow and path.endswith("indices"))


def _name_columns(store: Store) -> set[str]:
    """Index columns of the tables: an empty name is none."""
    out = set()
    for group, attributes in store.attributes.items():
        if attributes.get("encoding-type") == "dataframe" and "_index" in attributes:
            index = f"{group}/{attributes['_index']}".lstrip("/")
            out |= {index, f"{index}/values"}  # with or without a mask of missing ones
    return out
