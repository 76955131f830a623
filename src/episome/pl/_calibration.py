"""How far confidence is to be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from episome.metrics import risk_coverage as _risk_coverage
from episome.pl._axes import axes_for, finished
from episome.pl._colours import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

#: Points of a curve that are drawn.
POINTS = 600


def reliability(
    bins: Mapping[str, Sequence[float]],
    *,
    before: Mapping[str, Sequence[float]] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw how often calls of every confidence are right.

    Parameters
    ----------
    bins
        ``confidence``, ``accuracy`` and ``n_cells`` of every bin, as ``episome.confidence.\
reliability`` returns them, and model folders and ``episome evaluate`` keep them.
    before
        The same before calibration.
    ax, title, save
        Where to draw, a new figure otherwise; text above; file, ``.svg`` or ``.png``, which must
        not exist.

    Returns
    -------
    The axes. Points on the diagonal are as sure as they are right; below it they are too sure. The
    number of cells stands beside every bin.
    """
    ax = axes_for(ax, 5.2, 4.6)
    ax.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls="--", label="as sure as right")
    if before is not None:
        _line(ax, before, COLOURS[1], "before calibration", "s", counted=False)
    name = "calls" if before is None else "after calibration"
    _line(ax, bins, COLOURS[0], name, "o", counted=True)
    ax.set_xlim(0, 1.02)
    ax.set_ylim(0, 1.06)
    ax.set_xlabel("mean confidence of the bin")
    ax.set_ylabel("share of right calls")
    ax.grid(lw=0.4, alpha=0.5)
    ax.legend(fontsize=8, loc="upper left", frameon=False)
    return finished(ax, title, save)


def _line(
    ax: Axes,
    bins: Mapping[str, Sequence[float]],
    colour: str,
    name: str,
    mark: str,
    *,
    counted: bool,
) -> None:
    found = [np.asarray(bins[k], dtype=float) for k in ("confidence", "accuracy", "n_cells")]
    sure, right, n = (v[np.isfinite(found[0]) & np.isfinite(found[1])] for v in found)
    ax.plot(sure, right, "-", color=colour, lw=1.2, marker=mark, ms=4, label=name)
    if not counted:
        return
    last = -1.0
    for x, y, k in zip(sure, right, n, strict=True):
        if x - last < 0.055:  # there is no room
            continue
        last = x
        ax.annotate(
            f"n={k:,.0f}", (x, y), (3, -9), textcoords="offset points", fontsize=6, color="0.25"
        )


def risk_coverage(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    threshold: float | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw how many calls are wrong among those that are kept, the surest first.

    Parameters
    ----------
    confidence, correct, weights
        As for ``episome.metrics.risk_coverage``.
    threshold
        Confidence that was chosen; marked where it cuts the curve.
    ax, title, save
        Where to draw, a new figure otherwise; text above; file, ``.svg`` or ``.png``, which must
        not exist.

    Returns
    -------
    The axes.
    """
    kept, wrong, at = _risk_coverage(confidence, correct, weights=weights)
    ax = axes_for(ax, 5.2, 4.0)
    if len(kept):
        some = np.unique(np.linspace(0, len(kept) - 1, min(len(kept), POINTS)).astype(int))
        ax.plot(kept[some], wrong[some], color=COLOURS[0], lw=1.4, label="wrong among those kept")
        overall = f"wrong among all: {wrong[-1]:.1%}"
        ax.axhline(wrong[-1], color="0.6", lw=0.8, ls="--", label=overall)
    if threshold is not None and len(kept):
        n = int((at >= threshold).sum())
        x, y = (0.0, 0.0) if n == 0 else (kept[n - 1], wrong[n - 1])
        said = f"confidence from {threshold:g}: {x:.0%} kept, {y:.1%} wrong"
        ax.plot([x], [y], "D", color=COLOURS[4], ms=7, label=said)
        ax.axvline(x, color=COLOURS[4], lw=0.6, ls=":")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, max(float(wrong.max(initial=0.0)) * 1.45, 0.01))
    ax.set_xlabel("share of the calls that are kept")
    ax.set_ylabel("share of wrong calls")
    ax.grid(lw=0.4, alpha=0.5)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, frameon=False, loc="upper left")
    return finished(ax, title, save)
