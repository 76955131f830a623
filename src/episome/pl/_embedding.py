"""Cells on a map: one point each, or one colour a bin where there are many."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome.errors import UsageError, near_names
from episome.pl._axes import axes_for, finished, short
from episome.pl._colours import GREY, palette_of, types_of

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

#: Arrays of obsm that are maps, the best first.
BASES = ("X_umap", "X_tsne", "X_draw_graph_fa", "X_pca")
#: Cells from which on bins are drawn, bins of a side, and names in a legend.
MANY, BINS, NAMED = 50_000, 400, 30


def embedding(
    adata: AnnData | ArrayLike,
    *,
    color: str | ArrayLike | pd.Series | None = "episome_label",
    basis: str | None = None,
    layer: str | None = None,
    palette: Mapping[str, str] | None = None,
    limits: tuple[float, float] | None = None,
    many: int = MANY,
    bins: int = BINS,
    ax: Axes | None = None,
    title: str | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw cells on a map, coloured by type, confidence, novelty, a gene, or any value.

    Above ``many`` cells the map is divided into ``bins`` times ``bins`` squares, each with the
    commonest type of its cells, paler where there are few, or their mean value: no cell hides
    another, and millions take seconds.

    Parameters
    ----------
    adata
        Cells with a map in ``obsm``, or two coordinates of every cell, (n_cells, 2).
    color
        Column of ``obs``, gene in ``var_names`` or ``var["feature_name"]``, or values, (n_cells,).
        Texts and categories are types, numbers a scale. ``None``: how many cells there are.
    basis
        Key of ``obsm``, also without ``X_``; default a UMAP, else a t-SNE, else the first two
        principal components.
    layer
        Where values of a gene are; default ``X``.
    palette
        Type -> colour; default :func:`colours`.
    limits
        Ends of the scale; default 0 and 1 where all values lie between them, else the 1st and the
        99th percentile.
    many, bins
        Cells from which on bins are drawn, and how many on a side.
    ax, title, save
        Where to draw, a new figure otherwise; text above; file, ``.svg`` or ``.png``, which must
        not exist.

    Returns
    -------
    The axes.

    Raises
    ------
    UsageError
        There is no such map (E-U130), or nothing to colour by (E-U131).

    Examples
    --------
    >>> import numpy as np
    >>> points = np.random.default_rng(0).normal(size=(100, 2))
    >>> ax = embedding(points, color=["B cell"] * 50 + ["T cell"] * 50)
    >>> [t.get_text() for t in ax.get_legend().get_texts()]
    ['B cell (50)', 'T cell (50)']
    """
    points, names = map_of(adata, basis)
    label, values = _values(adata, color, layer, len(points))
    good = np.isfinite(points).all(axis=1)
    if not good.all():
        points = points[good]
        values = None if values is None else values[good]
    ax = axes_for(ax, 6.4, 4.8)
    binned = len(points) > many
    if values is None:
        _draw_numbers(ax, points, np.ones(len(points)), bins, "cells", None, counted=True)
    elif _is_numeric(values):
        numbers = pd.to_numeric(pd.Series(values)).to_numpy(dtype=float, na_value=np.nan)
        limits = limits or _limits(numbers)
        if binned:
            _draw_numbers(ax, points, numbers, bins, label, limits)
        else:
            _dot_numbers(ax, points, numbers, label, limits)
    else:
        codes, types = types_of(values)
        shades = palette_of(types, palette, _terms(adata, color))
        (_bin_types if binned else _dot_types)(ax, points, codes, [shades[t] for t in types], bins)
        _legend(ax, codes, types, shades)
    ax.set_xlabel(f"{short(names)} 1")
    ax.set_ylabel(f"{short(names)} 2")
    ax.set_xticks([])
    ax.set_yticks([])
    return finished(ax, title, save)


def _terms(adata: AnnData | ArrayLike, color: object) -> dict[str, str] | None:
    """Return the terms beside a column of names, as annotate and CELLxGENE have them."""
    obs, beside = getattr(adata, "obs", None), f"{color}_ontology_term_id"
    if obs is None or not isinstance(color, str) or color not in obs or beside not in obs:
        return None
    pairs = obs[[color, beside]].astype(str).drop_duplicates(color)
    return {n: t for n, t in pairs.itertuples(index=False) if ":" in t}


def map_of(
    adata: AnnData | ArrayLike, basis: str | None = None
) -> tuple[NDArray[np.float64], str]:
    """Return two coordinates of every cell, and what they are.

    Parameters
    ----------
    adata, basis
        As for :func:`embedding`.

    Returns
    -------
    float64 (n_cells, 2), and a name such as ``"UMAP"``.

    Raises
    ------
    UsageError
        There is no such map (E-U130).
    """
    if not hasattr(adata, "obsm"):
        points = np.asarray(adata, dtype=float)
        if points.ndim != 2 or points.shape[1] < 2:
            raise UsageError(
                "E-U130",
                f"an array of shape {points.shape} is no map",
                fix="pass two coordinates of every cell, (n_cells, 2)",
            )
        return points[:, :2], (basis or "dimension").removeprefix("X_")
    there: Any = adata.obsm
    wanted = BASES if basis is None else (basis, f"X_{basis}")
    key = next((k for k in wanted if k in there and np.ndim(there[k]) == 2), None)
    if key is None or there[key].shape[1] < 2:
        raise UsageError(
            "E-U130",
            "there is no map of the cells" if basis is None else f"obsm has no map {basis!r}",
            where="adata.obsm",
            examples=list(there.keys()),
            fix="compute one (scanpy.tl.umap), or pass its key as basis=",
        )
    name = key.removeprefix("X_").replace("_", " ")
    return np.asarray(there[key])[:, :2].astype(float), name.upper() if len(name) < 5 else name


def _values(adata: Any, color: Any, layer: str | None, n_cells: int) -> tuple[str, Any]:
    """Return what cells are coloured by, and its name."""
    if color is None:
        return "", None
    if not isinstance(color, str):
        column = pd.Series(color) if isinstance(color, pd.Categorical) else color
        values = _texts(column) if _is_text(column) else np.asarray(column)
        if values.shape != (n_cells,):
            raise UsageError(
                "E-U131",
                f"{values.shape} values are given for {n_cells:,} cells",
                where="color",
                fix="pass one value of every cell",
            )
        return str(getattr(color, "name", "") or ""), values
    if color in getattr(adata, "obs", ()):
        column = adata.obs[color]
        return color, _texts(column) if _is_text(column) else column.to_numpy()
    found = None if not hasattr(adata, "var") else _gene(adata, color)
    if found is None:
        there = [] if not hasattr(adata, "obs") else [*adata.obs.columns, *adata.var_names[:5000]]
        raise UsageError(
            "E-U131",
            f"there is no column and no gene {color!r}",
            where="color",
            examples=near_names(color, there),
            fix="pass a column of obs, a gene, or one value of every cell",
        )
    values = adata.X if layer is None else adata.layers[layer]
    column = values[:, found]
    dense = column.toarray() if hasattr(column, "toarray") else np.asarray(column)
    return color, dense.ravel()


def _gene(adata: Any, name: str) -> int | None:
    at = np.flatnonzero(adata.var_names == name)
    if not len(at) and "feature_name" in adata.var:
        at = np.flatnonzero(adata.var["feature_name"].astype(str).to_numpy() == name)
    return int(at[0]) if len(at) else None


def _is_text(column: Any) -> bool:
    return isinstance(column, pd.Series) and not pd.api.types.is_numeric_dtype(column.dtype)


def _texts(column: pd.Series) -> Any:
    """Return the values of a column; categories stay, of which millions of cells have few."""
    is_category = isinstance(column.dtype, pd.CategoricalDtype)
    return column.array if is_category else column.to_numpy(dtype=object)


def _is_numeric(values: Any) -> bool:
    return isinstance(values.dtype, np.dtype) and bool(np.issubdtype(values.dtype, np.number))


def _limits(numbers: NDArray[np.float64]) -> tuple[float, float]:
    known = numbers[np.isfinite(numbers)]
    if not len(known) or (known.min() >= 0 and known.max() <= 1):
        return 0.0, 1.0
    low, high = np.percentile(known, [1, 99])
    return (float(low), float(high)) if high > low else (float(known.min()), float(known.max()))


# -- points ----------------------------------------------------------------------------------


def _size(n: int) -> float:
    return float(np.clip(20_000 / max(n, 1), 1.5, 20))


def _dot_types(
    ax: Axes, points: NDArray[np.float64], codes: NDArray[np.int64], shades: list[str], _: int
) -> None:
    # In one random order: drawn type by type, the last would hide the others.
    order = np.random.default_rng(0).permutation(len(points))
    of = np.array([*shades, GREY], dtype=object)[codes[order]]
    x, y = points[order].T
    ax.scatter(x, y, c=list(of), s=_size(len(of)), linewidths=0, rasterized=True)


def _dot_numbers(
    ax: Axes,
    points: NDArray[np.float64],
    numbers: NDArray[np.float64],
    label: str,
    limits: tuple[float, float],
) -> None:
    known, size = np.isfinite(numbers), _size(len(numbers))
    x, y = points[~known].T
    ax.scatter(x, y, c=GREY, s=size, linewidths=0, rasterized=True)
    order = np.flatnonzero(known)[np.argsort(numbers[known], kind="stable")]
    x, y = points[order].T
    drawn = ax.scatter(
        x, y, c=numbers[order], s=size, linewidths=0, rasterized=True,
        cmap="viridis", vmin=limits[0], vmax=limits[1],
    )  # fmt: skip
    ax.figure.colorbar(drawn, ax=ax, label=short(label, 60))


# -- bins ------------------------------------------------------------------------------------


def _bins(
    points: NDArray[np.float64], n: int
) -> tuple[NDArray[np.int64], tuple[float, float, float, float]]:
    """Return the bin of every cell, row by row, and the ends of the map."""
    low, high = points.min(axis=0), points.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    at = np.minimum(((points - low) / span * n).astype(np.int64), n - 1)
    ends = (float(low[0]), float(low[0] + span[0]), float(low[1]), float(low[1] + span[1]))
    return at[:, 1] * n + at[:, 0], ends


def _shown(
    ax: Axes, colour: NDArray[np.float64], alpha: NDArray[np.float64], ends: Any, n: int
) -> None:
    image = np.dstack([colour.reshape(n, n, 3), alpha.reshape(n, n, 1)])
    ax.imshow(image, origin="lower", extent=ends, aspect="auto", interpolation="nearest")


def _bin_types(
    ax: Axes, points: NDArray[np.float64], codes: NDArray[np.int64], shades: list[str], n: int
) -> None:
    from matplotlib.colors import to_rgb

    bins, ends = _bins(points, n)
    n_types = len(shades) + 1
    pairs, sizes = np.unique(bins * n_types + (codes + 1), return_counts=True)
    place, of = pairs // n_types, pairs % n_types
    order = np.lexsort((sizes, place))  # the commonest of a bin comes last, and stays
    best = np.zeros(n * n, dtype=np.int64)
    best[place[order]] = of[order]
    table = np.array([to_rgb(GREY), *(to_rgb(s) for s in shades)])
    counts = np.bincount(bins, minlength=n * n)
    # Paler where there are fewer cells.
    alpha = 0.35 + 0.65 * np.log1p(counts) / np.log1p(counts.max(initial=1))
    _shown(ax, table[best], np.where(counts > 0, alpha, 0.0), ends, n)


def _draw_numbers(
    ax: Axes,
    points: NDArray[np.float64],
    numbers: NDArray[np.float64],
    n: int,
    label: str,
    limits: tuple[float, float] | None,
    *,
    counted: bool = False,
) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize, to_rgb

    bins, ends = _bins(points, n)
    counts = np.bincount(bins, minlength=n * n)
    known = np.isfinite(numbers)
    n_known = np.bincount(bins[known], minlength=n * n)
    sums = np.bincount(bins[known], weights=numbers[known], minlength=n * n)
    means = sums if counted else sums / np.maximum(n_known, 1)
    low, high = limits or (1.0, max(float(counts.max(initial=1)), 2.0))
    norm: Normalize = LogNorm(low, high) if counted else Normalize(low, high, clip=True)
    colour = colormaps["viridis"](norm(np.maximum(means, low) if counted else means))[:, :3]
    colour[n_known == 0] = to_rgb(GREY)
    _shown(ax, np.asarray(colour), (counts > 0).astype(float), ends, n)
    ax.figure.colorbar(ScalarMappable(norm, "viridis"), ax=ax, label=short(label, 60))


def _legend(
    ax: Axes, codes: NDArray[np.int64], types: list[str], shades: Mapping[str, str]
) -> None:
    from matplotlib.lines import Line2D

    sizes = np.bincount(codes[codes >= 0], minlength=len(types))
    marks = [
        Line2D([], [], ls="", marker="o", color=shades[t], label=f"{short(t)} ({n:,})")
        for t, n in zip(types[:NAMED], sizes, strict=False)
    ]
    more, lost = len(types) - NAMED, int((codes < 0).sum())
    if more > 0:
        text = f"and {more:,} more types ({int(sizes[NAMED:].sum()):,})"
        marks.append(Line2D([], [], ls="", marker="", label=text))
    if lost:
        marks.append(Line2D([], [], ls="", marker="o", color=GREY, label=f"not known ({lost:,})"))
    if marks:
        ax.legend(
            handles=marks, fontsize=7 if len(marks) > 12 else 8, frameon=False,
            loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=1 + (len(marks) > 18),
        )  # fmt: skip
