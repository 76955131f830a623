"""From the names of cell types to terms; nothing is guessed from similar names."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

from episome.errors import UsageError
from episome.ontology._terms import Term, canonical_id, listed

if TYPE_CHECKING:
    import pandas as pd

    from episome.ontology._ontology import CellOntology

How: TypeAlias = Literal[
    "given",
    "label",
    "synonym",
    "id",
    "former",
    "plural",
    "replaced",
    "ambiguous",
    "unresolved",
    "unlabeled",
]

#: Texts that stand for no cell type.
NO_TYPE = frozenset({"", "unknown", "na", "nan", "none"})

#: Terms that the CELLxGENE schema does not take: they say no more than "cell".
FORBIDDEN = frozenset({"CL:0000255", "CL:0000257", "CL:0000548"})


def schema_term(term: str, ontology: CellOntology) -> str:
    """Return a term as the CELLxGENE schema takes it, or an empty text.

    Obsolete terms are replaced by their successor; those that the schema refuses, and terms of
    other ontologies, are none.

    Parameters
    ----------
    term
        Identifier.
    ontology
        That it is looked for in.
    """
    now = ontology.current(term) if term.startswith("CL:") and term in ontology else None
    return "" if now is None or {term, now} & FORBIDDEN else now


#: Similar names are looked for so many labels at most: each takes about 12 ms.
MAX_NEAR = 20
SHOWN = 3

_BY: tuple[tuple[How, str], ...] = (
    ("given", "given"),
    ("label", "by name"),
    ("synonym", "by synonym"),
    ("id", "by identifier"),
    ("former", "by the name in another release"),
    ("plural", "by their singular"),
)


@dataclass(frozen=True, slots=True)
class Resolution:
    """The terms of some labels, one entry per label in their order.

    Parameters
    ----------
    labels
        The labels.
    term_ids
        Term of each, or an empty string.
    term_labels
        Official name of the term, or an empty string.
    how
        How it was found: ``"given"`` by the caller, as official name (``"label"``),
        ``"synonym"``, identifier (``"id"``), name in another release (``"former"``) or
        ``"plural"``; ``"replaced"`` for a successor of an obsolete term. Without a term:
        ``"ambiguous"``, ``"unresolved"``, and ``"unlabeled"`` for texts that mean none.
    notes
        What is worth knowing about an entry, or an empty string.
    release
        Release of the ontology.
    """

    labels: tuple[str, ...]
    term_ids: tuple[str, ...]
    term_labels: tuple[str, ...]
    how: tuple[How, ...]
    notes: tuple[str, ...]
    release: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def unresolved(self) -> tuple[str, ...]:
        """Labels without a term, those that mean no type aside."""
        return tuple(
            label
            for label, how in zip(self.labels, self.how, strict=True)
            if how in ("ambiguous", "unresolved")
        )

    @property
    def shared(self) -> dict[str, tuple[str, ...]]:
        """Terms that two or more different labels have, each with those labels."""
        found: dict[str, dict[str, None]] = {}
        for label, term_id in zip(self.labels, self.term_ids, strict=True):
            if term_id:
                found.setdefault(term_id, {})[label] = None
        return {t: tuple(labels) for t, labels in found.items() if len(labels) > 1}

    @property
    def frame(self) -> pd.DataFrame:
        """The entries with the columns label, term_id, term_label, how and note."""
        import pandas as pd

        return pd.DataFrame(
            {
                "label": self.labels,
                "term_id": self.term_ids,
                "term_label": self.term_labels,
                "how": self.how,
                "note": self.notes,
            },
            dtype=object,
        )

    @property
    def text(self) -> str:
        """The report: how many labels have a term and how, which share one, what has none."""
        counts: Counter[str] = Counter(self.how)
        n_all = len(self) - counts["unlabeled"]
        parts = [f"{counts[how]:,} {what}" for how, what in _BY if counts[how]]
        if counts["replaced"]:
            parts.append(f"{counts['replaced']:,} obsolete replaced: {self._listed('replaced')}")
        n_found = n_all - len(self.unresolved)
        lines = [
            f"{n_found:,} of {n_all:,} classes have a Cell Ontology term"
            + (f" ({', '.join(parts)})" if parts else "")
        ]
        if self.shared:
            lines.append(f"Of one term: {_shown(self._shared_texts())}")
        for how, what in (("ambiguous", "Of several terms"), ("unresolved", "Without a term")):
            if counts[how]:
                lines.append(f"{what}: {self._listed(how)}")
        return ".\n".join(lines) + "."

    def _listed(self, wanted: str) -> str:
        found = [
            note if how == "replaced" else f"{label!r}" + (f" ({note})" if note else "")
            for label, how, note in zip(self.labels, self.how, self.notes, strict=True)
            if how == wanted
        ]
        return _shown(found)

    def _shared_texts(self) -> list[str]:
        return [f"{_shown([*map(repr, v)], ', ')} ({t})" for t, v in self.shared.items()]


def _shown(texts: Sequence[str], between: str = "; ") -> str:
    more = f" and {len(texts) - SHOWN:,} more" if len(texts) > SHOWN else ""
    return between.join(texts[:SHOWN]) + more


class NameIndex:
    """Names to terms: a name in the same case wins over one that differs by case."""

    def __init__(self, names: Iterable[tuple[str, str]]) -> None:
        self.exact: dict[str, set[str]] = {}
        self.folded: dict[str, set[str]] = {}
        for name, term_id in names:
            text = one_blank(name)
            if text:
                self.exact.setdefault(text, set()).add(term_id)
                self.folded.setdefault(text.casefold(), set()).add(term_id)

    def find(self, text: str) -> set[str]:
        """Terms of a name; empty where there is none."""
        return self.exact.get(text) or self.folded.get(text.casefold()) or set()


class NameFinder:
    """All names of an ontology."""

    def __init__(self, terms: Mapping[str, Term], former: Iterable[tuple[str, str]]) -> None:
        current = {i: t for i, t in terms.items() if not t.obsolete}
        self.labels = NameIndex((t.label, i) for i, t in current.items())
        self.synonyms = NameIndex((s, i) for i, t in current.items() for s in t.synonyms)
        self.former = NameIndex((_without_obsolete(name), i) for name, i in former)
        self.obsolete = NameIndex(
            (name, i)
            for i, t in terms.items()
            if t.obsolete
            for name in (t.label, _without_obsolete(t.label), *t.synonyms)
        )
        self.ids = terms.keys()

    def find(self, text: str) -> tuple[How, set[str]]:
        """Return how a name is one, and its terms."""
        term_id = canonical_id(text)
        found: tuple[tuple[How, set[str]], ...] = (
            ("label", self.labels.find(text)),
            ("synonym", self.synonyms.find(text)),
            ("id", {term_id} & self.ids),
            ("former", self.former.find(text)),
            ("replaced", self.obsolete.find(text)),
            ("plural", self._of_plural(text)),
        )
        return next((f for f in found if f[1]), ("unresolved", set()))

    def _of_plural(self, text: str) -> set[str]:
        found: set[str] = set()
        for singular in singulars(text):
            found |= self.labels.find(singular) or self.synonyms.find(singular)
        return found

    def near(self, text: str) -> list[str]:
        """Names that resemble a text in their words, not only in their letters."""
        words, bare = _words(text), {_letters(t) for t in (text, *singulars(text))}
        alike = [
            name
            for name, others in self._words_of_names.items()
            if _share(words, others) or _letters(name) in bare
        ]
        close = difflib.get_close_matches(text.casefold(), alike, n=SHOWN, cutoff=0.6)
        shown = {n.casefold(): n for n in (*self.synonyms.exact, *self.labels.exact)}
        return [shown[c] for c in close]

    @cached_property
    def _words_of_names(self) -> dict[str, list[str]]:
        return {n: _words(n) for n in (*self.labels.folded, *self.synonyms.folded)}


def one_blank(text: str) -> str:
    """Return a text without blanks at its ends, and with single ones inside."""
    return " ".join(text.split())


def _without_obsolete(label: str) -> str:
    return re.sub(r"^obsolete\s+", "", label, flags=re.IGNORECASE)


def _words(text: str) -> list[str]:
    """Words that tell one type from another: "cell" is in most names, and a plural is none."""
    words = (w.removesuffix("s") or w for w in re.findall(r"[^\W_]+", text.casefold()))
    return [w for w in words if w != "cell"]


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())


def _share(words: Sequence[str], others: Sequence[str]) -> bool:
    """Whether a name begins with the word that a text does, or has half its words from it."""
    if not words or not others:
        return False
    n_shared = sum(w in words for w in others)
    return words[0] == others[0] or 2 * n_shared >= len(others)


def singulars(text: str) -> list[str]:
    """Texts of which a text may be the plural, the likelier first."""
    found = [re.sub(r"\bcells\b", "cell", text, flags=re.IGNORECASE)]
    for end, singular in (("ies", "y"), ("es", ""), ("s", "")):
        if text.casefold().endswith(end) and not text.casefold().endswith("ss"):
            found.append(text[: -len(end)] + singular)
    return [f for f in dict.fromkeys(found) if f != text]


def resolve(
    ontology: CellOntology,
    finder: NameFinder,
    labels: Sequence[str],
    term_ids: Sequence[str] | None,
) -> Resolution:
    """Find the terms of labels; see :meth:`CellOntology.resolve`."""
    texts = tuple(str(label) for label in listed(labels))
    given = (
        [""] * len(texts) if term_ids is None else [_given(ontology, t) for t in listed(term_ids)]
    )
    if len(given) != len(texts):
        raise UsageError(
            "E-U41",
            f"{len(given):,} term identifiers for {len(texts):,} labels",
            fix="pass one identifier per label, empty where there is none",
        )
    entries = [
        _from_id(ontology, term) if term else _from_name(ontology, finder, text)
        for text, term in zip(texts, given, strict=True)
    ]
    entries = _with_near(finder, texts, entries)
    return Resolution(
        labels=texts,
        term_ids=tuple(e.term_id for e in entries),
        term_labels=tuple(
            ontology.label(e.term_id) if e.term_id in ontology else "" for e in entries
        ),
        how=tuple(e.how for e in entries),
        notes=tuple(e.note for e in entries),
        release=ontology.release,
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    how: How
    term_id: str = ""
    note: str = ""


def _given(ontology: CellOntology, term_id: object) -> str:
    text = one_blank(term_id) if isinstance(term_id, str) else ""
    canonical = canonical_id(text)
    if canonical in ontology or canonical.startswith("CL:"):
        return canonical
    return "" if text.casefold() in NO_TYPE else text


def _from_id(ontology: CellOntology, term_id: str) -> _Entry:
    if term_id in ontology:
        return _settled(ontology, "given", {term_id})
    if term_id.startswith("CL:"):
        return _Entry("unresolved", note=f"{term_id} is no term of {ontology.release}")
    return _Entry("given", term_id, "not a term of the Cell Ontology")


def _from_name(ontology: CellOntology, finder: NameFinder, text: str) -> _Entry:
    text = one_blank(text)
    if text.casefold() in NO_TYPE:
        return _Entry("unlabeled")
    how, found = finder.find(text)
    return _settled(ontology, how, found) if found else _Entry("unresolved")


def _settled(ontology: CellOntology, how: How, found: set[str]) -> _Entry:
    """Return the entry of a name with these terms, obsolete ones among them followed."""
    now = {term_id: ontology.current(term_id) for term_id in sorted(found)}
    targets = sorted({t for t in now.values() if t is not None})
    if not targets:
        return _Entry("unresolved", note=_obsolete_note(ontology, min(now)))
    if len(targets) > 1:
        return _Entry("ambiguous", note="one of " + _named(ontology, targets))
    target, notes = targets[0], []
    if target not in now:
        how = "replaced"
        notes.append(f"{_named(ontology, [min(now)])} -> {_named(ontology, [target])}")
    elif how in ("plural", "former"):
        notes.append(f"{'plural of' if how == 'plural' else 'now'} {ontology.label(target)!r}")
    notes += [f"{t} is not allowed in CELLxGENE data" for t in sorted({*now, target} & FORBIDDEN)]
    return _Entry(how, target, "; ".join(notes))


def _obsolete_note(ontology: CellOntology, term_id: str) -> str:
    note = f"{_named(ontology, [term_id])} is obsolete"
    instead = [t for t in ontology.consider(term_id) if t in ontology]
    return f"{note}; consider {_named(ontology, instead)}" if instead else note


def _named(ontology: CellOntology, term_ids: Iterable[str]) -> str:
    texts = [(t, _without_obsolete(ontology.label(t))) for t in term_ids]
    return ", ".join(f"{t} ({name})" if name else t for t, name in texts)


def _with_near(finder: NameFinder, texts: Sequence[str], entries: list[_Entry]) -> list[_Entry]:
    bare = [i for i, e in enumerate(entries) if e.how == "unresolved" and not e.note]
    out = list(entries)
    for i in bare[:MAX_NEAR]:
        if near := finder.near(texts[i]):
            out[i] = _Entry("unresolved", note=f"near: {', '.join(map(repr, near))}")
    return out
