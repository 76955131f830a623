"""The report of an annotation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from episome import pl
from episome.report._page import Figure, Page, Part, Table, Text
from episome.report._parts import (
    ROWS,
    calibration_parts,
    confidence_parts,
    figure,
    genes_parts,
    input_parts,
    novelty_parts,
    provenance_parts,
    repeat_parts,
    shift_parts,
    sureness_parts,
)

#: Labels that a picture of them has.
DRAWN = 30


def annotation_page(
    facts: Mapping[str, Any], *, pictures: Mapping[str, Sequence[Figure]] | None = None
) -> Page:
    """Return the report of calls.

    Parameters
    ----------
    facts
        Plain data: ``input`` (``name``, ``n_obs``, ``n_vars``, ``values``, ``notes``), ``calls``
        (of :class:`CallSummary`), and where they are known ``model`` (its name), ``calibration``
        (what the folder keeps), ``labels`` (the calls against a column), ``composition`` (column
        -> sample -> label -> cells), ``shift``, ``genes``, ``provenance``, ``repeat``,
        ``threshold`` (least confidence of calls that were kept).
    pictures
        Further ones by the heading of their section, such as maps.
    """
    calls, given = facts["calls"], pictures or {}
    name = facts["input"].get("name") or "cells"
    ends = ", ".join(f"{n:,} {s}" for s, n in calls["status"].items())
    by = f", by the model {facts['model']}" if facts.get("model") else ""
    page = Page(
        f"Calls of {name}",
        f"{calls['n_obs']:,} cells{by}" + (f": {ends}." if ends else "."),
        data=facts,
    )
    own = facts.get("provenance") or {}
    classes = [row["label"] for row in calls["labels"]]
    page.add("What was found in the input", *input_parts(facts["input"]))
    page.add("Calls", *_types(calls), *given.get("Calls", ()))
    for column, samples in (facts.get("composition") or {}).items():
        page.add("Composition", _composition(column, samples, calls))
    page.add("Confidence", *confidence_parts(calls), *given.get("Confidence", ()))
    if labels := facts.get("labels"):
        page.add("Against the labels", *_against(labels, calls, facts.get("threshold")))
    page.add("Reliability and risk", *calibration_parts(facts.get("calibration")))
    page.add("Novelty", *novelty_parts(calls), *given.get("Novelty", ()))
    page.add("Shift against the training cells", *shift_parts(facts.get("shift")))
    genes = genes_parts(facts.get("genes"), classes)
    page.add("Genes behind the classes", *genes, *given.get("Genes behind the classes", ()))
    page.add("Provenance", *provenance_parts(own))
    page.add("How to do it again", *repeat_parts(facts.get("repeat")))
    return page


def _types(calls: Mapping[str, Any]) -> list[Part]:
    n, rows = max(calls["n_obs"], 1), calls["labels"]
    table = pd.DataFrame(
        [
            {
                "type": r["label"],
                "term": r["term"],
                "cells": r["n"],
                "share": r["n"] / n,
                "mean confidence": r["confidence"],
            }
            for r in rows[:ROWS]
        ],
        columns=["type", "term", "cells", "share", "mean confidence"],
    )
    more = f" {len(rows) - ROWS:,} rarer types are left out." if len(rows) > ROWS else ""
    parts: list[Part] = [Table(table, f"Cells of every type.{more}")]
    for i, names in enumerate(calls["levels"], start=1):
        sizes: dict[str, int] = {}
        for row in rows:
            broad = names.get(row["label"], row["label"])
            sizes[broad] = sizes.get(broad, 0) + row["n"]
        order = sorted(sizes, key=lambda x: -sizes[x])[:ROWS]
        level = [{"type": x, "cells": sizes[x], "share": sizes[x] / n} for x in order]
        end = ", the broadest" if i == len(calls["levels"]) else ""
        caption = f"The same by broader types of the Cell Ontology, level {i}{end}."
        parts.append(Table(pd.DataFrame(level), caption))
    return parts


def _composition(column: str, samples: Mapping[str, Any], calls: Mapping[str, Any]) -> Part:
    table = pd.DataFrame.from_dict(samples, orient="index").fillna(0).astype(int)
    palette = _palette(calls)
    return figure(
        lambda ax: pl.composition(table, palette=palette, ax=ax),
        f"Shares of the types in {len(table)} values of {column}",
        width=8.0,
        height=float(np.clip(0.3 * len(table) + 1.4, 2.6, 16.0)),
    )


def _palette(calls: Mapping[str, Any]) -> dict[str, str]:
    terms = {row["label"]: row["term"] for row in calls["labels"]}
    return pl.colours(terms, terms=terms)


def _against(
    labels: Mapping[str, Any], calls: Mapping[str, Any], threshold: float | None
) -> list[Part]:
    """Draw what a column of labels says of the calls."""
    pairs = pd.DataFrame(labels["pairs"])
    said = (
        f"{labels['accuracy']:.1%} of {labels['n']:,} calls have the name that {labels['column']} "
        f"gives the cell; confidence and agreement differ by {labels['ece']:.3f} on average."
    )
    return [
        Text(said),
        *pairs_parts(pairs, {row["label"]: row["term"] for row in calls["labels"]}),
        *sureness_parts(labels["reliability"], curve=labels["risk_coverage"], threshold=threshold),
    ]


def pairs_parts(pairs: pd.DataFrame, terms: Mapping[str, str]) -> list[Part]:
    """Draw which label was called what.

    Parameters
    ----------
    pairs
        ``label``, ``called``, ``n_cells``.
    terms
        Name -> identifier of its term, where it is known.
    """
    names = list(dict.fromkeys([*terms, *pairs["label"], *pairs["called"]]))
    palette = pl.colours(names, terms=terms)
    n = len({*pairs["label"], *pairs["called"]})
    side = float(np.clip(0.3 * n + 2.6, 4.2, 13.0))
    flows = {"weights": pairs["n_cells"]}
    named = (pairs["label"], pairs["called"])
    n_left = min(pairs["label"].nunique(), 20)
    return [
        figure(
            lambda ax: pl.sankey(*named, palette=palette, ax=ax, **flows),
            f"From {pairs['label'].nunique()} labels to the calls of their cells",
            width=7.5,
            height=float(np.clip(0.3 * n_left + 1.4, 3.0, 9.0)),
        ),
        figure(
            lambda ax: pl.confusion(*named, order="ontology", terms=terms, ax=ax, **flows),
            f"Confusion of {n} classes in the order of the Cell Ontology: share of the cells of "
            "every label that were called each class",
            width=side + 1,
            height=side,
        ),
    ]
