"""Confusion of true and called labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from episome.errors import UsageError
from episome.ontology import broader_names, cell_ontology, tree_order
from episome.pl._axes import axes_for, finished, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

#: Classes up to which numbers are written, and up to which all names are.
WRITTEN, NAMED = 25, 120


def confusion(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    labels: list[str] | None = None,
    order: Literal["size", "ontology"] = "size",
    level: float | None = None,
    normalize: bool = True,
    terms: Mapping[str, str] | None = None,
    weights: ArrayLike | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the share of every true class that was called each class.

    Parameters
    ----------
    y_true, y_pred
        Labels, shape (n_cells,); missing ones are ``"not known"``.
    labels
        Order of rows and columns, all labels among them; default that of ``order``.
    order
        ``"size"``: by size in ``y_true``; ``"ontology"``: kinds of one type stand together, as in
        the tree of the Cell Ontology.
    level
        Largest information content of the types, from 0 to 100: labels are replaced by broader
        types, see ``episome.ontology.broader_names``.
    normalize
        Shares of the true class; else numbers of cells.
    terms
        Label -> identifier of its term, for ``order`` and ``level``; default they are looked for
        by name in the bundled ontology.
    weights
        Number of cells that an entry stands for, (n_cells,); default 1.
    ax, title, save
        Where to draw, a new figure of fitting size otherwise; text above; file, ``.svg`` or
        ``.png``, which must not exist.

    Returns
    -------
    The axes. Rows sum to one; the number of true cells stands beside each class name; a cell holds
    its percentage, or number, where there is room.

    Raises
    ------
    UsageError
        ``order`` is none, or ``labels`` lacks some (E-U30).
    """
    if order not in {"size", "ontology"}:
        raise UsageError("E-U30", f"order={order!r} is unknown", fix='"size" or "ontology"')
    truth, called = _texts(y_true), _texts(y_pred)
    n_cells = np.ones(len(truth)) if weights is None else np.asarray(weights, dtype=float)
    if level is not None or order == "ontology":
        known = _terms(truth, called, terms or {})
        if level is not None:
            broad = broader_names(known, max_information=level)
            truth, called = (
                np.array([broad[x] for x in v], dtype=object) for v in (truth, called)
            )
            known = {b: known.get(b, "") or _term(b) for b in set(broad.values())}
    if labels is None:
        labels = _by_size(truth, called, n_cells)
        if order == "ontology":
            labels = tree_order({name: known[name] for name in labels})
    elif missing := sorted({*truth, *called} - set(labels)):
        raise UsageError(
            "E-U30", "labels= lacks labels of the cells", examples=missing, count=len(missing),
            total=len({*truth, *called}), fix="give all, or leave it out",
        )  # fmt: skip
    counts = _counts(truth, called, labels, n_cells)
    return finished(_draw(counts, labels, ax, normalize=normalize), title, save)


def _texts(values: ArrayLike) -> NDArray[np.object_]:
    found = np.asarray(values, dtype=object)
    return np.array(["not known" if x is None or x != x else str(x) for x in found], dtype=object)


def _terms(
    truth: NDArray[np.object_], called: NDArray[np.object_], terms: Mapping[str, str]
) -> dict[str, str]:
    names = sorted({*truth, *called})
    given = [terms.get(n) or "" for n in names]
    found = cell_ontology().resolve(names, term_ids=given).term_ids
    return dict(zip(names, found, strict=True))


def _term(name: str) -> str:
    return str(cell_ontology().resolve([name]).term_ids[0])


def _by_size(
    truth: NDArray[np.object_], called: NDArray[np.object_], weights: NDArray[np.float64]
) -> list[str]:
    names, at = np.unique(truth.astype(str), return_inverse=True)
    sizes = np.bincount(at, weights=weights, minlength=len(names))
    order = [str(x) for x in names[np.argsort(-sizes, kind="stable")]]
    return order + sorted({str(x) for x in called} - set(order))


def _counts(
    truth: NDArray[np.object_],
    called: NDArray[np.object_],
    labels: list[str],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    index, n = {x: i for i, x in enumerate(labels)}, len(labels)
    rows = np.array([index[t] for t in truth], dtype=np.int64)
    columns = np.array([index[c] for c in called], dtype=np.int64)
    counts = np.bincount(rows * n + columns, weights=weights, minlength=n * n)
    return counts.astype(np.float64).reshape(n, n)


def _draw(
    counts: NDArray[np.float64], labels: list[str], ax: Axes | None, *, normalize: bool
) -> Axes:
    n, totals = len(labels), counts.sum(axis=1)
    values = counts / np.maximum(totals[:, None], 1) if normalize else counts
    most = 1.0 if normalize else max(float(counts.max(initial=0)), 1.0)
    side = float(np.clip(0.45 * n + 3.0, 4.0, 24.0))
    ax = axes_for(ax, side + 1.0, side)
    image = ax.imshow(values, vmin=0.0, vmax=most, cmap="cividis", aspect="equal")
    size = float(np.clip(160 / max(n, 1), 4, 10))
    shown = range(0, n, -(-n // NAMED) if n > NAMED else 1)
    ax.set_xticks(shown, [short(labels[i]) for i in shown], rotation=90, fontsize=size)
    rows = [f"{short(labels[i])} ({totals[i]:,.0f})" for i in shown]
    ax.set_yticks(shown, rows, fontsize=size)
    ax.set_xlabel("called")
    ax.set_ylabel("true (cells)")
    if n <= WRITTEN:
        _write(ax, values, most, size, share=normalize)
    label = "share of the true class" if normalize else "cells"
    ax.figure.colorbar(image, ax=ax, label=label, shrink=0.8)
    return ax


def _write(
    ax: Axes, values: NDArray[np.float64], most: float, size: float, *, share: bool
) -> None:
    for (i, j), value in np.ndenumerate(values):
        if value >= (0.005 if share else 0.5):
            colour = "black" if value > 0.6 * most else "white"
            text = f"{100 * value:.0f}" if share else f"{value:,.0f}"
            ax.text(j, i, text, ha="center", va="center", color=colour, fontsize=size)
