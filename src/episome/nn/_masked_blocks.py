"""What an output layer is compared with, one block of its columns at a time.

Every function takes what the layer gives for a block, and returns errors and their derivatives,
while all of it is in the cache. Targets are sparse: what holds for a zero is computed for all
entries, and what a stored value adds where it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F

from episome.nn import _masked_kernels as kernels
from episome.nn._counts import EPS
from episome.nn._numba import numba_enabled, run_rows

if TYPE_CHECKING:
    from episome.nn._csr import CSRParts

Likelihood = Literal["mse", "nb", "poisson", "bernoulli"]


class Block(NamedTuple):
    """One block of genes of the output: its errors, and their derivatives."""

    derivative: torch.Tensor
    error: torch.Tensor
    n_scored: torch.Tensor
    of_theta: torch.Tensor | None = None


class Target(NamedTuple):
    """What the output is compared with, and how; ``size`` of every cell is that of counts."""

    cells: CSRParts
    size: torch.Tensor | None
    activation: str
    likelihood: str = "mse"


def activated(raw: torch.Tensor, activation: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the output, and its derivative with respect to ``raw`` unless that is one."""
    if activation == "softplus":
        return F.softplus(raw), torch.sigmoid(raw)
    if activation == "sigmoid":
        out = torch.sigmoid(raw)
        return out, out * (1 - out)
    return raw, None


def _errors(expected: torch.Tensor, cells: CSRParts, first: int, scored: torch.Tensor) -> Block:
    """Squared errors of scored genes from ``first`` on; ``expected`` (B, S) is overwritten."""
    if expected.device.type == "cpu" and numba_enabled():
        error = expected.new_zeros(len(expected))
        args = (*cells.numpy(), first, scored.numpy(), expected.numpy(), error.numpy())
        run_rows(kernels.scored_errors, len(expected), *args, work=2 * expected.numel())
        return Block(expected, error, scored.sum())
    rows, columns, values = _stored(cells, first, expected)
    expected[rows, columns] -= values
    expected.masked_fill_(scored == 0, 0)
    return Block(2 * expected, expected.square().sum(1), scored.sum())


def _squared(raw: torch.Tensor, target: Target, first: int, scored: torch.Tensor) -> Block:
    expected, slope = activated(raw, target.activation)
    block = _errors(expected, target.cells, first, scored)
    if slope is None:
        return block
    return block._replace(derivative=block.derivative.mul_(slope))


def _counted(
    raw: torch.Tensor,
    target: Target,
    theta: torch.Tensor,
    first: int,
    scored: torch.Tensor,
) -> Block:
    """Negative log likelihoods of scored counts; their derivatives by ``raw`` and by theta."""
    size = torch.as_tensor(target.size)[:, None]
    mu = F.softplus(raw).mul_(size)
    total = mu + (theta + EPS)
    log_sum = total.log()
    weight = scored.to(raw.dtype)
    log_theta, ratio = (theta + EPS).log(), theta / total
    error = -(weight * theta * (log_theta - log_sum)).sum(1)
    own = log_theta + theta / (theta + EPS)
    of_theta = (weight * (log_sum + ratio - own)).sum(0)
    derivative = ratio.mul_(weight)
    # Beyond that of a zero at the same place, where a count is stored.
    rows, columns, x = _stored(target.cells, first, raw)
    t, w = theta[columns], weight[rows, columns]
    mean, sums = mu[rows, columns] + EPS, total[rows, columns]
    gammas = torch.lgamma(x + t) - torch.lgamma(t) - torch.lgamma(x + 1)
    error.index_add_(0, rows, -w * (x * (mean.log() - sums.log()) + gammas))
    derivative[rows, columns] -= w * (x / mean - x / sums)
    of_theta.index_add_(0, columns, w * (torch.digamma(t) - torch.digamma(x + t) + x / sums))
    return Block(derivative.mul_(torch.sigmoid(raw) * size), error, scored.sum(), of_theta)


def _bernoulli(raw: torch.Tensor, target: Target, first: int, scored: torch.Tensor) -> Block:
    """Cross-entropies of scored entries; ``raw`` are logits, stored values are ones."""
    weight = scored.to(raw.dtype)
    error = (F.softplus(raw) * weight).sum(1)
    derivative = torch.sigmoid(raw).mul_(weight)
    rows, columns, _ = _stored(target.cells, first, raw)
    w = weight[rows, columns]
    error.index_add_(0, rows, -w * raw[rows, columns])
    derivative[rows, columns] -= w
    return Block(derivative, error, scored.sum())


def _poisson(raw: torch.Tensor, target: Target, first: int, scored: torch.Tensor) -> Block:
    """Negative log likelihoods of scored counts of mean ``size * softplus(raw)``."""
    weight = scored.to(raw.dtype)
    size = torch.as_tensor(target.size)[:, None]
    mu = F.softplus(raw).mul_(size)
    error = (mu * weight).sum(1)
    derivative = weight.clone()
    rows, columns, x = _stored(target.cells, first, raw)
    mean, w = mu[rows, columns] + EPS, weight[rows, columns]
    error.index_add_(0, rows, -w * (x * mean.log() - torch.lgamma(x + 1)))
    derivative[rows, columns] -= w * x / mean
    return Block(derivative.mul_(torch.sigmoid(raw) * size), error, scored.sum())


def _stored(
    cells: CSRParts, first: int, raw: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, columns within the block, and values of what is stored in it."""
    columns = cells.indices.long() - first
    inside = (columns >= 0) & (columns < raw.shape[1])
    return cells.rows()[inside], columns[inside], cells.values[inside].to(raw.dtype)


def block_of(
    raw: torch.Tensor,
    target: Target,
    theta: torch.Tensor | None,
    first: int,
    scored: torch.Tensor,
) -> Block:
    """Return errors and derivatives of one block of an output layer.

    Parameters
    ----------
    raw
        What the layer gives, (B, S); may be overwritten.
    target
        What it is compared with.
    theta
        Inverse dispersions of the block, (S,), of ``"nb"``.
    first
        Number of its first column.
    scored
        Which entries count, (B, S) uint8.
    """
    if target.likelihood == "nb":
        if theta is None:
            msg = "the negative binomial needs dispersions"
            raise ValueError(msg)
        return _counted(raw, target, theta, first, scored)
    by_name = {"mse": _squared, "poisson": _poisson, "bernoulli": _bernoulli}
    return by_name[target.likelihood](raw, target, first, scored)
