"""Result tables as csv, parquet or an annotated h5ad."""

from __future__ import annotations

import contextlib
import gzip
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from episome.errors import InputFileError, UsageError
from episome.io._atomic import ensure_free, write_file
from episome.log import get_logger

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

logger = get_logger(__name__)

TABLES = (".csv", ".tsv", ".parquet")
#: What cells are written as.
CELL_KINDS = (".h5ad", ".zarr")
#: What scores are written as: the table of classes, or everything.
EVALUATION_KINDS = (".csv", ".tsv", ".json")
PREFIX = "episome_"
#: Columns of the CELLxGENE schema: their names are those of the schema, whatever the prefix.
SCHEMA_COLUMNS = ("cell_type", "cell_type_ontology_term_id")


def check_output(
    path: str | Path,
    *,
    overwrite: bool,
    allow_h5ad: bool = True,
    kinds: Sequence[str] | None = None,
    source: str | Path | None = None,
) -> Path:
    """Check before any work that a result can be written to ``path``.

    Parameters
    ----------
    path
        Where the result is to be.
    overwrite
        Replace an existing file.
    allow_h5ad
        Whether the result may be an ``h5ad``.
    kinds
        Endings that the name may have; default those of tables and ``.h5ad``.
    source
        File that is read; it is never replaced.

    Raises
    ------
    UsageError
        The extension is none we write (E-U08).
    InputFileError
        The output is the input (E-F25); see also ``ensure_free``.
    """
    path = Path(path)
    known = kinds or ((*TABLES, ".h5ad") if allow_h5ad else TABLES)
    if ending(path, known) is None:
        raise UsageError(
            "E-U08",
            f"results cannot be written as {path.suffix or 'a file without extension'}",
            where=str(path),
            fix=f"use one of {', '.join(known)}",
        )
    # Not by `samefile` alone: a folder of the path that is made later may lead to the input.
    if source is not None and (
        path.resolve() == Path(source).resolve() or (path.exists() and path.samefile(source))
    ):
        raise InputFileError(
            "E-F25",
            "the output is the input",
            where=str(path),
            why="no input is ever changed",
            fix="choose another name",
        )
    ensure_free(path, overwrite=overwrite)
    return path


def report_place(output: Path) -> Path:
    """Return where the report of an output is: beside it, ``calls.html`` for ``calls.csv``."""
    return output.with_name(f"{output.name if output.is_dir() else output.stem}.html")


def ending(path: Path, kinds: Iterable[str]) -> str | None:
    """Return which of some endings the name of a file has, ``.csv.gz`` before ``.gz``."""
    fitting = [k for k in kinds if path.name.endswith(k) and path.name != k]
    return max(fitting, key=len, default=None)


def prefixed(columns: Sequence[str], prefix: str) -> list[str]:
    """Return the names that columns of calls get; those of the CELLxGENE schema keep theirs."""
    return [c if c in SCHEMA_COLUMNS else f"{prefix}{c}" for c in columns]


def check_columns(
    adata: AnnData,
    columns: Sequence[str],
    *,
    prefix: str | None = None,
    overwrite: bool = False,
    overwrite_columns: bool = False,
    name: str = "adata",
) -> None:
    """Check before any work that calls can be added to ``adata.obs``.

    Parameters
    ----------
    adata
        The query.
    columns
        Names of the columns of calls.
    prefix
        Of the columns in ``obs``; default ``"episome_"``.
    overwrite
        Columns with the prefix may be replaced; those of the CELLxGENE schema never: they hold
        what somebody found out.
    overwrite_columns
        All may be replaced.
    name
        How messages name the query.

    Raises
    ------
    UsageError
        Columns exist already (E-L16).
    """
    names = prefixed(columns, PREFIX if prefix is None else prefix)
    clash = [c for c in names if c in adata.obs.columns]
    if overwrite:
        clash = [c for c in clash if c in SCHEMA_COLUMNS]
    if clash and not overwrite_columns:
        schema = set(clash) <= set(SCHEMA_COLUMNS)
        replace = "overwrite_columns=True (--overwrite-columns)"
        raise UsageError(
            "E-L16",
            "columns exist already",
            where=f"{name}.obs",
            count=len(clash),
            total=len(columns),
            examples=clash,
            fix=f"leave cellxgene out, or pass {replace}"
            if schema
            else f"pass another prefix= (--prefix), or overwrite=True, or {replace}",
        )


def write_calls(
    path: str | Path,
    calls: pd.DataFrame,
    *,
    adata: AnnData | None = None,
    provenance: dict[str, object] | None = None,
    prefix: str | None = None,
    overwrite: bool = False,
    overwrite_columns: bool = False,
) -> Path:
    """Write calls, one row per cell in the order of the query.

    Parameters
    ----------
    path
        ``.csv``, ``.tsv``, ``.parquet``, or ``.h5ad`` (a copy of ``adata`` with the calls in
        ``obs``).
    calls
        Frame indexed by cell name.
    adata
        The query, for ``.h5ad``; a shallow copy is written, the object stays as it is.
    provenance
        Goes to ``uns["episome"]``.
    prefix
        Of the columns; default ``"episome_"`` in ``obs`` and none in a table. Columns of the
        CELLxGENE schema have none.
    overwrite
        Replace an existing file, and columns with the prefix.
    overwrite_columns
        Replace existing columns, also those of the CELLxGENE schema.

    Raises
    ------
    UsageError
        ``.h5ad`` without ``adata`` (E-U09), or columns exist already (E-L16).
    """
    path = check_output(path, overwrite=overwrite)
    if path.suffix == ".h5ad":
        if adata is None:
            raise UsageError("E-U09", "an h5ad needs the query's AnnData", fix="pass adata=")
        check_columns(
            adata,
            list(calls.columns),
            prefix=prefix,
            overwrite=overwrite,
            overwrite_columns=overwrite_columns,
        )
        names = prefixed(calls.columns, PREFIX if prefix is None else prefix)
        annotated = _annotated(adata, calls.set_axis(names, axis=1), provenance or {})
        return write_file(
            path, lambda p: annotated.write_h5ad(p, compression="gzip"), overwrite=overwrite
        )
    calls = calls.set_axis(prefixed(calls.columns, prefix or ""), axis=1)
    if path.suffix == ".parquet":
        return write_file(path, lambda p: calls.to_parquet(p), overwrite=overwrite)
    separator = "," if path.suffix == ".csv" else "\t"
    text = calls.to_csv(sep=separator, index_label="cell")
    return write_file(path, text.encode(), overwrite=overwrite)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as plain data for JSON; what is not known is ``None``.

    Parameters
    ----------
    table
        The table; an index without a name is left out.
    """
    named = table.reset_index() if table.index.name else table
    found: list[dict[str, Any]] = (
        named.astype(object).where(named.notna(), None).to_dict("records")
    )
    return found


def write_calls_in_parts(
    path: str | Path,
    parts: Callable[[], Iterable[pd.DataFrame]],
    *,
    file: str | Path | None = None,
    obs: pd.DataFrame | None = None,
    provenance: dict[str, object] | None = None,
    prefix: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write calls that are never in memory together; the result is that of :func:`write_calls`.

    Parameters
    ----------
    path
        ``.csv``, ``.tsv``, ``.parquet``, or ``.h5ad``: a copy of ``file`` with the calls in
        ``obs``, whose matrix is copied byte by byte and never read.
    parts
        Returns the frames, in the order of the cells, each indexed by cell name.
    file, obs
        The h5ad that is copied, and its table of cells.
    provenance, prefix, overwrite
        As for :func:`write_calls`.
    """
    path = check_output(path, overwrite=overwrite, source=file)
    if path.suffix == ".h5ad":
        if file is None or obs is None:
            raise UsageError("E-U09", "an h5ad needs the file of the query", fix="pass file=")
        columns = _joined(parts(), PREFIX if prefix is None else prefix)

        def write(target: Path) -> None:
            _copy_with(Path(file), target, _with_calls(obs, columns), provenance or {})

        return write_file(path, write, overwrite=overwrite)
    named = (p.set_axis(prefixed(p.columns, prefix or ""), axis=1) for p in parts())
    return write_table(path, named, overwrite=overwrite)


def write_table(
    path: str | Path, frames: Iterable[pd.DataFrame], *, overwrite: bool = False
) -> Path:
    """Write one table of cells whose parts are never in memory together.

    Parameters
    ----------
    path
        ``.csv``, ``.tsv``, each also with ``.gz``, or ``.parquet``.
    frames
        The parts, at least one, in the order of the cells, each indexed by cell name.
    overwrite
        Replace an existing file.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        return write_file(path, lambda p: _to_parquet(frames, p), overwrite=overwrite)
    separator = "," if ending(path, (".csv", ".csv.gz")) else "\t"

    def write_text(target: Path) -> None:
        with _text(target) as handle:
            for i, frame in enumerate(frames):
                frame.to_csv(
                    handle, sep=separator, index_label="cell", header=i == 0, lineterminator="\n"
                )

    return write_file(path, write_text, overwrite=overwrite)


@contextlib.contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    """Open a file for text; what ends in ``.gz`` is compressed, the same bytes at any time."""
    if path.suffix != ".gz":
        with path.open("w", encoding="utf-8", newline="") as handle:
            yield handle
        return
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as handle,
    ):
        yield handle


def _to_parquet(frames: Iterable[pd.DataFrame], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    writer = None
    try:
        for frame in frames:
            table = pa.Table.from_pandas(frame)
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _joined(frames: Iterable[pd.DataFrame], prefix: str) -> dict[str, Any]:
    """Columns of all cells; text becomes categories, of which there are few."""
    import pandas as pd

    parts: dict[str, list[Any]] = {}
    for frame in frames:
        for name, new in zip(frame.columns, prefixed(frame.columns, prefix), strict=True):
            column = frame[name]
            is_text = not pd.api.types.is_numeric_dtype(column)
            parts.setdefault(new, []).append(
                pd.Categorical(column) if is_text else column.to_numpy()
            )
    return {k: _one(v) for k, v in parts.items()}


def _one(parts: list[Any]) -> Any:
    import numpy as np
    import pandas as pd
    from pandas.api.types import union_categoricals

    if isinstance(parts[0], pd.Categorical):
        return union_categoricals(parts, sort_categories=True)
    return np.concatenate(parts)


def _copy_with(file: Path, target: Path, obs: pd.DataFrame, provenance: dict[str, object]) -> None:
    """Copy an h5ad and put another table of cells into the copy."""
    import shutil

    import h5py
    from anndata.io import write_elem

    shutil.copyfile(file, target)
    with h5py.File(target, "r+") as handle:
        write_elem(handle, "obs", obs, dataset_kwargs={"compression": "gzip"})
        if "uns" not in handle:
            write_elem(handle, "uns", {})
        _drop_scvi(handle["uns"])
        write_elem(handle["uns"], "episome", provenance)


def _drop_scvi(uns: Any) -> None:
    for key in [k for k in uns if k.startswith("_scvi")]:
        del uns[key]


def _storable(obs: pd.DataFrame) -> pd.DataFrame:
    """Give columns that HDF5 would nest another name, and say so."""
    taken = set(map(str, obs.columns))
    new: dict[str, str] = {}
    for name in (str(c) for c in obs.columns if "/" in str(c)):
        wanted = name.replace("/", "_")
        while wanted in taken:
            wanted += "_"
        taken.add(wanted)
        new[name] = wanted
    if new:
        shown = ", ".join(f"{a!r} as {b!r}" for a, b in new.items())
        logger.info("h5ad cannot hold columns with a slash in their name: written %s", shown)
    return obs.rename(columns=new)


def _with_calls(obs: pd.DataFrame, columns: dict[str, Any]) -> pd.DataFrame:
    kept = obs.drop(columns=[c for c in obs.columns if str(c).startswith("_scvi")])
    return _storable(kept.assign(**columns))


def _annotated(adata: AnnData, calls: pd.DataFrame, provenance: dict[str, object]) -> AnnData:
    import anndata

    obs = _with_calls(adata.obs, {str(c): calls[c].to_numpy() for c in calls.columns})
    raw = (
        None
        if adata.raw is None
        else {"X": adata.raw.X, "var": adata.raw.var, "varm": adata.raw.varm}
    )
    uns = {k: v for k, v in adata.uns.items() if not str(k).startswith("_scvi")}
    return anndata.AnnData(
        adata.X,
        obs=obs,
        var=adata.var,
        uns={**uns, "episome": provenance},
        obsm=dict(adata.obsm),
        varm=dict(adata.varm),
        layers={k: v for k, v in adata.layers.items() if k is not None},
        obsp=dict(adata.obsp),
        raw=raw,
    )
