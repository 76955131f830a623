"""Columns of the cell table of a corpus: one file of numbers each, text as codes of a list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from episome.errors import InputDataError, InputFileError, Problem, raise_problems
from episome.io._corpus import damaged
from episome.io._json import loads

if TYPE_CHECKING:
    from numpy.typing import NDArray

ColumnKind: TypeAlias = Literal["text", "number", "whole", "truth"]
COLUMNS, NAMES, NAME_ENDS = "cells/columns.json", "cells/names.txt", "cells/name_ends.npy"
#: Code of a cell without a value.
MISSING = -1


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the cell table.

    Parameters
    ----------
    name
        As in ``obs``.
    kind
        ``"text"`` (codes of ``values``), ``"number"`` (float64), ``"whole"`` (int64) or
        ``"truth"`` (-1 is missing).
    file
        File that holds it.
    values
        Every text that occurs, sorted.
    """

    name: str
    kind: ColumnKind
    file: str
    values: tuple[str, ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored numbers, the smallest that holds them."""
        if self.kind in {"number", "whole"}:
            return np.dtype("<f8" if self.kind == "number" else "<i8")
        largest = 1 if self.kind == "truth" else len(self.values)
        return np.dtype(next(t for t in ("i1", "<i2", "<i4") if largest < np.iinfo(t).max))

    def to_json(self) -> dict[str, object]:
        """Return the column as plain data."""
        return {
            "name": self.name,
            "kind": self.kind,
            "file": self.file,
            "values": list(self.values),
        }

    def coded(self, series: pd.Series) -> NDArray[np.generic]:
        """Return the numbers that stand for the values of a part of the column."""
        if self.kind == "number":
            numbers: NDArray[np.generic] = series.to_numpy(dtype=self.dtype, na_value=np.nan)
            return numbers
        if self.kind == "whole":
            return np.asarray(series, dtype=self.dtype)
        if self.kind == "truth":
            missing = series.isna().to_numpy()
            return np.where(missing, MISSING, series.fillna(value=False).astype(bool)).astype("i1")
        codes = np.asarray(pd.Index(self.values).get_indexer(pd.Index(as_text(series))))
        return codes.astype(self.dtype)

    def decoded(self, numbers: NDArray[np.generic]) -> pd.Series:
        """Return the values that numbers stand for."""
        if self.kind in {"number", "whole"}:
            return pd.Series(numbers, name=self.name)
        if self.kind == "truth":
            found = pd.array(np.asarray(numbers) == 1, dtype="boolean")
            found[np.asarray(numbers) == MISSING] = pd.NA
            plain = found if (np.asarray(numbers) == MISSING).any() else found.astype(bool)
            return pd.Series(plain, name=self.name)
        values = pd.Categorical.from_codes(np.asarray(numbers), categories=list(self.values))
        return pd.Series(values, name=self.name)


def as_text(series: pd.Series) -> NDArray[np.object_]:
    """Return values as text, missing ones as ``None``."""
    text: NDArray[np.object_] = np.asarray(series.astype(object), dtype=object)
    missing = series.isna().to_numpy()
    return np.array([None if m else str(v) for v, m in zip(text, missing, strict=True)], object)


def kind_of_column(series: pd.Series) -> ColumnKind:
    """Tell how a column is kept."""
    if pd.api.types.is_bool_dtype(series.dtype):
        return "truth"
    if not pd.api.types.is_numeric_dtype(series.dtype):
        return "text"
    whole = pd.api.types.is_signed_integer_dtype(series.dtype) and not series.hasnans
    return "whole" if whole else "number"


def texts_of(series: pd.Series) -> set[str]:
    """Return every text that occurs in a column."""
    return {str(v) for v in series.dropna().unique()}


def read_columns(path: Path) -> dict[str, Column]:
    """Read which columns a corpus has.

    Raises
    ------
    InputFileError
        The file is none (E-F31).
    """
    try:
        listed = loads((path / COLUMNS).read_bytes(), COLUMNS)["columns"]
        found = [Column(c["name"], c["kind"], c["file"], tuple(c["values"])) for c in listed]
    except (ValueError, KeyError, TypeError) as error:
        raise InputFileError(damaged(path / COLUMNS, "it is no list of columns")) from error
    return {c.name: c for c in found}


def read_array(file: Path, shape: tuple[int, ...], dtype: Any = None) -> NDArray[np.generic]:
    """Read an array of a corpus into memory.

    Raises
    ------
    InputFileError
        It is no array of this shape and type (E-F31).
    """
    try:
        array: NDArray[np.generic] = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputFileError(damaged(file, "it is no array")) from error
    if array.shape != shape or (dtype is not None and array.dtype != dtype):
        raise InputFileError(damaged(file, f"it is {array.dtype} of shape {array.shape}"))
    return array


def read_column(path: Path, column: Column, n_obs: int) -> pd.Series:
    """Read one column.

    Raises
    ------
    InputFileError
        Its file is damaged (E-F31).
    """
    numbers = read_array(path / column.file, (n_obs,), column.dtype)
    if column.kind == "text" and n_obs:
        low, high = int(numbers.min()), int(numbers.max())
        if low < MISSING or high >= len(column.values):
            raise InputFileError(damaged(path / column.file, "it has codes of no value"))
    return column.decoded(numbers)


def read_names(path: Path, n_obs: int) -> pd.Index:
    """Read the names of the cells; they stay packed, about as large as their text."""
    import pyarrow as pa

    ends = read_array(path / NAME_ENDS, (n_obs + 1,), np.dtype("<i8"))
    text = (path / NAMES).read_bytes()
    steps = np.diff(ends.astype(np.int64))
    if len(ends) and (ends[0] != 0 or ends[-1] != len(text) or (steps < 0).any()):
        raise InputFileError(damaged(path / NAME_ENDS, "it points outside the names"))
    buffers = [None, pa.py_buffer(np.ascontiguousarray(ends)), pa.py_buffer(text)]
    names = pa.Array.from_buffers(pa.large_string(), n_obs, buffers)
    try:
        names.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InputFileError(damaged(path / NAMES, "it is no text")) from error
    return pd.Index(pd.arrays.ArrowStringArray(names))


def merge_columns(
    tables: Mapping[str, list[tuple[str, ColumnKind, set[str]]]],
) -> tuple[Column, ...]:
    """Make columns of what they are in every input.

    Parameters
    ----------
    tables
        By column, for every input its name, the kind there, and the texts that occur.

    Raises
    ------
    InputDataError
        A column is numbers in one input and something else in another (E-L36).
    """
    columns, problems = [], []
    for number, (name, parts) in enumerate(tables.items()):
        kinds = {kind for _, kind, _ in parts}
        if len(kinds) > 1 and not kinds <= {"number", "whole"}:
            problems.append(_mixed_column(name, parts))
            continue
        kind: ColumnKind = "number" if "number" in kinds else parts[0][1]
        values = tuple(sorted(set().union(*(v for _, _, v in parts))))
        columns.append(Column(name, kind, f"cells/{number:04d}.npy", values))
    raise_problems(InputDataError, problems)
    return tuple(columns)


def _mixed_column(name: str, parts: list[tuple[str, ColumnKind, set[str]]]) -> Problem:
    most = max((k for _, k, _ in parts), key=[k for _, k, _ in parts].count)
    others = [i for i, k, _ in parts if k != most]
    return Problem(
        "E-L36",
        f"column {name!r} is {most} in most inputs, and something else in others",
        where="obs",
        count=len(others),
        total=len(parts),
        examples=others[:3],
        why="one column holds one kind of values",
        fix="store it alike in all files, or leave it out",
    )
