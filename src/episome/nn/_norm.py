"""Ghost batch normalisation and the re-estimation of running statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from episome.nn._autograd import apply

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["GhostBatchNorm", "reestimate_batch_norm"]


class _EqualPieces(torch.autograd.Function):
    """Normalise pieces (k, n, D), each by its own statistics; returns those too, (k, 1, D)."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mean = x.mean(1, keepdim=True)
        centred = x - mean
        var = centred.square().mean(1, keepdim=True)
        inv = (var + eps).rsqrt()
        ctx.save_for_backward(centred, inv, weight)
        ctx.mark_non_differentiable(mean, var)
        return torch.addcmul(bias, centred, weight * inv), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[Any, ...]:
        centred, inv, weight = ctx.saved_tensors
        n = grad.shape[1]
        by_bias = grad.sum(1, keepdim=True)
        by_weight = (grad * centred).sum(1, keepdim=True) * inv
        dx = torch.addcmul(grad - by_bias / n, centred, by_weight * inv, value=-1 / n)
        return dx.mul_(weight * inv), by_weight.sum((0, 1)), by_bias.sum((0, 1)), None


class GhostBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over small virtual batches (:cite:p:`hoffer2017train`).

    In training the batch is cut in pieces as :func:`torch.chunk` does; every piece is normalised
    by its own statistics. There is one set of running statistics, updated once per piece in
    order. In evaluation it equals :class:`torch.nn.BatchNorm1d`.

    Parameters
    ----------
    num_features
        Width of the input.
    virtual_batch_size
        Size that pieces aim at; None makes the whole batch one piece (plain batch norm).
    momentum
        Weight of a piece in the running statistics; None keeps a cumulative average.
    eps
        Added to the variance.
    rounding
        Number of pieces of a batch of B cells: ``"floor"`` gives ``max(B // size, 1)``
        (scTab), ``"ceil"`` gives ``ceil(B / size)`` (pytorch-tabnet, SIMS).

    Notes
    -----
    Batch statistics need two cells. A training batch of one cell is normalised by the running
    statistics and does not update them; a last piece of one cell joins the piece before it.

    Examples
    --------
    >>> import torch
    >>> norm = GhostBatchNorm(3, virtual_batch_size=4)
    >>> norm(torch.randn(9, 3)).shape
    torch.Size([9, 3])
    >>> norm.piece_sizes(9)
    [5, 4]
    """

    def __init__(
        self,
        num_features: int,
        *,
        virtual_batch_size: int | None,
        momentum: float | None = 0.02,
        eps: float = 1e-5,
        rounding: Literal["floor", "ceil"] = "floor",
    ) -> None:
        if virtual_batch_size is not None and virtual_batch_size < 2:
            msg = (
                f"virtual_batch_size is {virtual_batch_size}; batch statistics need at least 2 "
                "cells. Give 2 or more, or None for the whole batch."
            )
            raise ValueError(msg)
        if rounding not in ("floor", "ceil"):
            msg = f'rounding is {rounding!r}; expected "floor" or "ceil".'
            raise ValueError(msg)
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.virtual_batch_size = virtual_batch_size
        self.rounding = rounding

    def extra_repr(self) -> str:
        """Show the settings of the pieces too."""
        size = f"virtual_batch_size={self.virtual_batch_size}, rounding={self.rounding!r}"
        plain = f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"
        return f"{plain}, {size}"

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def piece_sizes(self, n_obs: int) -> list[int]:
        """Sizes of the pieces that a training batch of `n_obs` cells is cut into."""
        if self.virtual_batch_size is None or n_obs <= 1:
            return [n_obs]
        whole, rest = divmod(n_obs, self.virtual_batch_size)
        wanted = max(whole + (rest > 0 and self.rounding == "ceil"), 1)
        size = -(-n_obs // wanted)
        sizes = [min(size, n_obs - start) for start in range(0, n_obs, size)]
        if sizes[-1] == 1 and len(sizes) > 1:
            sizes[-2:] = [sizes[-2] + 1]
        return sizes

    def uses_batch_statistics(self, n_obs: int) -> bool:
        """Whether a batch of `n_obs` cells is normalised by its own statistics."""
        return self.training and n_obs > 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise a batch (n_obs, num_features); result of the same shape and dtype."""
        self._check_input_dim(x)
        n_obs = x.shape[0]
        if not self.uses_batch_statistics(n_obs):
            return self._native(x, training=False, factor=0.0)
        sizes = self.piece_sizes(n_obs)
        if len(sizes) == 1:
            return self._normalise_piece(x)
        if len(set(sizes)) > 1:
            return torch.cat([self._normalise_piece(piece) for piece in torch.split(x, sizes)])
        pieces = x.to(self.weight.dtype).reshape(len(sizes), sizes[0], -1)
        out, mean, var = apply(_EqualPieces, pieces, self.weight, self.bias, self.eps)
        self.update(mean[:, 0], var[:, 0], sizes)
        normed: torch.Tensor = out.reshape(x.shape).to(x.dtype)
        return normed

    def _normalise_piece(self, x: torch.Tensor) -> torch.Tensor:
        self.num_batches_tracked += 1
        factor = self.momentum
        if factor is None:
            factor = 1.0 / float(self.num_batches_tracked)
        return self._native(x, training=True, factor=factor)

    def _native(self, x: torch.Tensor, *, training: bool, factor: float) -> torch.Tensor:
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            weight=self.weight,
            bias=self.bias,
            training=training,
            momentum=factor,
            eps=self.eps,
        )

    @torch.no_grad()
    def update(self, means: torch.Tensor, variances: torch.Tensor, sizes: list[int]) -> None:
        """Move the running statistics as if the pieces had come one after the other.

        Parameters
        ----------
        means, variances
            Mean and biased variance of each piece, (n_pieces, num_features).
        sizes
            Number of cells of each piece; the variance is made unbiased with it.
        """
        k = len(sizes)
        if self.momentum is None:
            seen = int(self.num_batches_tracked)
            old, w = seen / (seen + k), torch.full_like(means[:, :1], 1 / (seen + k))
        else:
            keep = 1 - self.momentum
            later = torch.arange(k - 1, -1, -1, dtype=means.dtype, device=means.device)[:, None]
            old, w = keep**k, self.momentum * keep**later
        if len(set(sizes)) == 1:
            unbiased = variances * (sizes[0] / (sizes[0] - 1))
        else:
            n = means.new_tensor(sizes)[:, None]
            unbiased = variances * (n / (n - 1))
        self.running_mean.mul_(old).add_((means * w).sum(0))
        self.running_var.mul_(old).add_((unbiased * w).sum(0))
        self.num_batches_tracked += k


def reestimate_batch_norm(
    module: nn.Module,
    batches: Iterable[Any],
    *,
    forward: Callable[[nn.Module, Any], object] | None = None,
) -> int:
    """Recompute the running statistics of all batch norms as an average over batches.

    Running statistics follow slowly (momentum 0.01 to 0.02), so after few updates a network in
    evaluation mode lags behind its weights. One pass over training cells removes the lag.

    Parameters
    ----------
    module
        Network. Its buffers of running statistics are changed; weights, modes, momenta, counts
        of updates and gradients are not. Dropout is off during the pass.
    batches
        Training batches, at least one with two cells. Taken once.
    forward
        How to run a batch, ``forward(module, batch)``; by default ``module(batch)``.

    Returns
    -------
    Number of batches used.

    Raises
    ------
    ValueError
        If there are no batches. The statistics are then as before, as after any other error.

    Notes
    -----
    Every batch, and every piece of it in :class:`GhostBatchNorm`, has the same weight.
    """
    run = forward or (lambda net, batch: net(batch))
    norms = [
        m
        for m in module.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None
    ]
    used = 0
    with _cumulative(module, norms), torch.no_grad():
        for batch in batches:
            run(module, batch)
            used += 1
        if not used:
            msg = "There are no batches to re-estimate running statistics from. Give one or more."
            raise ValueError(msg)
    return used


@contextmanager
def _cumulative(module: nn.Module, norms: list[Any]) -> Iterator[None]:
    """Training mode with cumulative statistics; the old statistics come back after an error."""
    modes = {m: m.training for m in module.modules()}
    kept = [
        (
            m,
            m.momentum,
            m.num_batches_tracked.clone(),
            m.running_mean.clone(),
            m.running_var.clone(),
        )
        for m in norms
    ]
    done = False
    try:
        module.train()
        for m in module.modules():
            if isinstance(m, nn.modules.dropout._DropoutNd):
                m.eval()
        for m in norms:
            m.reset_running_stats()
            m.momentum = None
        yield
        done = True
    finally:
        for m, mode in modes.items():
            m.training = mode
        for m, momentum, count, mean, var in kept:
            untouched = not int(m.num_batches_tracked)
            m.momentum = momentum
            m.num_batches_tracked.copy_(count)
            if not done or untouched:
                m.running_mean.copy_(mean)
                m.running_var.copy_(var)
