"""A corpus against h5ad and memory: size on disk, and how fast random cells are read.

Writes simulated cells of realistic sparsity as h5ad (plain and gzip) and as a corpus, and reads
batches of the same number of cells from each, all as CSR float32. Printed are sizes, the time to
build, private memory, and ratios to scipy's row slice in memory. The page cache is warm.

    python tests/benchmarks/corpus.py FOLDER [--cells 100000] [--genes 20000] [--json OUT]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from _common import interleave, load_average, report
from scipy import sparse

from episome.data import AnnDataSource, CorpusSource
from episome.jobs import CorpusRequest, corpus_build

CHUNK = 5_000


def simulated(n_cells: int, n_genes: int, *, depth: int = 1_800, seed: int = 0) -> anndata.AnnData:
    """Draw molecules of genes of very different frequency; about 6 % of the entries are not zero.

    Cells lie in the order of their 20 donors.
    """
    rng = np.random.default_rng(seed)
    chance = np.cumsum(rng.lognormal(0.0, 2.0, n_genes))
    chance /= chance[-1]
    parts = []
    for first in range(0, n_cells, CHUNK):
        n = min(CHUNK, n_cells - first)
        depths = (depth * rng.lognormal(0.0, 0.4, n)).astype(np.int64)
        genes = np.minimum(np.searchsorted(chance, rng.random(depths.sum())), n_genes - 1)
        rows = np.repeat(np.arange(n), depths)
        ones = np.ones(len(genes), dtype=np.float32)
        parts.append(sparse.csr_matrix((ones, (rows, genes)), shape=(n, n_genes)))
    matrix = sparse.vstack(parts, format="csr")
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([f"type {t}" for t in rng.integers(0, 50, n_cells)]),
            "donor_id": pd.Categorical([f"donor {20 * i // n_cells}" for i in range(n_cells)]),
        },
        index=[f"AAACCCAAGAAACACT-{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"ENSG{i:011d}" for i in range(n_genes)])
    return anndata.AnnData(matrix, obs=obs, var=var)


def size(path: Path) -> int:
    """Bytes of a file or folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(p.stat().st_size for p in files if p.is_file())


def private_memory() -> int:
    """Bytes of this process that no file stands behind; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(x.split()[1]) << 10 for x in lines if x.startswith("RssAnon")), 0)


def write(folder: Path, args: argparse.Namespace) -> dict[str, object]:
    """Write the cells in every form; return sizes and the time to build."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = simulated(args.cells, args.genes)
    stored = cells.X.nnz
    cells.write_h5ad(folder / "plain.h5ad")
    cells.write_h5ad(folder / "gzip.h5ad", compression="gzip")
    del cells
    cpu, wall = time.process_time(), time.perf_counter()
    request = CorpusRequest(
        (folder / "plain.h5ad",),
        folder / "corpus",
        labels_key="cell_type",
        donor_keys=("donor_id",),
        overwrite=True,
    )
    corpus_build(request)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    sizes = {name: size(folder / name) for name in ("plain.h5ad", "gzip.h5ad", "corpus")}
    print(
        f"## {args.cells:,} cells x {args.genes:,} genes, {stored / args.cells:,.0f} values a cell"
    )
    print(f"density {stored / args.cells / args.genes:.1%}, load average {load_average()}")
    for name, n in sizes.items():
        share = n / sizes["gzip.h5ad"]
        print(f"{name:12s} {n / 1e6:9.1f} MB, {n / args.cells:7.0f} a cell, {share:.2f} of gzip")
    rate = args.cells / wall
    print(f"build: {wall:.1f} s, {cpu:.1f} s cpu, {rate:,.0f} cells/s, checks included")
    return {"sizes": sizes, "stored": stored, "build_wall": wall, "build_cpu": cpu}


def readers(folder: Path, batch: int, n_slow: int) -> dict[str, Callable[[], object]]:
    """Every way to read ``batch`` random cells."""
    memory = anndata.read_h5ad(folder / "plain.h5ad").X
    n = memory.shape[0]
    rng = np.random.default_rng(1)
    corpus = CorpusSource(folder / "corpus")
    backed = {k: anndata.read_h5ad(folder / f"{k}.h5ad", backed="r") for k in ("plain", "gzip")}
    ours = AnnDataSource(backed["plain"])

    def rows(k: int = batch) -> np.ndarray:
        return np.sort(rng.choice(n, k, replace=False))

    def run() -> slice:
        first = int(rng.integers(0, n - batch))
        return slice(first, first + batch)

    return {
        "memory, scipy, random": lambda: memory[rows()],
        "corpus, random": lambda: corpus.read(rows()),
        "corpus, run (shuffled at build)": lambda: corpus.read(run()),
        "h5ad backed, random": lambda: backed["plain"].X[rows()],
        "h5ad backed by AnnDataSource": lambda: ours.read(rows()),
        "h5ad backed, run (not shuffled)": lambda: backed["plain"].X[run()],
        f"h5ad gzip backed, {n_slow} random": lambda: backed["gzip"].X[rows(n_slow)],
    }


def check(folder: Path) -> None:
    """The corpus holds what the file holds."""
    corpus, cells = CorpusSource(folder / "corpus"), anndata.read_h5ad(folder / "plain.h5ad")
    names = cells.obs_names[::97]
    place = corpus.obs_names.get_indexer(names)
    difference = corpus.read(place) != cells[names].X
    if difference.nnz:
        msg = "the corpus holds other counts than the file"
        raise SystemExit(msg)


def main() -> None:
    """Write, read and print."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("folder", type=Path)
    p.add_argument("--cells", type=int, default=100_000)
    p.add_argument("--genes", type=int, default=20_000)
    p.add_argument("--batch", type=int, default=1_024)
    p.add_argument("--slow", type=int, default=64, help="cells of a batch from gzip")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    facts = write(args.folder, args)
    check(args.folder)
    before = private_memory()
    source = CorpusSource(args.folder / "corpus")
    for first in range(0, source.n_obs, args.batch):
        source.read(slice(first, first + args.batch))
    more = private_memory() - before
    print(f"private memory after all cells were read from the corpus: {more / 2**20:+.0f} MiB")
    found = readers(args.folder, args.batch, args.slow)
    times = interleave(found, rounds=args.rounds, warmup=2)
    for name, t in times.items():
        n = args.slow if "gzip" in name else args.batch
        t.cpu, t.wall = [c / n for c in t.cpu], [w / n for w in t.wall]
    # Per 1,000 cells, so that batches of different size compare; the report prints milliseconds.
    for t in times.values():
        t.cpu, t.wall = [c * 1000 for c in t.cpu], [w * 1000 for w in t.wall]
    ratios = report(
        f"1,000 random cells as CSR float32, batches of {args.batch:,}",
        times,
        base="memory, scipy, random",
    )
    for name, t in times.items():
        print(f"{name:34s} cpu {min(t.cpu) * 1e3:9.2f} us/cell")
    if args.json is not None:
        args.json.write_text(json.dumps({**facts, "private": more, "read": ratios}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
