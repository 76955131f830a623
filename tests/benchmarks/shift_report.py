"""The cost that a report of shift predicts beside the one that is measured, on public sets.

Run ``python tests/benchmarks/shift_report.py FOLDER --page docs/benchmarks/shift_report.md``.
Every set is split as in the study ``annotators``; from the test cells genes are taken at random
until 20, 40 and 60 % of the weight of the calls are gone (several draws), or half of their counts.
The report sees no label. Costs are accuracies lost against the complete test cells.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from _trained import trained

from episome.benchmark import LABEL
from episome.data import AnnDataSource, ThinnedSource
from episome_baselines.studies import annotators

if TYPE_CHECKING:
    from anndata import AnnData

LEVELS = (0.2, 0.4, 0.6)


def lacking(model: object, cells: AnnData, level: float, rng: np.random.Generator) -> AnnData:
    """Cells without genes that carry a share of the weight."""
    weight = model.gene_importance.weights
    shares = weight[weight.any(axis=1)].mean(axis=0)
    order = rng.permutation(len(shares))
    gone = set(np.array(model.features.ids)[order[np.cumsum(shares[order]) <= level]])
    return cells[:, [g not in gone for g in cells.var_names]].copy()


def measured(entry: object, folder: Path, name: str, seed: int, draws: int) -> list[dict]:
    """Train one model, and compare what is predicted with what is."""
    model, held = trained(entry, folder, name, seed)
    truth = held.obs[LABEL].astype(str).to_numpy()

    def looked_at(query: object) -> tuple[float, float]:
        calls = model.predict(query, min_gene_overlap=0.0)
        report = model.shift_report(query, min_gene_overlap=0.0)
        return float((calls == truth).mean()), report.expected

    whole, expected = looked_at(held)
    shared = {"set": entry.name, "model": name, "seed": seed}
    rows = [{**shared, "lacks": "nothing", "measured": whole, "predicted": expected, "cost": 0.0,
             "predicted cost": 0.0}]  # fmt: skip
    rng = np.random.default_rng(seed)
    queries = [(f"{level:.0%} of the weight", lacking(model, held, level, rng))
               for level in LEVELS for _ in range(draws)]  # fmt: skip
    queries.append(("half of the counts", ThinnedSource(AnnDataSource(held), 0.5, seed)))
    for what, query in queries:
        found, said = looked_at(query)
        rows.append({**shared, "lacks": what, "measured": found, "predicted": said,
                     "cost": whole - found, "predicted cost": expected - said})  # fmt: skip
    return rows


def page(frame: pd.DataFrame, seeds: int, draws: int, seconds: float) -> str:
    """Return the page of the documentation."""
    lines = [
        "# What a shift costs, and what the report says",
        "",
        "<!-- Written by tests/benchmarks/shift_report.py; changes by hand are lost. -->",
        "",
        (__doc__ or "").strip().split("\n\n", 1)[1].replace("\n", " "),
        "",
        f"Means over {seeds} seeds and {draws} draws of genes; {seconds / 60:.0f} minutes on two "
        "cores. `off` is the mean distance of a single prediction.",
        "",
    ]
    for model, part in frame.groupby("model", sort=True):
        lines += [f"## {model}", ""]
        lines += ["| set | lacks | accuracy | expected | cost | predicted cost | off |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for (name, what), of in part.groupby(["set", "lacks"], sort=True):
            off = (of["cost"] - of["predicted cost"]).abs().mean()
            means = of[["measured", "predicted", "cost", "predicted cost"]].mean()
            shown = " | ".join(f"{v:.2f}" for v in (*means, off))
            lines.append(f"| {name} | {what} | {shown} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--models", nargs="+", default=["logreg"])
    options.add_argument("--sets", nargs="+", default=None)
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--draws", type=int, default=6)
    options.add_argument("--page", type=Path, default=None)
    args = options.parse_args()
    warnings.simplefilter("ignore")
    rows, started = [], time.monotonic()
    for entry in annotators("small").data:
        if args.sets and entry.name not in args.sets:
            continue
        for name in args.models:
            for seed in range(args.seeds):
                rows += measured(entry, args.folder, name, seed, args.draws)
                sys.stdout.write(f"done: {entry.name}, {name}, {seed}\n")
                sys.stdout.flush()
    text = page(pd.DataFrame(rows), args.seeds, args.draws, time.monotonic() - started)
    sys.stdout.write(text)
    if args.page is not None:
        args.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
