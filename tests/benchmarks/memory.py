"""Peak memory of training from disk and of annotating a file, at several sizes.

Cells are simulated once (20,000 x 20,000 genes, 6 % stored) and repeated, with types that differ
in 200 genes each. Every size is trained (a linear model, one epoch, from a corpus) and annotated
(h5ad to csv) in a process of its own. The figure is the largest private memory of that process:
pages that no file stands behind (``RssAnon``), sampled, beside the peak of all pages.

    python tests/benchmarks/memory.py FOLDER [--cells 100000 1000000] [--json OUT]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd
from anndata.io import write_elem
from corpus import private_memory, simulated
from scipy import sparse

if TYPE_CHECKING:
    import anndata

BASE, N_GENES, N_TYPES, MARKERS = 20_000, 20_000, 20, 200


def base() -> anndata.AnnData:
    """Simulated cells of types that can be told apart."""
    adata = simulated(BASE, N_GENES)
    types = np.arange(BASE) % N_TYPES
    rng = np.random.default_rng(1)
    extra = []
    for t in range(N_TYPES):
        genes = rng.choice(N_GENES, MARKERS, replace=False)
        rows = np.flatnonzero(types == t)
        hits = rng.random((len(rows), MARKERS)) < 0.3
        at = np.nonzero(hits)
        extra.append((rows[at[0]], genes[at[1]]))
    rows, genes = (np.concatenate(part) for part in zip(*extra, strict=True))
    more = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, genes)), adata.X.shape)
    adata.X = (adata.X + more).tocsr()
    adata.obs["cell_type"] = pd.Categorical([f"type {t}" for t in types])
    return adata


def write_repeated(adata: anndata.AnnData, path: Path, n_cells: int) -> None:
    """Write the cells again and again, until there are ``n_cells``, block by block."""
    times = n_cells // adata.n_obs
    adata.write_h5ad(path)
    matrix, n = adata.X, adata.n_obs
    with h5py.File(path, "r+") as file:
        del file["X"]
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        group.attrs["shape"] = (n * times, adata.n_vars)
        for name, values in (("data", matrix.data), ("indices", matrix.indices)):
            data = group.create_dataset(
                name, (len(values) * times,), values.dtype, chunks=(1 << 20,)
            )
            for i in range(times):
                data[i * len(values) : (i + 1) * len(values)] = values
        pointers = np.arange(times)[:, None] * matrix.nnz + matrix.indptr[:-1].astype(np.int64)
        group["indptr"] = np.append(pointers.ravel(), matrix.nnz * times)
        obs = pd.concat([adata.obs] * times)
        obs.index = [f"AAACCCAAGAAACACT-{i}" for i in range(n * times)]
        write_elem(file, "obs", obs)


def watched(folder: Path, what: str, n_cells: int) -> dict[str, float]:
    """Run one job in this process, and return its time and memory."""
    from episome.jobs import AnnotateRequest, TrainRequest, annotate, train

    peak, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            peak[0] = max(peak[0], private_memory())

    watcher = threading.Thread(target=look)
    watcher.start()
    started = time.perf_counter()
    if what == "train":
        request = TrainRequest(
            method="linear",
            input=folder / f"{n_cells}.corpus",
            output=folder / f"model-{n_cells}",
            setup={"labels_key": "cell_type", "donor_key": "donor_id"},
            train={"max_epochs": 1, "accelerator": "cpu"},
            overwrite=True,
        )
        train(request)
    else:
        model = min(folder.glob("model-*"), key=lambda p: len(p.name))
        output = folder / f"calls-{n_cells}.csv"
        annotate(AnnotateRequest(folder / f"{n_cells}.h5ad", model, output, overwrite=True))
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "private_mib": peak[0] / 2**20, "peak_mib": whole}


def prepared(folder: Path, sizes: list[int]) -> None:
    """Write files and corpora that are not there yet."""
    from episome.jobs import CorpusRequest, corpus_build

    folder.mkdir(parents=True, exist_ok=True)
    cells = None
    for n_cells in sizes:
        file, corpus = folder / f"{n_cells}.h5ad", folder / f"{n_cells}.corpus"
        if not file.exists():
            cells = base() if cells is None else cells
            write_repeated(cells, file, n_cells)
        if not corpus.exists():
            corpus_build(
                CorpusRequest(
                    inputs=(file,), output=corpus, labels_key="cell_type", donor_keys=("donor_id",)
                )
            )


def main() -> None:
    """Run every job in a process of its own, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cells", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--jobs", nargs="+", default=["train", "annotate"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        found = watched(args.folder, args.one[0], int(args.one[1]))
        sys.stdout.write(json.dumps(found) + "\n")
        return
    prepared(args.folder, args.cells)
    results: dict[str, dict[str, float]] = {}
    for job in args.jobs:
        for n_cells in args.cells:
            command = [sys.executable, __file__, str(args.folder), "--one", job, str(n_cells)]
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
            found = json.loads(done.stdout.splitlines()[-1])
            results[f"{job} {n_cells}"] = found
            sys.stdout.write(
                f"{job:9s} {n_cells:>10,} cells {found['seconds']:8.1f} s   private "
                f"{found['private_mib']:7,.0f} MiB   all pages {found['peak_mib']:7,.0f} MiB\n"
            )
            sys.stdout.flush()
        first, last = (
            results[f"{job} {n}"]["private_mib"] for n in (args.cells[0], args.cells[-1])
        )
        sys.stdout.write(f"{job}: the largest takes {last / first:.2f} times the smallest\n")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
