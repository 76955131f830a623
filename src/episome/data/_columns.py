"""Which columns of a cell table hold labels, donors and the like."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from episome.data._keys import EMPTY_LABELS, INDEFINITE_DONORS
from episome.ontology import cell_ontology

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_CLASSES = 2_000
#: Values of a column that are looked up in the Cell Ontology.
LOOKED_UP = 200

_LABEL_NAMES = (
    (5, re.compile(r"^cell[_ .-]?types?$", re.I)),
    (4, re.compile(r"cell[_ .-]?(type|label|class|annot)|annotation|^labels?$|_labels?$", re.I)),
    (3, re.compile(r"class|subtype|population|subpop|identity|cell[_ .-]?state|facs", re.I)),
    (2, re.compile(r"cluster|^ident$|leiden|louvain", re.I)),
)
_DONOR_NAMES = (
    (5, re.compile(r"^(donor|individual|patient|subject|participant)([_ .-]?id)?s?$", re.I)),
    (4, re.compile(r"donor|individual|patient|subject|participant|mouse[_ .-]?id", re.I)),
    (3, re.compile(r"^sample|sample[_ .-]?id|orig[_ .-]?ident|replicate|^librar", re.I)),
    (2, re.compile(r"batch|channel|lane", re.I)),
)
_NEITHER = re.compile(
    r"ontology_term_id$|^_scvi|barcode|^(assay|tissue|organ|sex|gender|organism|species|disease|"
    r"condition|treatment|stim|age|ethnicity|development_stage|suspension|is_primary|phase|"
    r"n_(counts|genes|umi)|total_counts|pct_)",
    re.I,
)
_ASSAY = ("assay", "technology", "protocol", "platform", "chemistry")
_SPECIES = ("organism_ontology_term_id", "organism", "species")


@dataclass(frozen=True, slots=True)
class ColumnGuess:
    """A column that may be what is looked for.

    Parameters
    ----------
    name
        Its name.
    n_values
        Number of different values; for donors, of definite ones.
    n_missing
        Cells without one.
    n_terms
        Values that the Cell Ontology knows by name or synonym.
    """

    name: str
    n_values: int
    n_missing: int
    n_terms: int = 0


def guess_labels(obs: pd.DataFrame) -> tuple[ColumnGuess, ...]:
    """Return columns that may hold cell types, the likeliest first.

    The name of a column counts, and how many of its values the Cell Ontology knows.
    """
    found = []
    for key in map(str, obs.columns):
        weight = _weight(key, _LABEL_NAMES)
        column = obs[key]
        if _NEITHER.search(key) or _weight(key, _DONOR_NAMES) > weight or _is_measure(column):
            continue
        values = _distinct(column, EMPTY_LABELS)
        if not 2 <= len(values) <= min(MAX_CLASSES, max(len(obs) // 2, 2)):
            continue
        if not weight and all(v.isdigit() for v in values):
            continue
        terms = cell_ontology().resolve(values[:LOOKED_UP]).term_ids
        share = sum(map(bool, terms)) / min(len(values), LOOKED_UP)
        if not weight and share < 0.5:
            continue
        guess = ColumnGuess(
            key, len(values), _n_missing(column, EMPTY_LABELS), sum(map(bool, terms))
        )
        found.append((-(weight + 3 * share), len(values), guess))
    return tuple(guess for *_, guess in sorted(found, key=lambda f: f[:2]))


def guess_donors(obs: pd.DataFrame) -> tuple[ColumnGuess, ...]:
    """Return columns that may name the donor of each cell, the likeliest first.

    Libraries and batches come after donors and samples: they are held out whole as well.
    """
    found = []
    for key in map(str, obs.columns):
        weight = _weight(key, _DONOR_NAMES)
        if not weight or _NEITHER.search(key) or _is_measure(obs[key]):
            continue
        values = _distinct(obs[key], INDEFINITE_DONORS)
        if not 1 <= len(values) <= max(len(obs) // 2, 1):
            continue
        guess = ColumnGuess(key, len(values), _n_missing(obs[key], INDEFINITE_DONORS))
        found.append((len(values) < 2, -weight, guess))
    return tuple(guess for *_, guess in sorted(found, key=lambda f: f[:2]))


def values_of(obs: pd.DataFrame, names: Iterable[str]) -> tuple[str, ...]:
    """Return the different values of the first of some columns that is there."""
    key = next((n for n in names if n in obs.columns), None)
    return () if key is None else tuple(_distinct(obs[key], EMPTY_LABELS))


def assays(obs: pd.DataFrame) -> tuple[str, ...]:
    """Return the assays that a cell table names."""
    return values_of(obs, _ASSAY)


def organisms(obs: pd.DataFrame, uns: object) -> tuple[str, ...]:
    """Return what a cell table, or the object's CELLxGENE entry, says of the species."""
    said = [v for key in _SPECIES for v in values_of(obs, (key,))]
    stored = uns.get(_SPECIES[0]) if hasattr(uns, "get") else None
    return tuple(dict.fromkeys([*said, *([] if stored is None else [str(stored)])]))


def _weight(name: str, patterns: tuple[tuple[int, re.Pattern[str]], ...]) -> int:
    return next((w for w, pattern in patterns if pattern.search(name)), 0)


def _is_measure(column: pd.Series) -> bool:
    """Whether a column holds numbers with fractions, or too many to be codes."""
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return False
    values = column.dropna()
    return bool((values % 1 != 0).any()) or values.nunique() > 500


def _distinct(column: pd.Series, none: frozenset[str]) -> list[str]:
    values = (
        column.cat.remove_unused_categories().cat.categories
        if hasattr(column, "cat")
        else (column.dropna().unique())
    )
    return sorted(str(v) for v in values if str(v).strip().casefold() not in none)


def _n_missing(column: pd.Series, none: frozenset[str]) -> int:
    text = column.astype(object).where(column.notna(), "").astype(str).str.strip().str.casefold()
    return int(text.isin(none | {""}).sum())
