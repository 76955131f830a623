"""Sections that reports share, each from plain facts; what is not known has no section."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome import pl
from episome.metrics import risk_coverage
from episome.report._page import Code, Figure, Part, Table, Text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Genes of a class in a table and in a picture, classes in a picture, and rows of a table.
GENES, DRAWN_GENES, DRAWN_CLASSES, ROWS = 10, 6, 12, 300
#: Facts of provenance by the words that they have in a report.
_MADE = {
    "created": "made",
    "command": "command",
    "model": "class of the model",
    "plugin": "plugin",
    "model_sha256": "digest of the model (SHA-256)",
    "input_sha256": "digest of the input (SHA-256)",
    "output_sha256": "digest of the output",
    "input_kind": "values",
    "seed": "seed",
    "device": "device",
    "seconds": "seconds",
    "peak_memory": "most memory",
    "python": "Python",
    "platform": "system",
    "ontology_release": "Cell Ontology",
}


def figure(
    draw: Callable[[Axes], object], alternative: str, *, width: float = 6.4, height: float = 3.6
) -> Figure:
    """Return a picture that a function draws; no global state of matplotlib is touched.

    Parameters
    ----------
    draw
        Called with axes.
    alternative
        What it shows, in words.
    width, height
        Inches.
    """
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(width, height), layout="constrained")
    draw(drawing.subplots())
    return Figure(drawing, alternative)


def input_parts(facts: Mapping[str, Any]) -> list[Part]:
    """Say what was found in the input."""
    rows = [
        ("file", facts.get("name")),
        ("cells", facts.get("n_obs")),
        ("genes", facts.get("n_vars")),
        ("values", facts.get("values")),
    ]
    parts: list[Part] = [_pairs(rows)]
    return parts + [Text(str(note)) for note in facts.get("notes") or ()]


def confidence_parts(calls: Mapping[str, Any]) -> list[Part]:
    """Draw the confidence of calls, and say what became of them."""
    n = max(int(calls["n_obs"]), 1)
    counts = calls["histograms"]["confidence"]
    parts: list[Part] = []
    if calls["status"]:
        rows = [{"status": s, "cells": k, "share": k / n} for s, k in calls["status"].items()]
        parts.append(Table(pd.DataFrame(rows), "What became of the calls."))
    parts.append(_histogram(counts, "confidence", n))
    return parts


def novelty_parts(calls: Mapping[str, Any]) -> list[Part]:
    """Draw how unlike the training cells the cells are."""
    counts, n = calls["histograms"]["novelty"], max(int(calls["n_obs"]), 1)
    if not sum(counts):
        return [Text("The model keeps nothing to tell novel cells by.")]
    novel = calls["status"].get("novel", 0)
    said = f"{novel:,} of {n:,} cells ({novel / n:.1%}) are novel: like none of the types."
    return [Text(said), _histogram(counts, "novelty (1: least like the training cells)", n)]


def _histogram(counts: Sequence[int], label: str, n: int) -> Part:
    name = label.partition(" (")[0]
    known = sum(counts)
    if not known:
        return Text(f"No {name} is known.")
    edges = np.linspace(0, 1, len(counts) + 1)
    high = sum(c for c, e in zip(counts, edges[:-1], strict=True) if e >= 0.9 - 1e-9)
    middle = float(edges[int(np.searchsorted(np.cumsum(counts), known / 2))])
    lost = f"; {n - known:,} cells have none" if known < n else ""
    return figure(
        lambda ax: pl.histogram(counts=counts, label=label, ax=ax),
        f"{name.capitalize()} of {known:,} cells: half of them have {middle:.2f} or more, "
        f"{high / known:.0%} at least 0.9{lost}",
        width=5.6,
        height=3.0,
    )


def calibration_parts(facts: Mapping[str, Any] | None) -> list[Part]:
    """Draw what the model's own calibration cells said of its confidence."""
    after = (facts or {}).get("after") or {}
    bins = after.get("reliability")
    if not facts or not bins:
        return [Text("The model keeps no calibration: its confidence was never compared.")]
    before = (facts.get("before") or {}).get("reliability")
    n = facts.get("n_cells")
    of = {"calibration": "cells kept for it", "validation": "validation cells"}.get(
        str(facts.get("source")), "calibration cells of the model"
    )
    said = (
        f"On {n:,} {of}, {after['accuracy']:.1%} of the calls were right, and confidence "
        f"was {after['ece']:.3f} off on average (expected calibration error)"
    )
    if before:
        said += f"; {facts['before']['ece']:.3f} before calibration"
    return [Text(f"{said}."), *sureness_parts(bins, before=before)]


def sureness_parts(
    bins: Mapping[str, Sequence[float]],
    *,
    before: Mapping[str, Sequence[float]] | None = None,
    curve: Mapping[str, Sequence[float]] | None = None,
    threshold: float | None = None,
) -> list[Part]:
    """Draw reliability, and how many calls are wrong among the surest.

    Parameters
    ----------
    bins, before
        As for ``episome.pl.reliability``.
    curve
        ``kept``, ``wrong`` and ``confidence`` of points of the curve; default from the bins.
    threshold
        Confidence below which calls are left out.
    """
    sure, right = (np.asarray(bins[k], dtype=float) for k in ("confidence", "accuracy"))
    n = np.asarray(bins["n_cells"], dtype=float)
    if curve is None:
        kept, wrong, at = risk_coverage(sure, right, weights=n)
    else:
        kept, wrong, at = (np.asarray(curve[k]) for k in ("kept", "wrong", "confidence"))
    half = float(np.interp(0.5, kept, wrong))

    def draw(ax: Axes) -> None:
        if curve is None:
            pl.risk_coverage(sure, right, weights=n, threshold=threshold, ax=ax)
        else:
            # Points of a curve that was made of all cells: what lies between two of them is one.
            shares = np.diff(kept, prepend=0.0)
            errors = np.diff(wrong * kept, prepend=0.0)
            good = shares > 0
            share = 1 - np.divide(errors, shares, out=np.zeros_like(errors), where=good)
            pl.risk_coverage(at, share.clip(0, 1), weights=shares, threshold=threshold, ax=ax)

    ends = [f"{sure[i]:.2f} sure and {right[i]:.2f} right" for i in (0, -1)] if len(sure) else []
    return [
        figure(
            lambda ax: pl.reliability(bins, before=before, ax=ax),
            f"Reliability of {n.sum():,.0f} calls, in {len(sure)} bins of equally many cells: the "
            f"least sure bin is {' , the surest '.join(ends).replace(' ,', ',')}",
            width=5.2,
            height=4.4,
        ),
        figure(
            draw,
            f"Risk and coverage: of the surest half of the calls {half:.1%} are wrong, of all "
            f"{float(wrong[-1]) if len(wrong) else float('nan'):.1%}",
            width=5.2,
            height=3.8,
        ),
    ]


def shift_parts(facts: Mapping[str, Any] | None) -> list[Part]:
    """Draw how the cells differ from those of the training, and what that costs."""
    if not facts:
        return [Text("Nothing is kept of the training cells to compare these with.")]
    if why := facts.get("why"):
        return [Text(str(why))]
    parts = pd.DataFrame(facts["parts"])
    rows = parts[["part", "found", "cost"]].rename(columns={"cost": "accuracy lost"})
    said = (
        f"Accuracy was {facts['accuracy']:.2f} on calibration cells; {facts['expected']:.2f} is "
        f"to be expected of these, by {facts['n_cells']:,} of them."
    )
    if (of := facts.get("n_obs")) and of > facts["n_cells"]:
        said += f" They were taken evenly from all {of:,}."
    n = min(len(facts["classes"]), 25)
    return [
        Text(said),
        Table(rows, "What differs from the training cells, and what it costs."),
        figure(
            lambda ax: pl.shift(facts, ax=ax),
            "Accuracy on calibration cells, what each difference costs, and what is left; below, "
            "the shares of the types among training cells and here (estimated)",
            width=6.6,
            height=float(np.clip(2.6 + 0.24 * n, 3.6, 10.0)),
        ),
    ]


def genes_parts(genes: Sequence[Mapping[str, Any]] | None, classes: Sequence[str]) -> list[Part]:
    """Draw and list the genes that carry the weight of classes.

    Parameters
    ----------
    genes
        Rows of ``group``, ``rank``, ``gene``, ``share``, and ``gene_name`` where it is known.
    classes
        Those that matter here, the commonest first.
    """
    if not genes:
        return [Text("The model does not say which genes its calls rest on.")]
    table = pd.DataFrame(genes)
    known = [c for c in classes if c in set(table["group"])] or list(dict.fromkeys(table["group"]))
    drawn = known[:DRAWN_CLASSES]
    rows = -(-len(drawn) // 3)
    name = "gene_name" if "gene_name" in table else "gene"
    listed = [
        {
            "class": c,
            "genes, with their share of the weight": ", ".join(
                f"{r[name]} {r['share']:.1%}"
                for _, r in table[table["group"] == c].head(GENES).iterrows()
            ),
        }
        for c in known[:ROWS]
    ]
    return [
        Text(
            "Share of the model's weight for a class that a gene carries, on its training cells."
        ),
        figure(
            lambda ax: pl.gene_importance(
                table[table["group"].isin(drawn)], top=DRAWN_GENES, classes=drawn, ax=ax
            ),
            f"The genes that carry most of the weight of {len(drawn)} classes; the table below "
            "names them",
            width=8.6,
            height=1.75 * rows + 0.4,
        ),
        Table(pd.DataFrame(listed), "Genes behind the classes, the weightiest first."),
    ]


def provenance_parts(facts: Mapping[str, Any]) -> list[Part]:
    """Say with what it was made; no user, path of home or host is among the facts."""
    rows: list[tuple[str, Any]] = []
    for key, words in _MADE.items():
        value = facts.get(key)
        if value in (None, ""):
            continue
        if key == "peak_memory":
            value = f"{int(value) / 2**20:,.0f} MiB"
        elif key == "seconds":
            value = f"{float(value):,.1f}"
        rows.append((words, str(value)))
    for name, version in (facts.get("versions") or {}).items():
        if version:
            rows.append((f"version of {name}", version))
    return [_pairs(rows)]


def repeat_parts(facts: Mapping[str, Any] | None) -> list[Part]:
    """Show the command and the code that give the same."""
    parts: list[Part] = []
    if facts and facts.get("command"):
        parts.append(Code(facts["command"], "In a terminal, in the folder of the files:"))
    if facts and facts.get("python"):
        parts.append(Code(facts["python"], "In Python:"))
    return parts or [Text("Not recorded.")]


def _pairs(rows: Sequence[tuple[str, Any]]) -> Table:
    known = [(k, v) for k, v in rows if v not in (None, "")]
    shown = [(k, f"{v:,}" if isinstance(v, int) else str(v)) for k, v in known]
    return Table(pd.DataFrame(shown, columns=["what", "value"]))
