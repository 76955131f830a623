"""Explanations on real sets: the deletion test, and agreement over seeds and with markers.

``EPISOME_TEST_DATA`` names the folder with ``data/*.h5ad``. Every installed annotator that
explains its calls is trained as it comes on at most 1,500 cells and asked about at most 600
others. What is done is kept in the folder, and the same command goes on where it stopped.

    python tests/benchmarks/explanations.py FOLDER [--models ...] [--splits ...]
    python tests/benchmarks/explanations.py FOLDER --page docs/benchmarks/explanations.md
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import warnings
from itertools import combinations
from pathlib import Path

# Before numpy: every model has one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import scanpy as sc
from _splits import LABEL, TASKS, parts

from episome import plugins, settings
from episome.models import agreement, deletion_test

SPLITS = ("kang-donors", "onek1k", "snare", "facs")
SEEDS = 3
K = 20
N_TRAIN, N_TEST = 1500, 600
#: Deletion tests of every model: what is explained, and what is drawn as a control.
TESTS = {
    "expressed": {"control": "expressed"},
    "matched": {"control": "matched"},
    "second": {"control": "expressed", "against": "second"},
}


def explained() -> list[str]:
    """Every installed annotator with attributions."""
    wanted = {"annotation", "explanation"}
    return sorted(
        name
        for name, spec in plugins.models().items()
        if ":" not in name and wanted <= set(spec.capabilities)
    )


def some(adata, n: int):
    """At most so many cells, drawn with one seed whatever the model."""
    if adata.n_obs <= n:
        return adata
    rows = np.random.default_rng(0).choice(adata.n_obs, n, replace=False)
    return adata[np.sort(rows)].copy()


def cells_of(split: str):
    """Training and test cells of a split, test cells of types that training has."""
    train, test = parts(TASKS[split])
    train = some(train, N_TRAIN)
    counts = train.obs[LABEL].value_counts()
    train = train[train.obs[LABEL].isin(counts.index[counts >= 5])].copy()
    test = test[test.obs[LABEL].isin(train.obs[LABEL].unique())].copy()
    return train, some(test, N_TEST)


def run(folder: Path, split: str, model: str, seed: int, train, test) -> None:
    """Train with a seed; keep tests, lists of genes and scores."""
    target = folder / f"{split}--{model}--{seed}.json"
    if target.exists():
        return
    donor_key = TASKS[split].donor_key
    settings.seed = seed
    started = time.perf_counter()
    cls = plugins.load_class(plugins.get_spec(model))
    cls.setup_anndata(reference := train.copy(), labels_key=LABEL, donor_key=donor_key)
    trained = cls(reference)
    trained.train()
    middle = time.perf_counter()
    accuracy = float((trained.predict(test) == test.obs[LABEL].to_numpy(dtype=object)).mean())
    tests = {}
    for name, how in TESTS.items():
        found = deletion_test(trained, test, k=K, labels_key=LABEL, **how)
        p, odds = found.probability, found.log_odds
        tests[name] = {
            "before": float(found.cells["before"].mean()),
            "fall": float(found.cells["fall_explained"].mean()),
            "control": float(found.cells["fall_random"].mean()),
            "value": float(found.cells["value_explained"].mean()),
            "value_control": float(found.cells["value_random"].mean()),
            "difference": [p.value, p.low, p.high],
            "log_odds": [odds.value, odds.low, odds.high],
            "units": f"{p.n_units} {found.units}",
            "n_cells": len(found.cells),
            "kind": found.kind,
            "verdict": found.verdict,
            "classes": found.by_class["difference"].round(4).to_dict(),
        }
    genes = trained.top_genes(test, LABEL, K)
    seconds = {"train": middle - started, "explain": time.perf_counter() - middle}
    target.write_text(
        json.dumps(
            {
                "accuracy": accuracy,
                "seconds": seconds,
                "n_train": train.n_obs,
                "n_genes": train.n_vars,
                "tests": tests,
                "genes": genes[["group", "rank", "gene"]].to_dict("list"),
            }
        )
    )
    sys.stdout.write(f"{split:12} {model:10} seed {seed} {seconds['train']:6.0f} s\n")
    sys.stdout.flush()


def markers_of(folder: Path, split: str, train) -> None:
    """Keep the genes that scanpy calls raised in every type of the training cells."""
    target = folder / f"{split}--markers.json"
    if target.exists():
        return
    cells = train.copy()
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    cells.obs[LABEL] = cells.obs[LABEL].astype("category")
    sc.tl.rank_genes_groups(cells, LABEL, method="wilcoxon")
    table = sc.get.rank_genes_groups_df(cells, None)
    kept = table[table["scores"] > 0].groupby("group", observed=True).head(K)
    kept = kept[["group", "names", "scores"]].astype({"group": str, "scores": float})
    target.write_text(json.dumps(kept.to_dict("list")))


# -- the page ------------------------------------------------------------------------------------


def agreements(folder: Path, split: str, models: list[str]) -> dict[str, dict[str, float]]:
    """Mean Jaccard index over seeds, with the markers and with the other models."""
    genes: dict[str, list[pd.DataFrame]] = {}
    for model in models:
        files = sorted(folder.glob(f"{split}--{model}--?.json"))
        genes[model] = [pd.DataFrame(json.loads(f.read_text())["genes"]) for f in files]
    markers = pd.DataFrame(json.loads((folder / f"{split}--markers.json").read_text()))
    out = {}
    for model, lists in genes.items():
        if not lists:
            continue
        pairs = [_jaccard(a, b) for a, b in combinations(lists, 2)]
        others = {m: _jaccard(lists[0], t[0]) for m, t in genes.items() if m != model and t}
        out[model] = {
            "seeds": float(np.mean(pairs)) if pairs else float("nan"),
            "markers": float(np.mean([_jaccard(a, markers) for a in lists])),
            **others,
        }
    return out


def _jaccard(a: pd.DataFrame, b: pd.DataFrame) -> float:
    return float(agreement({"a": a, "b": b}, K)["jaccard"].mean())


def page(folder: Path, models: list[str], splits: list[str]) -> str:
    """Write the tables as Markdown."""
    found = {
        (s, m): [json.loads(f.read_text()) for f in sorted(folder.glob(f"{s}--{m}--?.json"))]
        for s in splits
        for m in models
    }
    found = {k: v for k, v in found.items() if v}
    lines = [_HEAD.format(k=K, seeds=SEEDS, train=N_TRAIN, test=N_TEST)]
    lines += ["## In short", "", *_summary(found), ""]
    lines += ["## Deletion test", "", _DELETION.format(k=K), ""]
    for name, said in _TITLES.items():
        lines += [f"### {said}", "", *_deletion_table(found, name), ""]
    lines += ["## Types", "", _TYPES, "", *_types_table(found), ""]
    lines += ["## Agreement", "", _AGREEMENT.format(k=K), "", *_agreement_table(folder, found), ""]
    lines += ["## Cost", "", *_cost_table(found), ""]
    return "\n".join(lines)


_HEAD = """# Are the explanations true?

<!-- Written by tests/benchmarks/explanations.py; changes by hand are lost. -->

Whether the genes that a model names carry its calls, whether another training names the same ones,
and whether they are those that differential expression finds. Made again by

```console
$ export EPISOME_TEST_DATA=FOLDER
$ python tests/benchmarks/explanations.py runs/explanations
$ python tests/benchmarks/explanations.py runs/explanations --page docs/benchmarks/explanations.md
```

Every installed annotator that explains its calls, as it comes, on at most {train:,} training and
{test} test cells of four real sets: Kang (five donors to three others), OneK1K blood (20 donors to
8, 1,000 genes), SNARE-seq cortex (six libraries to six) and FACS-sorted blood (cells at random, no
donors). Up to {seeds} seeds, the tables say how many were run; lists of {k} genes; one thread of a
machine with two cores that did other work as well. How to do this with your own model:
[](../user_guide/explanations.md).
"""

_TITLES = {
    "expressed": "Genes of the call, against any expressed genes",
    "matched": "Genes of the call, against genes of about the same value",
    "second": "Genes that tell the call from its runner-up, against any expressed genes",
}

_DELETION = """The {k} genes that count most for a rightly called cell are taken from it (fewer
where fewer speak for the call); the control loses as many others, five times. *before*: mean
calibrated probability of the right type; *falls by*: with the explained genes gone; *control*:
with others gone; *difference*, with its interval of 95 % over donors (libraries), over cells where
there are none, for seed 0; *log-odds*: the same of log(p / (1 - p)); *seeds*: how many of the
trainings the test calls faithful, its interval above zero. An interval over three donors is too
narrow. Genes of about the same value are never explained ones where there are others, so that
their control can raise the probability: what spoke against the call is then among the removed."""

_TYPES = """The smallest difference of any type (first row of tests, seed 0): a mean over all cells
can hide a type whose explanations say nothing. Some types have a few test cells only."""

_AGREEMENT = """Jaccard index of the first {k} genes of a type, mean over types: of pairs of seeds,
with `scanpy.tl.rank_genes_groups` (Wilcoxon, training cells), and with the other models (seed 0).
Explanations are of test cells, grouped by their true type. *chance* is the index of two lists that
are drawn from all genes. Two thirds of a list in common are an index of 0.5, half are 0.33."""


def _summary(found: dict) -> list[str]:
    out = []
    for name, said in _TITLES.items():
        every = [(k, r["tests"][name]) for k, runs in found.items() for r in runs]
        faithful = sum(t["verdict"] == "faithful" for _, t in every)
        others = sorted(
            {
                f"`{k[1]}` on {k[0]} ({t['verdict']})"
                for k, t in every
                if t["verdict"] != "faithful"
            }
        )
        out.append(
            f"- {said}: faithful in {faithful} of {len(every)} trainings"
            + (f"; not in {', '.join(others)}." if others else ".")
        )
    first = {k: runs[0]["tests"]["expressed"]["classes"] for k, runs in found.items()}
    below = [
        f"{name} of `{model}` on {split} ({value:.2f})"
        for (split, model), classes in first.items()
        for name, value in classes.items()
        if value <= 0
    ]
    n = sum(map(len, first.values()))
    out.append(
        f"- By type (first of these, seed 0): the mean difference is above zero for "
        f"{n - len(below)} of {n} pairs of model and type"
        + (f"; not for {', '.join(below)}." if below else ".")
    )
    return out


def _deletion_table(found: dict, name: str) -> list[str]:
    lines = [
        "| set | model | attributions | cells | before | falls by | control | difference "
        "| log-odds | over | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (split, model), runs in found.items():
        t = runs[0]["tests"][name]
        yes = sum(r["tests"][name]["verdict"] == "faithful" for r in runs)
        lines.append(
            f"| {split} | `{model}` | {t['kind']} | {t['n_cells']} | {t['before']:.3f} "
            f"| {t['fall']:.3f} | {t['control']:.3f} | {_interval(t['difference'], 3)} "
            f"| {_interval(t['log_odds'], 2)} | {t['units']} | {yes} of {len(runs)} |"
        )
    return lines


def _interval(values: list[float], n: int) -> str:
    return "{:.{n}f} ({:.{n}f} to {:.{n}f})".format(*values, n=n)


def _types_table(found: dict) -> list[str]:
    lines = ["| set | model | types | smallest difference | of |", "|---|---|---|---|---|"]
    for (split, model), runs in found.items():
        classes = runs[0]["tests"]["expressed"]["classes"]
        least = min(classes, key=classes.get)
        lines.append(f"| {split} | `{model}` | {len(classes)} | {classes[least]:.3f} | {least} |")
    return lines


def _agreement_table(folder: Path, found: dict) -> list[str]:
    models = sorted({m for _, m in found})
    head = "| set | model | seeds | markers | " + " | ".join(f"`{m}`" for m in models)
    lines = [head + " | chance |", "|" + "---|" * (len(models) + 5)]
    for split in dict.fromkeys(s for s, _ in found):
        table = agreements(folder, split, models)
        for model, row in table.items():
            shared = K * K / found[split, model][0]["n_genes"]
            cells = [_number(row.get(m, float("nan"))) for m in models]
            chance = shared / (2 * K - shared)
            lines.append(
                f"| {split} | `{model}` | {_number(row['seeds'])} | {_number(row['markers'])} | "
                + " | ".join(cells)
                + f" | {chance:.3f} |"
            )
    return lines


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.2f}"


def _cost_table(found: dict) -> list[str]:
    lines = [
        "| set | model | accuracy | train, s | three tests and lists, s |",
        "|---|---|---|---|---|",
    ]
    for (split, model), runs in found.items():
        accuracy = np.mean([r["accuracy"] for r in runs])
        train, explain = (np.mean([r["seconds"][k] for r in runs]) for k in ("train", "explain"))
        lines.append(f"| {split} | `{model}` | {accuracy:.3f} | {train:.0f} | {explain:.0f} |")
    return lines


def main() -> None:
    """Run what is missing, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=explained())
    parser.add_argument("--splits", nargs="+", default=list(SPLITS), choices=sorted(TASKS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--page", type=Path, help="write the page from what is in the folder")
    options = parser.parse_args()
    if options.page is not None:
        options.page.write_text(page(options.folder, options.models, options.splits))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger("episome").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    cells = {split: cells_of(split) for split in options.splits}
    for split, (train, _) in cells.items():
        markers_of(options.folder, split, train)
    # Every model on every set before any again: what is stopped early still compares all.
    for seed in range(options.seeds):
        for split, (train, test) in cells.items():
            for model in options.models:
                run(options.folder, split, model, seed, train, test)


if __name__ == "__main__":
    main()
