"""Gated layers on the CPU with ghost norm, gate and residual fused in one kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from episome.nn import _glu_kernels as kernels
from episome.nn._autograd import apply
from episome.nn._numba import run_rows

if TYPE_CHECKING:
    from episome.nn._norm import GhostBatchNorm

__all__ = ["gate_in_place", "normed_gate"]


class _NormedGate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z: torch.Tensor,
        h: torch.Tensor | None,
        gain: torch.Tensor,
        bias: torch.Tensor,
        norm: GhostBatchNorm,
        half: float,
    ) -> torch.Tensor:
        z = z.detach().contiguous()
        n_obs, width = z.shape[0], z.shape[1] // 2
        estimate = norm.uses_batch_statistics(n_obs)
        sizes = norm.piece_sizes(n_obs) if estimate else [n_obs]
        cuts = np.concatenate([[0], np.cumsum(sizes)])
        if estimate:
            mean, var = z.new_empty((len(sizes), 2 * width)), z.new_empty((len(sizes), 2 * width))
        else:
            mean, var = norm.running_mean[None].clone(), norm.running_var[None].clone()
        out = z.new_empty((n_obs, width))
        before = out[:0] if h is None else h.detach().contiguous()
        exact = z.dtype == torch.float64
        ctx.settings = (cuts, norm.eps, 1.0 if h is None else half, exact, estimate)
        args = (
            *(t.detach().numpy() for t in (z, before)),
            cuts,
            *(t.detach().numpy() for t in (gain, bias)),
            *(norm.eps, half, exact, estimate),
            *(t.numpy() for t in (mean, var, out)),
        )
        run_rows(kernels.gate_forward, _units(len(sizes), width), *args, work=4 * z.numel())
        if estimate:
            norm.update(mean, var, sizes)
        ctx.save_for_backward(z, gain, bias, mean, var)
        ctx.residual = h is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        z, gain, bias, mean, var = ctx.saved_tensors
        cuts, eps, half, exact, estimate = ctx.settings
        grad = grad.contiguous()
        dz = torch.empty_like(z)
        dgain, dbias = torch.empty_like(mean), torch.empty_like(mean)
        args = (
            *(t.detach().numpy() for t in (z, grad)),
            cuts,
            *(t.detach().numpy() for t in (gain, bias)),
            *(eps, half, exact, estimate),
            *(t.numpy() for t in (mean, var, dz, dgain, dbias)),
        )
        units = _units(len(mean), grad.shape[1])
        run_rows(kernels.gate_backward, units, *args, work=6 * z.numel())
        dh = grad * half if ctx.residual else None
        return dz, dh, dgain.sum(0), dbias.sum(0), None, None


def _units(n_pieces: int, width: int) -> int:
    return n_pieces * -(-width // kernels.COLUMNS)


def normed_gate(
    z: torch.Tensor, h: torch.Tensor | None, norm: GhostBatchNorm, half: float
) -> torch.Tensor:
    """Gate of the normalised `z` (n, 2 H), added to `h` (n, H) and scaled by `half`.

    Without `h` the gate alone. Updates the running statistics in training.
    """
    out: torch.Tensor = apply(_NormedGate, z, h, norm.weight, norm.bias, norm, half)
    return out


def gate_in_place(
    z: torch.Tensor,
    h: torch.Tensor | None,
    half: float,
    gain: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Gate of ``z * gain + bias``, added to `h` and scaled by `half`; overwrites `z` and `h`."""
    empty = z.new_empty(0)
    first = h is None
    if h is None:
        h = z.new_empty((len(z), z.shape[1] // 2))
    args = (
        z.numpy(),
        (empty if gain is None else gain).numpy(),
        (empty if bias is None else bias).numpy(),
        0.0 if first else half,
        z.dtype == torch.float64,
        h.numpy(),
    )
    run_rows(kernels.gate_rows, len(z), *args, work=2 * z.numel())
    return h
