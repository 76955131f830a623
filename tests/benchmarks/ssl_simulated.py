"""Pretraining on tens of thousands of simulated cells, then types from 500 labelled ones.

Run ``python tests/benchmarks/ssl_simulated.py``. Cells of new donors test; the same network from
scratch and logistic regression see the same 500 cells. Prints macro F1, and the gain over scratch
with its 95 % interval over seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats
from sklearn.metrics import f1_score

from episome import log, settings
from episome.data import simulate_cells
from episome.models import LogisticRegression
from episome_ssl import SSLClassifier, SSLEncoder

if TYPE_CHECKING:
    import anndata as ad

N_LABELLED = 500
SIZES = {"hidden": [256, 128, 64], "n_latent": 32}
TASKS = ("random_mask", "byol", "barlow", "vicreg", "simclr")


def cells_of(n_cells: int, n_genes: int, seed: int) -> tuple[ad.AnnData, ad.AnnData, ad.AnnData]:
    """Return cells for pretraining, labelled cells and test cells; donors are of one of them."""
    cells = simulate_cells(
        n_cells,
        n_genes,
        n_types=25,
        n_donors=20,
        fold_change=6.0,
        depth=300.0,
        seed=seed,
    )
    donors = cells.obs["donor_id"].astype(str)
    names = sorted(donors.unique())
    test = cells[donors.isin(names[:4])][:5000].copy()
    known = cells[donors.isin(names[4:8])]
    rng = np.random.default_rng(seed)
    labelled = known[np.sort(rng.choice(known.n_obs, N_LABELLED, replace=False))].copy()
    return cells[donors.isin(names[8:])].copy(), labelled, test


def f1_of(model: object, test: ad.AnnData) -> float:
    """Return macro F1 on test cells."""
    truth = test.obs["cell_type"].astype(str)
    return float(f1_score(truth, np.asarray(model.predict(test), dtype=str), average="macro"))


def seed_scores(seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Return macro F1 of every model for one seed."""
    many, labelled, test = cells_of(args.cells, args.genes, seed)
    found = {}
    with settings.using_seed(seed):
        LogisticRegression.setup_anndata(labelled, "cell_type")
        plain = LogisticRegression(labelled)
        plain.train()
        found["logistic regression"] = f1_of(plain, test)
        SSLClassifier.setup_anndata(labelled, "cell_type")
        scratch = SSLClassifier(labelled, **SIZES)
        scratch.train()
        found["from scratch"] = f1_of(scratch, test)
        SSLEncoder.setup_anndata(many)
        for task in args.tasks:
            started = time.perf_counter()
            encoder = SSLEncoder(many, pretext=task, **SIZES)
            encoder.train(args.epochs)
            model = SSLClassifier.from_ssl(encoder, labelled, "cell_type")
            model.train()
            found[task] = f1_of(model, test)
            took = time.perf_counter() - started
            sys.stdout.write(f"seed {seed}, {task}: {found[task]:.3f} ({took:.0f} s)\n")
            sys.stdout.flush()
    return found


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--genes", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    with log.quiet():
        rows = [seed_scores(seed, args) for seed in args.seeds]
    names = list(rows[0])
    sys.stdout.write("| model | macro F1 | gain over scratch | 95 % |\n|---|---|---|---|\n")
    for name in names:
        values = np.array([r[name] for r in rows])
        gains = values - np.array([r["from scratch"] for r in rows])
        half = 0.0
        if len(rows) > 1:
            half = stats.t.ppf(0.975, len(rows) - 1) * gains.std(ddof=1) / len(rows) ** 0.5
        sys.stdout.write(
            f"| {name} | {values.mean():.3f} | {gains.mean():+.3f} "
            f"| {gains.mean() - half:+.3f} to {gains.mean() + half:+.3f} |\n"
        )
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
