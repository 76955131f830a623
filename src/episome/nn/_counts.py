"""Likelihoods of counts: what is zero is summed in closed form, the rest where it is stored.

Nine of ten counts of a cell are zero. At zero the negative binomial needs one logarithm; the
gamma functions, which cost ten times as much, differ from zero at stored counts only. Values and
gradients are those of scvi-tools' distributions up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from episome.nn._autograd import apply
from episome.nn._csr import CSRParts

__all__ = ["negative_binomial_log_likelihood", "zero_inflated_log_likelihood"]

#: Added to means and dispersions inside logarithms, as scvi-tools does.
EPS = 1e-8


def negative_binomial_log_likelihood(
    counts: CSRParts | torch.Tensor, mu: torch.Tensor, theta: torch.Tensor, *, eps: float = EPS
) -> torch.Tensor:
    """Return the log likelihood of the counts of every cell, summed over genes.

    Parameters
    ----------
    counts
        (B, G), whole numbers of zero or more: CSR, or dense.
    mu
        Means, (B, G), above zero.
    theta
        Inverse dispersions, above zero: (G,), or (B, G).
    eps
        Added inside logarithms.

    Returns
    -------
    (B,), differentiable once in ``mu`` and ``theta``. On the CPU the sums are the same in every
    run; on a GPU those of ``theta``'s gradient may differ in their last digits.

    Examples
    --------
    >>> import torch
    >>> x, mu = torch.tensor([[0.0, 3.0]]), torch.tensor([[0.5, 2.0]])
    >>> negative_binomial_log_likelihood(x, mu, torch.ones(2)).round(decimals=4)
    tensor([-2.7205])
    """
    parts = _parts(counts, mu, theta)
    found: torch.Tensor = apply(_NegativeBinomial, parts, mu, theta, eps)
    return found


def zero_inflated_log_likelihood(
    counts: CSRParts | torch.Tensor,
    mu: torch.Tensor,
    theta: torch.Tensor,
    logits: torch.Tensor,
    *,
    eps: float = EPS,
) -> torch.Tensor:
    """Return the log likelihood of counts that are zero more often than a negative binomial.

    Parameters
    ----------
    counts, mu, theta, eps
        As for :func:`negative_binomial_log_likelihood`.
    logits
        Of the additional zeros, (B, G).

    Returns
    -------
    (B,), differentiable once in ``mu``, ``theta`` and ``logits``.
    """
    parts = _parts(counts, mu, theta)
    if logits.shape != mu.shape:
        msg = f"logits have shape {tuple(logits.shape)}; expected that of mu, {tuple(mu.shape)}."
        raise ValueError(msg)
    found: torch.Tensor = apply(_ZeroInflated, parts, mu, theta, logits, eps)
    return found


def _parts(counts: CSRParts | torch.Tensor, mu: torch.Tensor, theta: torch.Tensor) -> CSRParts:
    n_rows = counts.n_rows if isinstance(counts, CSRParts) else len(counts)
    if mu.ndim != 2 or len(mu) != n_rows:
        msg = f"mu has shape {tuple(mu.shape)}; expected ({n_rows}, genes)."
        raise ValueError(msg)
    if theta.shape not in (mu.shape, mu.shape[1:]):
        msg = f"theta has shape {tuple(theta.shape)}; expected ({mu.shape[1]},) or that of mu."
        raise ValueError(msg)
    if isinstance(counts, CSRParts):
        return counts
    if counts.shape != mu.shape:
        msg = f"counts have shape {tuple(counts.shape)}; expected that of mu, {tuple(mu.shape)}."
        raise ValueError(msg)
    return CSRParts.from_dense(counts)


class _Stored:
    """Stored counts of a batch, and values of dense tensors beside them."""

    def __init__(self, counts: CSRParts, n_genes: int, like: torch.Tensor) -> None:
        self.rows, self.genes = counts.rows(), counts.indices.long()
        self.place = self.rows * n_genes + self.genes
        self.x = counts.values.to(like.dtype)
        self.n_rows, self.n_genes = counts.n_rows, n_genes

    def of(self, dense: torch.Tensor) -> torch.Tensor:
        """Entries of a (B, G) or (G,) tensor, (nnz,)."""
        return dense.reshape(-1)[self.place if dense.ndim == 2 else self.genes]

    def each(
        self, function: Callable[[torch.Tensor], torch.Tensor], of: torch.Tensor
    ) -> torch.Tensor:
        """Return a function of the entries of a tensor, (nnz,), taken once for each gene's own."""
        return self.of(function(of)) if of.ndim == 1 else function(self.of(of))

    def by_row(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the stored entries of every cell, (B,)."""
        return values.new_zeros(self.n_rows).index_add_(0, self.rows, values)

    def add_to(self, dense: torch.Tensor, values: torch.Tensor) -> None:
        """Add to a (B, G) tensor in place, or sum over cells into one of (G,)."""
        if dense.ndim == 2:
            flat = dense.view(-1)
            flat[self.place] += values
        else:
            dense.index_add_(0, self.genes, values)


def _beyond_zero(
    stored: _Stored, mu: torch.Tensor, theta: torch.Tensor, log_sum: torch.Tensor, eps: float
) -> torch.Tensor:
    """Log likelihood at stored counts less that of a zero at the same place, (nnz,)."""
    x, t = stored.x, stored.of(theta)
    gammas = torch.lgamma(x + t) - stored.each(torch.lgamma, theta) - torch.lgamma(x + 1)
    found: torch.Tensor = x * (torch.log(stored.of(mu) + eps) - stored.of(log_sum)) + gammas
    return found


def _rows_dot(dense: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    return dense @ theta if theta.ndim == 1 else (dense * theta).sum(1)


class _NegativeBinomial(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, counts: CSRParts, mu: torch.Tensor, theta: torch.Tensor, eps: Any
    ) -> torch.Tensor:
        stored = _Stored(counts, mu.shape[1], mu)
        total = mu + (theta + eps)
        log_sum = total.log()
        log_theta = (theta + eps).log()
        at_zero = (theta * log_theta).sum(-1) - _rows_dot(log_sum, theta)
        ctx.stored, ctx.eps = stored, eps
        ctx.save_for_backward(mu, theta, total, log_sum)
        found: torch.Tensor = at_zero + stored.by_row(
            _beyond_zero(stored, mu, theta, log_sum, eps)
        )
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        mu, theta, total, log_sum = ctx.saved_tensors
        stored, eps = ctx.stored, ctx.eps
        inverse = total.reciprocal()
        g = grad[stored.rows]
        x, t = stored.x, stored.of(theta)
        d_mu = inverse * (-grad[:, None] * theta)
        at = x * stored.of(inverse)
        stored.add_to(d_mu, g * (x / (stored.of(mu) + eps) - at))
        d_theta = None
        if ctx.needs_input_grad[2]:
            own = (theta + eps).log() + theta / (theta + eps)
            if theta.ndim == 1:
                d_theta = grad.sum() * own - grad @ log_sum - theta * (grad @ inverse)
            else:
                d_theta = grad[:, None] * (own - log_sum - theta * inverse)
            stored.add_to(
                d_theta, g * (torch.digamma(x + t) - stored.each(torch.digamma, theta) - at)
            )
        return None, d_mu, d_theta, None


class _ZeroInflated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        counts: CSRParts,
        mu: torch.Tensor,
        theta: torch.Tensor,
        logits: torch.Tensor,
        eps: Any,
    ) -> torch.Tensor:
        stored = _Stored(counts, mu.shape[1], mu)
        total = mu + (theta + eps)
        log_sum = total.log()
        # Log odds of a zero of the negative binomial against an additional one.
        odds = theta * ((theta + eps).log() - log_sum) - logits
        either = F.softplus(odds)
        at_zero = (either - F.softplus(-logits)).sum(1)
        beyond = _beyond_zero(stored, mu, theta, log_sum, eps)
        ctx.stored, ctx.eps = stored, eps
        ctx.save_for_backward(mu, theta, logits, total, log_sum, odds)
        # A zero may be stored, and is a zero.
        instead = (stored.of(odds) - stored.of(either)) * (stored.x > 0)
        return at_zero + stored.by_row(beyond + instead)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        mu, theta, logits, total, log_sum, odds = ctx.saved_tensors
        stored, eps = ctx.stored, ctx.eps
        inverse = total.reciprocal()
        g = grad[stored.rows]
        x, t = stored.x, stored.of(theta)
        # Share of the negative binomial in what is seen: all of it where something is stored.
        share = torch.sigmoid(odds)
        flat = share.view(-1)
        flat[stored.place] = torch.where(x > 0, torch.ones_like(x), flat[stored.place])
        weighted = share.mul_(grad[:, None])
        ratio = theta * inverse
        d_mu = -weighted * ratio
        at = x * stored.of(inverse)
        stored.add_to(d_mu, g * (x / (stored.of(mu) + eps) - at))
        d_logits = None
        if ctx.needs_input_grad[3]:
            d_logits = grad[:, None] * torch.sigmoid(-logits) - weighted
        d_theta = None
        if ctx.needs_input_grad[2]:
            own = (theta + eps).log() + theta / (theta + eps)
            by_entry = weighted * (own - log_sum - ratio)
            d_theta = by_entry.sum(0) if theta.ndim == 1 else by_entry
            stored.add_to(
                d_theta, g * (torch.digamma(x + t) - stored.each(torch.digamma, theta) - at)
            )
        return None, d_mu, d_theta, d_logits, None
