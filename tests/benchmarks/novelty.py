"""Whether types that a model was not trained on are told from those it was.

Every type of at least 20 cells is held out in turn: a model is trained on a part of the cells of
the other types, and asked about the rest of them and about the held-out type. Printed are the
areas under the ROC curve of the novelty and of one minus the confidence, and the share of cells of
known types that are called novel at 5 % of false alarms.

    python tests/benchmarks/novelty.py FOLDER [--sets pbmc3k ...] [--model logreg] [--json OUT]
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from episome import plugins
from episome.data import inspect, read_cells

SETS = {
    "pbmc3k": "pbmc3k.h5ad",
    "kang": "kang_pbmc_ifnb.h5ad",
    "facs": "pbmc_facs_zheng.h5ad",
    "snare": "multiome_mop_snare.h5ad",
    "zeisel": "zeisel_cortex_small.h5ad",
}
MIN_CELLS = 20
TRAIN_SHARE = 0.7


def measure(path: Path, model: str) -> list[dict[str, object]]:
    """Hold out every type of a file in turn."""
    cells = read_cells(path)
    found = inspect(cells)
    key = str(found.arguments["labels_key"])
    slot = {k: v for k, v in found.arguments.items() if k in {"layer", "use_raw"}}
    names = cells.obs[key].astype(str).to_numpy()
    counts = {n: int((names == n).sum()) for n in np.unique(names)}
    known = [n for n, c in counts.items() if c >= MIN_CELLS and n not in {"nan", "unknown"}]
    part = np.random.default_rng(0).random(len(names))
    cls = plugins.load_class(plugins.get_spec(model))
    rows = []
    for name in known:
        others = np.isin(names, [n for n in known if n != name])
        reference = cells[others & (part < TRAIN_SHARE)].copy()
        query = cells[(others & (part >= TRAIN_SHARE)) | (names == name)].copy()
        cls.setup_anndata(reference, labels_key=key, duplicates="sum", **slot)
        trained = cls(reference)
        trained.train()
        calls = trained.annotate(query, duplicates="sum", false_alarms=0.05, **slot)
        unseen = query.obs[key].astype(str).to_numpy() == name
        alarms = (calls["status"] == "novel").to_numpy()
        rows.append(
            {
                "set": path.stem,
                "held out": name,
                "n_cells": counts[name],
                "novelty": float(roc_auc_score(unseen, calls["novelty"])),
                "1 - confidence": float(roc_auc_score(unseen, 1 - calls["confidence"])),
                "false alarms": float(alarms[~unseen].mean()),
                "found": float(alarms[unseen].mean()),
            }
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", choices=sorted(SETS), default=list(SETS))
    parser.add_argument("--model", default="logreg")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    results = []
    numbers = ("novelty", "1 - confidence", "false alarms", "found")
    for name in given.sets:
        rows = measure(given.folder / SETS[name], given.model)
        results += rows
        means = "  ".join(f"{n} {np.mean([r[n] for r in rows]):.3f}" for n in numbers)
        sys.stdout.write(f"{name:8s} {len(rows):3d} types held out: {means}\n")
        sys.stdout.flush()
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
