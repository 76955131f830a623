"""Rules that choose the cells of a corpus by their kind, their number and their donors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome.data._corpus_split import group_cells
from episome.errors import InputDataError, UsageError
from episome.ontology import cell_ontology

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data._source import CellSource

TERM, ASSAY, PRIMARY = "cell_type_ontology_term_id", "assay", "is_primary_data"


@dataclass(frozen=True, slots=True)
class Curation:
    """Rules for cells in the CELLxGENE schema, applied in this order; none is on by default.

    Parameters
    ----------
    primary
        Only cells with ``is_primary_data``: each cell once among all data sets.
    assays
        Names of the assays to keep.
    descendant_of
        Only types below this term of the Cell Ontology; a term that was replaced is followed.
    min_cells, min_donors
        Only types with so many cells, and from so many donors.
    min_ancestors
        Only types with so many terms above them, which leaves out general ones.
    """

    primary: bool = False
    assays: tuple[str, ...] = ()
    descendant_of: str | None = None
    min_cells: int = 0
    min_donors: int = 0
    min_ancestors: int = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the rules read."""
        wanted = ((PRIMARY, self.primary), (ASSAY, bool(self.assays)), (TERM, self.is_on))
        return tuple(name for name, needed in wanted if needed)

    @property
    def is_on(self) -> bool:
        """Whether there is any rule."""
        return self != Curation()


#: Rules by name. The first are those of the scTab paper (Fischer et al. 2024) for human cells.
PRESETS: dict[str, Curation] = {
    "cellxgene-human": Curation(
        primary=True,
        assays=(
            "10x 5' v2",
            "10x 3' v3",
            "10x 3' v2",
            "10x 5' v1",
            "10x 3' v1",
            "10x 3' transcription profiling",
            "10x 5' transcription profiling",
        ),
        descendant_of="CL:0000003",
        min_cells=5000,
        min_donors=30,
        min_ancestors=7,
    )
}


def curation_of(preset: str | None, **changes: Any) -> Curation:
    """Return the rules of a preset with changes; a change that is ``None`` is none.

    Raises
    ------
    UsageError
        There is no such preset (E-U30).
    """
    if preset is not None and preset not in PRESETS:
        known = ", ".join(f'"{name}"' for name in PRESETS)
        raise UsageError("E-U30", f"preset={preset!r}", fix=f"use one of {known}")
    base = Curation() if preset is None else PRESETS[preset]
    return replace(base, **{k: v for k, v in changes.items() if v is not None})


@dataclass(slots=True)
class CellFacts:
    """What the rules need to know of the cells of one input.

    ``wanted`` is bool; ``donors`` are codes of ``donor_names``, -1 where nobody is named.
    """

    wanted: NDArray[np.bool_]
    terms: pd.Categorical
    donors: NDArray[np.int64]
    donor_names: list[str]


def cell_facts(
    source: CellSource,
    curation: Curation,
    donor_keys: Sequence[str],
    wanted: NDArray[np.bool_],
) -> tuple[CellFacts, dict[str, NDArray[np.bool_]]]:
    """Read what the rules need from one input, and which cells meet the rules of single cells."""
    masks: dict[str, NDArray[np.bool_]] = {}
    if curation.primary:
        primary = source.obs_column(PRIMARY).astype(str).str.casefold()
        masks["primary data only"] = np.asarray(primary.isin(["true", "1"]), dtype=bool)
    if curation.assays:
        assay = source.obs_column(ASSAY).astype(str)
        masks["assay is in the list"] = np.asarray(assay.isin(curation.assays), dtype=bool)
    terms = pd.Categorical(source.obs_column(TERM).astype(object))
    donors, names = np.full(source.n_obs, -1, dtype=np.int64), list[str]()
    if curation.min_donors:
        donors, names = group_cells(source, donor_keys)
    return CellFacts(wanted.copy(), terms, donors, names), masks


def curate(
    facts: Sequence[CellFacts],
    masks: Sequence[dict[str, NDArray[np.bool_]]],
    curation: Curation,
) -> list[str]:
    """Take the cells out of ``facts`` that do not meet the rules.

    Returns
    -------
    A line for every rule: cells and types that it lost, and what was left.

    Raises
    ------
    InputDataError
        A rule leaves no cell (E-D57).
    """
    tables = _Tables(facts)
    lines = []
    for rule in dict.fromkeys(name for mask in masks for name in mask):
        lines.append(tables.apply(rule, [mask[rule] for mask in masks]))
    for rule, keep in _rules_of_types(curation, tables):
        lines.append(tables.apply(rule, [_of_types(keep, c) for c in tables.codes]))
    return lines


def _of_types(keep: NDArray[np.bool_], codes: NDArray[np.int64]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (codes >= 0) & keep[codes]
    return found


def _rules_of_types(
    curation: Curation, tables: _Tables
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield rules that keep whole types, in the order of the paper, each after the one before."""
    if curation.descendant_of is not None:
        top = _current(curation.descendant_of)
        yield f"type is below {top}", tables.below(top)
    if n := curation.min_cells:
        yield f"type has {n:,} cells", tables.n_cells() >= n
    if n := curation.min_donors:
        yield f"type has {n:,} donors", tables.n_donors() >= n
    if n := curation.min_ancestors:
        yield f"type has {n:,} terms above it", tables.n_ancestors() >= n


def _current(term: str) -> str:
    ontology = cell_ontology()
    found = ontology.current(term) if term in ontology else None
    if found is None:
        raise UsageError(
            "E-U92",
            f"{term!r} is no term of the Cell Ontology",
            why=f"release {ontology.release} does not have it, and names no other for it",
            fix="--descendant-of CL:0000000, or another identifier",
        )
    return found


class _Tables:
    """Cells that are left, by type and donor, over all inputs."""

    def __init__(self, facts: Sequence[CellFacts]) -> None:
        self.facts = facts
        self.terms = sorted({str(t) for f in facts for t in f.terms.categories})
        donors = sorted({d for f in facts for d in f.donor_names})
        index = pd.Index(self.terms, dtype=object)
        places = pd.Index(donors, dtype=object)
        self.codes = [
            _recoded(np.asarray(f.terms.codes), f.terms.categories, index) for f in facts
        ]
        self.donors = [_recoded(f.donors, pd.Index(f.donor_names), places) for f in facts]
        self.n_all_donors = max(len(donors), 1)

    def n_cells(self) -> NDArray[np.int64]:
        """Cells of every type that are left."""
        total = np.zeros(len(self.terms), dtype=np.int64)
        for facts, codes in zip(self.facts, self.codes, strict=True):
            total += np.bincount(codes[facts.wanted & (codes >= 0)], minlength=len(total))
        return total

    def n_donors(self) -> NDArray[np.int64]:
        """Donors of every type that are left."""
        pairs = [
            np.unique((c * self.n_all_donors + d)[f.wanted & (c >= 0) & (d >= 0)])
            for f, c, d in zip(self.facts, self.codes, self.donors, strict=True)
        ]
        types = np.unique(np.concatenate(pairs)) // self.n_all_donors
        return np.bincount(types, minlength=len(self.terms))

    def below(self, top: str) -> NDArray[np.bool_]:
        """Types that are a kind of a term, and not the term itself."""
        return np.array([top in self._above(t) for t in self.terms], dtype=bool)

    def n_ancestors(self) -> NDArray[np.int64]:
        """Terms above every type."""
        return np.array([len(self._above(t)) for t in self.terms], dtype=np.int64)

    @staticmethod
    def _above(term: str) -> tuple[str, ...]:
        ontology = cell_ontology()
        current = ontology.current(term) if term in ontology else None
        return () if current is None else ontology.ancestors(current)

    def apply(self, rule: str, masks: Sequence[NDArray[np.bool_]]) -> str:
        """Take out the cells that a mask does not have; return the line that says what went."""
        cells, types = self._left()
        for facts, mask in zip(self.facts, masks, strict=True):
            facts.wanted &= mask
        left, types_left = self._left()
        if not left:
            raise InputDataError(
                "E-D57",
                f"no cell is left by the rule '{rule}'",
                count=0,
                total=cells,
                why="a corpus without cells is of no use",
                fix="loosen this rule, see `episome corpus build --help`",
            )
        return (
            f"{rule}: {cells - left:,} cells and {types - types_left:,} types lost, "
            f"{left:,} cells of {types_left:,} types left"
        )

    def _left(self) -> tuple[int, int]:
        cells = sum(int(f.wanted.sum()) for f in self.facts)
        return cells, int(np.count_nonzero(self.n_cells()))


def _recoded(codes: NDArray[Any], names: pd.Index, index: pd.Index) -> NDArray[np.int64]:
    place = np.append(np.asarray(index.get_indexer(names.astype(str))), -1).astype(np.int64)
    found: NDArray[np.int64] = place[codes]
    return found
