"""Tables that verbs wrote, read part by part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from episome.data import read_cells
from episome.errors import InputFileError
from episome.jobs._inputs import is_streamed

if TYPE_CHECKING:
    from anndata import AnnData

    from episome.jobs._report import ReportRequest

#: Cells that are read at once.
PART = 200_000
#: Columns that tell what a table is of.
CALLS, AUDIT = ("label", "confidence"), ("suggested", "wrong", "score")


def nothing(path: Path, why: str) -> InputFileError:
    return InputFileError(
        "E-F40",
        "no report can be made of this",
        where=str(path),
        why=why,
        fix="pass the table, h5ad, json or folder that annotate, audit, evaluate, train or "
        "benchmark wrote, or the folder of --run-folder",
    )


def cells_of(request: ReportRequest) -> AnnData | None:
    """Return the cells that calls are of, where they are at hand; the values stay on disk."""
    place = request.input or (request.run if request.run.suffix == ".h5ad" else None)
    if place is None or (request.input is not None and is_streamed(place)):
        return None
    return read_cells(place, backed=True, max_memory=request.max_memory, trust=request.trust)


def frames_of_table(path: Path, prefix: str) -> Iterator[pd.DataFrame]:
    """Yield parts of a table of calls, its columns without their prefix."""
    for frame in _raw_frames(path):
        own = [c for c in frame.columns if str(c).startswith(prefix)]
        yield frame[own].rename(columns=lambda c: str(c).removeprefix(prefix))


def _raw_frames(path: Path) -> Iterator[pd.DataFrame]:
    if path.suffix == ".parquet":
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(PART):
                yield batch.to_pandas()
    elif path.suffix == ".h5ad":
        import anndata

        cells = anndata.read_h5ad(path, backed="r")
        try:
            for start in range(0, max(cells.n_obs, 1), PART):
                yield cells.obs.iloc[start : start + PART]
        finally:
            cells.file.close()
    else:
        separator = "," if path.suffix == ".csv" else "\t"
        with pd.read_csv(path, sep=separator, index_col=0, chunksize=PART) as parts:
            yield from parts


def columns_of(request: ReportRequest) -> list[str]:
    """Return the columns of a table, or of the cells of an h5ad."""
    try:
        if request.run.suffix == ".parquet":
            from pyarrow import parquet

            return [str(n) for n in parquet.read_schema(request.run).names]
        if request.run.suffix == ".h5ad":
            cells = cells_of(replace(request, input=None))
            assert cells is not None
            try:
                return [str(c) for c in cells.obs.columns]
            finally:
                if cells.isbacked:
                    cells.file.close()
        separator = "," if request.run.suffix == ".csv" else "\t"
        return [str(c) for c in pd.read_csv(request.run, sep=separator, index_col=0, nrows=0)]
    except (ValueError, OSError) as error:
        if isinstance(error, InputFileError):
            raise
        raise nothing(request.run, f"it cannot be read: {error}"[:200]) from error


def prefix_of(columns: list[str], wanted: tuple[str, ...]) -> str | None:
    """Return what all of some columns begin with; ``None`` where they are not there."""
    ends = [c.removesuffix(wanted[-1]) for c in columns if c.endswith(wanted[-1])]
    there = set(columns)
    fitting = [p for p in ends if all(f"{p}{w}" in there for w in wanted)]
    return min(fitting, key=len, default=None)
