"""Colours that are told apart with any colour vision, the same for a type in every picture."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from episome.ontology import cell_ontology

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

#: After Okabe and Ito (2008), then Tol; the last is for what has no name.
COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#332288",
    "#117733", "#882255", "#44aa99", "#999933", "#aa4499", "#661100", "#6699cc", "#888888",
)  # fmt: skip
#: Of cells without a type, and of what is not known.
GREY = "#bbbbbb"
#: Names that are no type.
NO_TYPE = frozenset({"", "unknown", "unassigned", "nan", "none", "na", "not known"})
#: Shares of black, below zero of white, that are mixed into a colour that is taken.
_TONES = (0.0, 0.38, -0.5)
#: What the numbers of terms begin with; chosen so that the types of blood, lung, gut, brain and
#: pancreas that studies name most have colours of their own.
_SALT = b"16111"


def colours(names: Iterable[object], *, terms: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a colour for every cell type, the same in every picture.

    The hue of a type follows from its term of the Cell Ontology, or from its name where it has
    none: synonyms and identifiers have the colour of their term. Where two types of ``names`` have
    the same hue, the second by identifier gets a darker tone, the third a lighter one; so give all
    names of a study at once, and the result as ``palette=``, where no tone may change.

    Parameters
    ----------
    names
        Names of types.
    terms
        Name -> identifier of its term; names that are not there are looked for in the bundled
        ontology.

    Returns
    -------
    Name -> colour, ``#rrggbb``. 45 are told apart; more types share some. What is no type, such as
    ``"unknown"``, is grey.
    """
    wanted = list(dict.fromkeys(str(n) for n in names))
    keys = _keys([n for n in wanted if n.casefold() not in NO_TYPE], terms or {})
    taken: dict[str, str] = {}
    for key in sorted(set(keys.values())):
        start = zlib.crc32(_SALT + key.encode()) % (len(COLOURS) - 1)
        hues = [COLOURS[(start + i) % (len(COLOURS) - 1)] for i in range(len(COLOURS) - 1)]
        choices = [_toned(hue, tone) for hue in hues for tone in _TONES]
        used = set(taken.values())
        taken[key] = next((c for c in choices if c not in used), choices[0])
    return {n: taken[keys[n]] if n in keys else GREY for n in wanted}


def _keys(names: list[str], terms: Mapping[str, str]) -> dict[str, str]:
    """Return what the colour of every name follows from."""
    found = {n: terms[n] for n in names if terms.get(n)}
    rest = [n for n in names if n not in found]
    if rest:
        known = cell_ontology().resolve(rest).term_ids
        found |= {n: t or n.casefold() for n, t in zip(rest, known, strict=True)}
    return found


def _toned(colour: str, tone: float) -> str:
    """Return a colour with black, or below zero with white, mixed into it."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    to = 0 if tone > 0 else 255
    return "#" + "".join(f"{round(p + (to - p) * abs(tone)):02x}" for p in parts)


def types_of(values: ArrayLike | pd.Series) -> tuple[NDArray[np.int64], list[str]]:
    """Return the code of every value, -1 for missing ones, and the names, commonest first."""
    given = getattr(values, "array", values)
    if isinstance(given, pd.Categorical):  # codes are there: millions of texts are not looked at
        codes, uniques = given.codes.astype(np.int64), given.categories
    else:
        codes, uniques = pd.factorize(np.asarray(values, dtype=object), use_na_sentinel=True)
    names = [str(u) for u in uniques]
    places = {n: i for i, n in enumerate(dict.fromkeys(names))}
    merged = np.array([places[n] for n in names] + [-1], dtype=np.int64)[codes]
    sizes = np.bincount(merged[merged >= 0], minlength=len(places))
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0]
    rank = np.full(len(places) + 1, -1, dtype=np.int64)
    rank[order] = np.arange(len(order))
    known = list(places)
    return rank[merged], [known[i] for i in order]


def palette_of(
    names: Iterable[str], palette: Mapping[str, str] | None, terms: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the colours of names: those that are given, and :func:`colours` for the rest."""
    given = dict(palette or {})
    wanted = list(names)
    missing = [n for n in wanted if n not in given]
    return {**(colours(missing, terms=terms) if missing else {}), **given}
