"""Time and memory of SCBERT at the published size, on the CPU, each candidate in its own process.

Run ``python tests/benchmarks/scbert_step.py``. The size is the published one: 16,906 genes, 6
layers, 10 heads of 64. It prints, from one run:

- one layer's attention by random features, against a plain implementation of the same formula
  that forms the features of all tokens, as the published library does (written here), forward and
  with gradients: wanted no slower, at most half the peak memory;
- training of the exact mode on expressed genes against random features on all genes, ours and the
  plain ones: wanted at least 10 times the cells per second at 2,000 expressed genes and 3 times at
  4,000;
- the attention that every gene gets, against the matrix of all genes by all genes;
- prediction of a batch against one cell at a time, with few expressed genes;
- the peak memory of a step of training of one cell, with the optimizer: wanted below 6 GB.

``--smoke`` trains the tiny preset instead: 300 cells, 500 genes, wanted in less than 60 s on one
core. ``--small`` measures everything at sizes that say nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch

from episome.data import simulate_cells
from episome.nn import CSRParts
from episome_scbert import SCBERT, layers
from episome_scbert.core import SCBERTCore
from episome_scbert.favor import attention_received, favor_attention, orthogonal_features
from episome_scbert.presets import PAPER

HEADS, WIDTH = 10, 64


def plain_favor(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, projection: torch.Tensor
) -> torch.Tensor:
    """The formula as one reads it: features of all tokens, then two products."""

    def features(x: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
        x = x * WIDTH**-0.25
        u = torch.einsum("bhld,md->bhlm", x, projection)
        half = x.square().sum(-1, keepdim=True) / 2
        shift = u.amax(dims, keepdim=True).detach()
        return len(projection) ** -0.5 * (torch.exp(u - half - shift) + 1e-4)

    a, b = features(q, (-1,)), features(k, (-1, -2))
    norm = 1.0 / torch.einsum("bhlm,bhm->bhl", a, b.sum(-2))
    context = torch.einsum("bhlm,bhld->bhmd", b, v)
    return torch.einsum("bhmd,bhlm,bhl->bhld", context, a, norm)


def attention_inputs(length: int, *, grad: bool) -> list[torch.Tensor]:
    """Queries, keys, values of one cell, and random directions."""
    rng = torch.Generator().manual_seed(0)
    parts = [0.3 * torch.randn(1, HEADS, length, WIDTH, generator=rng) for _ in range(3)]
    return [*(p.requires_grad_(grad) for p in parts), orthogonal_features(266, WIDTH, rng)]


def attention(name: str, length: int) -> Callable[[], object]:
    """One layer's attention."""
    run = favor_attention if name.startswith("ours") else plain_favor
    grad = name.endswith("gradients")
    parts = attention_inputs(length, grad=grad)

    def step() -> object:
        out = run(*parts)
        if grad:
            torch.autograd.grad(out.square().sum(), parts[:3])
        return out

    return step


def scores(name: str, length: int) -> Callable[[], object]:
    """The attention that every gene gets in one layer."""
    q, k, _, projection = attention_inputs(length, grad=False)
    if name.startswith("column"):
        return lambda: attention_received(q, k, projection)

    def by_matrix() -> torch.Tensor:
        # Attention weights are the answer where the values are the identity.
        total = torch.zeros(length)
        for head in range(HEADS):
            one = slice(head, head + 1)
            identity = torch.eye(length)[None, None]
            matrix = favor_attention(q[:, one], k[:, one], identity, projection)
            total += matrix[0, 0].sum(0)
        return total

    return by_matrix


def cells_of(n_cells: int, n_genes: int, expressed: int) -> CSRParts:
    """Cells that express so many genes."""
    rng = np.random.default_rng(0)
    columns = [np.sort(rng.permutation(n_genes)[:expressed]) for _ in range(n_cells)]
    return CSRParts(
        torch.arange(n_cells + 1) * expressed,
        torch.from_numpy(np.concatenate(columns).astype(np.int32)),
        torch.from_numpy(rng.uniform(1, 4, n_cells * expressed).astype(np.float32)),
    )


def core_of(attention_kind: str, n_genes: int, depth: int) -> SCBERTCore:
    """The published network, with either attention."""
    exact = attention_kind == "exact_nonzero"
    options = {**PAPER, "attention": attention_kind, "appended": not exact, "depth": depth}
    # So few tokens need no second pass to fit into memory.
    options["checkpointing"] = not exact
    torch.manual_seed(0)
    return SCBERTCore(n_genes, 11, **options)


def training(name: str, n_genes: int, expressed: int, depth: int) -> Callable[[], object]:
    """Loss and gradients of one cell."""
    core = core_of("exact_nonzero" if name.startswith("exact") else "favor", n_genes, depth)
    if name.startswith("plain"):
        layers.favor_attention = lambda q, k, v, projection, **_: plain_favor(q, k, v, projection)
    batch = {"X": cells_of(1, n_genes, expressed), "ind_x": torch.arange(1)}
    core.train()

    def step() -> object:
        core.zero_grad()
        core(batch)["logits"].square().sum().backward()
        return None

    return step


def optimized(n_genes: int, expressed: int, depth: int) -> Callable[[], object]:
    """One step of the optimizer on one cell, layers computed again in the backward pass."""
    core = core_of("favor", n_genes, depth)
    optimizer = torch.optim.AdamW(core.parameters())
    batch = {"X": cells_of(1, n_genes, expressed), "ind_x": torch.arange(1)}
    core.train()

    def step() -> object:
        optimizer.zero_grad()
        core(batch)["logits"].square().sum().backward()
        return optimizer.step()

    return step


def prediction(name: str, n_genes: int, expressed: int, n_cells: int) -> Callable[[], object]:
    """Calls of some cells by the default network."""
    torch.manual_seed(0)
    core = SCBERTCore(n_genes, 11, dim=64).eval()
    cells = cells_of(n_cells, n_genes, expressed)

    def run() -> object:
        with torch.no_grad():
            if name.startswith("batch"):
                return core({"X": cells})
            return [core({"X": cells.take(torch.tensor([i]))}) for i in range(n_cells)]

    return run


def candidate(name: str, *, small: bool) -> Callable[[], object]:
    """Return what is measured by its name."""
    genes = 600 if small else 16_906
    depth = 1 if small else 6
    what, _, rest = name.partition(": ")
    if what == "attention":
        return attention(rest, genes)
    if what == "scores":
        return scores(rest, genes)
    if what == "prediction":
        return prediction(rest, genes, 60, 8 if small else 256)
    expressed = int(rest.split()[-1])
    if what == "step":
        return optimized(genes, expressed // 40 if small else expressed, depth)
    return training(rest, genes, expressed // 40 if small else expressed, depth)


#: What is compared: title, the first against the second, wanted ratio of times, and of memory.
PAIRS = (
    ("attention, forward", "attention: ours", "attention: plain", 1.0, 0.5),
    (
        "attention, with gradients",
        "attention: ours with gradients",
        "attention: plain with gradients",
        1.0,
        0.5,
    ),
    *(
        (
            f"training, {n:,} expressed, {what} random features",
            f"training: exact {n}",
            f"training: {name} {n}",
            wanted,
            None,
        )
        for n, wanted in ((2000, 10.0), (4000, 3.0))
        for name, what in (("favor", "our"), ("plain", "plain"))
    ),
    ("attention scores", "scores: column sums", "scores: matrix", None, None),
    ("prediction", "prediction: batch", "prediction: one cell at a time", None, None),
)


#: A step of training with its optimizer, and the peak memory that is wanted, in MB.
STEP, STEP_MB = "step: one cell of 4000", 6_000


def measure(name: str, *, small: bool, rounds: int) -> dict[str, float]:
    """Return the shortest time of some rounds, and the peak of memory beyond what there was."""
    run = candidate(name, small=small)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    # These take minutes, and are no close race.
    slow = name == "scores: matrix" or name.startswith("training: plain")
    for _ in range(1 if slow else rounds):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": min(seconds), "peak_mb": (after - before) / 1e3}


def in_own_process(name: str, asked: argparse.Namespace) -> dict[str, float]:
    """Measure a candidate in a process of its own, and say what was found.

    It is forked, and need not import anything again; this process has computed nothing.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        found = pool.submit(measure, name, small=asked.small, rounds=asked.rounds).result()
    sys.stdout.write(f"{name:36s} {found['seconds']:9.3f} s  peak {found['peak_mb']:9.0f} MB\n")
    return found


def smoke() -> float:
    """Return seconds of set-up, training and prediction of a small set, without imports."""
    adata = simulate_cells(300, 500, n_types=3, n_donors=5, seed=0)
    started = time.perf_counter()
    SCBERT.setup_anndata(adata, labels_key="cell_type", donor_key="donor_id")
    model = SCBERT(adata, preset="tiny", dim=32, depth=2)
    model.train(accelerator="cpu", enable_progress_bar=False)
    model.predict(adata)
    return time.perf_counter() - started


def main() -> int:
    """Measure every candidate in a process of its own, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="Sizes that say nothing.")
    parser.add_argument("--smoke", action="store_true", help="Time a small training.")
    parser.add_argument("--only", default="", help="Only titles that begin so.")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.smoke:
        sys.stdout.write(f"300 cells, 500 genes: {smoke():.1f} s\n")
        return 0
    if STEP.startswith(asked.only):
        met = in_own_process(STEP, asked)["peak_mb"] < STEP_MB
        told = "ok" if met else "MISSED"
        sys.stdout.write(f"## a step with its optimizer (memory need {STEP_MB:,} MB: {told})\n")
    for title, first, second, wanted_time, wanted_memory in PAIRS:
        if not title.startswith(asked.only):
            continue
        found = [in_own_process(name, asked) for name in (first, second)]
        faster = found[1]["seconds"] / max(found[0]["seconds"], 1e-9)
        memory = found[0]["peak_mb"] / max(found[1]["peak_mb"], 1e-9)
        need = []
        if wanted_time is not None:
            met = faster >= wanted_time
            need.append(f"time need {wanted_time:g}: {'ok' if met else 'MISSED'}")
        if wanted_memory is not None:
            met = memory <= wanted_memory
            need.append(f"memory need {wanted_memory:g}: {'ok' if met else 'MISSED'}")
        told = "; ".join(need) or "no target"
        sys.stdout.write(
            f"## {title}: {faster:.2f} times faster, {memory:.2f} of the memory ({told})\n"
        )
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
