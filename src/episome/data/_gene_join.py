"""Where the genes of one file are among those of others, and what the genes it adds are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from episome.data._features import FeatureSpace
from episome.data._gene_match import clean_names, id_kind, strip_versions, without_version
from episome.data._gene_names import identifiers
from episome.data._gene_search import best_match, find_more, join_made_unique, name_lists, several
from episome.data._keys import GENE_ID_COLUMNS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data._gene_search import Best, Names

#: Share of the genes found by name that identifiers must find to go first.
NEARLY = 0.99
#: Column of a joined table for identifiers that stood in the index of a file.
_IDENTIFIERS = "ensembl_id"


@dataclass(frozen=True, slots=True)
class JoinedFile:
    """Where the genes of one file are in a joined list.

    Parameters
    ----------
    columns
        Place of every gene of the file, or -1; int64 (n_genes,).
    id_column
        How messages call the names that were matched first.
    versions_stripped
        Names that lost their version.
    repaired
        What was found by other names, in words.
    differing
        Genes that were found by name and have other identifiers here, with both.
    """

    columns: NDArray[np.int64]
    id_column: str
    versions_stripped: int
    repaired: tuple[str, ...]
    differing: tuple[str, ...]

    @property
    def n_matched(self) -> int:
        """Genes of the list that the file has."""
        return len(np.unique(self.columns[self.columns >= 0]))


def distinct_genes(var: pd.DataFrame, own: FeatureSpace) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Return a table with one row for every gene of a file, and the row of each of its columns.

    Parameters
    ----------
    var
        Table of genes of the file.
    own
        What ``FeatureSpace.from_var`` made of it.
    """
    other = {k: np.array(v, dtype=object) for k, v in own.other.items()}
    table = pd.DataFrame(other, index=pd.Index(own.ids, dtype=object))
    names = strip_versions(clean_names(var.index))[0]
    rows = table.index.get_indexer(pd.Index(names, dtype=object))
    return table, np.asarray(rows, dtype=np.int64)


def find_genes(
    space: FeatureSpace, table: pd.DataFrame, where: str, *, sum_up: bool
) -> JoinedFile:
    """Find the genes of a file in a list: by identifier where both have them, else by name.

    A name is what people call a gene, and moves; an identifier is what was measured. So names go
    first only where identifiers find notably fewer genes, and find those that have none. Two
    genes of the file are never one gene of the list, unless ``sum_up`` adds up genes of one name.

    Parameters
    ----------
    space
        The list.
    table
        Genes of the file, each once: names in the index and in the known columns.
    where
        How messages name the file.
    sum_up
        Whether genes of one name are one.
    """
    mine: Names = (space.ids, *space.other.values())
    lists = name_lists(table)
    my_ids, their_ids = _identified(mine), [(c, identifiers(names)) for c, names in lists]
    by_name = best_match(mine, lists)
    first, found, said = by_name, *_completed(mine, by_name, table, where, sum_up=sum_up)
    if my_ids:
        by_id = best_match(my_ids, their_ids)
        more, more_said = _completed(mine, by_id, table, where, sum_up=sum_up)
        if (by_id.found >= 0).any() and _distinct(more) >= NEARLY * _distinct(found):
            first, found, said = by_id, more, more_said
    differing = _differing(my_ids, [names for _, names in their_ids], found)
    shown = tuple(f"{space.ids[found[i]]} of {known} and {own}" for i, known, own in differing)
    return JoinedFile(found, first.label, first.versions_stripped, tuple(said), shown)


def _completed(
    mine: Names, first: Best, table: pd.DataFrame, where: str, *, sum_up: bool
) -> tuple[NDArray[np.int64], list[str]]:
    """Find by all names what the first list of them did not; say how many and how."""
    found = first.found.copy()
    if not sum_up:
        # Which of several genes of one name is meant is not certain: their other names may say.
        found[several(found)] = -1
    said = find_more(mine, found, table, None, upper=False)
    if sum_up:
        said += join_made_unique(found, table, where, sum_up=True)
    return found, said


def _distinct(found: NDArray[np.int64]) -> int:
    return len(np.unique(found[found >= 0]))


def _identified(mine: Names) -> Names:
    """Return those lists of names that hold identifiers, and nothing else of them."""
    lists = [tuple(identifiers(names)) for names in mine]
    return tuple(names for names in lists if any(names))


def _differing(
    mine: Names, theirs: Sequence[NDArray[np.object_]], found: NDArray[np.int64]
) -> list[tuple[int, str, str]]:
    """Return genes whose identifier is not that of the gene they are, with that and theirs."""
    if not mine:
        return []
    rows = np.flatnonzero(found >= 0)
    known = _first_known([np.asarray(names, dtype=object) for names in mine])[found[rows]]
    own = _first_known(theirs)[rows]
    unlike = (known != "") & (own != "") & (known != own)
    return list(zip(rows[unlike].tolist(), known[unlike], own[unlike], strict=True))


def _first_known(lists: Sequence[NDArray[np.object_]]) -> NDArray[np.object_]:
    first = without_version(lists[0])
    for names in lists[1:]:
        first = np.where(first == "", without_version(names), first)
    return first


def with_new_genes(
    space: FeatureSpace, table: pd.DataFrame, columns: NDArray[np.int64]
) -> tuple[FeatureSpace, NDArray[np.int64], tuple[str, ...]]:
    """Add the genes of a file that nobody had yet, every one under a name of its own.

    Parameters
    ----------
    space
        The list so far.
    table
        Genes of the file, each once.
    columns
        Place of each in the list, or -1.

    Returns
    -------
    The longer list; places without -1; those that could not have their name, as another gene has
    it, with the one that they stand under.
    """
    new = np.flatnonzero(columns < 0)
    lists = _lists_like(space.ids, table)
    names = _names_of_their_own(space.ids, [a[new] for a in lists])
    wanted = lists[0][new]
    for candidates in lists[1:]:
        wanted = np.where(wanted == "", candidates[new], wanted)
    pairs = zip(wanted, names, strict=True)
    renamed = tuple(f"{old} as {name}" for old, name in pairs if old != name)
    columns = columns.copy()
    columns[new] = len(space) + np.arange(len(new))
    ids = (*space.ids, *map(str, names))
    return FeatureSpace(ids, _other_names(space, table, columns, len(ids))), columns, renamed


def _lists_like(ids: Sequence[str], table: pd.DataFrame) -> list[NDArray[np.object_]]:
    """Return the lists of names of a file's genes, those of the kind of some identifiers first."""
    kind = id_kind(ids)
    lists = [strip_versions(clean_names(names))[0] for _, names in name_lists(table)]
    own = lists[0]
    like = [names for names in lists if id_kind(names[names != ""]) == kind]
    rest = [names for names in lists if not any(names is one for one in like)]
    return [*like, *([] if any(own is one for one in like) else [own]), *rest]


def _names_of_their_own(
    taken: Sequence[str], lists: Sequence[NDArray[np.object_]]
) -> NDArray[np.object_]:
    """Choose for each gene the first of its names that no other gene has."""
    used = set(taken)
    names = np.full(len(lists[0]), "", dtype=object)
    for candidates in lists:
        left = np.flatnonzero(names == "")
        wanted = pd.Index(candidates[left], dtype=object)
        free = ~(wanted.isin([*used, ""]) | wanted.duplicated(keep=False))
        names[left[free]] = wanted[free]
        used.update(wanted[free])
    for i in np.flatnonzero(names == ""):
        given = next(a[i] for a in lists if a[i])
        number = 2
        while f"{given}_{number}" in used:
            number += 1
        names[i] = f"{given}_{number}"
        used.add(names[i])
    return names


def _other_names(
    space: FeatureSpace, table: pd.DataFrame, columns: NDArray[np.int64], n: int
) -> dict[str, tuple[str, ...]]:
    """Return the other names of a longer list; what a file knows fills what was not known."""
    theirs = {c: clean_names(table[c]) for c in GENE_ID_COLUMNS if c in table.columns}
    own = identifiers(clean_names(table.index))
    elsewhere = any((identifiers(names) != "").any() for names in theirs.values())
    if (own != "").any() and not elsewhere and id_kind(space.ids) != "Ensembl identifiers":
        theirs[_IDENTIFIERS] = own
    other = {}
    for key in dict.fromkeys((*space.other, *theirs)):
        values = np.full(n, "", dtype=object)
        values[: len(space)] = space.other.get(key, ("",) * len(space))
        if key in theirs:
            unknown = values[columns] == ""
            values[columns[unknown]] = theirs[key][unknown]
        other[key] = tuple(map(str, values))
    return other
