"""Calls at the depth that the evidence supports, beside flat ones, on public sets.

Run ``python tests/benchmarks/roll_up.py FOLDER --page docs/benchmarks/roll_up.md``, the folder of
the public sets. Every set is split as in the study ``annotators``; for every wanted confidence
test cells are called by ``roll_up`` and by ``min_confidence``. A call is right if the cell's true
term is the called term or a kind of it; a flat call too. The depth is the mean information content
of the called terms, 0 for "cell" and 100 for a type without kinds below it.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from _trained import trained

from episome.benchmark import LABEL
from episome.ontology import cell_ontology
from episome_baselines.studies import annotators

WANTED = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
MODELS = ("logreg", "linear", "sctab")


def scored(calls: pd.DataFrame, truth: np.ndarray) -> dict[str, float]:
    """Share of the cells that are called, of the calls that are right, and their depth."""
    ontology = cell_ontology()
    terms = calls["label_ontology_term_id"].to_numpy(dtype=object)
    called = (calls["label"] != "unknown").to_numpy()
    known = called & (terms != "") & (truth != "")
    right = [
        term in ontology.ancestors(t, include_self=True)
        for term, t in zip(terms[known], truth[known], strict=True)
    ]
    depth = ontology.information_content(list(terms[known])) if known.any() else np.array([np.nan])
    return {
        "called": float(called.mean()),
        "right": float(np.mean(right)) if right else np.nan,
        "depth": float(np.nanmean(depth)),
        "rolled up": float((calls["status"] == "rolled_up").mean()),
    }


def one(entry: object, folder: Path, name: str, seed: int) -> list[dict[str, object]]:
    """Train one model on one split, and call its test cells in every way."""
    model, held = trained(entry, folder, name, seed)
    terms = dict(zip(model.labels.names, model.labels.term_ids, strict=True))
    truth = held.obs[LABEL].astype(str).map(terms).fillna("").to_numpy(dtype=object)
    shared = {"set": entry.name, "model": name, "seed": seed}
    if sum(t != "" for t in terms.values()) < 3:
        return []
    rows = []
    for wanted in WANTED:
        for way, limits in (
            ("flat", {"min_confidence": wanted}),
            ("rolled up", {"roll_up": wanted}),
        ):
            found = model.annotate(held, **limits)
            rows.append({**shared, "wanted": wanted, "way": way, **scored(found, truth)})
    return rows


def page(frame: pd.DataFrame, seeds: int, seconds: float) -> str:
    """Return the page of the documentation."""
    lines = [
        "# Calls at the depth that the evidence supports",
        "",
        "<!-- Written by tests/benchmarks/roll_up.py; changes by hand are lost. -->",
        "",
        (__doc__ or "").strip().split("\n\n", 1)[1].replace("\n", " "),
        "",
        f"Means over {seeds} seeds of splits and models; {seconds / 60:.0f} minutes on two cores. "
        "`called`: share of the test cells that get a label; `right`: share of these calls that "
        "are right; `depth`: as above.",
        "",
    ]
    for (name, model), part in frame.groupby(["set", "model"], sort=True):
        lines += [f"## {name}, {model}", ""]
        lines += ["| wanted | flat: called | right | depth | rolled up: called | right | depth |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for wanted, of in part.groupby("wanted"):
            means = of.groupby("way")[["called", "right", "depth"]].mean()
            shown = [
                f"{means.loc[way, c]:.{0 if c == 'depth' else 3}f}"
                for way in ("flat", "rolled up")
                for c in ("called", "right", "depth")
            ]
            lines.append(f"| {wanted:g} | {' | '.join(shown)} |")
        lines.append("")
    gaps = frame.pivot_table(
        index=["set", "model", "seed", "wanted"], columns="way", values=["called", "right"]
    )
    short = frame[frame["way"] == "rolled up"].groupby("wanted")["right"].agg(["mean", "min"])
    lines += ["## All of them", "", "| wanted | right, mean | right, least | more called |"]
    lines += ["|---|---|---|---|"]
    for wanted, row in short.iterrows():
        at = gaps.xs(wanted, level="wanted")
        more = (at[("called", "rolled up")] - at[("called", "flat")]).mean()
        lines.append(f"| {wanted:g} | {row['mean']:.3f} | {row['min']:.3f} | {more:+.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Call, compare, print and write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--models", nargs="+", default=list(MODELS))
    options.add_argument("--sets", nargs="+", default=None)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--page", type=Path, default=None)
    args = options.parse_args()
    warnings.simplefilter("ignore")
    rows, started = [], time.monotonic()
    for entry in annotators("small").data:
        if args.sets and entry.name not in args.sets:
            continue
        for name in args.models:
            for seed in range(args.seeds):
                found = one(entry, args.folder, name, seed)
                rows += found
                if found:
                    last = found[-2:]
                    said = [f"{r['way']} {r['called']:.3f} {r['right']:.3f}" for r in last]
                    sys.stdout.write(f"{entry.name}, {name}, {seed}: {' / '.join(said)}\n")
                    sys.stdout.flush()
    text = page(pd.DataFrame(rows), args.seeds, time.monotonic() - started)
    sys.stdout.write(text)
    if args.page is not None:
        args.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
