"""From one naming of cells to another, and what samples are made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from episome.errors import UsageError
from episome.pl._axes import axes_for, finished, short
from episome.pl._colours import GREY, palette_of, types_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

#: Space between two bars, of all cells.
GAP = 0.012


def sankey(
    labels: ArrayLike | pd.Series,
    calls: ArrayLike | pd.Series,
    *,
    most: int = 20,
    weights: ArrayLike | None = None,
    palette: Mapping[str, str] | None = None,
    names: tuple[str, str] = ("label", "call"),
    ax: Axes | None = None,
    title: str | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw which calls the cells of every label went to.

    Parameters
    ----------
    labels, calls
        Of every cell, (n_cells,); missing ones are ``"not known"``.
    most
        Names on either side; rarer ones are drawn together.
    weights
        Number of cells that an entry stands for, (n_cells,); default 1.
    palette
        Type -> colour; default :func:`colours`.
    names
        Of the two sides.
    ax, title, save
        Where to draw, a new figure otherwise; text above; file, ``.svg`` or ``.png``, which must
        not exist.

    Returns
    -------
    The axes. A band is as wide as it has cells, and has the colour of its label.

    Raises
    ------
    UsageError
        Not one call for every label (E-U131).
    """
    left, left_names = _merged(labels, most, weights)
    right, right_names = _merged(calls, most, weights)
    if len(left) != len(right):
        raise UsageError(
            "E-U131",
            f"{len(left):,} labels and {len(right):,} calls are given",
            fix="pass both of the same cells",
        )
    n = (len(left_names), len(right_names))
    flows = np.zeros(n)
    np.add.at(flows, (left, right), 1.0 if weights is None else np.asarray(weights, dtype=float))
    ax = axes_for(ax, 7.5, float(np.clip(0.3 * max(n) + 1.2, 3.0, 14.0)))
    ax.set_xlim(0, 1)
    ax.set_axis_off()
    shades = palette_of([*left_names, *right_names], palette)
    if flows.sum():
        _bands(ax, flows / flows.sum(), [shades[x] for x in left_names])
        total = flows.sum()
        _bars(ax, flows.sum(axis=1), left_names, shades, 0.0, total)
        _bars(ax, flows.sum(axis=0), right_names, shades, 1.0, total)
    ax.text(0.0, 0.03, short(names[0]), ha="center", weight="bold")
    ax.text(1.0, 0.03, short(names[1]), ha="center", weight="bold")
    return finished(ax, title, save)


def _merged(
    values: ArrayLike | pd.Series, most: int, weights: ArrayLike | None
) -> tuple[NDArray[np.int64], list[str]]:
    """Return codes and names, the commonest first; rare names are one."""
    codes, found = types_of(values)
    if (codes < 0).any():
        codes = np.where(codes < 0, len(found), codes)
        found = [*found, "not known"]
    sizes = np.bincount(
        codes, weights=None if weights is None else np.asarray(weights), minlength=len(found)
    )
    order = np.argsort(-sizes, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    codes, found = rank[codes], [found[i] for i in order]
    if len(found) > most:
        more = f"{len(found) - most + 1:,} others"
        codes, found = np.minimum(codes, most - 1), [*found[: most - 1], more]
    return codes, found


def _tops(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where bars begin, from zero downwards."""
    return -(np.cumsum(sizes) - sizes) - GAP * np.arange(len(sizes))


def _bands(ax: Axes, flows: NDArray[np.float64], shades: list[str]) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Line

    start, end = _tops(flows.sum(axis=1)), _tops(flows.sum(axis=0))
    lows = [end[-1] - flows.sum(axis=0)[-1], start[-1] - flows.sum(axis=1)[-1]]
    ax.set_ylim(min(lows) - 0.02, 0.08)
    kinds = [Line.MOVETO, *[Line.CURVE4] * 3, Line.LINETO, *[Line.CURVE4] * 3, Line.CLOSEPOLY]
    for (i, j), flow in np.ndenumerate(flows):
        size = float(flow)
        if size <= 0:
            continue
        a, b = float(start[i]), float(end[j])
        start[i] -= size
        end[j] -= size
        points = [
            (0.02, a), (0.5, a), (0.5, b), (0.98, b), (0.98, b - size), (0.5, b - size),
            (0.5, a - size), (0.02, a - size), (0.02, a),
        ]  # fmt: skip
        ax.add_patch(PathPatch(Line(points, kinds), color=shades[i], alpha=0.55, lw=0.2))


def _bars(
    ax: Axes,
    sizes: NDArray[np.float64],
    names: list[str],
    shades: Mapping[str, str],
    x: float,
    total: float,
) -> None:
    tops = _tops(sizes / total)
    for name, size, top in zip(names, sizes, tops, strict=True):
        height = size / total
        ax.bar(x, height, 0.04, top - height, color=shades.get(name, GREY))
        side = "right" if x == 0 else "left"
        # Small bars stand close: their names keep the size of their bars, but can be read.
        ax.text(
            x + (-0.03 if x == 0 else 0.03), top - height / 2, f"{short(name)} ({size:,.0f})",
            ha=side, va="center", fontsize=7,
        )  # fmt: skip


def composition(
    samples: pd.DataFrame | ArrayLike | pd.Series,
    labels: ArrayLike | pd.Series | None = None,
    *,
    most: int = 20,
    palette: Mapping[str, str] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the share of every type in every sample, donor or data set.

    Parameters
    ----------
    samples
        Sample of every cell, (n_cells,), or a table of counts, samples by types.
    labels
        Type of every cell, (n_cells,), where no table is given.
    most
        Types; rarer ones are drawn together.
    palette
        Type -> colour; default :func:`colours`.
    ax, title, save
        Where to draw, a new figure otherwise; text above; file, ``.svg`` or ``.png``, which must
        not exist.

    Returns
    -------
    The axes: a bar per sample, with its number of cells.
    """
    table = samples if isinstance(samples, pd.DataFrame) else _crossed(samples, labels)
    sizes = table.sum().sort_values(ascending=False, kind="stable")
    kept = list(sizes.index[: most - 1] if len(sizes) > most else sizes.index)
    shares = table[kept].copy()
    if len(sizes) > most:
        shares[f"{len(sizes) - len(kept):,} others"] = table.drop(columns=kept).sum(axis=1)
    n_cells = table.sum(axis=1)
    shares = shares.div(n_cells.where(n_cells > 0, 1), axis=0)
    shades = palette_of([str(c) for c in kept], palette)
    height = float(np.clip(0.3 * len(table) + 1.4, 2.4, 24.0))
    ax = axes_for(ax, 7.5, height)
    left = np.zeros(len(table))
    for name in shares.columns:
        values = shares[name].to_numpy(dtype=float)
        ax.barh(
            range(len(table)), values, left=left, height=0.8, label=short(name),
            color=shades.get(str(name), GREY), edgecolor="white", lw=0.3,
        )  # fmt: skip
        left += values
    rows = [f"{short(s)} ({n:,.0f})" for s, n in zip(table.index, n_cells, strict=True)]
    ax.set_yticks(range(len(table)), rows, fontsize=8 if len(table) <= 40 else 4)
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of the cells")
    if len(shares.columns):
        ax.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return finished(ax, title, save)


def _crossed(samples: ArrayLike | pd.Series, labels: ArrayLike | pd.Series | None) -> pd.DataFrame:
    rows, row_names = types_of(samples)
    columns, column_names = types_of([] if labels is None else labels)
    if len(rows) != len(columns):
        raise UsageError(
            "E-U131",
            f"{len(rows):,} samples and {len(columns):,} labels are given",
            fix="pass both of the same cells, or a table of counts",
        )
    n_rows, n_columns = len(row_names) + 1, len(column_names) + 1
    flat = np.where(rows < 0, n_rows - 1, rows) * n_columns
    flat += np.where(columns < 0, n_columns - 1, columns)
    counts = np.bincount(flat, minlength=n_rows * n_columns).reshape(n_rows, n_columns)
    names = [*row_names, "not known"], [*column_names, "not known"]
    table = pd.DataFrame(counts, *names)
    kept = table.loc[table.sum(axis=1) > 0, table.sum() > 0]
    return kept.sort_index() if len(kept) <= 200 else kept
