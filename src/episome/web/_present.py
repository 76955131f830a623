"""Numbers of a result in the form that the page draws them."""

from __future__ import annotations

import datetime
from collections import Counter
from typing import Any

__all__ = [
    "bars",
    "composition",
    "counts_at",
    "duration",
    "gene_svg",
    "level_names",
    "size",
    "when",
]

#: Labels of a composition that have a column of their own.
SHOWN = 8


def counts_at(view: dict[str, Any], level: int) -> list[dict[str, Any]]:
    """Return labels with their counts, of a level: 0 is every class, 1 the finest above."""
    rows = view.get("labels", [])
    names = level_names(view, level)
    if names is None:
        return list(rows)
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        name = names.get(row["label"], row["label"])
        if name not in found:
            found[name] = {**row, "label": name, "n": 0, "of": [], "confidence": None}
        found[name]["n"] += row["n"]
        found[name]["of"].append(row["label"])
    return sorted(found.values(), key=lambda r: -r["n"])


def level_names(view: dict[str, Any], level: int) -> dict[str, str] | None:
    """Return the broader name of each label; ``None`` for level 0."""
    levels = view.get("levels", [])
    return levels[min(level, len(levels)) - 1] if level > 0 and levels else None


def composition(view: dict[str, Any], column: str, level: int) -> dict[str, Any]:
    """Return the share of the commonest labels in every value of a column."""
    names = level_names(view, level) or {}
    rows = {}
    totals: Counter[str] = Counter()
    for value, counts in view["composition"][column].items():
        merged: Counter[str] = Counter()
        for label, n in counts.items():
            merged[names.get(label, label)] += n
        rows[value] = merged
        totals.update(merged)
    labels = [label for label, _ in totals.most_common(SHOWN)]
    table = []
    for value, merged in rows.items():
        n = sum(merged.values())
        shares = [merged[label] / n if n else 0.0 for label in labels]
        table.append({"value": value, "n": n, "shares": shares, "rest": 1.0 - sum(shares)})
    return {"labels": labels, "rows": table, "more": len(totals) > SHOWN}


def bars(
    counts: list[int],
    width: float = 320.0,
    height: float = 120.0,
    *,
    beside: list[float] | None = None,
) -> list[dict[str, float]]:
    """Return the bars of a histogram of values from 0 to 1, with those of a reference."""
    most = max([*counts, *(beside or ()), 1])
    step = width / max(len(counts), 1)
    return [
        {
            "x": round(i * step + 1, 1),
            "y": round(height * (1 - n / most), 1),
            "width": round(step - 2, 1),
            "height": round(height * n / most, 1),
            "n": n,
            "beside": beside[i] if beside else 0.0,
            "beside_y": round(height * (1 - (beside[i] if beside else 0.0) / most), 1),
            "low": i / len(counts),
            "high": (i + 1) / len(counts),
        }
        for i, n in enumerate(counts)
    ]


def gene_svg(points: dict[str, Any], gene: dict[str, Any], most: int = 5000) -> str:
    """Return the map of the cells coloured by a gene, as a picture that needs no script.

    Parameters
    ----------
    points
        Of the map.
    gene
        Percents of its largest value, one a point.
    most
        Points that are drawn; of more, every second, third and so on.
    """
    step = -(-len(points["x"]) // most)
    rows = range(0, len(points["x"]), max(step, 1))
    # Cells with much of the gene lie on those with little.
    drawn = sorted(rows, key=lambda i: gene["cells"][i])
    x, y = points["x"], points["y"]
    parts = [
        f'<circle cx="{12 + x[i] * 0.0776:.1f}" cy="{588 - y[i] * 0.0576:.1f}" r="3" '
        f'fill="{viridis(gene["cells"][i])}"/>'
        for i in drawn
    ]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 600" width="800" height="600">'
        f'<rect width="800" height="600" fill="#ffffff"/>{"".join(parts)}</svg>'
    )


#: Colours from none to most, told apart with any colour vision.
RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def viridis(percent: int) -> str:
    """Return the colour of a share from 0 to 100."""
    at = percent / 100 * (len(RAMP) - 1)
    low = min(int(at), len(RAMP) - 2)
    mixed = [
        round(a + (b - a) * (at - low)) for a, b in zip(RAMP[low], RAMP[low + 1], strict=True)
    ]
    return "#" + "".join(f"{v:02x}" for v in mixed)


def size(n: float) -> str:
    """Return bytes as people read them."""
    for unit in ("bytes", "KiB", "MiB"):
        if n < 1024:
            return f"{n:,.0f} {unit}" if unit == "bytes" else f"{n:,.1f} {unit}"
        n /= 1024
    return f"{n:,.4g} GiB"


def duration(seconds: float | None) -> str:
    """Return seconds as people read them."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.3g} hours"


def when(seconds: float | None) -> str:
    """Return a time, in the zone of the server."""
    if seconds is None:
        return ""
    return datetime.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")
