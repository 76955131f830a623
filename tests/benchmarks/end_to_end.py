"""From a file to labels, and an epoch of training, beside CellTypist and scvi-tools' loader.

Run ``python tests/benchmarks/end_to_end.py``. Simulated cells of 20 types and 20,000 genes (1,500
molecules each). ``annotate``: ``episome annotate`` of an h5ad file with a linear model and with
SCTab against a process that reads the file and calls ``celltypist.annotate`` with a model of the
same reference; start-up included. ``train``: one epoch of SCTab of the published size against
a plain loop over scvi-tools' loader with the textbook network. Requirements: annotation 10 times
(linear, at equal or better F1) and 5 times (SCTab) CellTypist's cells per second, the epoch 5
times.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from _common import TextbookTabNet, load_average, write_json
from scipy import sparse
from sklearn.metrics import f1_score

LABEL = "cell_type"
N_TYPES = 20

CELLTYPIST = """
import sys, anndata, celltypist, scanpy as sc
cells = anndata.read_h5ad(sys.argv[1])
sc.pp.normalize_total(cells, target_sum=1e4)
sc.pp.log1p(cells)
found = celltypist.annotate(cells, model=sys.argv[2])
found.predicted_labels["predicted_labels"].astype(str).to_csv(sys.argv[3])
"""


def simulated(n_cells: int, n_genes: int, *, seed: int) -> anndata.AnnData:
    """Draw counts of types that raise a hundredth of the genes, in blocks of bounded memory."""
    common = np.random.default_rng(0)
    base = common.lognormal(0.0, 1.5, n_genes)
    raised = np.ones((N_TYPES, n_genes))
    for row in raised:
        row[common.choice(n_genes, n_genes // 100, replace=False)] = 4.0
    rng = np.random.default_rng(seed)
    types = rng.integers(0, N_TYPES, n_cells)
    blocks = []
    for start in range(0, n_cells, 1000):
        mean = base * raised[types[start : start + 1000]]
        size = 1500 * rng.lognormal(0.0, 0.3, (len(mean), 1))
        counts = rng.poisson(mean / mean.sum(1, keepdims=True) * size)
        blocks.append(sparse.csr_matrix(counts.astype(np.float32)))
    obs = pd.DataFrame(
        {LABEL: pd.Categorical([f"type {t}" for t in types])},
        index=[f"cell{seed}-{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)])
    return anndata.AnnData(sparse.vstack(blocks, format="csr"), obs=obs, var=var)


def fitted(name: str, reference: anndata.AnnData, folder: Path, **train: Any) -> Path:
    """Train one of our annotators and save it."""
    import episome

    cls = episome.get_model(name)
    data = reference.copy()
    cls.setup_anndata(data, labels_key=LABEL)
    model = cls(data)
    model.train(**train)
    model.save(folder / name)
    return folder / name


def celltypist_model(reference: anndata.AnnData, folder: Path) -> Path:
    """Train CellTypist on the same cells, as it is used."""
    import celltypist
    import scanpy as sc

    data = reference.copy()
    sc.pp.normalize_total(data, target_sum=1e4)
    sc.pp.log1p(data)
    try:
        model = celltypist.train(data, labels=LABEL, n_jobs=2)
    except TypeError:  # its solver's argument is gone from scikit-learn
        model = celltypist.train(data, labels=LABEL, n_jobs=2, use_SGD=True)
    model.write(str(folder / "celltypist.pkl"))
    return folder / "celltypist.pkl"


def annotate(args: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    """Time whole processes in turns."""
    reference = simulated(4000, args.genes, seed=1)
    query = simulated(args.cells, args.genes, seed=2)
    truth = query.obs[LABEL].astype(str).to_numpy()
    query.obs = query.obs[[]]
    path = folder / "query.h5ad"
    query.write_h5ad(path)
    del query
    script = folder / "run_celltypist.py"
    script.write_text(CELLTYPIST)
    theirs, out = celltypist_model(reference, folder), folder / "calls.csv"
    commands = {"CellTypist": [sys.executable, str(script), str(path), str(theirs), str(out)]}
    for name, train in (("linear", {}), ("sctab", {"max_epochs": 10})):
        model = fitted(name, reference, folder, **train)
        verb = [
            "annotate",
            str(path),
            "-m",
            str(model),
            "-o",
            str(out),
            "--overwrite",
            "-q",
            "--no-report",
        ]
        commands[name] = [sys.executable, "-m", "episome", *verb]
    seconds: dict[str, list[float]] = {n: [] for n in commands}
    scores = {}
    for _ in range(args.rounds):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - started)
            table = pd.read_csv(out, index_col=0)
            column = "label_raw" if "label_raw" in table else table.columns[0]
            scores[name] = f1_score(truth, table[column].astype(str), average="macro")
    base = min(seconds["CellTypist"])
    found = []
    for name, need in (("CellTypist", None), ("linear", 10.0), ("sctab", 5.0)):
        least = min(seconds[name])
        verdict = "" if need is None else f"  need {need:g}: {_met(base / least, need)}"
        sys.stdout.write(
            f"annotate {args.cells:,} cells, {name:12s} {least:7.1f} s, "
            f"{args.cells / least:8,.0f} cells/s, {base / least:6.2f} times faster, macro F1 "
            f"{scores[name]:.4f}{verdict}\n"
        )
        found.append(
            {"title": "annotate", "name": name, "seconds": seconds[name], "f1": scores[name]}
        )
    return found


def train(args: argparse.Namespace) -> list[dict[str, object]]:
    """Time an epoch of both; ours without the set-up, theirs without it as well."""
    from scvi.data import AnnDataManager
    from scvi.data.fields import CategoricalObsField, LayerField
    from scvi.dataloaders import AnnDataLoader

    import episome

    cells = simulated(args.train_cells, args.genes, seed=3)
    manager = AnnDataManager(
        [LayerField("X", None, is_count_data=True), CategoricalObsField("labels", LABEL)], {}
    )
    theirs = cells.copy()
    manager.register_fields(theirs)
    torch.manual_seed(0)
    net = TextbookTabNet(args.genes, N_TYPES)
    optimiser = torch.optim.AdamW(net.parameters(), lr=5e-3, weight_decay=0.05)
    loader = AnnDataLoader(manager, batch_size=args.batch, shuffle=True, drop_last=True)
    started = time.perf_counter()
    net.train()
    for batch in loader:
        x = batch["X"]
        x = torch.log1p(x * (1e4 / x.sum(1, keepdim=True)))
        optimiser.zero_grad()
        logits, _, sparsity = net(x)
        (F.cross_entropy(logits, batch["labels"].long().squeeze(1)) - 1e-5 * sparsity).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
    reference = time.perf_counter() - started
    cls = episome.get_model("sctab")
    cls.setup_anndata(cells, labels_key=LABEL)
    seconds = {}
    for epochs in (1, 2):
        model = cls(cells, preset="paper")
        started = time.perf_counter()
        model.train(
            max_epochs=epochs,
            batch_size=args.batch,
            train_size=1.0,
            early_stopping=False,
        )
        seconds[epochs] = time.perf_counter() - started
    # What is done once per training (the loader's set-up, weights of genes) is in both.
    epoch = seconds[2] - seconds[1]
    times = reference / epoch
    sys.stdout.write(
        f"an epoch of {args.train_cells:,} x {args.genes:,}: reference loop {reference:.1f} s, "
        f"SCTab {epoch:.1f} s, {times:.2f} times faster  need 5: {_met(times, 5)}\n"
        f"the whole call of train() with one epoch: {seconds[1]:.1f} s\n"
    )
    return [{"title": "epoch", "reference": reference, "sctab": epoch, "whole": seconds[1]}]


def _met(found: float, need: float) -> str:
    return "ok" if found >= need else "MISSED"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--train-cells", type=int, default=50_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parts", nargs="+", default=["annotate", "train"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    sys.stdout.write(f"load average {load_average()}\n")
    results = []
    with tempfile.TemporaryDirectory() as place:
        if "annotate" in args.parts:
            results += annotate(args, Path(place))
    if "train" in args.parts:
        results += train(args)
    write_json(args.json, results)


if __name__ == "__main__":
    main()
