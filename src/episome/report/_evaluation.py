"""The report of an evaluation, of a model, and of an audit of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from episome import pl
from episome.report._annotation import pairs_parts
from episome.report._page import Figure, Page, Part, Table, Text, shown
from episome.report._parts import (
    ROWS,
    calibration_parts,
    figure,
    genes_parts,
    input_parts,
    provenance_parts,
    repeat_parts,
    shift_parts,
    sureness_parts,
)

#: Wrong pairs, and doubted cells, that are listed.
PAIRS, CELLS = 20, 100


def evaluation_page(facts: Mapping[str, Any]) -> Page:
    """Return the report of scores.

    Parameters
    ----------
    facts
        What ``EvaluateResult.to_json`` returns, with ``input`` and, where they are known,
        ``model``, ``calibration_of_model``, ``shift``, ``genes``, ``made`` (provenance) and
        ``repeat``.
    """
    scores = facts["scores"]
    name = facts["data"].get("name") or "cells"
    by = f", by the model {facts['model']}" if facts.get("model") else ""
    f1 = scores.get("f1_macro")
    lead = f"{facts['n_scored']:,} of {facts['n_obs']:,} cells have a label{by}."
    if f1 is not None:
        lead += f" Macro F1 is {f1:.3f}."
    page = Page(f"Scores on {name}", lead, data=facts)
    given = facts.get("input") or {
        "name": name,
        "n_obs": facts["n_obs"],
        "n_vars": facts["n_vars"],
    }
    page.add("What was found in the input", *input_parts(given))
    if shared := facts.get("shared_donors"):
        said = f"{len(shared)} donors are among the training cells too: scores are too good."
        page.add("What was found in the input", Text(said, badge="bad"))
    page.add("Scores", *_scores(facts))
    page.add("Classes", *_classes(facts))
    page.add("Reliability and risk", *_sureness(facts))
    page.add("Novelty", *_novelty(facts["novelty"]))
    if "shift" in facts:
        page.add("Shift against the training cells", *shift_parts(facts["shift"]))
    if "genes" in facts:
        names = [row.get("class") or row.get("index") or "" for row in facts["classes"]]
        page.add("Genes behind the classes", *genes_parts(facts["genes"], names))
    made = {**facts["provenance"], **(facts.get("made") or {})}
    made.setdefault("ontology_release", facts.get("ontology_release"))
    made.setdefault("input_sha256", facts["data"].get("sha256"))
    page.add("Provenance", *provenance_parts(made))
    page.add("How to do it again", *repeat_parts(facts.get("repeat")))
    return page


def _scores(facts: Mapping[str, Any]) -> list[Part]:
    rows = []
    for name, value in facts["scores"].items():
        span = facts["intervals"].get(name)
        ends = (
            f"{span['low']:.3f} to {span['high']:.3f}" if span and span["low"] is not None else ""
        )
        rows.append({"score": name, "value": value, "95 %": ends})
    parts: list[Part] = [
        Table(
            pd.DataFrame(rows),
            "Scores over all cells; those that end in ontology count a call of a kind of the true "
            "type as right.",
        )
    ]
    if facts.get("coverage"):
        sets = [
            {"error rate": rate, "sets with the truth": s["overall"], "classes a set": s["size"]}
            for rate, s in facts["coverage"].items()
        ]
        parts.append(Table(pd.DataFrame(sets), "Label sets."))
    if facts.get("donors"):
        parts.append(Table(pd.DataFrame(facts["donors"]).head(ROWS), "Scores of every donor."))
    return parts


def _classes(facts: Mapping[str, Any]) -> list[Part]:
    table = pd.DataFrame(facts["classes"])
    table = table.rename(columns={table.columns[0]: "class"})
    for column in table.columns[1:]:
        if table[column].dtype == object:
            table[column] = pd.to_numeric(table[column])
    terms = facts.get("terms") or {}
    palette = pl.colours([*terms, *table["class"]], terms=terms)
    worst = table[table["n_true"] > 0].nsmallest(3, "f1")["class"]
    parts: list[Part] = [
        figure(
            lambda ax: pl.f1_abundance(table, palette=palette, ax=ax),
            f"F1 of {int((table['n_true'] > 0).sum())} classes against their number of cells; "
            f"worst are {', '.join(map(str, worst))}",
            width=7.0,
            height=4.2,
        )
    ]
    if facts.get("pairs"):
        parts += pairs_parts(pd.DataFrame(facts["pairs"]), terms)
    parts.append(Table(table.head(ROWS), "Every class."))
    if facts["confused"]:
        confused = pd.DataFrame(facts["confused"]).head(PAIRS)
        parts.append(Table(confused, "What is confused most; share of the label."))
    return parts


def _sureness(facts: Mapping[str, Any]) -> list[Part]:
    found = facts["calibration"]
    if not found.get("n_cells"):
        return [Text("No cell has a call.")]
    said = (
        f"Confidence is {found['ece']:.3f} off on average (expected calibration error); the "
        f"surest {found['kept']:.0%} of the cells are called with at most 5 % wrong."
    )
    bins, curve = found["reliability"], found.get("risk_coverage")
    parts: list[Part] = [Text(said), *sureness_parts(bins, curve=curve)]
    if own := facts.get("calibration_of_model"):
        parts += [Text("What the model's own calibration cells said:"), *calibration_parts(own)]
    return parts


def _novelty(found: Mapping[str, Any]) -> list[Part]:
    if not found["n_unseen"]:
        return [Text("The model is related to every label: novelty is not put to the test here.")]
    told = "is not known" if found["auroc"] is None else f"has an AUROC of {found['auroc']:.3f}"
    names = ", ".join(found["labels"][:20])
    said = f"{found['n_unseen']:,} cells are of types unknown to the model ({names}); novelty, as "
    return [Text(f"{said}what tells them from the others, {told}.")]


def model_page(facts: Mapping[str, Any], history: Mapping[str, Sequence[float]]) -> Page:
    """Return the report of a model that was trained.

    Parameters
    ----------
    facts
        ``name``, ``fit`` and ``calibration`` (what its folder keeps), ``classes``, ``n_genes``,
        ``genes``, ``provenance`` and ``repeat``.
    history
        Columns by epoch; empty where nothing was counted.
    """
    fit = facts["fit"]
    page = Page(
        f"Training of {facts['name']}",
        f"{facts['method']}, {len(facts['classes'])} classes, {facts['n_genes']:,} genes"
        + (f", {fit['n_cells']:,} cells." if fit.get("n_cells") else "."),
        data=facts,
    )
    plain = [(k, v) for k, v in fit.items() if isinstance(v, int | float | str) and v != ""]
    rows = pd.DataFrame([(k, shown(v)) for k, v in plain], columns=["what", "value"])
    page.add("Training", Table(rows, "What the folder keeps of its training."))
    lines = {k: v for k, v in history.items() if k != "epoch" and np.isfinite(v).any()}
    if lines:
        n = max(len(v) for v in lines.values())
        best = fit.get("best_epoch")
        page.add(
            "Training",
            figure(
                lambda ax: pl.training_curves(
                    lines, best=best, resumed=fit.get("resumed_at") or (), ax=ax
                ),
                f"Losses, scores and learning rate of {n} epochs"
                + ("" if best is None else f"; epoch {best} was the best"),
                width=6.8,
                height=6.2,
            ),
        )
    page.add("Reliability and risk", *calibration_parts(facts.get("calibration")))
    page.add("Genes behind the classes", *genes_parts(facts.get("genes"), facts["classes"]))
    page.add("Provenance", *provenance_parts(facts["provenance"]))
    page.add("How to do it again", *repeat_parts(facts.get("repeat")))
    return page


def audit_page(
    facts: Mapping[str, Any], cells: pd.DataFrame, *, pictures: Sequence[Figure] = ()
) -> Page:
    """Return the report of an audit of labels.

    Parameters
    ----------
    facts
        ``input`` (``name``, ``n_obs``), ``provenance`` and ``repeat``.
    cells
        The table of the audit.
    pictures
        Such as a map of the doubted cells.
    """
    judged = cells["score"].notna()
    wrong = cells["wrong"].astype(str) == "True"  # no verdict of cells that were not judged
    name = facts["input"].get("name") or "cells"
    said = (
        f"{int(wrong.sum()):,} of {int(judged.sum()):,} labels that were judged look wrong; "
        f"{int((~judged).sum()):,} were not judged."
    )
    pairs = cells[wrong].groupby(["label", "suggested"], observed=True).size()
    table = pairs.rename("n_cells").reset_index().sort_values("n_cells", ascending=False)
    page = Page(f"Labels of {name}", said, data={**facts, "pairs": table.to_dict("records")})
    page.add("What was found", *input_parts(facts["input"]), *pictures)
    scores = cells["score"].to_numpy(dtype=float)
    page.add(
        "What was found",
        figure(
            lambda ax: pl.histogram(scores, label="how likely the label is wrong", ax=ax),
            f"How likely a label is wrong, of {int(judged.sum()):,} cells: "
            f"{int((scores > 0.5).sum()):,} above a half",
            height=3.0,
        ),
    )
    if len(table):
        flows = table.rename(columns={"suggested": "called"})
        page.add(
            "Labels and what they look like",
            figure(
                lambda ax: pl.sankey(
                    flows["label"], flows["called"], weights=flows["n_cells"],
                    names=("label", "looks like"), ax=ax,
                ),
                f"What the {int(wrong.sum()):,} doubted cells look like, by label",
                width=7.5,
                height=float(np.clip(0.3 * flows["label"].nunique() + 1.4, 3.0, 9.0)),
            ),
            Table(table.head(ROWS), "Doubted cells by label and by what they look like."),
        )  # fmt: skip
        columns = [c for c in ("label", "suggested", "p_label", "score") if c in cells]
        worst = cells[wrong].nlargest(CELLS, "score")[columns]
        worst = worst.rename_axis("cell").reset_index()
        page.add("The cells to look at first", Table(worst, f"The {len(worst)} likeliest."))
    page.add("Provenance", *provenance_parts(facts.get("provenance") or {}))
    page.add("How to do it again", *repeat_parts(facts.get("repeat")))
    return page
