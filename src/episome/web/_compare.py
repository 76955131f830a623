"""Calls of two models on the same cells, side by side."""

from __future__ import annotations

import sqlite3
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["compared", "confusion"]

#: Rows and columns of a table that are shown; the rest is summed up.
SHOWN = 15
OTHERS = "others"


def compared(first: Path, second: Path) -> dict[str, Any]:
    """Return how the calls of two databases agree, counted there.

    Parameters
    ----------
    first, second
        Databases of calls of the same cells.

    Returns
    -------
    Cells, those that agree, and the cells of every pair of labels, the commonest first.
    """
    db = sqlite3.connect(f"file:{first}?mode=ro", uri=True)
    try:
        db.execute("ATTACH DATABASE ? AS other", (f"file:{second}?mode=ro",))
        rows = db.execute(
            "SELECT a.label, b.label, count(*), avg(a.confidence), avg(b.confidence) "
            "FROM calls a JOIN other.calls b ON a.row = b.row AND a.cell = b.cell "
            "GROUP BY a.label, b.label ORDER BY count(*) DESC, a.label, b.label"
        ).fetchall()
    finally:
        db.close()
    pairs = [
        {"first": str(a), "second": str(b), "n": n, "confidence": [p, q]} for a, b, n, p, q in rows
    ]
    return {
        "n": sum(p["n"] for p in pairs),
        "n_agree": sum(p["n"] for p in pairs if p["first"] == p["second"]),
        "pairs": pairs,
    }


def confusion(pairs: list[tuple[str, str, int]], most: int = SHOWN) -> dict[str, Any]:
    """Return the table of pairs of labels: rows the first, columns the second.

    Parameters
    ----------
    pairs
        Label, label, cells.
    most
        Rows and columns at most; others are summed up.
    """
    totals: list[Counter[str]] = [Counter(), Counter()]
    for a, b, n in pairs:
        totals[0][a] += n
        totals[1][b] += n
    rows, columns = ([k for k, _ in t.most_common(most)] for t in totals)
    # The same types in the same order, so that agreement is on the diagonal.
    columns = [*[c for c in rows if c in columns], *[c for c in columns if c not in rows]]
    kept = (set(rows), set(columns))
    table: dict[str, Counter[str]] = {name: Counter() for name in rows}
    for a, b, n in pairs:
        row = a if a in kept[0] else OTHERS
        table.setdefault(row, Counter())[b if b in kept[1] else OTHERS] += n
    if any(OTHERS in counts for counts in table.values()) and OTHERS not in columns:
        columns.append(OTHERS)
    return {
        "columns": columns,
        "rows": [
            {"label": name, "n": sum(c.values()), "cells": [c[k] for k in columns]}
            for name, c in table.items()
        ],
    }
