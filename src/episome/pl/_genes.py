"""The genes behind classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome.errors import UsageError
from episome.pl._axes import axes_for, finished, panels, short
from episome.pl._colours import COLOURS, types_of

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

#: Cells that are read at once, and genes and panels that are drawn at most.
BLOCK, MOST_GENES, MOST_CLASSES = 20_000, 80, 24


def dotplot(
    adata: AnnData,
    genes: pd.DataFrame | Mapping[str, Sequence[str]] | Sequence[str],
    *,
    groupby: str | ArrayLike | pd.Series = "episome_label",
    top: int = 3,
    layer: str | None = None,
    log: bool | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw how many cells of every class express genes, and how much.

    Parameters
    ----------
    adata
        Cells; read in blocks.
    genes
        Table of genes of every class (``model.top_genes``, ``episome explain``), mapping class ->
        genes, or genes. Genes that the cells lack are left out.
    groupby
        Column of ``obs``, or class of every cell, (n_cells,).
    top
        Genes of every class of a table.
    layer
        Where values are; default ``X``.
    log
        Scale counts to 10,000 a cell and take ``log1p``; default where the values are whole
        numbers.
    ax, title, save
        Where to draw, a new figure of fitting size otherwise; text above; file, ``.svg`` or
        ``.png``, which must not exist.

    Returns
    -------
    The axes. Dots are as large as the share of the cells that express the gene, and as dark as its
    mean over the cells of the class.

    Raises
    ------
    UsageError
        No gene is there, or no such column (E-U131).
    """
    names, columns = _columns(adata, _listed(genes, top))
    codes, classes = types_of(_groups(adata, groupby))
    share, mean, logged = _expression(adata, columns, codes, len(classes), layer, log=log)
    n_rows, n_columns = share.shape
    ax = axes_for(
        ax,
        float(np.clip(0.24 * n_columns + 3.5, 4.5, 22.0)),
        float(np.clip(0.28 * n_rows + 2.0, 3.0, 22.0)),
    )
    # flat: matplotlib takes a table of three or four columns for colours
    x, y = (part.ravel() for part in np.meshgrid(range(n_columns), range(n_rows)))
    share, mean = share.ravel(), mean.ravel()
    room = float(np.clip(2400 / max(n_rows, n_columns, 12), 12, 130))
    drawn = ax.scatter(
        x, y, s=room * share, c=mean, cmap="cividis_r", vmin=0, edgecolors="0.4", linewidths=0.3
    )
    size = float(np.clip(300 / max(n_columns, n_rows, 1), 4, 9))
    ax.set_xticks(range(n_columns), names, rotation=90, fontsize=size)
    sizes = np.bincount(codes[codes >= 0], minlength=n_rows)
    rows = [f"{short(c)} ({n:,})" for c, n in zip(classes, sizes, strict=True)]
    ax.set_yticks(range(n_rows), rows, fontsize=size)
    ax.set_xlim(-0.8, n_columns - 0.2)
    ax.set_ylim(n_rows - 0.2, -0.8)
    label = "mean of log1p\n(counts per 10,000)" if logged else "mean value"
    ax.figure.colorbar(drawn, ax=ax, label=label)
    for part in (0.25, 0.5, 1.0):
        ax.scatter([], [], s=room * part, c="0.5", edgecolors="0.4", label=f"{part:.0%}")
    ax.legend(
        title="cells that express", fontsize=7, title_fontsize=7, ncols=3, frameon=False,
        loc="lower center", bbox_to_anchor=(0.5, 1.0), labelspacing=1.2,
    )  # fmt: skip
    return finished(ax, title, save)


def _listed(genes: Any, top: int) -> list[str]:
    if isinstance(genes, pd.DataFrame):
        first = genes[genes["rank"] <= top] if "rank" in genes else genes
        genes = list(first["gene"])
    elif isinstance(genes, Mapping):
        genes = [g for of in genes.values() for g in list(of)[:top]]
    return list(dict.fromkeys(str(g) for g in genes))[:MOST_GENES]


def _columns(adata: AnnData, genes: list[str]) -> tuple[list[str], list[int]]:
    """Return names and places of the genes that are there, by identifier or symbol."""
    ids = {str(n): i for i, n in enumerate(adata.var_names)}
    symbols = dict(ids)
    shown = {i: n for n, i in ids.items()}
    if "feature_name" in adata.var:
        of = adata.var["feature_name"].astype(str)
        symbols = {s: i for i, s in enumerate(of)} | symbols
        shown = dict(enumerate(of))
    found = list(dict.fromkeys(symbols[g] for g in genes if g in symbols))
    if not found:
        raise UsageError(
            "E-U131",
            "no gene is in the data",
            where="genes",
            count=0,
            total=len(genes),
            examples=genes[:3],
            fix="pass genes as var_names or var['feature_name'] name them",
        )
    return [short(shown[i], 18) for i in found], found


def _groups(adata: AnnData, groupby: Any) -> Any:
    if not isinstance(groupby, str):
        return groupby
    if groupby not in adata.obs:
        raise UsageError(
            "E-U131",
            f"there is no column {groupby!r}",
            where="groupby",
            examples=list(adata.obs.columns)[:5],
            fix="pass a column of obs, or one class of every cell",
        )
    return adata.obs[groupby]


def _expression(
    adata: AnnData,
    columns: list[int],
    codes: NDArray[np.int64],
    n_classes: int,
    layer: str | None,
    *,
    log: bool | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """Return the share of cells with each gene and its mean, by class; and whether of logs."""
    from scipy import sparse

    matrix: Any = adata.X if layer is None else adata.layers[layer]
    n_with, total = np.zeros((n_classes, len(columns))), np.zeros((n_classes, len(columns)))
    for start in range(0, len(codes), BLOCK):
        rows = sparse.csr_matrix(matrix[start : start + BLOCK]).astype(np.float64)
        if log is None:
            log = bool(np.array_equal(rows.data, np.rint(rows.data)))
        wanted = rows[:, columns].toarray()
        if log:
            depth = np.asarray(rows.sum(axis=1)).ravel()
            wanted = np.log1p(1e4 * wanted / np.maximum(depth, 1e-12)[:, None])
        of = codes[start : start + BLOCK]
        wanted = np.nan_to_num(wanted[of >= 0])
        np.add.at(n_with, of[of >= 0], wanted > 0)
        np.add.at(total, of[of >= 0], wanted)
    sizes = np.maximum(np.bincount(codes[codes >= 0], minlength=n_classes), 1)[:, None]
    return n_with / sizes, total / sizes, bool(log)


def gene_importance(
    genes: pd.DataFrame,
    *,
    top: int = 8,
    classes: Sequence[str] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the genes that count most for every class, with their sign.

    Parameters
    ----------
    genes
        Columns ``group`` and ``gene`` (or ``gene_name``), and ``score`` (of ``model.top_genes``)
        or ``share`` (of ``GeneImportance.top``); with ``low`` and ``high``, or ``sd``, how far
        it moves between seeds is drawn.
    top
        Genes of every class, by the size of their score.
    classes
        Which, in which order; default all, 24 at most.
    ax, title, save
        Where to draw, a new figure of fitting size otherwise; text above; file, ``.svg`` or
        ``.png``, which must not exist.

    Returns
    -------
    The axes; the panels of the classes are its ``child_axes``. Genes that speak against a class
    point to the left.
    """
    value = "score" if "score" in genes else "share"
    names = list(dict.fromkeys(genes["group"].astype(str))) if classes is None else list(classes)
    names = names[:MOST_CLASSES]
    columns = min(3, max(len(names), 1))
    rows = max(-(-len(names) // columns), 1)
    ax = axes_for(ax, 3.1 * columns + 0.6, (0.17 * top + 0.85) * rows + 0.4)
    found = panels(ax, len(names), columns=columns, room=0.45)
    for i, (panel, name) in enumerate(zip(found, names, strict=True)):
        part = genes[genes["group"].astype(str) == name]
        part = part[np.isfinite(part[value].to_numpy(dtype=float))]
        part = part.iloc[np.argsort(-part[value].abs().to_numpy(), kind="stable")[:top]]
        _bars(panel, part, value)
        panel.set_title(short(name), fontsize=8)
        if i + columns >= len(names):  # the lowest of a column
            words = {"share": "share of the weight", "score": "attribution"}
            panel.set_xlabel(words[value], fontsize=7)
    return finished(ax, title, save)


def _bars(panel: Axes, part: pd.DataFrame, value: str) -> None:
    values = part[value].to_numpy(dtype=float)
    spread = None
    if {"low", "high"} <= set(part.columns):
        spread = np.abs(part[["low", "high"]].to_numpy(dtype=float).T - values)
    elif "sd" in part:
        spread = part["sd"].to_numpy(dtype=float)
    shades = [COLOURS[0] if v >= 0 else COLOURS[4] for v in values]
    panel.barh(range(len(part)), values, color=shades, xerr=spread, error_kw={"lw": 0.8})
    shown = part["gene_name"] if "gene_name" in part else part["gene"]
    panel.set_yticks(range(len(part)), [short(g, 18) for g in shown], fontsize=7)
    panel.invert_yaxis()
    panel.axvline(0, color="0.4", lw=0.6)
    panel.tick_params(axis="x", labelsize=6)
    panel.locator_params(axis="x", nbins=4)
