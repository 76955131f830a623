"""Where pictures are drawn, and how they are kept."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from episome.errors import UsageError
from episome.io import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: What pictures are written as.
KINDS = (".svg", ".png")
#: Room between panels beside each other, of their width: names of genes stand there.
_BESIDE = 0.75


def axes_for(ax: Axes | None, width: float, height: float) -> Axes:
    """Return the given axes, or those of a new figure of a size in inches."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    new: Axes = plt.subplots(figsize=(width, height), layout="constrained")[1]
    return new


def panels(ax: Axes, n: int, *, columns: int = 1, room: float = 0.34) -> list[Axes]:
    """Divide axes into panels, row by row; they are the ``child_axes`` of ``ax``.

    Parameters
    ----------
    ax
        Drawn on no more themselves.
    n, columns
        How many, and how many beside each other.
    room
        Share of the height of a panel that is left for the names below it.
    """
    ax.set_axis_off()
    rows = -(-n // columns)
    height, width = 1.0 / (rows + room * (rows - 1)), 1.0 / (columns + _BESIDE * (columns - 1))
    found = []
    for i in range(n):
        row, column = divmod(i, columns)
        left, bottom = column * width * (1 + _BESIDE), 1.0 - height - row * height * (1 + room)
        found.append(ax.inset_axes((left, bottom, width, height)))
    return found


def short(name: object, limit: int = 32) -> str:
    """Return a name that is not too long for a picture."""
    text = str(name)
    # Between two dollars there would be a formula, which a name is not.
    return (text if len(text) <= limit else text[: limit - 1] + "…").replace("$", r"\$")


def finished(ax: Axes, title: str | None, save: str | Path | None) -> Axes:
    """Write the title, keep the picture where that is wanted, and return the axes.

    Raises
    ------
    UsageError
        The name ends in neither ``.svg`` nor ``.png`` (E-U08).
    InputFileError
        The file exists (E-F26).
    """
    if title:
        ax.set_title(short(title, 200))
    if save is None:
        return ax
    path = Path(save)
    if path.suffix not in KINDS:
        raise UsageError(
            "E-U08",
            f"pictures cannot be written as {path.suffix or 'a file without extension'}",
            where=str(path),
            fix=f"use one of {', '.join(KINDS)}",
        )
    out = io.BytesIO()
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.savefig(out, format=path.suffix[1:], dpi=150, bbox_inches="tight", metadata=metadata)
    write_file(path, out.getvalue())
    return ax
