"""A table of numbers as colours, with the numbers in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from episome.pl._axes import axes_for, finished, short

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: Rows and columns up to which the numbers are written into the picture.
_WRITTEN = 24


def heatmap(
    table: pd.DataFrame,
    *,
    center: float | None = None,
    label: str = "",
    digits: int = 2,
    ax: Axes | None = None,
    title: str | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw a table of numbers.

    Parameters
    ----------
    table
        Numbers, a row and a column per name, in the order that is drawn; NaN stays grey.
    center
        Value that is white, with one colour above and one below, such as 0 of a fold change;
        without it the colours go from the smallest to the largest number.
    label
        What the numbers are.
    digits
        Of the numbers that are written.
    ax, title, save
        Where to draw, a new figure of fitting size otherwise; text above; file, ``.svg`` or
        ``.png``, which must not exist.

    Returns
    -------
    The axes. Numbers are written where rows and columns are at most 24.
    """
    from matplotlib import colormaps

    values = table.to_numpy(dtype=float)
    n_rows, n_columns = values.shape
    ax = axes_for(
        ax,
        float(np.clip(0.7 * n_columns + 3.0, 4.0, 20.0)),
        float(np.clip(0.45 * n_rows + 1.8, 2.5, 20.0)),
    )
    known = values[np.isfinite(values)]
    if center is None:
        low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
        name = "cividis"
    else:
        far = max(float(np.abs(known - center).max()) if len(known) else 0.0, 1e-12)
        low, high = center - far, center + far
        name = "PuOr_r"
    colours = colormaps[name].with_extremes(bad="0.85")
    image = ax.imshow(
        np.ma.masked_invalid(values), vmin=low, vmax=high, cmap=colours, aspect="auto"
    )
    ax.set_xticks(range(n_columns), [short(c, 60) for c in table.columns], rotation=45, ha="right")
    ax.set_yticks(range(n_rows), [short(r, 60) for r in table.index])
    if max(n_rows, n_columns) <= _WRITTEN:
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                # Dark text on light colours, and the other way round.
                r, g, b, _ = image.cmap(image.norm(value))
                dark = 0.299 * r + 0.587 * g + 0.114 * b < 0.55
                ax.text(
                    j,
                    i,
                    f"{value:.{digits}f}",
                    ha="center",
                    va="center",
                    color="white" if dark else "black",
                    fontsize=8,
                )
    ax.figure.colorbar(image, ax=ax, label=short(label, 80))
    return finished(ax, title, save)
