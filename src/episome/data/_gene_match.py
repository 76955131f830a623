"""Names of genes as they are compared: clean, without versions, by position."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray

_VERSION = re.compile(r"^(ENS[A-Z]*[GTP]\d{6,})\.\d+$")
_PLACEHOLDER = re.compile(r"^(gene|Gene|feature|var|col|column|x|v|g)[ _.-]?\d+$")


def clean_names(names: object) -> NDArray[np.object_]:
    """Return names as stripped strings (BOM and non-breaking spaces too); missing becomes ''."""
    series = pd.Series(np.asarray(names, dtype=object))
    text = series.where(series.notna(), "").astype(str)
    clean: NDArray[np.object_] = text.str.replace("\ufeff", "", regex=False).str.strip().to_numpy()
    return clean.astype(object)


def strip_versions(names: NDArray[np.object_]) -> tuple[NDArray[np.object_], int]:
    """Remove Ensembl version suffixes, except where two genes would become one.

    Returns
    -------
    The names and how many were changed.
    """
    short = without_version(names)
    if (short == names).all():
        return names, 0
    several = pd.Series(names).groupby(short).transform("nunique").to_numpy() > 1
    kept = np.where(several, names, short)
    return kept, int((kept != names).sum())


def without_version(names: NDArray[np.object_]) -> NDArray[np.object_]:
    # Hardly any names have a dot, and asking for one is much cheaper than the pattern.
    return np.array([_VERSION.sub(r"\1", n) if "." in n else n for n in names], dtype=object)


def positions(index: pd.Index, names: NDArray[np.object_]) -> NDArray[np.int64]:
    """Position of every name in ``index``; a name that stands twice there counts as unknown."""
    once = np.flatnonzero(~index.duplicated(keep=False) & (index != ""))
    if len(once) == 0:
        return np.full(len(names), -1, dtype=np.int64)
    where = pd.Series(once, index=index[once]).reindex(names).fillna(-1)
    found: NDArray[np.int64] = where.to_numpy(dtype=np.int64)
    return found


def placeholders(names: NDArray[np.object_]) -> bool:
    """Whether most names are a word and a number, such as ``gene_17``: nothing a genome has."""
    sample = [str(n) for n in names[:500]]
    return sum(bool(_PLACEHOLDER.match(n)) for n in sample) > 0.9 * len(sample)


def id_kind(names: Sequence[str] | pd.Index) -> str:
    sample = [str(n) for n in list(names)[:200]]
    ensembl = sum(n.startswith("ENS") for n in sample)
    if ensembl > 0.8 * len(sample):
        return "Ensembl identifiers"
    lower = sum(n[:1].isupper() and n[1:].islower() for n in sample if n[1:].isalpha())
    return "mouse-style symbols" if lower > 0.3 * len(sample) else "symbols"
