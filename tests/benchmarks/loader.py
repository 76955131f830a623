"""Batches per second: in memory and from an h5ad file, beside scvi-tools' AnnDataLoader.

Writes synthetic counts (100,000 cells x 20,000 genes at 5 % by default, donor after donor) to
``--folder``, reads them in every way, and removes them. Every candidate gives batches of the same
size; the deviation is the mean L1 distance of the donors of a batch from those of all cells,
divided by that of random batches: 1 is perfect mixing. Rows per second are of this machine; the
ratios are what counts. The file is in the page cache; a cold disk makes random rows slower still.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch
from _common import deviation, load_average, parser, write_json
from scipy import sparse
from scvi.data import AnnDataManager
from scvi.data.fields import LayerField
from scvi.dataloaders import AnnDataLoader

from episome.data import AnnDataSource, CellLoader, FeatureSpace, InputRule, QueryKind, read_cells
from episome.nn import DenseBuffers, host_batch, normalized_batch

N_DONORS = 20


def counts(n_cells: int, n_genes: int, density: float) -> sparse.csr_matrix:
    """Draw counts with the genes of every cell at random."""
    rng = np.random.default_rng(0)
    blocks = []
    for start in range(0, n_cells, 2_000):
        n = min(2_000, n_cells - start)
        sizes = rng.binomial(n_genes, density, n)
        genes = [np.sort(rng.choice(n_genes, k, replace=False, shuffle=False)) for k in sizes]
        indices = np.concatenate(genes).astype(np.int32)
        values = rng.integers(1, 6, len(indices)).astype(np.float32)
        pointers = np.concatenate([[0], np.cumsum(sizes)])
        blocks.append(sparse.csr_matrix((values, indices, pointers), shape=(n, n_genes)))
    return sparse.vstack(blocks, format="csr")


def written(path: Path, n_cells: int, n_genes: int, density: float) -> None:
    """Write cells to a file, donor after donor."""
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)])
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)])
    anndata.AnnData(counts(n_cells, n_genes, density), obs=obs, var=var).write_h5ad(path)


def cell_loader(adata: anndata.AnnData, batch_size: int, order: str = "auto") -> CellLoader:
    """Return our loader of all genes, shuffled."""
    source = AnnDataSource(adata)
    alignment = FeatureSpace(tuple(adata.var_names)).align(source.var)
    kind = QueryKind(unlog=False, normalise=True, note="")
    return CellLoader(
        source,
        alignment,
        rule=InputRule("counts"),
        kind=kind,
        batch_size=batch_size,
        shuffle=True,
        order=order,
    )


def scvi_loader(adata: anndata.AnnData, batch_size: int) -> AnnDataLoader:
    """Return scvi-tools' loader, shuffled."""
    manager = AnnDataManager(fields=[LayerField("X", None, is_count_data=False)])
    manager.register_fields(adata)
    return AnnDataLoader(manager, shuffle=True, batch_size=batch_size)


def dense(
    batches: Iterable[dict[str, object]], n_genes: int, *, normalise: bool = True
) -> Iterator[object]:
    """Normalise and densify our batches, as is done on the device; or give dense counts."""
    buffers = DenseBuffers()
    for batch in batches:
        cells = host_batch(batch)
        if not normalise:
            del cells["size_factor"]
        ready = normalized_batch(cells, target_sum=1e4, n_features=n_genes, buffers=buffers)
        assert ready["X"].shape[1] == n_genes
        yield batch["ind_x"]


def candidates(
    path: Path, batch_size: int, n_genes: int
) -> dict[str, Callable[[], Iterator[object]]]:
    """All ways to read; each yields the rows of its batches, or nothing known of them."""
    memory, disk = read_cells(path), read_cells(path, backed=True)

    def scvi(adata: anndata.AnnData, *, normalise: bool = False) -> Iterator[object]:
        for batch in scvi_loader(adata, batch_size):
            values = batch["X"]
            assert values.shape[1] == n_genes
            if normalise:  # what a model has to do before it can learn from it
                torch.log1p_(values.mul_(1e4 / values.sum(dim=1, keepdim=True)))
            yield None

    def rows_of(adata: anndata.AnnData, order: str) -> Iterator[object]:
        for batch in cell_loader(adata, batch_size, order):
            yield batch["ind_x"]

    return {
        "memory, scvi-tools, dense": lambda: scvi(memory),
        "memory, scvi-tools, dense + log1p": lambda: scvi(memory, normalise=True),
        "memory, episome, CSR": lambda: rows_of(memory, "auto"),
        "memory, episome, dense": lambda: dense(
            cell_loader(memory, batch_size), n_genes, normalise=False
        ),
        "memory, episome, dense + log1p": lambda: dense(cell_loader(memory, batch_size), n_genes),
        "disk, scvi-tools, dense": lambda: scvi(disk),
        "disk, episome, single rows, CSR": lambda: rows_of(disk, "exact"),
        "disk, episome, blocks, CSR": lambda: rows_of(disk, "blocks"),
        "disk, episome, blocks, dense + log1p": lambda: dense(
            cell_loader(disk, batch_size, "blocks"), n_genes
        ),
    }


def timed(
    make: Callable[[], Iterator[object]], n_batches: int, batch_size: int
) -> tuple[float, float, list[np.ndarray]]:
    """Rows per second by the clock and per second of CPU, and the rows of the batches."""
    wall, cpu = time.perf_counter(), time.process_time()
    rows = list(islice(make(), n_batches))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    n = len(rows) * batch_size
    return n / wall, n / cpu, [r for r in rows if r is not None]


def main() -> None:
    """Read in every way, print the table and the ratios."""
    p = parser(__doc__, batch=[512])
    p.set_defaults(genes=20_000, rounds=3, threads=1)
    p.add_argument("--cells", type=int, default=100_000)
    p.add_argument("--density", type=float, default=0.05)
    p.add_argument("--rows", type=int, default=99_840, help="rows read per candidate and round")
    p.add_argument("--folder", type=Path, default=None)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    results = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder, "cells.h5ad")
        written(path, args.cells, args.genes, args.density)
        for batch_size in args.batch:
            results.append(compared(path, batch_size, args))
    write_json(args.json, results)


def compared(path: Path, batch_size: int, args: argparse.Namespace) -> dict[str, object]:
    """Compare all candidates at one batch size, round after round."""
    n_batches = max(2, args.rows // batch_size)
    ways = candidates(path, batch_size, args.genes)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    rows: dict[str, list[np.ndarray]] = {}
    for turn in range(args.rounds + 1):
        for name, make in ways.items():
            wall, cpu, rows[name] = timed(make, n_batches, batch_size)
            if turn:  # the first round warms caches
                found[name].append((wall, cpu))
    rng = np.random.default_rng(0)
    random = [rng.choice(args.cells, batch_size, replace=False) for _ in range(200)]
    donors = np.arange(args.cells) * N_DONORS // args.cells
    unit = deviation(donors, random)
    out = [
        f"## {args.cells:,} cells x {args.genes:,} genes at {args.density:.0%}, "
        f"batches of {batch_size}",
        f"load average {load_average()}, {torch.get_num_threads()} threads",
    ]
    table = {}
    for name, speeds in found.items():
        wall, cpu = (max(column) for column in zip(*speeds, strict=True))
        base = max(s[1] for s in found[f"{name.split(',')[0]}, scvi-tools, dense"])
        mixing = deviation(donors, rows[name]) / unit if rows[name] else float("nan")
        table[name] = {"rows_per_s": wall, "rows_per_cpu_s": cpu, "deviation": mixing}
        out.append(
            f"{name:38s} {wall:9,.0f} rows/s {cpu:9,.0f} rows/cpu-s"
            f"  {cpu / base:6.2f} x scvi-tools (cpu)  deviation {mixing:.2f}"
        )
    blocks, single = (
        max(s[1] for s in found[f"disk, episome, {k}, CSR"]) for k in ("blocks", "single rows")
    )
    for kind in ("dense", "dense + log1p"):
        theirs, ours = (
            max(s[1] for s in found[f"memory, {who}, {kind}"]) for who in ("scvi-tools", "episome")
        )
        out.append(f"in memory, {kind}, equal output: {ours / theirs:.2f} times scvi-tools (cpu)")
    out.append(f"blocks beside single rows: {blocks / single:.1f} times (cpu)")
    sys.stdout.write("\n".join(out) + "\n")
    return {"batch_size": batch_size, "load": load_average(), "table": table}


if __name__ == "__main__":
    main()
