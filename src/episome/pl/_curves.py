"""How a score grows with the number of cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from episome.pl._axes import axes_for, finished, short
from episome.pl._colours import COLOURS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

#: Lines of one colour, one after the other.
_STYLES = ("-", "--", ":", "-.")


def scaling_curves(
    table: pd.DataFrame,
    *,
    fits: Mapping[str, Callable[[NDArray[np.floating]], NDArray[np.floating]]] | None = None,
    label: str = "",
    ax: Axes | None = None,
    title: str | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw scores against numbers of training cells, on a logarithmic axis.

    Parameters
    ----------
    table
        Columns ``name`` (of the line), ``n_cells`` and ``value``; several values of one name and
        size, of seeds, are drawn as points around their mean.
    fits
        Curve of a name, called with numbers of cells; drawn thin, and a quarter beyond the largest
        size.
    label
        What the values are.
    ax, title, save
        Where to draw, a new figure otherwise; text above; file, ``.svg`` or ``.png``, which must
        not exist.

    Returns
    -------
    The axes.
    """
    ax = axes_for(ax, 6.4, 4.2)
    for i, (name, part) in enumerate(table.groupby("name", sort=True)):
        colour = COLOURS[i % len(COLOURS)]
        style = _STYLES[(i // len(COLOURS)) % len(_STYLES)]
        means = part.groupby("n_cells")["value"].mean()
        ax.plot(part["n_cells"], part["value"], ".", color=colour, alpha=0.5)
        ax.plot(means.index, means, style, color=colour, marker="o", label=short(name, 60))
        if fits and str(name) in fits:
            sizes = np.geomspace(means.index.min(), 1.25 * means.index.max(), 60)
            ax.plot(sizes, fits[str(name)](sizes), style, color=colour, linewidth=0.8, alpha=0.8)
    ax.set_xscale("log")
    ax.set_xlabel("training cells")
    ax.set_ylabel(short(label, 80))
    ax.legend(fontsize="small")
    return finished(ax, title, save)
