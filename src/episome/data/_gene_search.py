"""Where genes of a query are in a model: by every list of names, as they are and put right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd

from episome.data._gene_match import clean_names, positions, strip_versions, without_version
from episome.data._gene_repairs import look_like_dates, made_unique, repairs
from episome.data._keys import GENE_ID_COLUMNS
from episome.errors import Problem, warn

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Identifiers of the features of a model, and every list of their other names.
Names: TypeAlias = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Best:
    """Where genes are by the pair of lists of names that finds most of them.

    Parameters
    ----------
    found
        Place of every gene in the model, or -1; int64 (n_query,).
    label
        What messages call the list.
    versions_stripped
        Names that lost their version.
    """

    found: NDArray[np.int64]
    label: str
    versions_stripped: int


def find_more(
    mine: Names,
    best: NDArray[np.int64],
    var: pd.DataFrame,
    gene_map: Mapping[str, str] | None,
    *,
    upper: bool,
) -> list[str]:
    """Find genes that the best pair of columns did not, in place; say how many and how."""
    said, own = [], clean_names(var.index)
    for label, names in name_lists(var):
        n = _fill(mine, best, clean_names(names), own)
        if n:
            said.append(f"{n:,} more were found by {label}")
    if (best >= 0).all():
        return said
    for repair in repairs(own, gene_map=gene_map, upper=upper):
        same = own if repair.one_gene else None
        n = sum(_fill(mine, best, names, same) for names in repair.names)
        if n:
            said.append(f"{n:,} names were {repair.what}")
    return said


def _fill(
    mine: Names,
    best: NDArray[np.int64],
    names: NDArray[np.object_],
    own: NDArray[np.object_] | None,
) -> int:
    """Match genes that have none yet to model genes that nobody has; return their number.

    A gene of the model that several names point to is left out: which is meant is not certain.
    Those of one ``own`` name are copies of one gene, and are all matched.
    """
    n_before = int((best >= 0).sum())
    for ids in mine:
        index = pd.Index(strip_versions(np.asarray(ids, dtype=object))[0])
        exact = positions(index, names)
        found = np.where(exact >= 0, exact, positions(index, without_version(names)))
        taken = np.isin(found, best[best >= 0])
        new = (best < 0) & (found >= 0) & ~taken & ~several(found, own)
        best[new] = found[new]
    return int((best >= 0).sum()) - n_before


def in_capitals(mine: Names, var: pd.DataFrame) -> NDArray[np.int64]:
    """Return where the genes would be if their names were read in capitals, else -1."""
    found, own = np.full(len(var), -1, dtype=np.int64), clean_names(var.index)
    for repair in repairs(own, gene_map=None, upper=True):
        for names in repair.names:
            _fill(mine, found, names, own if repair.one_gene else None)
    return found


def join_made_unique(
    best: NDArray[np.int64], var: pd.DataFrame, where: str, *, sum_up: bool
) -> list[str]:
    """Add ``TBCE-1`` to ``TBCE`` where that is asked for, else say that it is left out."""
    names = clean_names(var.index)
    base = made_unique(names)
    position = pd.Series(best, index=names)[~pd.Index(names).duplicated()]
    target = position.reindex(base).fillna(-1).to_numpy(dtype=np.int64)
    late = (best < 0) & (target >= 0)
    if not late.any():
        return []
    if sum_up:
        best[late] = target[late]
        return [f"{late.sum():,} numbered duplicates were added to their gene"]
    warn(
        Problem(
            "E-G12",
            "genes that were numbered to tell duplicates apart",
            where=where,
            count=int(late.sum()),
            total=len(names),
            examples=list(names[late][:3]),
            why="only the first of each is read",
            fix='pass duplicates="sum" (--duplicates sum) to add them up',
        )
    )
    return []


def warn_dates(best: NDArray[np.int64], var: pd.DataFrame, where: str) -> None:
    """Say which names are dates that were not matched."""
    names = clean_names(var.index)
    dates = look_like_dates(names) & (best < 0)
    if dates.any():
        warn(
            Problem(
                "E-G10",
                "genes whose names a spreadsheet turned into dates",
                where=where,
                count=int(dates.sum()),
                total=len(names),
                examples=list(names[dates][:3]),
                why="they are not among the genes of the model, or cannot be told apart",
                fix="write the file again without a spreadsheet",
            )
        )


def name_lists(var: pd.DataFrame) -> list[tuple[str, object]]:
    """Return every list of names of the genes of a table, with what messages call it."""
    known = [(f"var[{c!r}]", var[c]) for c in GENE_ID_COLUMNS if c in var.columns]
    return [("var_names", var.index), *known]


def best_match(
    mine: Names, theirs: Sequence[tuple[str, object]], *, prefer_unique: bool = False
) -> Best:
    """Look for genes by the pair of lists that finds most, the first of those that tie.

    Parameters
    ----------
    mine
        Lists of names of the model.
    theirs
        Lists of names of the query, with what messages call them.
    prefer_unique
        Whether of lists that tie the one goes first that names fewest genes alike.
    """
    best, most = Best(np.empty(0, dtype=np.int64), "", 0), (-1, 0)
    for label, column in theirs:
        names = clean_names(column)
        short = without_version(names)
        for ids in mine:
            index = pd.Index(strip_versions(np.asarray(ids, dtype=object))[0])
            exact = positions(index, names)
            found = np.where(exact >= 0, exact, positions(index, short))
            hits = found[found >= 0]
            n = len(np.unique(hits))
            size = n, n - len(hits) if prefer_unique else 0
            if size > most:
                best, most = Best(found, label, int((found != exact).sum())), size
            if most == (len(mine[0]), 0):
                return best
    return best


def several(found: NDArray[np.int64], own: NDArray[np.object_] | None = None) -> NDArray[np.bool_]:
    """Whether each place is found by several names; copies of one name count once."""
    several: NDArray[np.bool_] = pd.Series(found).duplicated(keep=False).to_numpy() & (found >= 0)
    if own is None or not several.any():
        return several
    pairs = pd.DataFrame({"found": found[several], "own": own[several]}).drop_duplicates()
    return np.isin(found, pairs["found"][pairs["found"].duplicated()])
