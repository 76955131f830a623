"""What an accelerator reaches with episome: the list of checks, as one short script.

Run ``python tests/benchmarks/gpu.py --json gpu.json --page docs/developer/gpu.md`` where there is
a GPU. Every part warms up, synchronises before it reads the clock, and reports the median and the
least of all rounds with the peak of device memory. ``--small --device cpu`` shows that everything
runs; its figures say nothing. ``--parts`` chooses, and ``--minutes`` ends the list in time.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from _common import TextbookTabNet, cells, copy_weights, our_names
from scvi.distributions import NegativeBinomial
from torch import nn

from episome.nn import (
    CSRParts,
    MaskedAutoencoder,
    RandomMask,
    TabNet,
    entmax15,
    entmax15_sort,
    log_normalize,
    negative_binomial_log_likelihood,
)

N_CLASSES, TARGET_SUM = 164, 1e4


@dataclass
class Sizes:
    """How large everything is."""

    genes: tuple[int, ...] = (2_000, 19_331)
    batches: tuple[int, ...] = (256, 2_048, 8_192)
    counts_genes: int = 4_000
    counts_batches: tuple[int, ...] = (128, 512, 2_048, 8_192)
    square: int = 4_096
    copied: int = 1 << 28
    cells: int = 200_000
    warmup: int = 20
    rounds: int = 50


SMALL = Sizes((60,), (32,), 50, (16,), 64, 1 << 16, 256, 1, 2)


@dataclass
class Bench:
    """The device, and what was found on it."""

    device: torch.device
    sizes: Sizes
    rows: list[dict[str, Any]] = field(default_factory=list)

    def sync(self) -> None:
        """Wait until the device has nothing left to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def timed(self, part: str, name: str, run: Callable[[], object], **facts: Any) -> float:
        """Run, and keep milliseconds and the peak of memory; return the median."""
        cuda = self.device.type == "cuda"
        for _ in range(self.sizes.warmup):
            run()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        found = []
        for _ in range(self.sizes.rounds):
            self.sync()
            started = time.perf_counter()
            run()
            self.sync()
            found.append((time.perf_counter() - started) * 1e3)
        row = {"part": part, "name": name, "median": median(found), "least": min(found), **facts}
        if cuda:
            row["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
        self.say(row)
        return row["median"]

    def say(self, row: dict[str, Any]) -> None:
        """Keep a row, and print it."""
        self.rows.append(row)
        shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
        sys.stdout.write(" | ".join(f"{k} {v}" for k, v in shown.items()) + "\n")
        sys.stdout.flush()


def limits(b: Bench) -> None:
    """Products and copies: what nothing can be faster than."""
    n = b.sizes.square
    for dtype, tf32 in ((torch.float32, False), (torch.float32, True), (torch.bfloat16, False)):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        x = torch.rand(n, n, device=b.device, dtype=dtype)
        name = f"product {n}, {'TF32' if tf32 else str(dtype).removeprefix('torch.')}"
        ms = b.timed("limits", name, lambda x=x: x @ x)
        b.say({"part": "limits", "name": f"{name}: TFLOP/s", "value": 2 * n**3 / ms / 1e9})
    torch.backends.cuda.matmul.allow_tf32 = False
    here = torch.rand(b.sizes.copied // 4, device=b.device)
    to = torch.empty_like(here)
    host = torch.rand(b.sizes.copied // 4)
    sources = {"copy on the device": here, "from pageable memory": host}
    if b.device.type == "cuda":
        sources["from pinned memory"] = host.pin_memory()
    for name, source in sources.items():
        ms = b.timed("limits", name, lambda s=source: to.copy_(s, non_blocking=True))
        moved = b.sizes.copied * (2 if source is here else 1)
        b.say({"part": "limits", "name": f"{name}: GB/s", "value": moved / ms / 1e6})
    small = torch.zeros(1, device=b.device)
    b.timed("limits", "one small kernel", lambda: small.add_(1))


def _loss(net: nn.Module, x: torch.Tensor | CSRParts, y: torch.Tensor) -> torch.Tensor:
    out = net(x)
    if isinstance(net, TextbookTabNet):
        return F.cross_entropy(out[0], y) + 1e-5 * out[2]
    return F.cross_entropy(out.logits, y) + 1e-5 * -out.sparsity


def tabnet(b: Bench) -> None:
    """Training steps: textbook, ours, compiled, and in half precision."""
    for genes in b.sizes.genes:
        for batch in b.sizes.batches:
            x = cells(batch, genes).to(b.device)
            y = torch.randint(0, N_CLASSES, (batch,), device=b.device)
            size = min(256, batch)
            textbook = TextbookTabNet(genes, N_CLASSES, size=size).to(b.device)
            net = TabNet(genes, N_CLASSES, virtual_batch_size=size).to(b.device)
            copy_weights(textbook, net)
            gap = _gradient_gap(textbook, net, x, y)

            def step(model: nn.Module, x: Any = x, y: Any = y, *, low: bool = False) -> None:
                model.zero_grad()
                with torch.autocast(b.device.type, torch.bfloat16, enabled=low):
                    loss = _loss(model, x, y)
                loss.backward()

            runs: dict[str, Callable[[], None]] = {
                "textbook": partial(step, textbook),
                "episome": partial(step, net),
                "episome, bfloat16": partial(step, net, low=True),
                "episome, compiled": partial(step, torch.compile(net)),
            }
            base = None
            for name, run in runs.items():
                facts = {"genes": genes, "batch": batch}
                ms = b.timed("tabnet", name, run, **facts)
                base = ms if base is None else base
                b.rows[-1]["times_faster"] = base / ms
            b.rows[-3]["gradients_differ"] = gap


def _gradient_gap(
    textbook: TextbookTabNet, net: TabNet, x: torch.Tensor, y: torch.Tensor
) -> float:
    """Largest relative difference of gradients; statistics move on by one batch in both."""
    for model in (textbook, net):
        model.zero_grad()
        loss = F.cross_entropy(model(x)[0], y)
        loss.backward()
    grads = {k: p.grad for k, p in textbook.named_parameters() if p.grad is not None}
    theirs = our_names({**dict.fromkeys(textbook.state_dict(), x[:1, :1]), **grads}, textbook, 3)
    found = [
        float((p.grad - theirs[k]).norm() / theirs[k].norm().clamp(min=1e-12))
        for k, p in net.named_parameters()
        if p.grad is not None and k in theirs and theirs[k].shape == p.shape
    ]
    return max(found)


def entmax(b: Bench) -> None:
    """Weights over genes beside softmax, which reads and writes scores once each."""
    scores = torch.randn(b.sizes.batches[min(1, len(b.sizes.batches) - 1)], b.sizes.genes[-1])
    scores = scores.to(b.device)
    runs = {
        "full sort": entmax15_sort,
        "episome": entmax15,
        "episome, compiled": torch.compile(entmax15),
        "softmax": lambda s: s.softmax(-1),
    }
    for name, run in runs.items():
        b.timed("entmax", name, lambda run=run: run(scores), genes=scores.shape[1])


def feeding(b: Bench) -> None:
    """One batch from the host to log-normalised values on the device, in three forms."""
    batch, genes = b.sizes.batches[-1], b.sizes.genes[-1]
    counts = (cells(batch, genes) * 4).ceil()
    parts = CSRParts.from_dense(counts)
    pin = (lambda t: t.pin_memory()) if b.device.type == "cuda" else (lambda t: t)
    library = pin(counts.sum(1))
    dense = pin(counts)
    wide = CSRParts(*(pin(t) for t in parts))
    short = (pin(parts.indptr), pin(parts.indices.to(torch.int16)), pin(parts.values.short()))

    def send(t: torch.Tensor) -> torch.Tensor:
        return t.to(b.device, non_blocking=True)

    def from_parts(given: CSRParts) -> torch.Tensor:
        normal = log_normalize(given, send(library), TARGET_SUM)
        return normal.to_dense(genes)

    def from_short() -> torch.Tensor:
        indptr, indices, values = (send(t) for t in short)
        # 16 bits hold 65,536 genes; torch counts them with a sign.
        return from_parts(CSRParts(indptr, indices.int() & 0xFFFF, values.float()))

    runs: dict[str, Callable[[], object]] = {
        "dense, 32 bits": lambda: torch.log1p(
            send(dense) * (TARGET_SUM / send(library).clamp(min=1))[:, None]
        ),
        "stored values, 32 bits": lambda: from_parts(CSRParts(*(send(t) for t in wide))),
        "stored values, 16 bits": from_short,
    }
    for name, run in runs.items():
        ms = b.timed("feeding", name, run, batch=batch, genes=genes)
        b.rows[-1]["cells_per_s"] = batch / ms * 1e3


def counts(b: Bench) -> None:
    """Likelihoods of counts beside scvi-tools'."""
    genes = b.sizes.counts_genes
    for batch in b.sizes.counts_batches:
        x = torch.poisson(torch.full((batch, genes), 0.105)).to(b.device)
        parts = CSRParts.from_dense(x)
        mu = (torch.rand(batch, genes, device=b.device) + 0.05).requires_grad_()
        log_theta = torch.randn(genes, device=b.device).requires_grad_()

        def theirs(x: Any = x, mu: Any = mu, t: Any = log_theta) -> None:
            law = NegativeBinomial(mu=mu, theta=t.exp(), validate_args=False)
            torch.autograd.grad(law.log_prob(x).sum(), (mu, t))

        def ours(parts: Any = parts, mu: Any = mu, t: Any = log_theta) -> None:
            found = negative_binomial_log_likelihood(parts, mu, t.exp()).sum()
            torch.autograd.grad(found, (mu, t))

        base = b.timed("counts", "scvi-tools", theirs, batch=batch, genes=genes)
        ms = b.timed("counts", "episome", ours, batch=batch, genes=genes)
        b.rows[-1]["times_faster"] = base / ms


def masked(b: Bench) -> None:
    """Steps of a masked autoencoder: dense, by blocks, and with products of half precision."""
    genes, batch = b.sizes.genes[-1], b.sizes.batches[-1]
    x = cells(batch, genes).to(b.device)
    parts = CSRParts.from_dense(x)
    net = MaskedAutoencoder(genes, dropout=0.0).to(b.device)

    def usual(*, low: bool) -> torch.Tensor:
        hidden = torch.rand_like(x) < 0.5
        with torch.autocast(b.device.type, torch.bfloat16, enabled=low):
            out = net(x * ~hidden * 2)
        return (out - x).square()[hidden].mean()

    runs: dict[str, Callable[[], torch.Tensor]] = {
        "dense, mask of cells by genes": lambda: usual(low=False),
        "the same, bfloat16": lambda: usual(low=True),
        "episome": lambda: net.loss(parts, RandomMask(0.5, 1)),
        "episome, bfloat16": lambda: net.loss(parts, RandomMask(0.5, 1), products=torch.bfloat16),
    }
    base = None
    for name, loss in runs.items():

        def step(loss: Callable[[], torch.Tensor] = loss) -> None:
            net.zero_grad()
            loss().backward()

        ms = b.timed("masked", name, step, batch=batch, genes=genes)
        base = ms if base is None else base
        b.rows[-1]["times_faster"] = base / ms


def predict(b: Bench) -> None:
    """Cells streamed from the host through a classifier, batch after batch."""
    genes, batch = b.sizes.genes[-1], b.sizes.batches[-1]
    parts = CSRParts.from_dense((cells(batch, genes) * 4).ceil())
    library = torch.zeros(batch).index_add_(0, parts.rows(), parts.values)
    net = TabNet(genes, N_CLASSES).to(b.device).eval()

    @torch.no_grad()
    def stream() -> None:
        for _ in range(max(b.sizes.cells // batch, 1)):
            given = CSRParts(*(t.to(b.device, non_blocking=True) for t in parts))
            normal = log_normalize(given, library.to(b.device), TARGET_SUM)
            net(normal).logits.argmax(1).cpu()

    b.sizes.warmup, b.sizes.rounds, kept = 1, 3, (b.sizes.warmup, b.sizes.rounds)
    ms = b.timed("predict", "TabNet, streamed", stream, genes=genes, batch=batch)
    b.sizes.warmup, b.sizes.rounds = kept
    b.rows[-1]["cells_per_s"] = max(b.sizes.cells // batch, 1) * batch / ms * 1e3


def determinism(b: Bench) -> None:
    """The same step twice, with fast and with deterministic operations, and what these cost."""
    genes, batch = b.sizes.genes[-1], b.sizes.batches[0]
    x = CSRParts.from_dense((torch.rand(batch, genes) < 0.1).float())
    x = CSRParts(*(t.to(b.device) for t in x))
    mu = (torch.rand(batch, genes, device=b.device) + 0.05).requires_grad_()
    log_theta = torch.randn(genes, device=b.device).requires_grad_()
    net = MaskedAutoencoder(genes, dropout=0.0).to(b.device)

    def likelihood() -> list[torch.Tensor]:
        value = negative_binomial_log_likelihood(x, mu, log_theta.exp()).sum()
        return list(torch.autograd.grad(value, (mu, log_theta)))

    def autoencoder() -> list[torch.Tensor]:
        return list(torch.autograd.grad(net.loss(x, RandomMask(0.5, 1)), list(net.parameters())))

    for name, run in (("likelihood", likelihood), ("masked autoencoder", autoencoder)):
        for wanted in (False, True):
            torch.use_deterministic_algorithms(wanted, warn_only=True)
            first, second = run(), run()
            gap = max(float((p - q).abs().max()) for p, q in zip(first, second, strict=True))
            label = f"{name}, {'deterministic' if wanted else 'as it is'}"
            b.timed("determinism", label, run, largest_difference=gap)
    torch.use_deterministic_algorithms(False)


PARTS: dict[str, Callable[[Bench], None]] = {
    f.__name__: f for f in (limits, tabnet, entmax, feeding, counts, masked, predict, determinism)
}
HEAD = """# Speed on a GPU

<!-- Written by tests/benchmarks/gpu.py; changes by hand are lost. -->
"""


def page(found: dict[str, Any]) -> str:
    """Return the page of the documentation."""
    machine = found["machine"]
    lines = [HEAD, ", ".join(f"{k} {v}" for k, v in machine.items()) + "."]
    for part, rows in _by_part(found["rows"]):
        doc = (PARTS[part].__doc__ or "").strip()
        keys = list(dict.fromkeys(k for r in rows for k in r if k != "part"))
        lines += ["", f"## {part.capitalize()}", "", doc, ""]
        lines += ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
        for row in rows:
            values = (row.get(k, "") for k in keys)
            shown = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in values)
            lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def _by_part(rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for part in PARTS:
        own = [r for r in rows if r["part"] == part]
        if own:
            yield part, own


def main() -> None:
    """Run the parts, and write what is asked for after each."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cuda")
    options.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    options.add_argument("--minutes", type=float, default=10.0, help="begin no part after that")
    options.add_argument("--small", action="store_true", help="tiny sizes: does everything run?")
    options.add_argument("--json", type=Path, default=None)
    options.add_argument("--page", type=Path, default=None)
    args = options.parse_args()
    torch.manual_seed(0)
    device = torch.device(args.device)
    bench = Bench(device, SMALL if args.small else Sizes())
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    machine = {
        "device": name or device.type,
        "Python": platform.python_version(),
        **{p: version(p) for p in ("torch", "scvi-tools", "numpy")},
        "seed": 0,
    }
    started = time.monotonic()
    for part in args.parts:
        if time.monotonic() - started > 60 * args.minutes:
            bench.say({"part": part, "name": "not begun: no time left"})
            continue
        PARTS[part](bench)
        found = {"machine": machine, "rows": bench.rows}
        if args.json is not None:
            args.json.write_text(json.dumps(found, indent=1))
        if args.page is not None:
            args.page.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
