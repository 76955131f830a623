"""Likelihoods of counts against scvi-tools': forward and backward of a batch.

Run ``python tests/benchmarks/counts.py``. Requirement: three times faster than scvi-tools'
distributions, with the same value and gradients.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from _common import interleave, parser, report, write_json
from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial

from episome.nn import (
    CSRParts,
    negative_binomial_log_likelihood,
    zero_inflated_log_likelihood,
)

RATE = 0.105


class Problem:
    """Counts of some cells, and parameters that need gradients."""

    def __init__(self, n_cells: int, n_genes: int) -> None:
        torch.manual_seed(0)
        self.x = torch.poisson(torch.full((n_cells, n_genes), RATE))
        self.counts = CSRParts.from_dense(self.x)
        self.mu = (torch.rand(n_cells, n_genes) + 0.05).requires_grad_()
        self.log_theta = torch.randn(n_genes).requires_grad_()
        self.logits = torch.randn(n_cells, n_genes).requires_grad_()
        self.leaves = (self.mu, self.log_theta, self.logits)

    @property
    def zeros(self) -> float:
        """Share of zeros."""
        return 1 - len(self.counts.values) / self.x.numel()

    def theirs(self, *, inflated: bool) -> torch.Tensor:
        """Return scvi-tools' log likelihood."""
        kwargs = {"mu": self.mu, "theta": self.log_theta.exp()}
        law = (
            ZeroInflatedNegativeBinomial(**kwargs, zi_logits=self.logits)
            if inflated
            else NegativeBinomial(**kwargs)
        )
        return law.log_prob(self.x).sum()

    def ours(self, *, inflated: bool) -> torch.Tensor:
        """Return episome's."""
        theta = self.log_theta.exp()
        if inflated:
            found = zero_inflated_log_likelihood(self.counts, self.mu, theta, self.logits)
        else:
            found = negative_binomial_log_likelihood(self.counts, self.mu, theta)
        return found.sum()


def main() -> None:
    """Run the comparison."""
    args = parser(__doc__, batch=[256]).parse_args()
    torch.set_num_threads(args.threads)
    results = []
    for n in args.batch:
        problem = Problem(n, args.genes)
        for inflated in (False, True):
            name = "zero-inflated negative binomial" if inflated else "negative binomial"
            values = [f(inflated=inflated) for f in (problem.theirs, problem.ours)]
            gap = _largest_gap(*values, problem.leaves)
            sys.stdout.write(f"{name}: value and gradients differ by {gap:.1e}\n")
            runs = {
                "scvi-tools": _step(problem.theirs, problem.leaves, inflated=inflated),
                "episome": _step(problem.ours, problem.leaves, inflated=inflated),
            }
            times = interleave(runs, rounds=args.rounds)
            title = f"{name}, {n} cells, {args.genes} genes, {problem.zeros:.0%} zeros"
            results.append(report(title, times, base="scvi-tools", required={"episome": 3.0}))
    write_json(args.json, results)


def _step(
    value: Callable[..., torch.Tensor], leaves: tuple[torch.Tensor, ...], *, inflated: bool
) -> Callable[[], None]:
    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        value(inflated=inflated).backward()

    return run


def _largest_gap(
    theirs: torch.Tensor, ours: torch.Tensor, leaves: tuple[torch.Tensor, ...]
) -> float:
    """Largest relative difference of the value and of the gradients."""
    gaps = [float((theirs - ours).abs() / theirs.abs())]
    pairs = (torch.autograd.grad(v, leaves, allow_unused=True) for v in (theirs, ours))
    gaps += [
        float((a - b).norm() / a.norm())
        for a, b in zip(*pairs, strict=True)
        if a is not None and b is not None
    ]
    return max(gaps)


if __name__ == "__main__":
    main()
