"""Files of cells: their digest, and the same cells in another form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from episome.data import AnnDataSource, cells_digest, check_inputs, read_cells
from episome.errors import InputDataError, UsageError
from episome.io import (
    CELL_KINDS,
    check_output,
    ending,
    folder_beside,
    read_manifest,
    write_file,
)
from episome.jobs._annotate import file_digest
from episome.jobs._asked import weights_digest
from episome.jobs._inputs import is_streamed, shown_name, streamed_cells

if TYPE_CHECKING:
    from anndata import AnnData

    from episome.data import CellSource

#: How queries of the Census begin.
_CENSUS = "census:"
#: Cells that are read at once.
READ = 16_384
Progress = Callable[[int, int], None]
Form = Literal["as is", "csr", "csc", "dense"]


@dataclass(frozen=True, slots=True)
class DataDigest:
    """Digests of cells.

    Parameters
    ----------
    content
        Of ``episome.data.cells_digest``: of the cells, however they are stored.
    sha256
        Of the file, or the files of a folder; empty for an address.
    n_obs, n_vars
        Cells and genes.
    slot
        Where the values are.
    """

    content: str
    sha256: str
    n_obs: int
    n_vars: int
    slot: str


@dataclass(frozen=True, slots=True)
class ConvertRequest:
    """What ``episome data convert`` is asked for.

    Parameters
    ----------
    input
        Cells of any kind that is read, never changed.
    output
        ``.h5ad`` or ``.zarr``.
    form
        How matrices are stored: as they are, by cells, by genes, or dense.
    overwrite
        Replace what is there.
    max_memory, trust
        Of ``episome.data.read_cells``.
    """

    input: Path
    output: Path
    form: Form = "as is"
    overwrite: bool = False
    max_memory: int | None = None
    trust: bool = False


def data_hash(
    path: Path,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    max_memory: int | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> DataDigest:
    """Return the digests of a file of cells, a corpus, a folder of files or an address.

    Parameters
    ----------
    path
        The cells, never changed.
    layer, use_raw
        Where the values are; default X.
    max_memory, trust
        Of ``episome.data.read_cells``.
    progress
        Called with ``(cells done, cells)``.

    Raises
    ------
    EpisomeError
        Of the family in ``episome.errors``.
    """
    check_inputs(path)
    if is_streamed(path):
        source = streamed_cells(path, layer=layer, use_raw=use_raw)
        assert source is not None
        content = cells_digest(source, progress=progress)
        facts = (source.n_obs, source.n_vars, source.where)
    else:
        adata = read_cells(path, backed=True, max_memory=max_memory, trust=trust)
        try:
            of = AnnDataSource(adata, layer=layer, use_raw=use_raw, name=shown_name(path))
            content = cells_digest(of, progress=progress)
            facts = (of.n_obs, of.n_vars, of.where)
        finally:
            if adata.isbacked:
                adata.file.close()
    return DataDigest(content, file_digest(path) if path.exists() else "", *facts)


def output_digest(path: Path) -> tuple[str, str]:
    """Return what kind of output a path is, and a digest that the same run gives again.

    Parameters
    ----------
    path
        A file, or a folder.

    Returns
    -------
    ``"model"`` and the digest of its weights (its manifest tells the time of the training);
    ``"corpus"`` and that of its manifest;
    else ``"file"`` or ``"folder"``, and the digest of its bytes.
    """
    if path.is_dir() and (path / "manifest.sha256").is_file():
        if _is_corpus(path):
            return "corpus", input_digest(path)
        return "model", weights_digest(read_manifest(path))
    return "folder" if path.is_dir() else "file", file_digest(path)


def input_digest(path: Path) -> str:
    """Return the digest by which an input is known again.

    Parameters
    ----------
    path
        A file, or a folder.

    Returns
    -------
    That of :func:`file_digest`; of a corpus or a model that of its manifest, which holds the
    digests of what may be terabytes, and is the same when a card was written.
    """
    if (path / "manifest.sha256").is_file():
        return (path / "manifest.sha256").read_text(encoding="utf-8").split()[0]
    return file_digest(path)


def _is_corpus(path: Path) -> bool:
    return (path / "manifest.sha256").is_file() and (path / "shards").is_dir()


def data_convert(request: ConvertRequest) -> DataDigest:
    """Write cells as h5ad or zarr, and read them back: their digest has to be the same.

    Parameters
    ----------
    request
        What to do.

    Returns
    -------
    The digests of what was written.

    Raises
    ------
    EpisomeError
        Of the family in ``episome.errors``; nothing is written then. E-D67: the cells that were
        read back are others.
    """
    check_inputs(request.input)
    check_output(
        request.output, overwrite=request.overwrite, kinds=CELL_KINDS, source=request.input
    )
    adata = read_cells(request.input, max_memory=request.max_memory, trust=request.trust)
    name = shown_name(request.input)
    before = cells_digest(AnnDataSource(adata, name=name))
    changed = _in_form(adata, request.form)
    return _written(changed, request.output, before, name, overwrite=request.overwrite)


def _written(
    adata: AnnData, output: Path, before: str, name: str, *, overwrite: bool
) -> DataDigest:
    """Write an object, and keep it if what is read back has the digest of before."""
    found: list[DataDigest] = []

    def write(path: Path) -> None:
        if ending(path, CELL_KINDS) == ".zarr":
            adata.write_zarr(path)
        else:
            adata.write_h5ad(path, compression="gzip")
        found.append(data_hash(path, trust=True))
        if found[0].content != before:
            raise InputDataError(
                "E-D67",
                "the cells that were written are not those that were read",
                where=name,
                why="their digests differ",
                fix="please report this, with the file if you can",
            )

    if ending(output, CELL_KINDS) == ".h5ad":
        write_file(output, write, overwrite=overwrite)
    else:
        with folder_beside(output, overwrite=overwrite) as folder:
            write(folder)
    return found[0]


def data_census(
    query: str, output: Path, *, overwrite: bool = False, progress: Progress | None = None
) -> DataDigest:
    """Write the cells of a query of the CELLxGENE Census into a file.

    All of them are in memory together; `episome corpus build` takes more.

    Parameters
    ----------
    query
        ``census:ORGANISM@RELEASE?FILTER``.
    output
        ``.h5ad`` or ``.zarr``.
    overwrite
        Replace what is there.
    progress
        Called with ``(cells done, cells)`` after every block.

    Raises
    ------
    UsageError
        It is no query of the Census (E-U94).
    RemoteError
        The Census cannot be reached (E-N01), or may not be asked (E-N04).
    EpisomeError
        Of the family in ``episome.errors``; nothing is written then.
    """
    if not query.startswith(_CENSUS):
        raise UsageError(
            "E-U94",
            f"{query!r:.80} is no query of the Census",
            fix="census:ORGANISM@RELEASE?FILTER, for example "
            "\"census:homo_sapiens@2025-01-30?tissue_general == 'lung'\"",
        )
    check_output(output, overwrite=overwrite, kinds=CELL_KINDS)
    source = streamed_cells(Path(query))
    assert source is not None
    adata = _in_memory(source, progress)
    return _written(adata, output, cells_digest(AnnDataSource(adata)), query, overwrite=overwrite)


def _in_memory(source: CellSource, progress: Progress | None) -> AnnData:
    """Read all cells of a source, with the columns that it lists."""
    blocks = []
    for start in range(0, source.n_obs, READ):
        stop = min(start + READ, source.n_obs)
        blocks.append(source.read(slice(start, stop)).copy())
        if progress is not None:
            progress(stop, source.n_obs)
    columns = {c: source.obs_column(c).array for c in getattr(source, "obs_columns", ())}
    values = sparse.vstack(blocks, format="csr") if blocks else None
    return anndata.AnnData(
        sparse.csr_matrix((0, source.n_vars), dtype=np.float32) if values is None else values,
        obs=pd.DataFrame(columns, index=source.obs_names.astype(str)),
        var=source.var.set_axis(source.var.index.astype(str)),
    )


def _in_form(adata: AnnData, form: Form) -> AnnData:
    """Return an object whose matrices are stored in a form; the given one stays as it is."""
    if form == "as is":
        return adata
    made = adata.copy()
    made.X = _matrix(made.X, form)
    for name in [k for k in made.layers if k is not None]:
        made.layers[name] = _matrix(made.layers[name], form)
    return made


def _matrix(values: object, form: Form) -> object:
    if form == "dense":
        return values.toarray() if sparse.issparse(values) else values  # type: ignore[attr-defined]
    return (sparse.csr_matrix if form == "csr" else sparse.csc_matrix)(values)
