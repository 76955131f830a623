"""One release of the Cell Ontology as a graph of is-a relations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from graphlib import TopologicalSorter
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from episome.ontology._identifiers import checked_ids, missing_term
from episome.ontology._resolve import NameFinder, Resolution, resolve
from episome.ontology._terms import OwnTerm, Term, check_own_terms, listed, read_own_terms

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The term above all others.
ROOT = "CL:0000000"


class CellOntology:
    """A release of the Cell Ontology, with own terms below it if a user adds any.

    It cannot be changed: :meth:`with_terms` returns another one. Identifiers have the form
    ``CL:0000236``. Obsolete terms are members too; they have a label and no relatives.

    Parameters
    ----------
    release
        Date of the release.
    terms
        Every term by its identifier.
    own_terms
        Own terms by their identifier.
    former_names
        ``(name, identifier)`` of terms that other releases call by another name.

    See Also
    --------
    cell_ontology : the bundled releases
    """

    def __init__(
        self,
        release: str,
        terms: Mapping[str, Term],
        *,
        own_terms: Mapping[str, OwnTerm] | None = None,
        former_names: Iterable[tuple[str, str]] = (),
    ) -> None:
        own = read_own_terms(own_terms or {})
        self._release = release
        self._cell_ontology = dict(terms)
        self._own = own
        self._former = tuple(former_names)
        self._terms = self._cell_ontology | {
            i: Term(t.label, t.parents, t.synonyms) for i, t in own.items()
        }
        check_own_terms(own, terms, self._id_of)

    @property
    def release(self) -> str:
        """Date of the release, such as ``"2026-03-26"``."""
        return self._release

    @property
    def own_terms(self) -> Mapping[str, OwnTerm]:
        """Terms added with :meth:`with_terms`, by their identifier."""
        return MappingProxyType(self._own)

    def __contains__(self, term_id: object) -> bool:
        return term_id in self._terms

    def __iter__(self) -> Iterator[str]:
        return iter(self._terms)

    def __len__(self) -> int:
        return len(self._terms)

    def __repr__(self) -> str:
        n_obsolete = sum(t.obsolete for t in self._terms.values())
        return (
            f"CellOntology({self.release}: {len(self) - n_obsolete:,} terms, "
            f"{n_obsolete:,} obsolete, {len(self._own):,} own)"
        )

    def label(self, term_id: str) -> str:
        """Return the official name of a term; that of an obsolete one begins with "obsolete"."""
        return self._term(term_id).label

    def synonyms(self, term_id: str) -> tuple[str, ...]:
        """Return the exact synonyms of a term."""
        return self._term(term_id).synonyms

    def is_obsolete(self, term_id: str) -> bool:
        """Return whether a term is withdrawn."""
        return self._term(term_id).obsolete

    def consider(self, term_id: str) -> tuple[str, ...]:
        """Return what may be used instead of an obsolete term that has no certain successor."""
        return self._term(term_id).consider

    def parents(self, term_id: str, *, include_self: bool = False) -> tuple[str, ...]:
        """Return the direct is-a parents of a term, sorted."""
        return _sorted(self._term(term_id).parents, term_id, include_self=include_self)

    def children(self, term_id: str, *, include_self: bool = False) -> tuple[str, ...]:
        """Return the terms whose direct is-a parent is a term, sorted."""
        self._term(term_id)
        return _sorted(self._children.get(term_id, ()), term_id, include_self=include_self)

    def ancestors(self, term_id: str, *, include_self: bool = False) -> tuple[str, ...]:
        """Return all terms that a term is a kind of, sorted."""
        self._term(term_id)
        return _sorted(self._ancestors[term_id], term_id, include_self=include_self)

    def descendants(self, term_id: str, *, include_self: bool = False) -> tuple[str, ...]:
        """Return all terms that are a kind of a term, sorted."""
        self._term(term_id)
        return _sorted(self._descendants.get(term_id, ()), term_id, include_self=include_self)

    def current(self, term_id: str) -> str | None:
        """Return the term to use today for a term.

        Returns
        -------
        The term itself, or for an obsolete one the end of its chain of replacements; None where
        that end is obsolete or outside the ontology.

        Raises
        ------
        LabelError
            The term does not exist (E-L25).
        """
        term, seen = self._term(term_id), {term_id}
        while term.obsolete:
            term_id = term.replaced_by
            if term_id not in self._terms or term_id in seen:
                return None
            seen.add(term_id)
            term = self._terms[term_id]
        return term_id

    def resolve(
        self, labels: Sequence[str], *, term_ids: Sequence[str] | None = None
    ) -> Resolution:
        """Find the term of each label.

        A label is looked for among the official names, the exact synonyms, the identifiers, the
        names in other bundled releases, the names of obsolete terms (which are replaced by their
        successor) and last as a plural. Case and blanks do not matter unless they decide between
        two terms. Names that are only similar are never taken, only named in the report.

        Parameters
        ----------
        labels
            Names of cell types, or one name. ``"unknown"`` and ``"na"`` are none.
        term_ids
            Identifiers that are known already, one per label; an empty one is looked for. They
            win over the names. Identifiers of other ontologies stay as they are.

        Returns
        -------
        A :class:`Resolution`, one entry per label in the same order.

        Raises
        ------
        UsageError
            Not one identifier per label (E-U41).
        """
        return resolve(self, self._finder, labels, term_ids)

    def child_matrix(self, term_ids: Sequence[str]) -> NDArray[np.bool_]:
        """Return which of some terms is a kind of which.

        Parameters
        ----------
        term_ids
            One identifier per class, or one identifier. Obsolete ones stand for their successor;
            empty ones, "unknown" and those of other ontologies are related to nothing but
            themselves. Classes with the same term are kinds of each other.

        Returns
        -------
        bool (n_terms, n_terms), reflexive and transitive: ``K[p, c]`` is true where ``c`` is
        ``p`` or a descendant of it.

        Raises
        ------
        LabelError
            An identifier of the Cell Ontology that does not exist, or a text that is no
            identifier, such as a name (E-L25).
        """
        known = checked_ids(self, term_ids)
        now = [self.current(t) if t in self else None for t in known]
        rows: dict[str, list[int]] = {}
        for i, term_id in enumerate(now):
            if term_id is not None:
                rows.setdefault(term_id, []).append(i)
        matrix = np.eye(len(now), dtype=np.bool_)
        for c, term_id in enumerate(now):
            if term_id is not None:
                above = self._ancestors[term_id] & rows.keys() | {term_id}
                matrix[[p for a in above for p in rows[a]], c] = True
        return matrix

    def information_content(self, term_ids: Sequence[str]) -> NDArray[np.float64]:
        """Return how specific terms are, from 0 (any cell) to 100 (no kinds below).

        This is the intrinsic information content of Seco, Veale and Hayes (ECAI 2004),
        ``100 * (1 - log(n) / log(N))`` with ``n`` the number of descendants including the term
        and ``N`` that of "cell". Only is-a relations inside the Cell Ontology count, so that it
        can be computed offline; Ubergraph's published scores count further relations and terms
        of other ontologies, and differ.

        Parameters
        ----------
        term_ids
            Identifiers, or one; obsolete ones stand for their successor.

        Returns
        -------
        float64 (n_terms,); NaN for obsolete terms without a successor.

        Raises
        ------
        LabelError
            A term does not exist (E-L25).
        """
        n_all = 1 + len(self._descendants.get(ROOT, ()))
        now = [self.current(t) for t in listed(term_ids)]
        n_below = np.array(
            [np.nan if t is None else 1 + len(self._descendants.get(t, ())) for t in now],
            dtype=np.float64,
        )
        content: NDArray[np.float64] = 100.0 - 100.0 * np.log(n_below) / np.log(max(n_all, 2))
        return content

    def coarse_terms(
        self, term_ids: Sequence[str], *, max_information: float = 60.0, root: str = ROOT
    ) -> tuple[str, ...]:
        """Return a coarse term for each term, after :cite:t:`fischer2024sctab`.

        Candidates are the terms below `root` that are one of the terms or above one, and whose
        :meth:`information_content` is at most `max_information`. A term's coarse term is the most
        informative candidate that is the term or above it; ties go to the smaller identifier.

        The 163 types of that study that have a term in release 2026-03-26 give 67 groups here;
        the study has 31, from Ubergraph's scores and a release of 2023. A limit of 40 gives 29.

        Parameters
        ----------
        term_ids
            Identifiers, or one; obsolete ones stand for their successor.
        max_information
            Largest information content of a coarse term.
        root
            Candidates are descendants of this term; it is none itself.

        Returns
        -------
        One identifier per term: the term itself where it has no coarse one, where it is empty,
        or where it does not exist.

        Raises
        ------
        LabelError
            `root` does not exist (E-L25).
        """
        now = [(self.current(t) if t in self else None) or t for t in listed(term_ids)]
        above = [self._ancestors.get(t, frozenset()) | {t} for t in now]
        below_root = self._descendants.get(self.current(root) or root, set())
        found = sorted(set().union(*above) & below_root)
        content = self.information_content(found)
        order = sorted(
            (-round(c, 9), t) for t, c in zip(found, content, strict=True) if c <= max_information
        )
        candidates = [t for _, t in order]
        return tuple(
            next((c for c in candidates if c in terms), term)
            for term, terms in zip(now, above, strict=True)
        )

    def with_terms(self, terms: Mapping[str, OwnTerm | Mapping[str, object]]) -> CellOntology:
        """Return the ontology with further terms of the user's own.

        Parameters
        ----------
        terms
            Identifier of the form ``PREFIX:NAME`` to an :class:`OwnTerm`, or to a mapping with
            ``label``, ``parents`` and, if wanted, ``synonyms``. They come on top of own terms
            that are there already.

        Returns
        -------
        Another ontology of the same release; this one stays as it is.

        Raises
        ------
        LabelError
            Terms of another form, a term that is incomplete, has an identifier that is taken or
            an obsolete parent, or is its own ancestor (E-L23); a parent does not exist (E-L25).

        Examples
        --------
        >>> from episome.ontology import cell_ontology
        >>> mine = {"LAB:1": {"label": "stressed T cell", "parents": ["CL:0000084"]}}
        >>> cell_ontology().with_terms(mine).resolve(["stressed T cells"]).term_ids
        ('LAB:1',)
        """
        own = read_own_terms(terms)
        if taken := sorted(own.keys() & self._own.keys()):
            check_own_terms({taken[0]: own[taken[0]]}, self._terms, self._id_of)
        return CellOntology(
            self.release,
            self._cell_ontology,
            own_terms=self._own | own,
            former_names=self._former,
        )

    def _term(self, term_id: str) -> Term:
        try:
            return self._terms[term_id]
        except (KeyError, TypeError):
            raise missing_term(self, str(term_id)) from None

    def _id_of(self, name: str) -> str:
        return self.resolve([name]).term_ids[0]

    @cached_property
    def _ancestors(self) -> dict[str, frozenset[str]]:
        graph = {i: t.parents for i, t in self._terms.items()}
        above: dict[str, frozenset[str]] = {}
        for term_id in TopologicalSorter(graph).static_order():
            parents = graph[term_id]
            above[term_id] = frozenset(parents).union(*(above[p] for p in parents))
        return above

    @cached_property
    def _descendants(self) -> dict[str, set[str]]:
        return _reversed(self._ancestors)

    @cached_property
    def _children(self) -> dict[str, set[str]]:
        return _reversed({i: t.parents for i, t in self._terms.items()})

    @cached_property
    def _finder(self) -> NameFinder:
        return NameFinder(self._terms, self._former)


def _reversed(above: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    below: dict[str, set[str]] = {}
    for term_id, terms in above.items():
        for term in terms:
            below.setdefault(term, set()).add(term_id)
    return below


def _sorted(terms: Iterable[str], term_id: str, *, include_self: bool) -> tuple[str, ...]:
    return tuple(sorted({*terms, term_id} if include_self else terms))
