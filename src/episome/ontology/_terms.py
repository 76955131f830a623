"""Terms of the ontology and those that a user adds."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from episome.errors import LabelError

_ID = re.compile(r"(?:\S*/|obo\.)?([A-Za-z][A-Za-z0-9]*)[:_]([\w.-]+)")
_OWN_ID = re.compile(r"^[A-Za-z][A-Za-z0-9_]*:[\w.-]+$")


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


def read_own_terms(terms: Mapping[str, OwnTerm | Mapping[str, object]]) -> dict[str, OwnTerm]:
    """Return own terms as records.

    Raises
    ------
    LabelError
        A record without a label or parents, or with other keys (E-L23).
    """
    return {term_id: _own_term(term_id, term) for term_id, term in terms.items()}


def _own_term(term_id: str, term: OwnTerm | Mapping[str, object]) -> OwnTerm:
    if isinstance(term, Mapping):
        unknown = sorted(set(term) - {"label", "parents", "synonyms"})
        if unknown:
            raise _wrong(term_id, f"has keys that a term does not take ({', '.join(unknown)})")
        label, parents, synonyms = (term.get(k) for k in ("label", "parents", "synonyms"))
    else:
        label, parents, synonyms = term.label, term.parents, term.synonyms
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


def check_own_terms(own: Mapping[str, OwnTerm], known: Mapping[str, Term]) -> None:
    """Refuse own terms that cannot stand below the terms there are.

    Raises
    ------
    LabelError
        Identifiers that are malformed or taken, obsolete parents, or a cycle (E-L23); parents
        that do not exist (E-L25).
    """
    for term_id, term in own.items():
        if not _OWN_ID.match(term_id):
            raise _wrong(term_id, "is not of the form PREFIX:NAME")
        if term_id in known or term_id.upper().startswith("CL:"):
            raise _wrong(term_id, "is an identifier of the Cell Ontology or taken")
        for parent in term.parents:
            _check_parent(term_id, parent, own, known)
    try:
        TopologicalSorter({t: o.parents for t, o in own.items()}).prepare()
    except CycleError as error:
        path = " -> ".join(error.args[1])
        raise _wrong(str(error.args[1][0]), f"is its own ancestor ({path})") from None


def _check_parent(
    term_id: str, parent: str, own: Mapping[str, OwnTerm], known: Mapping[str, Term]
) -> None:
    if parent in own:
        return
    if parent not in known:
        raise LabelError(
            "E-L25",
            f"the parent {parent!r} of the own term {term_id!r} does not exist",
            fix="name a term of the Cell Ontology or another own term",
        )
    if known[parent].obsolete:
        instead = known[parent].replaced_by
        raise _wrong(
            term_id, f"has the obsolete parent {parent}" + (f", now {instead}" if instead else "")
        )


def _wrong(term_id: str, what: str) -> LabelError:
    return LabelError(
        "E-L23",
        f"the own term {term_id!r} {what}",
        fix='{"MY:T1": {"label": "my cell", "parents": ["CL:0000084"], "synonyms": []}}',
    )
