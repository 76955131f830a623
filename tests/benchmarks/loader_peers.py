"""Batches of a shuffled corpus beside what other loaders make of the same shuffled cells.

Writes simulated cells (see ``corpus.py``) as a corpus, and in the corpus's order as h5ad (plain)
and as sharded zarr, so that every loader may read in order or in large blocks. Every candidate
runs in a process of its own, one thread, ``--rows`` cells per round, and gives batches of the same
size: dense float32, or sparse. Printed are processor time and time per cell, the deviation of the
donors of a batch from those of all cells in units of random batches (1 is a perfect shuffle), and
private memory beyond that after opening. Loaders that are not installed are left out with a note.

    python tests/benchmarks/loader_peers.py FOLDER [--cells 100000] [--json OUT]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from _common import deviation, load_average
from corpus import private_memory, simulated

from episome.data import CorpusSource
from episome.jobs import CorpusRequest, corpus_build

Batches = Iterator[tuple[np.ndarray, Any]]
SHARD, CHUNK = 25_600, 256


def write(folder: Path, n_cells: int, n_genes: int) -> None:
    """Write what is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "corpus").exists():
        simulated(n_cells, n_genes).write_h5ad(folder / "ordered.h5ad")
        corpus_build(
            CorpusRequest(
                (folder / "ordered.h5ad",),
                folder / "corpus",
                labels_key="cell_type",
                donor_keys=("donor_id",),
            )
        )
        (folder / "ordered.h5ad").unlink()
    if not (folder / "shuffled.h5ad").exists():
        source = CorpusSource(folder / "corpus")
        cells = anndata.AnnData(source.read(slice(0, source.n_obs)), var=source.var[[]].copy())
        cells.obs["donor_id"] = source.obs_column("donor_id").to_numpy()
        cells.obs["row"] = np.arange(source.n_obs)
        cells.write_h5ad(folder / "shuffled.h5ad")
    if importlib.util.find_spec("annbatch") and not (folder / "shuffled.zarr").exists():
        from annbatch import DatasetCollection

        DatasetCollection(folder / "shuffled.zarr").add_adatas(
            [folder / "shuffled.h5ad"], n_obs_per_chunk=CHUNK, shuffle=False
        )


# -- candidates: opened first, then the clock starts ---------------------------------------------


def episome_corpus(folder: Path, size: int, *, dense: bool, order: str) -> Batches:
    """Our loader, as training makes it."""
    from episome.data import CellLoader, FeatureSpace, InputRule, QueryKind
    from episome.nn import DenseBuffers, host_batch, with_format

    source = CorpusSource(folder / "corpus")
    loader = CellLoader(
        source,
        FeatureSpace(tuple(source.var.index)).align(source.var),
        rule=InputRule("counts"),
        kind=QueryKind(unlog=False, normalise=False, note=""),
        batch_size=size,
        shuffle=True,
        order=order,
    )
    buffers = DenseBuffers()
    yield np.empty(0), None
    for batch in loader:
        cells = host_batch(batch)["X"]
        if dense:
            cells = with_format(cells, "csr", "dense", n_features=source.n_vars, buffers=buffers)
        yield np.asarray(batch["ind_x"]), cells


def scvi_backed(folder: Path, size: int, *, dense: bool, shuffle: bool) -> Batches:
    """scvi-tools on a backed file; the file is shuffled, so it may read in order."""
    from scvi.data import AnnDataManager
    from scvi.data.fields import LayerField, NumericalObsField
    from scvi.dataloaders import AnnDataLoader

    adata = anndata.read_h5ad(folder / "shuffled.h5ad", backed="r")
    manager = AnnDataManager(
        fields=[LayerField("X", None, is_count_data=False), NumericalObsField("row", "row")]
    )
    manager.register_fields(adata)
    loader = AnnDataLoader(manager, batch_size=size, shuffle=shuffle, load_sparse_tensor=not dense)
    yield np.empty(0), None
    for batch in loader:
        yield batch["row"].numpy().ravel().astype(int), batch["X"]


def sc_dataset(folder: Path, size: int, *, dense: bool, block: int, fetch: int) -> Batches:
    """The scDataset package on a backed file: blocks, several batches mixed per read."""
    import torch
    from scdataset import BlockShuffling, scDataset

    matrix = anndata.read_h5ad(folder / "shuffled.h5ad", backed="r").X

    class Rows:
        def __len__(self) -> int:
            return matrix.shape[0]

    def fetched(_: object, rows: np.ndarray) -> tuple[Any, np.ndarray]:
        rows = np.sort(rows)
        return matrix[rows], rows

    def batch(held: tuple[Any, np.ndarray], places: np.ndarray) -> tuple[Any, np.ndarray]:
        return held[0][places], held[1][places]

    loader = scDataset(
        Rows(),
        BlockShuffling(block_size=block),
        batch_size=size,
        fetch_factor=fetch,
        fetch_callback=fetched,
        batch_callback=batch,
    )
    yield np.empty(0), None
    for cells, rows in loader:
        yield rows, torch.from_numpy(cells.toarray()) if dense else cells


def ann_batch(folder: Path, size: int, *, dense: bool, chunks: int) -> Batches:
    """The annbatch package on its own sharded zarr."""
    import zarr
    from annbatch import DatasetCollection, Loader

    if importlib.util.find_spec("zarrs"):
        zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    loader = Loader(
        chunk_size=CHUNK,
        preload_nchunks=chunks,
        batch_size=size,
        shuffle=True,
        return_index=True,
        to="torch",
    ).use_collection(DatasetCollection(folder / "shuffled.zarr", mode="r"))
    yield np.empty(0), None
    for batch in loader:
        cells = batch["X"]
        yield np.asarray(batch["index"]), cells.to_dense() if dense else cells


def ann_loader(folder: Path, size: int, *, dense: bool) -> Batches:
    """AnnLoader of anndata on a backed file, in order: it cannot convert text of the cells."""
    from anndata.experimental import AnnLoader

    adata = anndata.read_h5ad(folder / "shuffled.h5ad", backed="r")
    adata.obs = adata.obs[[]]
    first = 0
    loader = AnnLoader(adata, batch_size=size, shuffle=False)
    yield np.empty(0), None
    for batch in loader:
        cells = batch.X
        yield np.arange(first, first + len(cells)), cells
        first += len(cells)


#: What is called, with which settings, and the package it needs.
CANDIDATES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "episome, dense": (episome_corpus, {"dense": True, "order": "auto"}, "episome"),
    "episome, sparse": (episome_corpus, {"dense": False, "order": "auto"}, "episome"),
    "scvi-tools backed in order, dense": (
        scvi_backed,
        {"dense": True, "shuffle": False},
        "scvi",
    ),
    "scvi-tools backed, dense": (scvi_backed, {"dense": True, "shuffle": True}, "scvi"),
    "scDataset 64 x 16, dense": (
        sc_dataset,
        {"dense": True, "block": 64, "fetch": 16},
        "scdataset",
    ),
    "scDataset 1024 x 4, dense": (
        sc_dataset,
        {"dense": True, "block": 1024, "fetch": 4},
        "scdataset",
    ),
    "scDataset 1024 x 4, sparse": (
        sc_dataset,
        {"dense": False, "block": 1024, "fetch": 4},
        "scdataset",
    ),
    "annbatch 32 chunks, dense": (ann_batch, {"dense": True, "chunks": 32}, "annbatch"),
    "annbatch 32 chunks, sparse": (ann_batch, {"dense": False, "chunks": 32}, "annbatch"),
    "AnnLoader in order, dense": (ann_loader, {"dense": True}, "anndata"),
}


def one(name: str, args: argparse.Namespace) -> None:
    """Read with one candidate and print its figures as JSON."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    make, options, _ = CANDIDATES[name]
    rng = np.random.default_rng(0)
    donors = CorpusSource(args.folder / "corpus").obs_column("donor_id")
    codes = donors.astype("category").cat.codes.to_numpy()
    n_batches = max(2, min(args.rows, args.cells) // args.batch)
    best: dict[str, float] = {}
    for _ in range(args.rounds + 1):
        batches = make(args.folder, args.batch, **options)
        next(batches)
        before, most, seen = private_memory(), 0, []
        wall, cpu = time.perf_counter(), time.process_time()
        for rows, _cells in islice(batches, n_batches):
            seen.append(rows)
            if len(seen) % 16 == 0:
                most = max(most, private_memory())
            if time.perf_counter() - wall > args.seconds:
                break
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        n = sum(len(r) for r in seen)
        found = {"wall": wall / n * 1e6, "cpu": cpu / n * 1e6}
        best = found if not best or found["cpu"] < best["cpu"] else best
    whole = [r for r in seen if len(r) == args.batch]
    random = [rng.choice(len(codes), args.batch, replace=False) for _ in range(200)]
    best["deviation"] = deviation(codes, whole) / deviation(codes, random)
    best["private_mib"] = max(most - before, 0) / 2**20
    best["cells"] = n
    print(json.dumps(best))


def main() -> None:
    """Write, run every candidate on its own, and print the table with ratios."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("folder", type=Path)
    p.add_argument("--cells", type=int, default=100_000)
    p.add_argument("--genes", type=int, default=20_000)
    p.add_argument("--batch", type=int, default=1_024)
    p.add_argument("--rows", type=int, default=50_000)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=30.0, help="longest round of a candidate")
    p.add_argument("--one", choices=list(CANDIDATES), help=argparse.SUPPRESS)
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    if args.one:
        one(args.one, args)
        return
    write(args.folder, args.cells, args.genes)
    print(f"## {args.cells:,} cells x {args.genes:,} genes, batches of {args.batch:,}")
    print(f"load average {load_average()}")
    table: dict[str, dict[str, float]] = {}
    for name, (_, _, package) in CANDIDATES.items():
        if importlib.util.find_spec(package) is None:
            print(f"{name}: {package} is not installed")
            continue
        command = [sys.executable, *sys.argv, "--one", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: failed, {done.stderr.strip().splitlines()[-1]}")
            continue
        table[name] = json.loads(done.stdout.strip().splitlines()[-1])
    for name, row in table.items():
        base = "episome, sparse" if name.endswith("sparse") else "episome, dense"
        ratio = row["cpu"] / table[base]["cpu"]
        print(
            f"{name:36s} {row['cpu']:8.2f} us/cell cpu {row['wall']:8.2f} us/cell  "
            f"{ratio:6.2f} x our time (cpu)  deviation {row['deviation']:.2f}  "
            f"+{row['private_mib']:,.0f} MiB"
        )
    if args.json is not None:
        args.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
