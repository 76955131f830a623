"""Confusion of true and called labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike


def confusion(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    labels: list[str] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the share of every true class that was called each class.

    Parameters
    ----------
    y_true, y_pred
        Labels, shape (n_cells,).
    labels
        Order of rows and columns; default the classes of either, by size in ``y_true``.
    ax
        Where to draw; a new figure of fitting size otherwise.
    title
        Text above.

    Returns
    -------
    The axes. Rows sum to one; the number of true cells stands beside each class name; a cell holds
    its percentage where there is room.
    """
    import matplotlib.pyplot as plt

    truth, called = np.asarray(y_true, dtype=object), np.asarray(y_pred, dtype=object)
    labels = labels or _by_size(truth, called)
    counts = _counts(truth, called, labels)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    n = len(labels)
    if ax is None:
        side = float(np.clip(0.45 * n + 3.0, 4.0, 24.0))
        ax = plt.subplots(figsize=(side + 1.0, side), layout="constrained")[1]
    image = ax.imshow(shares, vmin=0.0, vmax=1.0, cmap="cividis", aspect="equal")
    size = float(np.clip(160 / max(n, 1), 4, 10))
    ax.set_xticks(range(n), [_short(x) for x in labels], rotation=90, fontsize=size)
    rows = [f"{_short(x)} ({c:,})" for x, c in zip(labels, counts.sum(axis=1), strict=True)]
    ax.set_yticks(range(n), rows, fontsize=size)
    ax.set_xlabel("called")
    ax.set_ylabel("true (cells)")
    if title:
        ax.set_title(title)
    if n <= 25:
        _write_shares(ax, shares, size)
    ax.figure.colorbar(image, ax=ax, label="share of the true class", shrink=0.8)
    return ax


def _by_size(truth: np.ndarray, called: np.ndarray) -> list[str]:
    names, sizes = np.unique(truth.astype(str), return_counts=True)
    order = [str(x) for x in names[np.argsort(-sizes, kind="stable")]]
    return order + sorted(set(called.astype(str)) - set(order))


def _counts(truth: np.ndarray, called: np.ndarray, labels: list[str]) -> np.ndarray:
    index = {x: i for i, x in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    for t, c in zip(truth.astype(str), called.astype(str), strict=True):
        counts[index[t], index[c]] += 1
    return counts


def _write_shares(ax: Axes, shares: np.ndarray, size: float) -> None:
    for (i, j), share in np.ndenumerate(shares):
        if share >= 0.005:
            colour = "black" if share > 0.6 else "white"
            ax.text(
                j, i, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=size
            )


def _short(name: str, limit: int = 32) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"
