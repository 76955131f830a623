"""Interleaved timing, its report, synthetic cells, and a textbook TabNet to compare with."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from episome.nn import entmax15_sort, sparsemax_sort


@dataclass(slots=True)
class Timing:
    """Seconds of every round of one candidate."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def interleave(
    candidates: dict[str, Callable[[], object]], *, rounds: int, warmup: int = 1
) -> dict[str, Timing]:
    """Run candidates in turn, round after round, so that noise meets all of them alike."""
    times = {name: Timing() for name in candidates}
    for turn in range(warmup + rounds):
        for name, run in candidates.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if turn >= warmup:
                times[name].wall.append(wall)
                times[name].cpu.append(cpu)
    return times


def deviation(codes: np.ndarray, batches: list[np.ndarray]) -> float:
    """Mean L1 distance of the groups (donors, say) of a batch from those of all cells."""
    n = int(codes.max()) + 1
    whole = np.bincount(codes, minlength=n) / len(codes)
    found = [np.bincount(codes[b], minlength=n) / len(b) for b in batches]
    return float(np.abs(np.stack(found) - whole).sum(axis=1).mean())


def load_average() -> float:
    """Load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def report(
    title: str, times: dict[str, Timing], *, base: str, required: dict[str, float] | None = None
) -> dict[str, object]:
    """Print the ratios of all candidates to `base`; return them for ``--json``.

    Requirements are held against the ratio of the minima, which other processes disturb least.
    """
    out = [f"## {title}", f"load average {load_average()}, {torch.get_num_threads()} threads"]
    ratios = {}
    for name, t in times.items():
        b = times[base]
        row = {
            "wall_min": min(b.wall) / min(t.wall),
            "wall_median": median(b.wall) / median(t.wall),
            "cpu_min": min(b.cpu) / max(min(t.cpu), 1e-9),
            "cpu_median": median(b.cpu) / max(median(t.cpu), 1e-9),
        }
        need = (required or {}).get(name)
        verdict = ""
        if need is not None:
            verdict = f"  need {need:g}: {'ok' if row['wall_min'] >= need else 'MISSED'}"
        out.append(
            f"{name:34s} wall min {min(t.wall) * 1e3:9.2f} median {median(t.wall) * 1e3:9.2f} ms"
            f" | times faster: wall {row['wall_min']:6.2f} / {row['wall_median']:6.2f}"
            f" cpu {row['cpu_min']:6.2f} / {row['cpu_median']:6.2f}{verdict}"
        )
        ratios[name] = {**row, "required": need, "seconds": asdict(t)}
    sys.stdout.write("\n".join(out) + "\n")
    sys.stdout.flush()
    return {"title": title, "base": base, "load": load_average(), "ratios": ratios}


def parser(doc: str | None, *, batch: list[int]) -> argparse.ArgumentParser:
    """Options that all benchmark scripts share."""
    p = argparse.ArgumentParser(description=doc)
    p.add_argument("--genes", type=int, default=19_331)
    p.add_argument("--batch", type=int, nargs="+", default=batch)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--json", type=Path, default=None, help="write the figures to this file")
    return p


def write_json(path: Path | None, results: list[dict[str, object]]) -> None:
    """Write results with what identifies the machine."""
    if path is None:
        return
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }
    path.write_text(json.dumps({"machine": machine, "results": results}, indent=1))


def cells(n_cells: int, n_genes: int, *, density: float = 0.1, seed: int = 0) -> torch.Tensor:
    """Log-expression-like cells (n_cells, n_genes) with about `density` non-zero entries."""
    rng = torch.Generator().manual_seed(seed)
    chance = torch.exp(1.5 * torch.randn(n_genes, generator=rng))
    chance = (chance * density / chance.mean()).clamp_max(0.95)
    x = torch.log1p(torch.empty(n_cells, n_genes).exponential_(0.4, generator=rng))
    return x * (torch.rand(n_cells, n_genes, generator=rng) < chance)


class LoopGhostNorm(nn.Module):
    """Ghost batch norm as a loop over pieces; a negative size means pieces of at most that."""

    def __init__(self, width: int, size: int, momentum: float = 0.02) -> None:
        super().__init__()
        self.size, self.norm = size, nn.BatchNorm1d(width, momentum=momentum)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise piece by piece."""
        if not self.training:
            return self.norm(x)
        pieces = max(len(x) // self.size, 1) if self.size > 0 else -(len(x) // self.size)
        return torch.cat([self.norm(p) for p in x.chunk(pieces)])


class Gated(nn.Module):
    """One gated layer: linear map, ghost norm, gate."""

    def __init__(self, linear: nn.Linear, size: int) -> None:
        super().__init__()
        self.linear, self.norm = linear, LoopGhostNorm(linear.out_features, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Half the width of the linear map."""
        z = self.norm(self.linear(x))
        h = z.shape[1] // 2
        return z[:, :h] * torch.sigmoid(z[:, h:])


class TextbookTabNet(nn.Module):
    """TabNet as the papers write it: dense masks by full sort, ghost norms in loops."""

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        *,
        n_d: int = 128,
        n_a: int = 64,
        n_steps: int = 1,
        n_shared: int = 3,
        n_independent: int = 5,
        size: int = 256,
        mask: str = "entmax15",
        gamma: float = 1.3,
        groups: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        hidden = n_d + n_a
        self.n_d, self.n_steps, self.gamma = n_d, n_steps, gamma
        self.mask = entmax15_sort if mask == "entmax15" else sparsemax_sort
        self.input_norm = nn.BatchNorm1d(n_features, momentum=0.01)
        widths = [n_features] + [hidden] * (n_shared + n_independent - 1)
        shared = [nn.Linear(w, 2 * hidden, bias=False) for w in widths[:n_shared]]
        self.blocks = nn.ModuleList()
        for _ in range(n_steps + 1):
            own = [nn.Linear(w, 2 * hidden, bias=False) for w in widths[n_shared:]]
            self.blocks.append(nn.ModuleList(Gated(m, size) for m in shared + own))
        spread = None
        if groups is not None:
            chosen = F.one_hot(groups).T.double()
            spread = chosen / chosen.sum(1, keepdim=True)
        self.register_buffer("spread", spread, persistent=False)
        scored = n_features if spread is None else len(spread)
        self.attention = nn.ModuleList(nn.Linear(n_a, scored, bias=False) for _ in range(n_steps))
        self.attention_norm = nn.ModuleList(LoopGhostNorm(scored, size) for _ in range(n_steps))
        self.head = nn.Linear(n_d, n_classes, bias=False)

    def transform(self, k: int, x: torch.Tensor) -> torch.Tensor:
        """Run feature transformer `k`."""
        first, *rest = self.blocks[k]
        h = first(x)
        for layer in rest:
            h = (h + layer(h)) * math.sqrt(0.5)
        return h

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits, embedding and mean negative entropy."""
        x = self.input_norm(x)
        self.masks: list[torch.Tensor] = []
        prior = x.new_ones((len(x), self.attention[0].out_features))
        h = self.transform(0, x)
        loss, total = 0.0, 0.0
        for t in range(self.n_steps):
            scores = self.attention_norm[t](self.attention[t](h[:, self.n_d :]))
            m = self.mask(scores * prior)
            loss = loss + (m * torch.log(m + 1e-15)).sum(1).mean()
            prior = prior * (self.gamma - m)
            m = m if self.spread is None else m @ self.spread
            self.masks.append(m)
            h = self.transform(t + 1, m * x)
            total = total + F.relu(h[:, : self.n_d])
        return self.head(total), total, loss / self.n_steps


def copy_weights(source: TextbookTabNet, target: nn.Module) -> None:
    """Give a :class:`episome.nn.TabNet` the weights and statistics of a textbook one."""
    target.load_state_dict(our_names(source.state_dict(), source, target.n_shared))


def our_names(
    state: dict[str, torch.Tensor], source: TextbookTabNet, n_shared: int
) -> dict[str, torch.Tensor]:
    """Tensors of a textbook network (weights, or gradients) under the names of ours."""
    out = {k: v for k, v in state.items() if k.startswith("input_norm.")}
    out["head.weight"] = state["head.weight"]
    parts = [p for p in _NORM if f"input_norm.{p}" in state]
    for k in range(len(source.blocks)):
        for i in range(len(source.blocks[k])):
            w = state[f"blocks.{k}.{i}.linear.weight"]
            if i == 0:
                out[f"first.{0 if n_shared else k}"] = w.T.contiguous()
            elif i < n_shared:
                out[f"shared.{i - 1}"] = w
            else:
                out[f"transformers.{k}.specific.{i - max(n_shared, 1)}"] = w
            for part in parts:
                out[f"transformers.{k}.norms.{i}.{part}"] = state[
                    f"blocks.{k}.{i}.norm.norm.{part}"
                ]
    for t in range(source.n_steps):
        out[f"attentions.{t}.weight"] = state[f"attention.{t}.weight"]
        for part in parts:
            out[f"attentions.{t}.norm.{part}"] = state[f"attention_norm.{t}.norm.{part}"]
    return out


_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
