"""The releases of the Cell Ontology that are installed; nothing is downloaded."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from typing import Any

from episome.errors import UsageError
from episome.log import get_logger
from episome.ontology._ontology import CellOntology
from episome.ontology._terms import OwnTerm, Term, canonical_id

logger = get_logger(__name__)


def releases() -> tuple[str, ...]:
    """Return the dates of the bundled releases of the Cell Ontology, newest first."""
    return tuple(sorted(_schemas(), reverse=True))


def cell_ontology(release: str | None = None) -> CellOntology:
    """Return a bundled release of the Cell Ontology.

    The file is the one that CELLxGENE publishes for a version of its schema, in the package
    ``cellxgene-ontology-guide``; no network is used. Every release is read once.

    Parameters
    ----------
    release
        Date of a release such as ``"2026-03-26"``; a leading ``v`` is fine. Default: the newest.

    Returns
    -------
    The ontology, shared by all callers; it cannot be changed.

    Raises
    ------
    UsageError
        The release is not bundled (E-U40).

    Examples
    --------
    >>> ontology = cell_ontology("2026-03-26")
    >>> ontology.label("CL:0000236")
    'B cell'
    >>> "CL:0000542" in ontology.ancestors("CL:0000236")
    True
    """
    bundled = releases()
    wanted = bundled[0] if release is None else str(release).strip().removeprefix("v")
    if wanted not in bundled:
        raise UsageError(
            "E-U40",
            f"there is no release {release!r} of the Cell Ontology here",
            fix=f"release={' or '.join(map(repr, bundled))}, or another version of the "
            "package cellxgene-ontology-guide",
        )
    return _load(wanted)


def nearest_ontology(
    release: str, own_terms: Mapping[str, OwnTerm | Mapping[str, object]] | None = None
) -> CellOntology:
    """Return a release if it is bundled, else the newest one, which is said in the log.

    Parameters
    ----------
    release
        What a model was set up with.
    own_terms
        Terms of the user on top, see :meth:`CellOntology.with_terms`.
    """
    found = cell_ontology(release if release in releases() else None)
    if found.release != release:
        logger.info(
            "release %r of the Cell Ontology is not installed: %s is used", release, found.release
        )
    return found.with_terms(own_terms or {})


@functools.cache
def _load(release: str) -> CellOntology:
    terms = _terms(release)
    former = [
        (term.label, term_id)
        for other in releases()
        if other != release
        for term_id, term in _terms(other).items()
        if term_id in terms and term.label != terms[term_id].label
    ]
    return CellOntology(release, terms, former_names=former)


@functools.cache
def _schemas() -> dict[str, str]:
    """Release -> a schema version that comes with it."""
    from cellxgene_ontology_guide.supported_versions import (  # type: ignore[import-untyped]
        load_supported_versions,
    )

    found = {}
    for schema, entry in load_supported_versions().items():
        found[str(entry["ontologies"]["CL"]["version"]).removeprefix("v")] = str(schema)
    return found


def _terms(release: str) -> dict[str, Term]:
    from cellxgene_ontology_guide.supported_versions import CXGSchema

    with warnings.catch_warnings():
        # An older release is asked for on purpose.
        warnings.simplefilter("ignore", DeprecationWarning)
        records = CXGSchema(_schemas()[release]).ontology("CL")
    return {term_id: _term(record) for term_id, record in records.items()}


def _term(record: Mapping[str, Any]) -> Term:
    return Term(
        label=record["label"] or "",
        parents=tuple(sorted(t for t, d in record["ancestors"].items() if d == 1)),
        synonyms=tuple(record.get("synonyms") or ()),
        obsolete=bool(record["deprecated"]),
        replaced_by=canonical_id(record.get("replaced_by") or ""),
        consider=tuple(c for c in map(canonical_id, record.get("consider") or ()) if c),
    )
