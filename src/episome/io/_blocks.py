"""Arrays of cells that are written block by block: embeddings, and what models predict."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from episome.errors import ResourceError, UsageError
from episome.io._atomic import write_file
from episome.io._results import _annotated, _drop_scvi, _with_calls, ending, write_table

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

    Blocks: TypeAlias = Iterable[NDArray[np.float32]]
    #: Values of some cells, or a tuple of them and of the layers beside them.
    Written: TypeAlias = (
        NDArray[np.float32]
        | sparse.csr_matrix
        | tuple[NDArray[np.float32] | sparse.csr_matrix, ...]
    )

TEXT_KINDS = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
EMBEDDING_KINDS = (*TEXT_KINDS, ".parquet", ".npy", ".h5ad")
EXPRESSION_KINDS = (*TEXT_KINDS, ".parquet", ".h5ad")
#: In ``uns`` of a copy: what every embedding was made by, under its key of ``obsm``.
EMBEDDED_BY = "episome_embed"
#: Rows of a part of a table.
_ROWS = 8192
#: Values by which a sparse matrix on disk grows.
_GROWS_BY = 2**16


def check_obsm(
    adata: AnnData, key: str, *, overwrite_columns: bool = False, name: str = "adata"
) -> None:
    """Check before any work that an embedding can be added to ``adata.obsm``.

    Parameters
    ----------
    adata
        The query.
    key
        Name of the array.
    overwrite_columns
        It may be replaced.
    name
        How messages name the query.

    Raises
    ------
    UsageError
        The name is none (E-U22), or the array exists already (E-L16).
    """
    if not key or "/" in key:
        raise UsageError(
            "E-U22",
            f"{key!r} is no name of an array",
            where="key_added (--key-added)",
            fix="use a word without a slash, such as X_model",
        )
    if key in adata.obsm and not overwrite_columns:
        raise UsageError(
            "E-L16",
            f"obsm[{key!r}] exists already",
            where=name,
            fix="pass another key_added= (--key-added), or overwrite_columns=True "
            "(--overwrite-columns)",
        )


def write_embedding(
    path: str | Path,
    blocks: Blocks,
    names: pd.Index,
    *,
    key: str = "X_latent",
    adata: AnnData | None = None,
    file: str | Path | None = None,
    provenance: dict[str, object] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a vector of every cell; blocks are written as they come.

    Parameters
    ----------
    path
        ``.csv``, ``.csv.gz``, ``.tsv``, ``.tsv.gz`` or ``.parquet``: a table of cell names and
        ``latent_1``, ``latent_2``, ...; ``.npy``: the array alone; ``.h5ad``: a copy of the query
        with the array in ``obsm``.
    blocks
        float32 (B, n_latent), in the order of the cells.
    names
        Names of the cells.
    key
        Of ``obsm``.
    adata
        The query, for ``.h5ad``; it stays as it is.
    file
        The h5ad that ``adata`` is backed by: it is copied byte by byte, its matrix is not read.
    provenance
        Goes to ``uns["episome_embed"][key]``.
    overwrite
        Replace an existing file.

    Raises
    ------
    UsageError
        ``.h5ad`` without ``adata`` (E-U09).
    """
    path = Path(path)
    kind = ending(path, EMBEDDING_KINDS)
    if kind == ".npy":
        return write_file(path, lambda p: _to_npy(p, blocks, len(names)), overwrite=overwrite)
    if kind != ".h5ad":
        frames = frames_of(blocks, names, latent_columns)
        return write_table(path, frames, overwrite=overwrite)
    if adata is None:
        raise UsageError("E-U09", "an h5ad needs the query's AnnData", fix="pass adata=")
    made_by = {EMBEDDED_BY: {key: provenance or {}}}
    if file is not None:
        return write_file(
            path,
            lambda p: _copy_with_array(Path(file), p, adata.obs, key, blocks, made_by),
            overwrite=overwrite,
        )
    copy = _annotated(adata, adata.obs[[]], adata.uns.get("episome", {}))
    if "episome" not in adata.uns:
        del copy.uns["episome"]
    copy.obsm[key] = np.concatenate(list(blocks) or [np.empty((0, 0), dtype=np.float32)])
    copy.uns[EMBEDDED_BY] = {**adata.uns.get(EMBEDDED_BY, {}), **made_by[EMBEDDED_BY]}
    return write_file(path, lambda p: copy.write_h5ad(p, compression="gzip"), overwrite=overwrite)


def write_expression(
    path: str | Path,
    blocks: Iterable[Written],
    obs: pd.DataFrame,
    var: pd.DataFrame,
    *,
    layers: Sequence[str] = (),
    sparse: bool = False,
    uns: Mapping[str, object] | None = None,
    provenance: dict[str, object] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write expression of every cell; blocks are written as they come.

    Parameters
    ----------
    path
        ``.h5ad``, with ``X`` dense float32; or ``.csv``, ``.csv.gz``, ``.tsv``, ``.tsv.gz``,
        ``.parquet``: a table with a column per gene, see :func:`with_layers`.
    blocks
        float32 (B, n_genes), in the order of the cells; with ``layers`` tuples of it and of an
        array for each.
    obs, var
        Tables of cells and genes; a table of text holds their names only.
    layers
        Names of dense arrays beside ``X``.
    sparse
        ``X`` is CSR, and so is the first array of every block; of an ``.h5ad`` only.
    uns
        Further entries of ``uns``.
    provenance
        Goes to ``uns["episome"]``.
    overwrite
        Replace an existing file.
    """
    path = Path(path)
    if ending(path, EXPRESSION_KINDS) != ".h5ad":
        tables, columns = with_layers(blocks, list(var.index), layers)
        frames = frames_of(tables, obs.index, lambda _: columns)
        return write_table(path, frames, overwrite=overwrite)

    def write(target: Path) -> None:
        import anndata
        import h5py

        notes = {**(uns or {}), "episome": provenance or {}}
        cells = anndata.AnnData(obs=_with_calls(obs, {}), var=var, uns=notes)
        cells.write_h5ad(target)
        shape = (len(obs), len(var))
        with h5py.File(target, "r+") as handle:
            if "X" in handle:
                del handle["X"]
            beside = handle.require_group("layers")
            first = _CSRArray(handle, "X", shape) if sparse else _DenseArray(handle, "X", *shape)
            _fill([first, *(_DenseArray(beside, name, *shape) for name in layers)], blocks)

    return write_file(path, write, overwrite=overwrite)


def with_layers(
    blocks: Iterable[Written], names: Sequence[str], layers: Sequence[str]
) -> tuple[Blocks, list[str]]:
    """Return blocks of a table, and its columns: after every gene what the layers say of it.

    Parameters
    ----------
    blocks
        As of :func:`write_expression`, dense.
    names
        Names of the genes.
    layers
        Names of the layers; their columns are ``NAME_LAYER``.

    Raises
    ------
    UsageError
        Two columns would have one name (E-U115).
    """
    columns = [f"{n}{end}" for n in names for end in ("", *(f"_{layer}" for layer in layers))]
    twice = [c for c, n in Counter(columns).items() if n > 1] if layers else []
    if twice:
        raise UsageError(
            "E-U115",
            "columns of a table would have one name",
            count=len(twice),
            total=len(columns),
            examples=twice[:3],
            fix="write an h5ad, whose layers have names of their own",
        )
    return (_side_by_side(block) for block in blocks), columns


def _side_by_side(block: Written) -> NDArray[np.float32]:
    parts = _parts(block)
    if len(parts) == 1:
        return parts[0]
    found: NDArray[np.float32] = np.stack(parts, axis=2)
    return found.reshape(len(found), -1)


def _parts(block: Written) -> tuple[NDArray[np.float32] | sparse.csr_matrix, ...]:
    return block if isinstance(block, tuple) else (block,)


def require_space(path: Path, n_bytes: int, *, fewer: str = "write fewer genes (--genes)") -> None:
    """Refuse before any work a file that is larger than what the disk has left.

    Parameters
    ----------
    path
        Where it is to be.
    n_bytes
        Its size.
    fewer
        What would make it smaller.

    Raises
    ------
    ResourceError
        E-R02.
    """
    free = shutil.disk_usage(path.parent).free
    if n_bytes > free:
        raise ResourceError(
            "E-R02",
            f"the file needs {n_bytes / 1e9:,.1f} GB",
            where=str(path.parent),
            why=f"{free / 1e9:,.1f} GB are free",
            fix=f"{fewer}, free space, or choose another place",
        )


def latent_columns(width: int) -> list[str]:
    """Return the names of the columns of an embedding: ``latent_1``, ``latent_2``, ..."""
    return [f"latent_{i + 1}" for i in range(width)]


def frames_of(blocks: Blocks, names: pd.Index, columns: Any) -> Iterator[pd.DataFrame]:
    """Yield parts of a table, larger ones than the blocks; at least one, if without rows.

    Parameters
    ----------
    blocks
        float32 (B, n_columns).
    names
        Names of the cells.
    columns
        Function from the number of columns to their names.
    """
    import pandas as pd

    waiting: list[NDArray[np.float32]] = []
    done, held, said = 0, 0, False
    for block in blocks:
        waiting.append(block)
        held += len(block)
        if held >= _ROWS or held * block.shape[1] >= _ROWS * 128:
            array = np.concatenate(waiting)
            yield pd.DataFrame(array, names[done : done + held], columns(array.shape[1]))
            done, held, waiting, said = done + held, 0, [], True
    if waiting or not said:
        array = np.concatenate(waiting) if waiting else np.empty((0, len(columns(0))), np.float32)
        yield pd.DataFrame(array, names[done : done + held], columns(array.shape[1]))


def _to_npy(path: Path, blocks: Blocks, n_rows: int) -> None:
    """Write one array; its head, which says the width, is written with the first block."""
    from numpy.lib import format as npy

    with path.open("wb") as handle:
        head = False
        for block in blocks:
            if not head:
                npy.write_array_header_1_0(handle, _head((n_rows, block.shape[1])))
                head = True
            handle.write(np.ascontiguousarray(block, dtype="<f4").tobytes())
        if not head:
            npy.write_array_header_1_0(handle, _head((0, 0)))


def _head(shape: tuple[int, int]) -> dict[str, Any]:
    return {"descr": "<f4", "fortran_order": False, "shape": shape}


def _copy_with_array(
    file: Path,
    target: Path,
    obs: pd.DataFrame,
    key: str,
    blocks: Blocks,
    made_by: dict[str, dict[str, dict[str, object]]],
) -> None:
    """Copy an h5ad and put an array into ``obsm`` of the copy."""
    import h5py
    from anndata.io import write_elem

    shutil.copyfile(file, target)
    with h5py.File(target, "r+") as handle:
        if any(str(c).startswith("_scvi") for c in obs.columns):
            write_elem(handle, "obs", _with_calls(obs, {}))
        for group in ("obsm", "uns"):
            if group not in handle:
                write_elem(handle, group, {})
        _drop_scvi(handle["uns"])
        if EMBEDDED_BY not in handle["uns"]:
            write_elem(handle["uns"], EMBEDDED_BY, {})
        write_elem(handle["uns"][EMBEDDED_BY], key, made_by[EMBEDDED_BY][key])
        if key in handle["obsm"]:
            del handle["obsm"][key]
        _fill([_DenseArray(handle["obsm"], key, len(obs))], blocks)


class _Growing(Protocol):
    """An array of a group that is written as anndata does, block by block."""

    def add(self, block: Any) -> None: ...

    def close(self) -> None: ...


class _DenseArray:
    """Rows of one dense array; its width is that of the first block where it is not given."""

    def __init__(self, group: Any, key: str, n_rows: int, width: int | None = None) -> None:
        self._make: Callable[[int], Any] = lambda wide: group.create_dataset(
            key, (n_rows, wide), dtype="float32"
        )
        self._found = None if width is None else self._make(width)
        self._done = 0

    def add(self, block: NDArray[np.float32]) -> None:
        if self._found is None:
            self._found = self._make(block.shape[1])
        self._found[self._done : self._done + len(block)] = block
        self._done += len(block)

    def close(self) -> None:
        found = self._make(0) if self._found is None else self._found
        found.attrs["encoding-type"] = "array"
        found.attrs["encoding-version"] = "0.2.0"


class _CSRArray:
    """Rows of one CSR matrix: it grows, as nobody knows before how many values there are."""

    def __init__(self, group: Any, key: str, shape: tuple[int, int]) -> None:
        self._group = group.create_group(key)
        wide = shape[1] > np.iinfo(np.int32).max
        grows: dict[str, Any] = {"shape": (0,), "maxshape": (None,), "chunks": (_GROWS_BY,)}
        self._data = self._group.create_dataset("data", dtype="float32", **grows)
        self._columns = self._group.create_dataset(
            "indices", dtype="int64" if wide else "int32", **grows
        )
        self._starts = self._group.create_dataset("indptr", (shape[0] + 1,), dtype="int64")
        self._shape, self._rows, self._n_values = shape, 0, 0

    def add(self, block: sparse.csr_matrix) -> None:
        end, last = self._n_values + block.nnz, self._rows + block.shape[0]
        for found, values in ((self._data, block.data), (self._columns, block.indices)):
            found.resize((end,))
            found[self._n_values : end] = values
        starts = block.indptr[1:].astype(np.int64)
        self._starts[self._rows + 1 : last + 1] = self._n_values + starts
        self._rows, self._n_values = last, end

    def close(self) -> None:
        self._group.attrs["encoding-type"] = "csr_matrix"
        self._group.attrs["encoding-version"] = "0.1.0"
        self._group.attrs["shape"] = np.asarray(self._shape, dtype=np.int64)


def _fill(arrays: Sequence[_Growing], blocks: Iterable[Written]) -> None:
    """Write every block before the next one is made."""
    for block in blocks:
        for found, part in zip(arrays, _parts(block), strict=True):
            found.add(part)
    for found in arrays:
        found.close()
