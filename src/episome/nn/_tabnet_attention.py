"""Attention step of TabNet on the CPU, with masks kept as their few positive entries.

The attention norm follows a linear map `W` of a thin input `a`, so its batch mean and variance are
``W mean(a)`` and the diagonal of ``W cov(a) W.T``, and it folds into `W`. Scores are made for a
block of cells that fits the cache, and only the support of the mask is kept. Prior and gradients
live on the support too. Differentiable once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from episome.nn import _csr_kernels as csr_kernels
from episome.nn import _entmax_kernels as kernels
from episome.nn._autograd import apply
from episome.nn._csr import (
    CSRParts,
    csr_times,
    csr_transpose_times,
    csr_values_from_dense,
    sampled_dots,
)
from episome.nn._numba import run_rows

if TYPE_CHECKING:
    from episome.nn._norm import GhostBatchNorm

__all__ = ["AttentionStep", "attend", "score_rows"]

_SCORE_ROWS = 128


@dataclass(slots=True)
class AttentionStep:
    """What one attention step needs beside its tensors."""

    square: bool
    gamma: float
    first_prior: torch.Tensor | None = None
    earlier: list[CSRParts] = field(default_factory=list)

    @property
    def has_prior(self) -> bool:
        """Whether the scores are multiplied by anything."""
        return self.first_prior is not None or bool(self.earlier)

    def prior_args(self, dtype: torch.dtype, rows: slice) -> tuple[Any, ...]:
        """Join the earlier masks of a slice of rows, as numpy arrays."""
        first = self.first_prior
        first = torch.empty((0, 0), dtype=dtype) if first is None else first[rows]
        n_rows = rows.stop - rows.start
        ptr = np.empty((len(self.earlier), n_rows + 1), np.int64)
        base = 0
        for s, mask in enumerate(self.earlier):
            ptr[s] = mask.indptr[rows.start : rows.stop + 1].numpy() + base
            base += len(mask.indices)
        empty = [torch.empty(0, dtype=torch.int32)], [torch.empty(0, dtype=dtype)]
        idx = torch.cat([m.indices for m in self.earlier] or empty[0])
        val = torch.cat([m.values.detach() for m in self.earlier] or empty[1])
        return first.numpy(), ptr, idx.numpy(), val.numpy()


def select_rows(scores: torch.Tensor, *, square: bool) -> CSRParts:
    """Positive weights of score rows (n, d): the mask as CSR. `scores` are not kept."""
    top = scores.amax(-1)
    n_rows = len(scores)
    tau, size = torch.empty(n_rows, dtype=torch.float64), torch.empty(n_rows, dtype=torch.int64)
    z = scores.numpy()
    args = (z, top.numpy(), square, tau.numpy())
    run_rows(kernels.threshold_rows, n_rows, *args, size.numpy(), work=scores.numel())
    indptr = torch.zeros(n_rows + 1, dtype=torch.int64)
    torch.cumsum(size, 0, out=indptr[1:])
    indices = torch.empty(int(indptr[-1]), dtype=torch.int32)
    values = torch.empty(int(indptr[-1]), dtype=scores.dtype)
    run_rows(
        kernels.emit_rows,
        n_rows,
        *args,
        indptr.numpy(),
        indices.numpy(),
        values.numpy(),
        work=scores.numel(),
    )
    return CSRParts(indptr, indices, values)


def join_rows(parts: list[CSRParts]) -> CSRParts:
    """Stack CSR blocks on top of each other."""
    if len(parts) == 1:
        return parts[0]
    counts = torch.cat([p.indptr.diff() for p in parts])
    indptr = torch.zeros(len(counts) + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=indptr[1:])
    return CSRParts(
        indptr, torch.cat([p.indices for p in parts]), torch.cat([p.values for p in parts])
    )


def score_rows(
    a: torch.Tensor, w: torch.Tensor, bias: torch.Tensor, step: AttentionStep, start: int
) -> CSRParts:
    """Mask of ``(a @ w.T + bias) * prior`` in blocks of rows that fit the cache.

    `a` (n, n_a) are rows ``start:start + n`` of the batch, `w` (d, n_a).
    """
    parts = []
    buffer = a.new_empty((min(len(a), _SCORE_ROWS), len(w)))
    for low in range(0, len(a), _SCORE_ROWS):
        block = a[low : low + _SCORE_ROWS]
        scores = torch.addmm(bias, block, w.T, out=buffer[: len(block)])
        if step.has_prior:
            rows = slice(start + low, start + low + len(block))
            args = (scores.numpy(), *step.prior_args(a.dtype, rows), step.gamma)
            run_rows(csr_kernels.prior_rows, len(block), *args, work=scores.numel())
        parts.append(select_rows(scores, square=step.square))
    return join_rows(parts)


@dataclass(slots=True)
class _Piece:
    """Statistics of one ghost batch of the attention norm."""

    start: int
    stop: int
    mean: torch.Tensor
    inv: torch.Tensor
    a_mean: torch.Tensor | None = None
    cov: torch.Tensor | None = None


def _pieces(a: torch.Tensor, w: torch.Tensor, norm: GhostBatchNorm) -> list[_Piece]:
    n_obs = len(a)
    if not norm.uses_batch_statistics(n_obs):
        inv = (norm.running_var + norm.eps).rsqrt()
        return [_Piece(0, n_obs, norm.running_mean, inv)]
    sizes, start, pieces, variances = norm.piece_sizes(n_obs), 0, [], []
    for size in sizes:
        rows = a[start : start + size]
        a_mean = rows.mean(0)
        centred = rows - a_mean
        cov = centred.T @ centred / size
        var = torch.empty(len(w), dtype=w.dtype)
        args = (w.numpy(), (w @ cov).numpy(), var.numpy())
        run_rows(csr_kernels.variance_diagonal, len(w), *args, work=w.numel(), even=True)
        var.clamp_(min=0)
        inv = (var + norm.eps).rsqrt()
        pieces.append(_Piece(start, start + size, w @ a_mean, inv, a_mean, cov))
        variances.append(var)
        start += size
    norm.update(torch.stack([p.mean for p in pieces]), torch.stack(variances), sizes)
    return pieces


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        step: AttentionStep,
        norm: GhostBatchNorm,
        a: torch.Tensor,
        w: torch.Tensor,
        gain: torch.Tensor,
        bias: torch.Tensor,
        *earlier_values: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        a = a.detach().contiguous()
        pieces = _pieces(a, w.detach(), norm)
        parts = []
        for p in pieces:
            scale = gain * p.inv
            rows = a[p.start : p.stop]
            shift = bias - p.mean * scale
            parts.append(score_rows(rows, w * scale[:, None], shift, step, p.start))
        mask = join_rows(parts)
        ctx.step, ctx.pieces = step, pieces
        ctx.save_for_backward(a, w, gain, bias, *mask)
        ctx.mark_non_differentiable(mask.indptr, mask.indices)
        return mask.values, mask.indptr, mask.indices

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[Any, ...]:
        a, w, gain, bias, indptr, indices, values = ctx.saved_tensors
        step, mask = ctx.step, CSRParts(indptr, indices, values)
        du = torch.empty_like(values)
        args = (indptr.numpy(), values.numpy(), grad.contiguous().numpy(), step.square)
        run_rows(kernels.jacobian_rows, mask.n_rows, *args, du.numpy(), work=len(du))
        da, dw = torch.zeros_like(a), torch.zeros_like(w)
        dgain, dbias = torch.zeros_like(gain), torch.zeros_like(bias)
        earlier: list[torch.Tensor] = []
        if step.has_prior:
            normed = _normed_scores(ctx.pieces, a, w, gain, bias, mask)
            du, earlier = _prior_gradients(step, mask, du, normed)
        for p in ctx.pieces:
            low, high = int(indptr[p.start]), int(indptr[p.stop])
            part = CSRParts(indptr[p.start : p.stop + 1] - low, indices[low:high], du[low:high])
            _piece_gradients(p, part, a[p.start : p.stop], w, gain, da, (dw, dgain, dbias))
        return None, None, da, dw, dgain, dbias, *earlier


def _normed_scores(
    pieces: list[_Piece],
    a: torch.Tensor,
    w: torch.Tensor,
    gain: torch.Tensor,
    bias: torch.Tensor,
    mask: CSRParts,
) -> torch.Tensor:
    """Normalised scores before the prior at the support, (nnz,)."""
    raw = sampled_dots(mask, a, w)
    out = torch.empty_like(raw)
    for p in pieces:
        low, high = int(mask.indptr[p.start]), int(mask.indptr[p.stop])
        cols = mask.indices[low:high]
        scale = (gain * p.inv)[cols]
        out[low:high] = (raw[low:high] - p.mean[cols]) * scale + bias[cols]
    return out


def _prior_gradients(
    step: AttentionStep, mask: CSRParts, du: torch.Tensor, normed: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Gradients of the scores and of the values of each earlier mask."""
    n_rows = mask.n_rows
    prior = torch.empty_like(du)
    where = torch.empty((len(step.earlier), len(du)), dtype=torch.int64)
    first, ptr, idx, val = step.prior_args(du.dtype, slice(0, n_rows))
    args = (mask.indptr.numpy(), mask.indices.numpy(), first, ptr, idx, val, step.gamma)
    run_rows(
        csr_kernels.prior_product,
        n_rows,
        *args,
        prior.numpy(),
        where.numpy(),
        work=8 * where.numel(),
    )
    out, base, joined = [], 0, torch.from_numpy(val)
    factors = step.gamma - torch.where(
        where >= 0, joined[where.clamp_min(0)] if len(joined) else prior, torch.zeros_like(prior)
    )
    start = torch.ones_like(prior)
    if step.first_prior is not None:
        start = csr_values_from_dense(step.first_prior, mask)
    for s, old in enumerate(step.earlier):
        others = start * torch.cat([factors[:s], factors[s + 1 :]]).prod(0)
        hit = where[s] >= 0
        grad = torch.zeros_like(old.values)
        grad.index_add_(0, where[s][hit] - base, (-du * normed * others)[hit])
        out.append(grad)
        base += len(old.indices)
    return du * prior, out


def _used(indices: torch.Tensor, n_columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns that occur, ascending, and the place of every index among them."""
    present = indices.new_zeros(n_columns)
    present[indices] = 1
    return present.nonzero()[:, 0], (present.cumsum(0) - 1)[indices]


def _piece_gradients(
    p: _Piece,
    dn: CSRParts,
    a: torch.Tensor,
    w: torch.Tensor,
    gain: torch.Tensor,
    da: torch.Tensor,
    sums: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    """Add the gradients of one ghost batch; only genes of its masks are touched."""
    dw, dgain, dbias = sums
    genes, local = _used(dn.indices.long(), len(w))
    dn = dn._replace(indices=local.to(torch.int32))
    w_g, gain_g, inv, mean = w[genes], gain[genes], p.inv[genes], p.mean[genes]
    scale = gain_g * inv
    d_scaled = csr_transpose_times(dn, a, len(genes))
    d_shift = w.new_zeros(len(genes)).index_add_(0, local, dn.values)
    d_rows = csr_times(dn, w_g * scale[:, None])
    d_scale = (d_scaled * w_g).sum(1) - d_shift * mean
    d_w = d_scaled * scale[:, None]
    if p.cov is not None and p.a_mean is not None:
        d_mean = -d_shift * scale
        d_var = -0.5 * d_scale * gain_g * inv**3
        weighted = w_g * d_var[:, None]
        d_w += 2 * weighted @ p.cov + d_mean[:, None] * p.a_mean
        d_rows += (2 * (a - p.a_mean) @ (w_g.T @ weighted) + w_g.T @ d_mean) / len(a)
    da[p.start : p.stop] = d_rows
    dw.index_add_(0, genes, d_w)
    dgain.index_add_(0, genes, d_scale * inv)
    dbias.index_add_(0, genes, d_shift)


def attend(
    a: torch.Tensor, w: torch.Tensor, norm: GhostBatchNorm, step: AttentionStep
) -> CSRParts:
    """Mask of one step from the attention vector `a` (n, n_a) and `w` (d, n_a), as CSR."""
    earlier = [m.values for m in step.earlier]
    values, indptr, indices = apply(_Attend, step, norm, a, w, norm.weight, norm.bias, *earlier)
    return CSRParts(indptr, indices, values)
