"""A masked autoencoder's step, forward and backward, against the usual dense form.

Run ``python tests/benchmarks/masked.py``. The usual form is what the published code does: dense
batches, a mask of cells by genes, and errors chosen by it. Both hide half of all values and start
from the same cells; ours from stored values, the other from a batch that is dense already.
Requirement: twice as fast with products in bfloat16, where the processor has them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import torch
from _common import interleave, parser, report, write_json

from episome.nn import CSRParts, MaskedAutoencoder, RandomMask

RATE, STORED, FEWER = 0.5, 0.1, 8


class Problem:
    """Cells, and the network of the paper."""

    def __init__(self, n_cells: int, n_genes: int) -> None:
        torch.manual_seed(0)
        shape = (n_cells, n_genes)
        self.x = (torch.rand(shape) * 4 + 0.3) * (torch.rand(shape) < STORED)
        self.cells = CSRParts.from_dense(self.x)
        self.net = MaskedAutoencoder(n_genes, dropout=0.0)
        self.genes = n_genes

    def usual(self, hidden: torch.Tensor | None = None) -> torch.Tensor:
        """Return the loss of whole matrices."""
        if hidden is None:
            hidden = torch.rand(self.x.shape) < RATE
        out = self.net(self.x * ~hidden / (1 - RATE))
        return (out - self.x).square()[hidden].mean()

    def ours(self, products: torch.dtype | None = None, *, sampled: bool = False) -> torch.Tensor:
        """Return the loss of blocks."""
        genes = None
        if sampled:
            genes = torch.randperm(self.genes)[: max(self.genes // FEWER, 1)].sort().values
        mask = RandomMask(RATE, seed=1)
        return self.net.loss(self.cells, mask, genes=genes, products=products)

    def distance(self, products: torch.dtype | None) -> tuple[float, float]:
        """Relative distance of the loss and of all gradients from the usual form's."""
        scored = RandomMask(RATE, seed=1).scored(len(self.x), torch.arange(self.genes)).bool()
        losses = self.usual(scored), self.ours(products)
        both = []
        for loss in losses:
            found = torch.autograd.grad(loss, list(self.net.parameters()))
            both.append(torch.cat([g.reshape(-1) for g in found]))
        gap = float((losses[1] - losses[0]).detach().abs() / losses[0].detach())
        return gap, float((both[1] - both[0]).norm() / both[0].norm())


def main() -> None:
    """Run the comparison."""
    args = parser(__doc__, batch=[256, 1024]).parse_args()
    torch.set_num_threads(args.threads)
    results = []
    for n in args.batch:
        problem = Problem(n, args.genes)
        for products in (None, torch.bfloat16):
            loss, gradient = problem.distance(products)
            sys.stdout.write(f"{products}: loss differs by {loss:.1e}, gradients {gradient:.1e}\n")
        runs = {
            "dense, mask of cells by genes": _step(problem, problem.usual),
            "episome": _step(problem, problem.ours),
            "episome, products in bfloat16": _step(problem, partial(problem.ours, torch.bfloat16)),
            f"the same, 1 of {FEWER} genes decoded": _step(
                problem, partial(problem.ours, torch.bfloat16, sampled=True)
            ),
        }
        times = interleave(runs, rounds=args.rounds)
        title = f"masked autoencoder step, batch {n}, {args.genes} genes, {1 - STORED:.0%} zeros"
        base, *others = runs
        results.append(report(title, times, base=base, required={others[1]: 2.0}))
    write_json(args.json, results)


def _step(problem: Problem, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    def run() -> None:
        problem.net.zero_grad()
        loss().backward()

    return run


if __name__ == "__main__":
    main()
