"""Memory and time of a training step that predicts 120,000 peaks, against the published decoder.

Run ``python tests/benchmarks/crossmodal_head.py``; each candidate is trained in a process of its
own, so that its peak of memory is its own. The published decoder ends in 40, 1,024, 8,192 and all
peaks: 954 million weights at 116,490 peaks. It is measured with ``--published``, which needs about
17 GB; its weights, gradients and Adam's two moments are told in any case. "The matrix" is our
network with the usual loss, which forms the matrix of cells by peaks.

``--smoke`` times a whole training with the defaults instead: 300 cells, 500 genes, 20 proteins,
wanted in less than 30 s on one core.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import anndata
import numpy as np
import torch

from episome.data import as_mudata
from episome.nn import CSRParts
from episome.train import LossPlan
from episome_crossmodal import CrossModal
from episome_crossmodal.core import CrossModalCore

N_GENES, N_OPEN = 2000, 2500
CANDIDATES = ("ours", "ours, rank 64", "the matrix", "published")


def batch_of(n_cells: int, n_peaks: int) -> dict[str, object]:
    """Cells with as many open peaks as good data have."""
    generator = torch.Generator().manual_seed(0)
    indices = torch.stack(
        [
            torch.randperm(n_peaks, generator=generator)[:N_OPEN].sort().values
            for _ in range(n_cells)
        ]
    )
    indptr = torch.arange(n_cells + 1) * N_OPEN
    peaks = CSRParts(indptr, indices.ravel().int(), torch.ones(n_cells * N_OPEN))
    genes = torch.randn(n_cells, N_GENES, generator=generator).clamp_min(0)
    return {
        "X": CSRParts.from_dense(genes),
        "dense": genes,
        "atac": peaks,
        "ind_x": torch.arange(n_cells),
    }


def published(n_peaks: int) -> torch.nn.Module:
    """The published network, encoder and decoder."""
    parts: list[torch.nn.Module] = []
    for before, after in ((N_GENES, 256), (256, 256), (256, 40), (40, 1024), (1024, 8192)):
        parts += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    return torch.nn.Sequential(*parts, torch.nn.Linear(8192, n_peaks))


def measure(name: str, n_cells: int, n_peaks: int, n_steps: int) -> dict[str, float]:
    """Train some steps; return seconds of one, and the peak of memory beyond the imports."""
    batch = batch_of(n_cells, n_peaks)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.manual_seed(0)
    if name == "published":
        net = published(n_peaks)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
    else:
        net = CrossModalCore(
            N_GENES,
            n_targets={"atac": n_peaks},
            likelihood="bernoulli",
            hidden=(256,),
            n_latent=40,
            decoder=(256,),
            head_rank=64 if name.endswith("64") else None,
        )
        optimizer = LossPlan(net).configure_optimizers()["optimizer"]
    seconds = []
    for _ in range(n_steps):
        started = time.perf_counter()
        if name in {"published", "the matrix"}:
            truth = batch["atac"].to_dense(n_peaks)
            if name == "published":
                loss = (net(batch["dense"]) - truth).square().mean()
            else:
                raw = net.out(net._hidden(net._embed(batch["X"], None), None))
                loss = torch.nn.functional.binary_cross_entropy_with_logits(raw, truth)
        else:
            loss = net.loss(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "weights_million": sum(p.numel() for p in net.parameters()) / 1e6,
        "peak_gb": (after - before) / 1e6,
        "seconds": min(seconds),
    }


def smoke() -> float:
    """Return seconds of set-up, training and prediction of a small set, without imports."""
    rng = np.random.default_rng(0)
    factors = rng.gamma(2.0, 1.0, (300, 3))
    parts = {
        name: anndata.AnnData(rng.poisson(factors @ rng.gamma(0.5, 1.0, (3, n))).astype("f4"))
        for name, n in {"rna": 500, "prot": 20}.items()
    }
    for name, part in parts.items():
        part.obs_names = [f"cell{i}" for i in range(300)]
        part.var_names = [f"{name}-{i}" for i in range(part.n_vars)]
    mdata = as_mudata(parts)
    started = time.perf_counter()
    CrossModal.setup_mudata(mdata)
    model = CrossModal(mdata)
    model.train(accelerator="cpu", enable_progress_bar=False)
    model.predict_modality(mdata.mod["rna"], interval=0.8)
    return time.perf_counter() - started


def main() -> int:
    """Measure every candidate in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=256)
    parser.add_argument("--peaks", type=int, default=120_000)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--published", action="store_true", help="Measure the published one too.")
    parser.add_argument("--one", choices=CANDIDATES, help=argparse.SUPPRESS)
    parser.add_argument("--smoke", action="store_true", help="Time a small training.")
    asked = parser.parse_args()
    if asked.smoke:
        sys.stdout.write(f"300 cells, 500 genes, 20 proteins: {smoke():.1f} s\n")
        return 0
    if asked.one:
        found = measure(asked.one, asked.cells, asked.peaks, asked.steps)
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    n_weights = sum(
        a * b + b
        for a, b in (
            (N_GENES, 256),
            (256, 256),
            (256, 40),
            (40, 1024),
            (1024, 8192),
            (8192, asked.peaks),
        )
    )
    sys.stdout.write(
        f"published: {n_weights / 1e6:,.0f} million weights, "
        f"{16 * n_weights / 1e9:,.1f} GB with gradients and Adam's moments\n"
    )
    for name in CANDIDATES:
        if name == "published" and not asked.published:
            continue
        arguments = [f"--{k}={getattr(asked, k)}" for k in ("cells", "peaks", "steps")]
        command = [sys.executable, __file__, *arguments, "--one", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        sys.stdout.write(
            f"{name}: {found['weights_million']:,.1f} million weights, "
            f"peak {found['peak_gb']:,.2f} GB, {found['seconds']:.2f} s a step of {asked.cells}\n"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
