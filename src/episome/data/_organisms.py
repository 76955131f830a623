"""Of which organism cells are, by what they say themselves, and whether a model knows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from episome.data._gene_names import species_named
from episome.data._keys import EMPTY_LABELS
from episome.data._source import existing_columns
from episome.errors import Problem

if TYPE_CHECKING:
    from episome.data._source import CellSource

#: Columns of ``obs`` that name the organism, tried in this order, and the first in ``uns``.
ORGANISM_COLUMNS = ("organism_ontology_term_id", "organism")
_TAXON = "NCBITaxon:"


@dataclass(frozen=True, slots=True)
class Organisms:
    """Organisms that cells name.

    Parameters
    ----------
    where
        What names them, such as ``"obs['organism']"``.
    counts
        Cells of each, as it is written there.
    """

    where: str
    counts: Mapping[str, int]

    @property
    def names(self) -> tuple[str, ...]:
        """The organisms in order."""
        return tuple(sorted(self.counts))


def organisms_of(source: CellSource) -> Organisms | None:
    """Return the organisms that cells name.

    Reads ``obs["organism_ontology_term_id"]``, else ``obs["organism"]``, else
    ``uns["organism_ontology_term_id"]`` of AnnData, as of the CELLxGENE schema.

    Parameters
    ----------
    source
        The cells.

    Returns
    -------
    The organisms of the first of these that names some, or ``None``.
    """
    for key in existing_columns(source, ORGANISM_COLUMNS):
        named = source.obs_column(key).value_counts()
        counts = {str(k).strip(): int(n) for k, n in named.items() if n and not _is_none(k)}
        if counts:
            return Organisms(f"obs[{key!r}]", counts)
    key = ORGANISM_COLUMNS[0]
    said = _uns_of(source).get(key)
    if isinstance(said, str) and not _is_none(said):
        return Organisms(f"uns[{key!r}]", {said.strip(): source.n_obs})
    return None


def _is_none(name: object) -> bool:
    return str(name).strip().casefold() in EMPTY_LABELS


def _uns_of(source: object) -> Mapping[str, object]:
    """Return what is said of all cells of an object; nothing of other sources."""
    while (inner := getattr(source, "_source", None)) is not None:
        source = inner
    found: Mapping[str, object] = getattr(getattr(source, "adata", None), "uns", {})
    return found


def foreign_cells(known: Sequence[str], source: CellSource) -> Problem | None:
    """Return the problem of cells of another organism than a model's (E-G26).

    Names that cannot be compared, such as a taxon and a name that is not known here, say nothing.

    Parameters
    ----------
    known
        Organisms of the training cells, as these named them.
    source
        The cells.
    """
    found = organisms_of(source) if known else None
    if found is None:
        return None
    others = {name: found.counts[name] for name in found.names if _is_another(name, known)}
    if not others:
        return None
    return Problem(
        "E-G26",
        "cells of another organism than the model's",
        f"{source.where}, {found.where}",
        sum(others.values()),
        source.n_obs,
        [shown_organism(name) for name in others],
        f"the model was trained on {', '.join(map(shown_organism, known))}: genes of one name "
        "need not do the same in both, and calls may be wrong without a sign of it",
        "use a model of this organism, or pass a table of orthologues as gene_map= (--gene-map) "
        "and look at the calls",
        {"organisms": others},
    )


def _is_another(name: str, known: Sequence[str]) -> bool:
    species, theirs = species_named(name), {species_named(k) for k in known}
    if species and "" not in theirs:
        return species not in theirs
    return all(n.startswith(_TAXON) for n in (name, *known)) and name not in known


def shown_organism(name: str) -> str:
    """Return an organism as messages name it: a taxon with its name, where that is known."""
    species = species_named(name)
    return f"{name} ({species})" if species and species != name.casefold() else name
