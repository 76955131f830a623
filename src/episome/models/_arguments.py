"""Arguments of queries: words that are known, rows as numbers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from episome.data import prepare_query
from episome.errors import UsageError, near_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NOT_OF_A_CALL = frozenset({"layer", "use_raw", "backed", "importance"})
_QUERY_WORDS = ("layer", "use_raw") + tuple(
    name
    for name, parameter in inspect.signature(prepare_query).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name not in _NOT_OF_A_CALL
)


def require_known_query(query: Mapping[str, object]) -> None:
    """Refuse keywords that no method takes, with near ones."""
    unknown = [k for k in query if k not in {*_QUERY_WORDS, "backed"}]
    if unknown:
        words = [*_QUERY_WORDS, "batch_size", "indices", "groupby", "normalize", "method"]
        near = near_names(unknown[0], words, n=2)
        raise UsageError(
            "E-U24",
            f"unknown arguments {', '.join(unknown)}",
            why=f"near: {', '.join(near)}" if near else f"a query takes {', '.join(_QUERY_WORDS)}",
            fix="leave them out, or use one of these",
        )


def as_rows(indices: Sequence[int] | NDArray[Any] | None) -> NDArray[np.int64] | None:
    """Row numbers as int64, or ``None`` for all; boolean masks are turned into numbers."""
    return None if indices is None else row_numbers(indices)


def row_numbers(indices: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
    """Row numbers as int64; boolean masks are turned into numbers."""
    rows = np.asarray(indices)
    if rows.dtype == bool:
        return np.flatnonzero(rows)
    if rows.size and (rows.ndim != 1 or rows.dtype.kind not in "iu"):
        raise UsageError(
            "E-U39",
            f"rows are given as {rows.dtype} of {rows.ndim} axes",
            where="indices",
            examples=rows.ravel()[:3].tolist(),
            fix="pass row numbers, or one True or False for every cell; "
            "adata.obs_names.get_indexer(names) makes numbers of names",
        )
    return rows.astype(np.int64)
