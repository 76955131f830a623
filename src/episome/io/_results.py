"""Result tables as csv, parquet or an annotated h5ad."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from episome.errors import InputFileError, UsageError
from episome.io._atomic import ensure_free, write_file
from episome.log import get_logger

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

logger = get_logger(__name__)

TABLES = (".csv", ".tsv", ".parquet")
PREFIX = "episome_"


def check_output(
    path: str | Path,
    *,
    overwrite: bool,
    allow_h5ad: bool = True,
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
    known = (*TABLES, ".h5ad") if allow_h5ad else TABLES
    if path.suffix not in known:
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


def check_columns(
    adata: AnnData, columns: Sequence[str], *, prefix: str = PREFIX, overwrite: bool = False
) -> None:
    """Check before any work that calls can be added to ``adata.obs``.

    Raises
    ------
    UsageError
        Columns exist already (E-L16).
    """
    clash = [f"{prefix}{c}" for c in columns if f"{prefix}{c}" in adata.obs.columns]
    if clash and not overwrite:
        raise UsageError(
            "E-L16",
            "columns exist already",
            where="adata.obs",
            count=len(clash),
            total=len(columns),
            examples=clash,
            fix="pass another prefix=, or overwrite=True",
        )


def write_calls(
    path: str | Path,
    calls: pd.DataFrame,
    *,
    adata: AnnData | None = None,
    provenance: dict[str, object] | None = None,
    prefix: str = PREFIX,
    overwrite: bool = False,
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
        Of the columns in ``obs``.
    overwrite
        Replace an existing file.

    Raises
    ------
    UsageError
        ``.h5ad`` without ``adata`` (E-U09), or columns exist already (E-L16).
    """
    path = check_output(path, overwrite=overwrite)
    if path.suffix == ".h5ad":
        if adata is None:
            raise UsageError("E-U09", "an h5ad needs the query's AnnData", fix="pass adata=")
        annotated = _annotated(adata, calls, provenance or {}, prefix, overwrite=overwrite)
        return write_file(
            path, lambda p: annotated.write_h5ad(p, compression="gzip"), overwrite=overwrite
        )
    if path.suffix == ".parquet":
        return write_file(path, lambda p: calls.to_parquet(p), overwrite=overwrite)
    separator = "," if path.suffix == ".csv" else "\t"
    text = calls.to_csv(sep=separator, index_label="cell")
    return write_file(path, text.encode(), overwrite=overwrite)


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


def _annotated(
    adata: AnnData,
    calls: pd.DataFrame,
    provenance: dict[str, object],
    prefix: str,
    *,
    overwrite: bool,
) -> AnnData:
    import anndata

    check_columns(adata, list(calls.columns), prefix=prefix, overwrite=overwrite)
    columns = {f"{prefix}{c}": calls[c].to_numpy() for c in calls.columns}
    obs = adata.obs.drop(columns=[c for c in adata.obs.columns if str(c).startswith("_scvi")])
    obs = _storable(obs.assign(**columns))
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
