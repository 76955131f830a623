"""Values of the same cells, brought into one order by the names of the cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pandas as pd

from episome.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_Values = TypeVar("_Values", bound="ArrayLike")


def same_cells(**columns: _Values) -> tuple[_Values, ...]:
    """Return values per cell in the order of the first one that names its cells.

    Series and frames name their cells in their index; those of the same cells are aligned by
    name, as pandas does. Anything else is taken by position.

    Parameters
    ----------
    **columns
        Values per cell by the name of their argument.

    Raises
    ------
    UsageError
        Two indexes differ, and do not hold the same names once each (E-U45).
    """
    named = {k: v for k, v in columns.items() if isinstance(v, pd.Series | pd.DataFrame)}
    first = next(iter(named), "")
    ordered = {k: _like(named[first], v, first, k) for k, v in named.items()}
    return tuple(ordered.get(k, v) for k, v in columns.items())


def _like(
    first: pd.Series | pd.DataFrame, other: pd.Series | pd.DataFrame, name: str, other_name: str
) -> pd.Series | pd.DataFrame:
    wanted, given = first.index, other.index
    if wanted.equals(given) or wanted.astype(object).equals(given.astype(object)):
        return other
    comparable = wanted.nlevels == given.nlevels
    if comparable and len(wanted) == len(given) and wanted.is_unique and given.is_unique:
        rows = given.get_indexer(wanted)
        if (rows >= 0).all():
            return other.iloc[rows]
    n_common = int(wanted.unique().isin(given).sum()) if comparable else 0
    repeated = [k for k, i in ((name, wanted), (other_name, given)) if not i.is_unique]
    raise UsageError(
        "E-U45",
        f"the indexes of {name} ({len(wanted):,}) and {other_name} ({len(given):,}) differ, "
        f"with {n_common:,} cells in common",
        why=f"names repeat in {' and '.join(repeated)}" if repeated else None,
        fix="pass arrays to compare by position, or series of the same cells with every cell once",
    )
