"""One colour for a type, in every picture."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from episome.pl import COLOURS, colours
from episome.pl._colours import types_of

BLOOD = [
    "B cell",
    "CD4-positive, alpha-beta T cell",
    "CD8-positive, alpha-beta T cell",
    "natural killer cell",
    "classical monocyte",
    "non-classical monocyte",
    "plasmacytoid dendritic cell",
    "plasma cell",
]


def test_a_type_has_its_colour_alone_and_among_others():
    together = colours(BLOOD)

    assert len(set(together.values())) == len(BLOOD)
    for some in itertools.combinations(BLOOD, 3):
        assert colours(some) == {name: together[name] for name in some}
    assert colours(reversed(BLOOD)) == together


def test_synonyms_and_identifiers_have_the_colour_of_their_term():
    found = colours(["B cell", "B-lymphocyte", "CL:0000236", "mine"], terms={"mine": "CL:0000236"})

    assert len(set(found.values())) == 1


def test_names_without_a_term_have_colours_and_what_is_no_type_is_grey():
    found = colours(["my type", "unknown", "", "nan", "My Type"])

    assert found["my type"] == found["My Type"]
    assert found["unknown"] == found[""] == found["nan"] == "#bbbbbb"
    assert found["my type"] in COLOURS


def test_45_types_are_told_apart_and_more_have_a_colour():
    names = [f"cluster {i}" for i in range(200)]

    assert len(set(colours(names[:45], terms={n: n for n in names}).values())) == 45
    assert len(colours(names)) == 200


def test_codes_are_by_size_and_missing_values_are_none():
    values = ["b", "a", "a", None, np.nan, 1, "1"]

    codes, names = types_of(values)
    of_categories = types_of(pd.Series(["b", "a", "a", None], dtype="category"))

    assert names[0] in {"a", "1"}
    assert sorted(names) == ["1", "a", "b"]
    assert [names[c] if c >= 0 else None for c in codes] == ["b", "a", "a", None, None, "1", "1"]
    assert (of_categories[0].tolist(), of_categories[1]) == ([1, 0, 0, -1], ["a", "b"])
