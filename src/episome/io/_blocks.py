"""Arrays of cells that are written block by block: embeddings and expected expression."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from episome.errors import ResourceError, UsageError
from episome.io._atomic import write_file
from episome.io._results import _annotated, _drop_scvi, _with_calls, ending, write_table

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    Blocks = Iterable[NDArray[np.float32]]

TEXT_KINDS = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
EMBEDDING_KINDS = (*TEXT_KINDS, ".parquet", ".npy", ".h5ad")
EXPRESSION_KINDS = (*TEXT_KINDS, ".parquet", ".h5ad")
#: In ``uns`` of a copy: what every embedding was made by, under its key of ``obsm``.
EMBEDDED_BY = "episome_embed"
#: Rows of a part of a table.
_ROWS = 8192


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
    blocks: Blocks,
    obs: pd.DataFrame,
    var: pd.DataFrame,
    *,
    provenance: dict[str, object] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write expression of every cell; blocks are written as they come.

    Parameters
    ----------
    path
        ``.h5ad``, with ``X`` dense float32; or ``.csv``, ``.csv.gz``, ``.tsv``, ``.tsv.gz``,
        ``.parquet``: a table with a column per gene.
    blocks
        float32 (B, n_genes), in the order of the cells.
    obs, var
        Tables of cells and genes; a table of text holds their names only.
    provenance
        Goes to ``uns["episome"]``.
    overwrite
        Replace an existing file.
    """
    path = Path(path)
    if ending(path, EXPRESSION_KINDS) != ".h5ad":
        frames = frames_of(blocks, obs.index, lambda _: list(var.index))
        return write_table(path, frames, overwrite=overwrite)

    def write(target: Path) -> None:
        import anndata
        import h5py

        tables = _with_calls(obs, {})
        anndata.AnnData(obs=tables, var=var, uns={"episome": provenance or {}}).write_h5ad(target)
        with h5py.File(target, "r+") as handle:
            if "X" in handle:
                del handle["X"]
            _fill(handle, "X", blocks, len(obs), len(var))

    return write_file(path, write, overwrite=overwrite)


def require_space(path: Path, n_bytes: int) -> None:
    """Refuse before any work a file that is larger than what the disk has left.

    Parameters
    ----------
    path
        Where it is to be.
    n_bytes
        Its size.

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
            fix="write fewer genes (--genes), free space, or choose another place",
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
        _fill(handle["obsm"], key, blocks, len(obs))


def _fill(group: Any, key: str, blocks: Blocks, n_rows: int, width: int | None = None) -> None:
    """Write an array of a group as anndata does, block by block."""
    found, done = None, 0
    if width is not None:
        found = group.create_dataset(key, (n_rows, width), dtype="float32")
    for block in blocks:
        if found is None:
            found = group.create_dataset(key, (n_rows, block.shape[1]), dtype="float32")
        found[done : done + len(block)] = block
        done += len(block)
    if found is None:
        found = group.create_dataset(key, (n_rows, 0), dtype="float32")
    found.attrs["encoding-type"] = "array"
    found.attrs["encoding-version"] = "0.2.0"
