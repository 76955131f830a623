"""Identifiers that callers pass: which exist, and what to say of one that does not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from episome.errors import LabelError
from episome.ontology._resolve import NO_TYPE, one_blank
from episome.ontology._terms import OWN_ID, canonical_id, listed

if TYPE_CHECKING:
    from episome.ontology._ontology import CellOntology


def checked_ids(ontology: CellOntology, term_ids: Iterable[str]) -> list[str]:
    """Return identifiers as the ontology has them; empty ones and foreign ones stay.

    Raises
    ------
    LabelError
        An identifier of the Cell Ontology that does not exist, or a text that is none (E-L25).
    """
    return [_checked_id(ontology, term_id) for term_id in listed(term_ids)]


def _checked_id(ontology: CellOntology, term_id: object) -> str:
    text = one_blank(str(term_id))
    if text.casefold() in NO_TYPE or text == "<NA>":
        return ""
    canonical = canonical_id(text)
    known = next((t for t in (text, canonical) if t in ontology), None)
    if known is not None:
        return known
    is_address = "/" in text and canonical != ""
    if canonical.startswith("CL:") or not (is_address or OWN_ID.fullmatch(text)):
        raise missing_term(ontology, text)
    return text


def missing_term(ontology: CellOntology, term_id: str) -> LabelError:
    """Return the error of an identifier that does not exist, with one that may be meant."""
    found = ontology.resolve([term_id])
    near = (
        [f"{found.term_ids[0]} ({found.term_labels[0]})"]
        if found.term_ids[0]
        else [f"{t} ({ontology.label(t)})" for t in difflib.get_close_matches(term_id, ontology)]
    )
    return LabelError(
        "E-L25",
        f"there is no term {term_id!r} in the Cell Ontology of {ontology.release}",
        fix=f"use an identifier such as {near[0]}" if near else "use one such as CL:0000236",
        details={"near": near},
    )
