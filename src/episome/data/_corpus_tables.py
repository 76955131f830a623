"""The cell table of a corpus while it is made: parts of every input, then all in order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from episome.data._compiled import offsets_of
from episome.data._corpus_columns import COLUMNS, NAME_ENDS, NAMES
from episome.data._corpus_names import INPUT_COLUMN, unique_names
from episome.data._corpus_records import gather
from episome.data._corpus_work import array_bytes
from episome.io._atomic import sync
from episome.io._json import dumps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data._corpus_columns import Column
    from episome.data._corpus_plan import CorpusPlan
    from episome.data._corpus_work import WorkFolder

_NAMES_AT_ONCE = 1 << 20


def write_parts(plan: CorpusPlan, number: int, folder: Path) -> None:
    """Write the columns and names of one input, in its own order."""
    one = plan.inputs[number]
    with one.source.opened() as source:
        for column in plan.columns:
            if column.name == INPUT_COLUMN:
                continue
            values = source.obs_column(column.name).iloc[one.rows]
            _write(_part(folder, column.file, number), column.coded(values).tobytes())
        names = [str(n).encode() for n in source.obs_names[one.rows]]
    _write(_part(folder, NAMES, number), b"".join(names))
    lengths = np.fromiter((len(n) for n in names), dtype="<i4", count=len(names))
    _write(_part(folder, NAME_ENDS, number), lengths.tobytes())


def _write(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    sync(file)


def _part(folder: Path, file: str, number: int) -> Path:
    return folder / f"{Path(file).name}.{number:05d}"


def write_columns(
    plan: CorpusPlan, places: NDArray[np.int64], work: WorkFolder
) -> dict[str, dict[str, Any]]:
    """Write every column in the corpus's order; return the facts of the files."""
    files = {}
    for column in plan.columns:
        ordered = np.empty(plan.n_obs, dtype=column.dtype)
        first = 0
        for number, one in enumerate(plan.inputs):
            here = places[first : first + len(one.rows)]
            ordered[here] = _values(plan, column, number, work.parts)
            first += len(one.rows)
        files[column.file] = work.store(column.file, array_bytes(ordered))
    listed = dumps({"columns": [c.to_json() for c in plan.columns]})
    files[COLUMNS] = work.store(COLUMNS, listed)
    return files


def _values(plan: CorpusPlan, column: Column, number: int, folder: Path) -> NDArray[np.generic]:
    if column.name != INPUT_COLUMN:
        return np.fromfile(_part(folder, column.file, number), dtype=column.dtype)
    code = column.values.index(unique_names([i.checked.name for i in plan.inputs])[number])
    return np.full(len(plan.inputs[number].rows), code, dtype=column.dtype)


def write_names(
    plan: CorpusPlan, places: NDArray[np.int64], work: WorkFolder
) -> dict[str, dict[str, Any]]:
    """Write the names of the cells in the corpus's order; return the facts of the files."""
    every = range(len(plan.inputs))
    whole = work.parts / "names"
    with whole.open("wb") as handle:
        for number in every:
            handle.write(_part(work.parts, NAMES, number).read_bytes())
    lengths = np.concatenate(
        [np.fromfile(_part(work.parts, NAME_ENDS, n), dtype="<i4") for n in every]
    ).astype(np.int64)
    order = np.argsort(places)
    starts, lengths = offsets_of(lengths)[:-1][order], lengths[order]
    size = whole.stat().st_size
    text = np.memmap(whole, np.uint8, "r") if size else np.empty(0, dtype=np.uint8)
    with work.storing(NAMES) as (write, entry):
        for first in range(0, plan.n_obs, _NAMES_AT_ONCE):
            part = slice(first, first + _NAMES_AT_ONCE)
            write(gather(text, starts[part], lengths[part]))
    ends = work.store(NAME_ENDS, array_bytes(offsets_of(lengths).astype("<i8")))
    return {NAMES: entry, NAME_ENDS: ends}
