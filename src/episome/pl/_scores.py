"""Scores by class, values against values, and what was found of labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from episome.errors import UsageError
from episome.pl._axes import axes_for, finished, short
from episome.pl._colours import COLOURS, GREY, palette_of, types_of
from episome.pl._embedding import embedding, map_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

#: Classes whose names are written, worst first.
NAMED = 12
#: Values from which on they are drawn as bins.
MANY = 2_000


def f1_abundance(
    classes: pd.DataFrame,
    *,
    palette: Mapping[str, str] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the F1 of every class against its number of cells.

    Parameters
    ----------
    classes
        Of ``episome.metrics.class_table`` or ``episome evaluate``: a row per class, ``f1`` and
        ``n_true``, with ``f1_low`` and ``f1_high`` also intervals, with ``in_training`` also which
        classes the model does not have. Names are the index, or ``class``.
    palette
        Type -> colour; default :func:`colours`.
    ax, title, save
        Where to draw, a new figure otherwise; text above; file, ``.svg`` or ``.png``, which must
        not exist.

    Returns
    -------
    The axes. The worst classes are named.
    """
    table = classes.set_index("class") if "class" in classes else classes
    table = table[(table["n_true"] > 0) & np.isfinite(table["f1"].astype(float))]
    names = [str(n) for n in table.index]
    x, y = table["n_true"].to_numpy(dtype=float), table["f1"].to_numpy(dtype=float)
    ax = axes_for(ax, 7.0, 4.2)
    shades = palette_of(names, palette)
    if {"f1_low", "f1_high"} <= set(table.columns):
        low, high = (table[c].to_numpy(dtype=float) for c in ("f1_low", "f1_high"))
        spread = np.nan_to_num([y - low, high - y]).clip(min=0)
        ax.errorbar(x, y, yerr=spread, fmt="none", ecolor="0.7", elinewidth=0.8, zorder=1)
    known = table["in_training"].to_numpy(dtype=bool) if "in_training" in table else y == y
    for mark, of, text in (("o", known, ""), ("x", ~known, "no class of the model")):
        if of.any():
            colour = [shades[n] for n, k in zip(names, of, strict=True) if k]
            ax.scatter(x[of], y[of], c=colour, marker=mark, s=28, zorder=2, label=text or None)
    if not known.all():
        ax.legend(fontsize=8, frameon=False, loc="lower right")
    _name_worst(ax, names, x, y)
    ax.set_xscale("log")
    if len(x):
        room = 1.6 if x.max() > 10 * x.min() else 4.0
        ax.set_xlim(x.min() / room, x.max() * room)
    _plain_numbers(ax)
    ax.set_ylim(-0.03, 1.03)
    ax.set_xlabel("cells of the class")
    ax.set_ylabel("F1 of the class")
    ax.grid(lw=0.4, alpha=0.5)
    return finished(ax, title, save)


def _name_worst(
    ax: Axes, names: list[str], x: NDArray[np.float64], y: NDArray[np.float64]
) -> None:
    """Write the names of the worst classes; none is closer than a line to another."""
    lowest = -1.0
    for i in np.argsort(y, kind="stable")[:NAMED]:
        right = bool(x[i] > np.sqrt(x.min() * x.max()))
        at = lowest = max(float(y[i]), lowest + 0.042)
        ax.annotate(
            short(names[i], 26), (x[i], y[i]), (-7 if right else 7, 190 * (at - y[i])), fontsize=7,
            va="center", textcoords="offset points", ha="right" if right else "left",
        )  # fmt: skip


def _plain_numbers(ax: Axes) -> None:
    """Write numbers of cells as numbers along a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = ax.get_xlim()
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 3) if high < 300 * low else (1,)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 1 else ""))
    ax.xaxis.set_minor_formatter(NullFormatter())


def predicted_true(
    true: ArrayLike,
    predicted: ArrayLike,
    *,
    bins: int = 120,
    many: int = MANY,
    label: str = "",
    ax: Axes | None = None,
    title: str | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw predicted against true values, such as imputed genes or another modality.

    Parameters
    ----------
    true, predicted
        Values of one shape; pairs with NaN are left out.
    bins, many
        Bins of a side, and pairs above which bins are drawn, each as dark as the logarithm of its
        number of pairs.
    label
        What the values are, with their unit.
    ax, title, save
        Where to draw, a new figure otherwise; text above; file, ``.svg`` or ``.png``, which must
        not exist.

    Returns
    -------
    The axes, with the line of equal values, Pearson's correlation and the number of pairs.

    Raises
    ------
    UsageError
        The shapes differ (E-U131).
    """
    x, y = np.asarray(true, dtype=float), np.asarray(predicted, dtype=float)
    if x.shape != y.shape:
        raise UsageError(
            "E-U131",
            f"true values are of shape {x.shape}, predicted ones of {y.shape}",
            fix="pass values of the same cells and features",
        )
    x, y = x.ravel(), y.ravel()
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good], y[good]
    ax = axes_for(ax, 5.4, 4.6)
    if len(x) > many:
        drawn = ax.hist2d(x, y, bins=bins, norm="log", cmap="cividis_r", rasterized=True)[3]
        ax.figure.colorbar(drawn, ax=ax, label="pairs")
    else:
        ax.scatter(x, y, s=12, color=COLOURS[0], alpha=0.5, linewidths=0)
    if len(x):
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        ax.plot([low, high], [low, high], color=COLOURS[4], lw=1.0, ls="--")
    varies = len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0
    r = f"r = {np.corrcoef(x, y)[0, 1]:.3f}" if varies else "r not defined"
    ax.text(0.03, 0.97, f"{r}, n = {len(x):,}", transform=ax.transAxes, va="top", fontsize=9)
    end = f" {short(label, 60)}" if label else ""
    ax.set_xlabel(f"true{end}")
    ax.set_ylabel(f"predicted{end}")
    return finished(ax, title, save)


def audit_map(
    adata: AnnData | ArrayLike,
    audit: pd.DataFrame | None = None,
    *,
    color: Literal["suggested", "score"] = "suggested",
    prefix: str = "audit_",
    basis: str | None = None,
    palette: Mapping[str, str] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the cells whose label looks wrong on a map, above all others in grey.

    Parameters
    ----------
    adata
        As for :func:`embedding`.
    audit
        Table of ``episome.models.audit`` or ``episome audit``, a row per cell in the order of the
        cells; default the columns that ``episome audit -o audited.h5ad`` added to ``obs``.
    color
        ``"suggested"``: doubted cells by the type that they look like; ``"score"``: all cells by
        how likely their label is wrong.
    prefix
        Of the columns of ``obs``.
    basis, palette
        As for :func:`embedding`.
    ax, title, save
        Where to draw, a new figure otherwise; text above; file, ``.svg`` or ``.png``, which must
        not exist.

    Returns
    -------
    The axes.

    Raises
    ------
    UsageError
        There is no result of an audit (E-U131), or no map (E-U130).
    """
    table = _audited(adata, audit, prefix)
    if color == "score":
        values: NDArray[np.generic] | pd.Series = table["score"].to_numpy(dtype=float)
        ax = embedding(adata, color=values, basis=basis, ax=ax)
        ax.figure.axes[-1].set_ylabel("how likely the label is wrong")
        return finished(ax, title, save)
    # Cells that were not judged have no verdict, and a table may hold it as a text.
    wrong = (table["wrong"].astype(str) == "True").to_numpy()
    suggested = table["suggested"].to_numpy(dtype=object)
    types = types_of(suggested[wrong])[1]
    shades = {**palette_of(types, palette), _FINE: "#dddddd"}
    shown = np.where(wrong, suggested, _FINE)
    # Bins show what most cells are: few doubted ones would drown, so they are always points.
    ax = embedding(adata, color=np.full(len(shown), _FINE), palette=shades, basis=basis, ax=ax)
    points = map_of(adata, basis)[0]
    size = float(np.clip(30_000 / max(int(wrong.sum()), 1), 2, 30))
    for name in types:
        of = shown == name
        x, y = points[of].T
        ax.scatter(
            x, y, color=shades.get(name, GREY), s=size, linewidths=0.2,
            edgecolors="black", rasterized=True, label=f"{short(name)} ({int(of.sum()):,})",
        )  # fmt: skip
    ax.scatter([], [], color="#dddddd", label=f"{_FINE} ({int((~wrong).sum()):,})")
    ax.legend(
        title="looks like", fontsize=7, title_fontsize=8, frameon=False, loc="center left",
        bbox_to_anchor=(1.0, 0.5), ncols=1 + (len(types) > 18),
    )  # fmt: skip
    return finished(ax, title, save)


_FINE = "not doubted"


def _audited(adata: AnnData | ArrayLike, audit: pd.DataFrame | None, prefix: str) -> pd.DataFrame:
    table = audit
    if table is None and hasattr(adata, "obs"):
        own = [c for c in adata.obs.columns if str(c).startswith(prefix)]
        table = adata.obs[own].rename(columns=lambda c: str(c).removeprefix(prefix))
    if table is None or not {"suggested", "wrong", "score"} <= set(table.columns):
        raise UsageError(
            "E-U131",
            "there is no result of an audit",
            where="adata.obs" if audit is None else "audit",
            fix="run episome.models.audit or `episome audit`, and pass its table of cells",
        )
    return table
