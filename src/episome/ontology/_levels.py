"""Types in the order of the ontology, and the broader types that they are kinds of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from episome.ontology._bundle import cell_ontology
from episome.ontology._ontology import ROOT

if TYPE_CHECKING:
    from episome.ontology._ontology import CellOntology

#: Largest information content of the terms of a level, the finest first.
LEVELS = (60.0, 40.0, 20.0, 8.0)


def broader_names(
    terms: Mapping[str, str],
    *,
    max_information: float = 60.0,
    ontology: CellOntology | None = None,
) -> dict[str, str]:
    """Return the broader type of every name, by :meth:`CellOntology.coarse_terms`.

    Parameters
    ----------
    terms
        Name -> identifier of its term; empty where it has none.
    max_information
        Largest information content of a broader type.
    ontology
        Default the bundled one.

    Returns
    -------
    Name -> name of the broader type; the name itself where there is none. The types divide the
    cells: one of which another is a kind is called "other ...", as that has cells of its own.

    Examples
    --------
    >>> broader_names({"B cell": "CL:0000236", "mine": ""}, max_information=40)
    {'B cell': 'lymphocyte', 'mine': 'mine'}
    """
    found = cell_ontology() if ontology is None else ontology
    known = {name: term for name, term in terms.items() if term}
    coarse = found.coarse_terms(list(known.values()), max_information=max_information)
    above = {a for term in set(coarse) if term in found for a in found.ancestors(term)}
    names = {}
    for name, term in zip(known, coarse, strict=True):
        if term not in found or term == known[name]:
            names[name] = name
        else:
            names[name] = f"{'other ' if term in above else ''}{found.label(term)}"
    return {name: names.get(name, name) for name in terms}


def level_names(
    terms: Mapping[str, str], *, ontology: CellOntology | None = None
) -> list[dict[str, str]]:
    """Return the broader types of all levels that differ, the finest level first.

    Parameters
    ----------
    terms, ontology
        As for :func:`broader_names`.

    Returns
    -------
    One mapping per level, name -> name of the broader type; empty where no name has a term, or
    no level puts two names together.
    """
    if not any(terms.values()):
        return []
    levels: list[dict[str, str]] = []
    fewest = len({n for n, t in terms.items() if t})
    for limit in LEVELS:
        names = broader_names(terms, max_information=limit, ontology=ontology)
        n_types = len({names[n] for n, t in terms.items() if t})
        if n_types < fewest:
            levels.append(names)
            fewest = n_types
    return levels


def tree_order(terms: Mapping[str, str], *, ontology: CellOntology | None = None) -> list[str]:
    """Return names so that kinds of one type stand together, each behind what it is a kind of.

    Parameters
    ----------
    terms, ontology
        As for :func:`broader_names`.

    Returns
    -------
    Names by the first way down from "cell" on which their term is met, alphabetical among
    siblings; names without a term come last.
    """
    found = cell_ontology() if ontology is None else ontology
    now = {n: found.current(t) if t in found else None for n, t in terms.items()}
    wanted = {t for t in now.values() if t}
    above = {a for t in wanted for a in found.ancestors(t, include_self=True)}
    place: dict[str, int] = {}
    waiting = [ROOT] if ROOT in above else []
    while waiting:
        term = waiting.pop()
        if term in place:
            continue
        place[term] = len(place)
        below = [c for c in found.children(term) if c in above]
        waiting += sorted(below, key=found.label, reverse=True)
    last = len(place)
    return sorted(terms, key=lambda n: (place.get(now[n] or "", last), str(n).casefold(), str(n)))
