"""Which types gain from pretraining: the difference of F1 by type, against how many cells it has.

Run ``python tests/benchmarks/ssl_by_class.py RESULTS`` on the results of
``episome benchmark run ssl --scale small --parts ssl-few-labels``. Prints a table by data set: the
mean over seeds of the F1 of a type with pretraining less that from scratch, and the rank
correlation with the number of its test cells.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.metrics import f1_score

from episome.benchmark import ResultStore

KEY = ["data", "split", "fold", "condition", "seed"]


def by_type(said: pd.DataFrame) -> pd.Series:
    """Return the F1 of every type of test cells."""
    types = sorted(said["truth"].unique())
    scores = f1_score(said["truth"], said["call"], labels=types, average=None, zero_division=0)
    return pd.Series(scores, index=types)


def gains(store: ResultStore, first: str, second: str) -> pd.DataFrame:
    """Return one row for every type, seed and data set: its gain, and its number of test cells."""
    runs = store.current()
    runs = runs[(runs["study"] == "ssl-few-labels") & (runs["status"] == "ok")]
    runs = runs.drop_duplicates("run")
    rows = []
    for key, group in runs.groupby(KEY, observed=True):
        pair = [group.loc[group["model"] == name, "run"] for name in (first, second)]
        if any(len(p) != 1 for p in pair):
            continue
        said = [store.predictions(p.iloc[0]) for p in pair]
        counts = said[0]["truth"].value_counts()
        difference = by_type(said[0]) - by_type(said[1])
        rows += [
            {**dict(zip(KEY, key, strict=True)), "type": t, "gain": g, "n": int(counts[t])}
            for t, g in difference.items()
        ]
    return pd.DataFrame(rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--first", default="pretrained: random_mask")
    parser.add_argument("--second", default="from scratch")
    args = parser.parse_args()
    found = gains(ResultStore(args.results), args.first, args.second)
    if found.empty:
        sys.exit(f"no runs of {args.first!r} and {args.second!r} beside each other")
    for data, part in found.groupby("data", observed=True):
        table = part.groupby("type").agg(
            n=("n", "mean"), gain=("gain", "mean"), low=("gain", "min"), high=("gain", "max")
        )
        table = table.sort_values("n", ascending=False)
        rank = spearmanr(table["n"], table["gain"]).statistic if len(table) > 2 else np.nan
        sys.stdout.write(f"\n{data}: {args.first} less {args.second}\n\n")
        sys.stdout.write("| type | test cells | gain in F1 | over seeds |\n|---|---|---|---|\n")
        for name, row in table.iterrows():
            sys.stdout.write(
                f"| {name} | {row['n']:.0f} | {row['gain']:+.3f} "
                f"| {row['low']:+.3f} to {row['high']:+.3f} |\n"
            )
        sys.stdout.write(f"\nrank correlation of the gain with the number of cells: {rank:+.2f}\n")


if __name__ == "__main__":
    main()
