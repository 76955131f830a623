"""How many cells have which value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from episome.pl._axes import axes_for, finished, short
from episome.pl._colours import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike


def histogram(
    values: ArrayLike | None = None,
    *,
    counts: Sequence[int] | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
    bins: int = 20,
    marks: Mapping[str, float] | None = None,
    label: str = "confidence",
    ax: Axes | None = None,
    title: str | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw how many cells have which confidence, novelty, or other value.

    Parameters
    ----------
    values
        Of every cell, (n_cells,); NaN is left out, and its number told.
    counts
        Numbers of cells of bins of equal width instead, for cells that are counted part by part.
    limits
        Ends of the first and the last bin; values beyond are in those.
    bins
        How many, of ``values``.
    marks
        Name -> value that is marked, such as a threshold.
    label
        What the values are, with their unit.
    ax, title, save
        Where to draw, a new figure otherwise; text above; file, ``.svg`` or ``.png``, which must
        not exist.

    Returns
    -------
    The axes.
    """
    lost = 0
    if counts is None:
        numbers = np.asarray([] if values is None else values, dtype=float)
        known = numbers[~np.isnan(numbers)]
        lost = len(numbers) - len(known)
        counts = [int(n) for n in np.histogram(known.clip(*limits), bins, limits)[0]]
    ax = axes_for(ax, 5.2, 3.2)
    label = short(label, 80)
    edges = np.linspace(*limits, len(counts) + 1)
    ax.bar(
        edges[:-1],
        counts,
        np.diff(edges),
        align="edge",
        color=COLOURS[0],
        edgecolor="white",
        lw=0.4,
    )
    for i, (name, at) in enumerate((marks or {}).items()):
        ax.axvline(at, color=COLOURS[4 + i], lw=1.0, ls="--", label=f"{short(name)}: {at:.3g}")
    if marks:
        ax.legend(fontsize=8, frameon=False)
    ax.set_xlim(*limits)
    ax.set_xlabel(label if not lost else f"{label} ({lost:,} not known)")
    ax.set_ylabel("cells")
    ax.locator_params(axis="y", integer=True)
    return finished(ax, title, save)
