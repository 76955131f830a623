"""1.5-entmax and sparsemax: softmax-like maps whose weights are exactly zero for most entries.

See :cite:p:`peters2019sparse` (1.5-entmax) and :cite:p:`martins2016softmax` (sparsemax).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from episome.nn import _entmax_kernels as kernels
from episome.nn._autograd import apply
from episome.nn._numba import numba_enabled, run_rows

__all__ = ["entmax15", "entmax15_sort", "sparsemax", "sparsemax_sort"]

_CHECK_EVERY = 4


def entmax15(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """Map scores to weights that sum to one, with exact zeros (1.5-entmax).

    Solves ``p = max(x / 2 - tau, 0)**2`` with ``sum(p) = 1`` along `dim`, exactly.

    Parameters
    ----------
    x
        Scores of any shape, float32 or float64; half precision is raised to float32.
        Not modified.
    dim
        Axis along which weights sum to one.

    Returns
    -------
    Weights, shape of `x`, float32 or float64. A slice that holds NaN, or whose maximum is
    infinite, is all NaN.

    Notes
    -----
    On the CPU a compiled kernel collects the scores within 2 of the slice's maximum, the only
    ones that can get weight, and runs Newton's method on them; elsewhere the same method runs in
    plain torch. Both end with the closed form on the support. The gradient needs the support only.

    Examples
    --------
    >>> import torch
    >>> entmax15(torch.tensor([2.0, 1.0, 0.0])).round(decimals=3)
    tensor([0.8310, 0.1690, 0.0000])
    """
    return _along(x, dim, square=True)


def sparsemax(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """Project scores on the simplex: weights that sum to one, with exact zeros (sparsemax).

    Solves ``p = max(x - tau, 0)`` with ``sum(p) = 1`` along `dim`, exactly.

    Parameters
    ----------
    x
        Scores of any shape, float32 or float64; half precision is raised to float32.
        Not modified.
    dim
        Axis along which weights sum to one.

    Returns
    -------
    Weights, shape of `x`, float32 or float64. A slice that holds NaN, or whose maximum is
    infinite, is all NaN.

    Examples
    --------
    >>> import torch
    >>> sparsemax(torch.tensor([2.0, 1.5, 0.0]))
    tensor([0.7500, 0.2500, 0.0000])
    """
    return _along(x, dim, square=False)


def entmax15_sort(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """1.5-entmax by sorting the whole axis: the slow textbook form, kept as an oracle.

    Parameters
    ----------
    x
        Scores, floating point.
    dim
        Axis along which weights sum to one.

    Returns
    -------
    Weights, shape and dtype of `x`.
    """
    return _sort_along(x, dim, square=True)


def sparsemax_sort(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """Sparsemax by sorting the whole axis: the slow textbook form, kept as an oracle.

    Parameters
    ----------
    x
        Scores, floating point.
    dim
        Axis along which weights sum to one.

    Returns
    -------
    Weights, shape and dtype of `x`.
    """
    return _sort_along(x, dim, square=False)


def _sort_along(x: torch.Tensor, dim: int, *, square: bool) -> torch.Tensor:
    out: torch.Tensor = apply(_SortMap, x.movedim(dim, -1), square)
    return out.movedim(-1, dim)


def _along(x: torch.Tensor, dim: int, *, square: bool) -> torch.Tensor:
    if not x.is_floating_point():
        msg = (
            f"Scores have dtype {x.dtype}; expected a floating-point tensor. Call x.float() first."
        )
        raise TypeError(msg)
    if x.dtype not in (torch.float32, torch.float64):
        x = x.float()
    if x.ndim == 0:
        return _along(x.unsqueeze(0), 0, square=square).squeeze(0)
    if x.numel() == 0:
        return x.clone()
    moved = x.movedim(dim, -1)
    rows = moved.reshape(-1, moved.shape[-1])
    out: torch.Tensor = apply(
        _SortMap if torch.compiler.is_compiling() else _FastMap, rows, square
    )
    return out.reshape(moved.shape).movedim(-1, dim)


def _on_cpu(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and numba_enabled()


class _FastMap(torch.autograd.Function):
    """Sort-free map of rows (n, d); compiled kernels on the CPU, plain torch elsewhere."""

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, square: Any) -> torch.Tensor:
        ctx.square = square
        if _on_cpu(z):
            z = z.detach().contiguous()
            out = torch.empty_like(z)
            top = z.amax(-1)
            run_rows(
                kernels.forward_dense,
                len(z),
                z.numpy(),
                top.numpy(),
                square,
                out.numpy(),
                work=z.numel(),
            )
        else:
            out = newton_rows(z, square=square)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (y,) = ctx.saved_tensors
        if not _on_cpu(y):
            return _jacobian(y, grad, square=ctx.square), None
        grad = grad.contiguous()
        out = torch.empty_like(y)
        run_rows(
            kernels.backward_dense,
            len(y),
            y.numpy(),
            grad.numpy(),
            ctx.square,
            out.numpy(),
            work=y.numel(),
        )
        return out, None


class _SortMap(torch.autograd.Function):
    """Full-sort map along the last axis."""

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, square: Any) -> torch.Tensor:
        ctx.square = square
        out = _sorted_rows(z, square=square)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (y,) = ctx.saved_tensors
        return _jacobian(y, grad, square=ctx.square), None


def _jacobian(y: torch.Tensor, grad: torch.Tensor, *, square: bool) -> torch.Tensor:
    r = y.sqrt() if square else (y > 0).to(y.dtype) + 0 * y
    q = (r * grad).sum(-1, keepdim=True) / r.sum(-1, keepdim=True)
    return r * (grad - q)


def _sorted_rows(z: torch.Tensor, *, square: bool) -> torch.Tensor:
    z = z - z.amax(-1, keepdim=True)
    if square:
        z = z / 2
    ranked = z.sort(-1, descending=True).values
    n = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype, device=z.device)
    mean = ranked.cumsum(-1) / n
    if square:
        spread = ranked.square().cumsum(-1) - n * mean.square()
        tau = mean - ((1 - spread) / n).clamp_min(0).sqrt()
    else:
        tau = mean - 1 / n
    size = (tau <= ranked).sum(-1, keepdim=True).clamp_min(1)
    r = (z - tau.gather(-1, size - 1)).clamp_min(0)
    return r.square() if square else r


def newton_rows(z: torch.Tensor, *, square: bool) -> torch.Tensor:
    """Weights of rows (n, d) in plain torch, without a sort and with early stopping."""
    z = z.detach() - z.detach().amax(-1, keepdim=True)
    if square:
        z = z / 2
    tau = _climb(z, square=square)
    for _ in range(2):
        inside = z > tau
        n = inside.sum(-1, keepdim=True).to(z.dtype)
        mean = z.where(inside, z.new_zeros(())).sum(-1, keepdim=True) / n
        if square:
            spread = (z - mean).where(inside, z.new_zeros(())).square().sum(-1, keepdim=True)
            tau = mean - ((1 - spread).clamp_min(0) / n).sqrt()
        else:
            tau = mean - 1 / n
    r = (z - tau).clamp_min(0)
    return r.square() if square else r


def _climb(z: torch.Tensor, *, square: bool) -> torch.Tensor:
    """Newton's method from the left; stops when no row moves any more."""
    tau = z.new_full((*z.shape[:-1], 1), -1.0)
    tol = 1e-6 if z.dtype == torch.float32 else 1e-9
    while True:
        for _ in range(_CHECK_EVERY):
            r = (z - tau).clamp_min(0)
            if square:
                step = (r.square().sum(-1, keepdim=True) - 1) / (2 * r.sum(-1, keepdim=True))
            else:
                size = (r > 0).sum(-1, keepdim=True)
                step = (r.sum(-1, keepdim=True) - 1) / size
            tau = tau + step.clamp_min(0)
        if not bool((step > tol).any()):
            return tau
