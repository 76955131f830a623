"""Which cells several modalities have in common, and what is not as it should be between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from episome.data._source import repeated_names
from episome.errors import InputDataError, Problem, raise_problems

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray


def match_cells(
    names: Mapping[str, pd.Index], name: str, *, keep: str = "common"
) -> tuple[pd.Index, dict[str, NDArray[np.int64]], tuple[str, ...]]:
    """Find the cells that all modalities have.

    Parameters
    ----------
    names
        Names of the cells of every modality.
    name
        How messages name the object.
    keep
        ``"common"``: cells that all have; ``"first"``: all of the first modality.

    Returns
    -------
    The names of the cells in the order of the first modality; the rows of every modality that has
    other cells or another order, int64, -1 for cells that it lacks; and the lines of the input
    report.

    Raises
    ------
    InputDataError
        E-D45, E-L15; see ``pair_modalities``.
    """
    first = next(iter(names.values()))
    if len(names) == 1:
        return first, {}, ()
    repeated = [repeated_names(n, f"{name}[{m!r}]") for m, n in names.items()]
    why = "cells of several modalities are paired by name"
    raise_problems(InputDataError, [replace(p, why=why) for p in repeated if p is not None])
    common = first[np.logical_and.reduce([first.isin(n) for n in names.values()])]
    if not len(common) and any(map(len, names.values())):
        raise InputDataError(_nothing_common(names, name))
    cells = first if keep == "first" else common
    rows = {m: n.get_indexer(cells) for m, n in names.items() if not n.equals(cells)}
    notes = []
    if any(len(n) > len(common) for n in names.values()):
        sizes = ", ".join(f"{m} {len(n):,}" for m, n in names.items())
        others = "the others are left out" if keep == "common" else f"{len(cells):,} are kept"
        notes.append(f"{name}: {len(common):,} cells are in all modalities ({sizes}); {others}")
    moved = [m for m, r in rows.items() if (np.diff(r[r >= 0]) < 0).any()]
    if moved:
        notes.append(
            f"{name}: the cells of {', '.join(moved)} are in another order than those of "
            f"{next(iter(names))}; they are paired by name"
        )
    return cells, rows, tuple(notes)


def _nothing_common(names: Mapping[str, pd.Index], name: str) -> Problem:
    shown = "; ".join(f"{m} has {', '.join(n[:3]) or 'none'}" for m, n in names.items())
    return Problem(
        "E-D45",
        "no cell is in all modalities",
        name,
        0,
        max(map(len, names.values())),
        why=f"cells are paired by name: {shown}",
        fix="write the names of the same cells alike in the obs_names of every modality"
        + (", or pass modalities= with those that belong together" if len(names) > 2 else ""),
    )


def stale_tables(mdata: MuData | Mapping[str, AnnData], name: str) -> tuple[str, ...]:
    """Return the line that says that MuData's own tables are not of its modalities any more."""
    if isinstance(mdata, Mapping):
        return ()
    cells = pd.Index([])
    for part in mdata.mod.values():
        cells = cells.union(part.obs_names.unique(), sort=False)
    stored = mdata.obs_names
    gone, new = stored.difference(cells), cells.difference(stored)
    if len(gone) or len(new):
        found = f"{len(gone):,} of its cells are in no modality, {len(new):,} cells are not in it"
    elif not all(_in_place(mdata, m) for m in mdata.mod):
        found = "its rows point to other cells"
    else:
        return ()
    return (
        f"{name}.obs is older than the modalities ({found}): it is not read, and "
        f"{name}.update() mends it",
    )


def _in_place(mdata: MuData, modality: str) -> bool:
    """Whether the positions that MuData keeps of a modality are those of its cells."""
    cells, names = mdata.mod[modality].obs_names, mdata.obs_names
    if modality not in mdata.obsmap:
        return False
    # Zero stands for a cell that the modality does not have.
    places = np.asarray(mdata.obsmap[modality]).ravel().astype(np.int64)
    there = places > 0
    fit = len(places) == len(names) and there.sum() == len(cells) >= places.max(initial=0)
    return bool(fit and (cells[places[there] - 1] == names[there]).all())


def shared_names(features: Mapping[str, tuple[str, ...]], name: str) -> list[str]:
    """Say how features of one name are told apart, where several modalities have some."""
    counts = Counter(n for names in features.values() for n in set(names))
    shared = [n for names in features.values() for n in names if counts[n] > 1]
    if not shared:
        return []
    held = [f"{m}:{shared[0]}" for m, names in features.items() if shared[0] in names]
    return [
        f"{name}: {len(set(shared)):,} names of features are in several modalities; they are told "
        f"apart as {', '.join(held)}"
    ]
