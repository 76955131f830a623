"""How training went, and how a query differs from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome.errors import UsageError
from episome.pl._axes import axes_for, finished, panels, short
from episome.pl._colours import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Classes that are drawn of a shift.
MOST = 25
#: What training goes by unless told otherwise (``episome.train``), the first that there is.
MONITORS = ("validation_f1_macro", "validation_loss")


def training_curves(
    history: Mapping[str, Any] | pd.DataFrame,
    *,
    monitor: str | None = None,
    best: int | None = None,
    resumed: Sequence[int] = (),
    ax: Axes | None = None,
    title: str | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw losses, scores and the learning rate of every epoch.

    Parameters
    ----------
    history
        ``model.history``, or columns of a folder's ``history.csv``: name -> values by epoch.
        Columns with ``loss`` are drawn together, so are learning rates (``lr``), and the others.
    monitor
        Column by which the best epoch was chosen; default what training goes by unless told
        otherwise: ``validation_f1_macro`` where there is one, else ``validation_loss``.
    best
        The best epoch, from 0; default by ``monitor``: the least loss, or the largest score.
    resumed
        Epochs at which training went on after it was stopped.
    ax, title, save
        Where to draw, a new figure otherwise; text above; file, ``.svg`` or ``.png``, which must
        not exist.

    Returns
    -------
    The axes; the panels are its ``child_axes``, one above the other.

    Raises
    ------
    UsageError
        There is nothing to draw (E-U131).
    """
    lines = {
        n: v for n, v in _lines(history).items() if n != "epoch" and np.isfinite(v.values).any()
    }
    groups: dict[str, list[str]] = {"loss": [], "score": [], "learning rate": []}
    for name in lines:
        groups[_kind(name)].append(name)
    shown = {k: v for k, v in groups.items() if v}
    if not shown:
        raise UsageError(
            "E-U131", "the history is empty", where="history", fix="pass that of a trained model"
        )
    best = _best(lines, monitor) if best is None else best
    ax = axes_for(ax, 6.4, 2.1 * len(shown) + 0.6)
    found = panels(ax, len(shown), room=0.12)
    for panel, (kind, names) in zip(found, shown.items(), strict=True):
        for i, name in enumerate(names):
            line = lines[name].dropna()
            one = len(line) == 1
            panel.plot(
                line.index, line, "o" if one else "-", lw=1.2, ms=4, label=short(name, 40),
                color=COLOURS[i % (len(COLOURS) - 1)],
            )  # fmt: skip
        for epoch in resumed:
            panel.axvline(epoch, color="0.5", lw=0.8, ls=":")
        if best is not None:
            panel.axvline(best, color=COLOURS[4], lw=0.9, ls="--")
        if kind == "learning rate":
            panel.set_yscale("log")
        panel.set_ylabel(kind)
        panel.grid(lw=0.4, alpha=0.5)
        panel.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        panel.sharex(found[0])
        if panel is not found[-1]:
            panel.tick_params(labelbottom=False)
    said = "epoch"
    if best is not None:
        said += f" (dashed: the best, {best})"
    if resumed:
        said += " (dotted: resumed)"
    found[-1].set_xlabel(said)
    return finished(ax, title, save)


def _lines(history: Mapping[str, Any] | pd.DataFrame) -> dict[str, pd.Series]:
    """Return every column by epoch; columns of one name in a frame of one column are that."""
    found = {}
    for name in history:
        values = history[name]
        if isinstance(values, pd.DataFrame):
            values = values.iloc[:, 0]
        if not isinstance(values, pd.Series):
            values = pd.Series(list(values))
        found[str(name)] = pd.to_numeric(values, errors="coerce")
    return found


def _kind(name: str) -> str:
    words = name.lower().replace("-", "_").split("_")
    if "lr" in words or name.lower().startswith("learning"):
        return "learning rate"
    return "loss" if "loss" in name.lower() or "elbo" in words else "score"


def _best(lines: Mapping[str, pd.Series], monitor: str | None) -> int | None:
    name = monitor or next((n for n in MONITORS if n in lines), None)
    if name is None or name not in lines or len(lines[name].dropna()) < 2:
        return None
    line = lines[name].dropna()
    return int(line.idxmin() if _kind(name) == "loss" else line.idxmax())


def shift(
    report: Any,
    *,
    most: int = MOST,
    ax: Axes | None = None,
    title: str | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw how a query differs from the training cells, and what that costs.

    Parameters
    ----------
    report
        ``episome.inference.ShiftReport``, or its ``to_json()``: genes that are missing, depth,
        composition and novelty with the accuracy that each costs, and the shares of the classes.
    most
        Classes that are drawn, the most different.
    ax, title, save
        Where to draw, a new figure otherwise; text above; file, ``.svg`` or ``.png``, which must
        not exist.

    Returns
    -------
    The axes; its ``child_axes`` are accuracy with its losses, and shares of the classes.
    """
    facts = report if isinstance(report, Mapping) else report.to_json()
    classes = pd.DataFrame(facts["classes"])
    moved = (classes["query"] - classes["reference"]).abs()
    classes = classes.loc[moved.sort_values(ascending=False, kind="stable").index[:most]]
    classes = classes.sort_values("reference", ascending=False, kind="stable")
    n = len(classes)
    ax = axes_for(ax, 7.0, float(np.clip(2.6 + 0.24 * n, 3.6, 12.0)))
    ax.set_axis_off()
    top = float(np.clip(1.1 / (1.6 + 0.24 * n), 0.14, 0.4))
    _losses(ax.inset_axes((0.0, 1 - top, 1.0, top)), facts)
    _shares(ax.inset_axes((0.0, 0.0, 1.0, 1 - top - min(0.9 * top, 0.24))), classes)
    return finished(ax, title, save)


def _losses(panel: Axes, facts: Mapping[str, Any]) -> None:
    """Draw accuracy on calibration cells, what each part costs, and what is left to expect."""
    names = ["calibration cells", *(p["part"] for p in facts["parts"]), "to expect here"]
    costs = [p["cost"] for p in facts["parts"]]
    at = float(facts["accuracy"])
    panel.bar(0, at, color=COLOURS[0])
    for i, cost in enumerate(costs, start=1):
        if cost is None or not np.isfinite(cost):
            panel.text(i, at, "not known", ha="center", va="bottom", fontsize=7, color="0.35")
            continue
        panel.bar(i, -cost, bottom=at, color=COLOURS[4] if cost > 0 else COLOURS[2])
        said = f"{-cost:+.2f}" if abs(cost) >= 0.005 else "0"
        panel.text(i, at, said, ha="center", va="bottom", fontsize=7)
        at = min(max(at - cost, 0.0), 1.0)
    panel.bar(len(names) - 1, facts["expected"], color=COLOURS[5])
    for i, value in ((0, facts["accuracy"]), (len(names) - 1, facts["expected"])):
        panel.text(i, value, f"{value:.2f}", ha="center", va="bottom", fontsize=7)
    panel.set_xticks(range(len(names)), names, fontsize=8)
    panel.set_ylim(0, 1.15)
    panel.set_ylabel("accuracy")


def _shares(panel: Axes, classes: pd.DataFrame) -> None:
    at = np.arange(len(classes))
    for name, move, colour in (("reference", -0.2, COLOURS[0]), ("query", 0.2, COLOURS[1])):
        values = classes[name].to_numpy(dtype=float)
        panel.barh(at + move, values, 0.4, color=colour, label=name)
    panel.set_yticks(at, [short(c) for c in classes["class"]], fontsize=7)
    panel.invert_yaxis()
    panel.set_xlabel("share of the cells")
    panel.legend(fontsize=7, frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 0.99))
