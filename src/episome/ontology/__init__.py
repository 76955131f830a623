"""The Cell Ontology: names to terms, which type is a kind of which, and coarse types."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome._lazy import lazy_names

if TYPE_CHECKING:
    from episome.ontology._bundle import cell_ontology, nearest_ontology, releases
    from episome.ontology._hierarchy import ClassHierarchy
    from episome.ontology._levels import broader_names, level_names, tree_order
    from episome.ontology._ontology import ROOT, CellOntology
    from episome.ontology._resolve import Resolution, schema_term
    from episome.ontology._terms import OwnTerm, Term

_HOME = {
    "CellOntology": "_ontology",
    "ClassHierarchy": "_hierarchy",
    "OwnTerm": "_terms",
    "ROOT": "_ontology",
    "Resolution": "_resolve",
    "Term": "_terms",
    "broader_names": "_levels",
    "cell_ontology": "_bundle",
    "level_names": "_levels",
    "nearest_ontology": "_bundle",
    "releases": "_bundle",
    "schema_term": "_resolve",
    "tree_order": "_levels",
}
__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
