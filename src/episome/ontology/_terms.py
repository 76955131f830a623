"""Terms of the ontology and those that a user adds."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from episome.errors import LabelError

_ID = re.compile(r"(?:\S*/|obo\.)?([A-Za-z][A-Za-z0-9]*)[:_]([\w.-]+)")
OWN_ID = re.compile(r"[A-Za-z][A-Za-z0-9_]*:[\w.-]+")
_EXAMPLE = '{"MY:T1": {"label": "my cell", "parents": ["CL:0000084"], "synonyms": []}}'


@dataclass(frozen=True, slots=True)
class Term:
    """One term as its release has it.

    Parameters
    ----------
    label
        Official name; empty for some obsolete terms.
    parents
        Identifiers of the direct is-a parents.
    synonyms
        Exact synonyms.
    obsolete
        Whether the term is withdrawn.
    replaced_by
        Identifier of the term to use instead, or an empty string.
    consider
        Identifiers that may fit instead, none of them for sure.
    """

    label: str
    parents: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    obsolete: bool = False
    replaced_by: str = ""
    consider: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OwnTerm:
    """A cell type that the Cell Ontology does not have, placed below types that it has.

    Parameters
    ----------
    label
        Its name.
    parents
        Identifiers of its direct parents: current terms, or other own terms.
    synonyms
        Other names.
    """

    label: str
    parents: tuple[str, ...]
    synonyms: tuple[str, ...] = ()


def canonical_id(text: str) -> str:
    """Return ``PREFIX:NAME`` for an identifier with colon or underscore, also inside an address.

    A text of another form gives an empty string.
    """
    found = _ID.fullmatch(text.strip())
    if found is None:
        return ""
    prefix, name = found.groups()
    return f"{prefix.upper() if prefix.upper() == 'CL' else prefix}:{name}"


def listed(texts: str | Iterable[str]) -> list[str]:
    """Return texts as a list; a single one is a list of one, not of its letters."""
    return [texts] if isinstance(texts, str) else list(texts)


def read_own_terms(terms: Mapping[str, OwnTerm | Mapping[str, object]]) -> dict[str, OwnTerm]:
    """Return own terms as records.

    Raises
    ------
    LabelError
        No mapping, or a record without a label or parents, or with other keys (E-L23).
    """
    if not isinstance(terms, Mapping):
        raise LabelError(
            "E-L23",
            f"own terms are a {type(terms).__name__} where a mapping of identifiers belongs",
            fix=_EXAMPLE,
        )
    return {term_id: _own_term(term_id, term) for term_id, term in terms.items()}


def _own_term(term_id: str, term: OwnTerm | Mapping[str, object]) -> OwnTerm:
    if not isinstance(term_id, str):
        raise _wrong(term_id, "is not of the form PREFIX:NAME")
    if isinstance(term, Mapping):
        unknown = sorted(set(map(str, term)) - {"label", "parents", "synonyms"})
        if unknown:
            raise _wrong(term_id, f"has keys that a term does not take ({', '.join(unknown)})")
        label, parents, synonyms = (term.get(k) for k in ("label", "parents", "synonyms"))
    elif isinstance(term, OwnTerm):
        label, parents, synonyms = term.label, term.parents, term.synonyms
    else:
        raise _wrong(term_id, f"is {term!r} where a label and parents belong")
    if not isinstance(label, str) or not label.strip():
        raise _wrong(term_id, "has no label")
    parents, synonyms = _texts(term_id, parents), _texts(term_id, synonyms)
    if not parents:
        raise _wrong(term_id, "has no parent")
    return OwnTerm(label, parents, synonyms)


def _texts(term_id: str, value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Collection) and all(isinstance(v, str) for v in value):
        return tuple(value)
    raise _wrong(term_id, f"has {value!r} where a list of texts belongs")


def check_own_terms(
    own: Mapping[str, OwnTerm], known: Mapping[str, Term], id_of: Callable[[str], str]
) -> None:
    """Refuse own terms that cannot stand below the terms there are.

    Parameters
    ----------
    own
        Own terms.
    known
        Terms of the Cell Ontology and other own ones.
    id_of
        Identifier of a name, or an empty string.

    Raises
    ------
    LabelError
        Identifiers that are malformed or taken, obsolete parents, or a cycle (E-L23); parents
        that do not exist (E-L25).
    """
    for term_id, term in own.items():
        if not OWN_ID.fullmatch(term_id):
            raise _wrong(term_id, "is not of the form PREFIX:NAME")
        if term_id in known or term_id.upper().startswith("CL:"):
            raise _wrong(term_id, "is an identifier of the Cell Ontology or taken")
        for parent in term.parents:
            _check_parent(term_id, parent, own, known, id_of)
    try:
        TopologicalSorter({t: o.parents for t, o in own.items()}).prepare()
    except CycleError as error:
        path = " -> ".join(error.args[1])
        raise _wrong(str(error.args[1][0]), f"is its own ancestor ({path})") from None


def _check_parent(
    term_id: str,
    parent: str,
    own: Mapping[str, OwnTerm],
    known: Mapping[str, Term],
    id_of: Callable[[str], str],
) -> None:
    if parent in own:
        return
    if parent not in known:
        meant = id_of(parent)
        raise LabelError(
            "E-L25",
            f"the parent {parent!r} of the own term {term_id!r} does not exist",
            fix=f"{parent} is {meant}: pass the identifier"
            if meant
            else "pass the identifier of a term of the Cell Ontology or of another own term",
        )
    if known[parent].obsolete:
        instead = known[parent].replaced_by
        raise _wrong(
            term_id, f"has the obsolete parent {parent}" + (f", now {instead}" if instead else "")
        )


def _wrong(term_id: object, what: str) -> LabelError:
    return LabelError(
        "E-L23",
        f"the own term {term_id!r} {what}",
        fix=_EXAMPLE,
    )
