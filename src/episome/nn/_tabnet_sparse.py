"""Gene-wide linear layers of TabNet on the CPU, over non-zero inputs and the support of masks.

The input norm is an affine map per gene, so it folds into the first linear map; the masked first
layer needs the few genes of the mask only. Both are differentiable once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from episome.nn import _csr_kernels as kernels
from episome.nn._autograd import apply
from episome.nn._csr import (
    CSRParts,
    csr_from_dense,
    csr_times,
    csr_transpose_times,
    csr_values_at,
    csr_values_from_dense,
    sampled_dots,
)
from episome.nn._numba import run_rows

__all__ = ["SparseInput", "folded_first", "masked_first"]

_MAX_INPUT_DENSITY = 0.3


@dataclass(frozen=True, slots=True)
class SparseInput:
    """A batch of cells, as CSR where few entries are non-zero and dense otherwise."""

    dense: torch.Tensor | None = None
    csr: CSRParts | None = None

    @classmethod
    def from_dense(cls, x: torch.Tensor) -> SparseInput:
        """Take a contiguous batch (n, G) on the CPU."""
        csr = csr_from_dense(x, max_density=_MAX_INPUT_DENSITY)
        return cls(x, csr)

    @classmethod
    def from_csr(cls, cells: CSRParts, n_columns: int) -> SparseInput:
        """Take the non-zero entries of a batch on the CPU; dense where they are many."""
        if len(cells.values) > _MAX_INPUT_DENSITY * cells.n_rows * n_columns:
            return cls(cells.to_dense(n_columns))
        return cls(csr=cells)

    @property
    def n_rows(self) -> int:
        """Number of cells."""
        if self.csr is not None:
            return self.csr.n_rows
        return len(self._filled())

    def _filled(self) -> torch.Tensor:
        if self.dense is None:
            msg = "A batch needs a dense or a sparse form."
            raise RuntimeError(msg)
        return self.dense

    def to_dense(self, n_columns: int) -> torch.Tensor:
        """Return the batch as a dense tensor (n, n_columns)."""
        if self.dense is None and self.csr is not None:
            return self.csr.to_dense(n_columns)
        return self._filled()

    def moments(self, n_columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and biased variance per gene, (n_columns,)."""
        if self.csr is None:
            var, mean = torch.var_mean(self._filled(), 0, correction=0)
            return mean, var
        mean, var = torch.empty(2, n_columns, dtype=torch.float64)
        args = (*self.csr.numpy(), mean.numpy(), var.numpy())
        run_rows(
            kernels.column_moments, n_columns, *args, work=2 * len(self.csr.values), even=True
        )
        return mean.to(self.csr.values.dtype), var.to(self.csr.values.dtype)

    def scaled_times(
        self, scale: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute ``(x * scale) @ w + bias`` for `scale` (G,) and `w` (G, H), (n, H)."""
        if self.csr is not None:
            values = self.csr.values * scale[self.csr.indices]
            return csr_times(self.csr._replace(values=values), w, bias)
        out = self._filled() @ (w * scale[:, None])
        return out if bias is None else out.add_(bias)

    def transpose_times(self, g: torch.Tensor, n_columns: int) -> torch.Tensor:
        """Compute ``x.T @ g`` for `g` (n, H), (n_columns, H)."""
        if self.csr is not None:
            return csr_transpose_times(self.csr, g, n_columns)
        return self._filled().T @ g

    def values_at(self, at: CSRParts) -> torch.Tensor:
        """Entries at stored positions, (nnz,)."""
        if self.dense is None and self.csr is not None:
            return csr_values_at(self.csr, at)
        return csr_values_from_dense(self._filled(), at)


class _FoldedFirst(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: SparseInput, w: Any, scale: Any, shift: Any) -> torch.Tensor:
        ctx.x = x
        ctx.save_for_backward(w, scale, shift)
        return x.scaled_times(scale, w, shift @ w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        w, scale, shift = ctx.saved_tensors
        grad = grad.contiguous()
        raw = ctx.x.transpose_times(grad, len(w))
        dscale, dshift = torch.empty_like(scale), torch.empty_like(shift)
        args = (raw, w, scale, shift, grad.sum(0), dscale, dshift)
        run_rows(kernels.fold_gradients, len(w), *[t.numpy() for t in args], work=w.numel())
        return None, raw, dscale, dshift


def folded_first(
    x: SparseInput, w: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    """``(x * scale + shift) @ w`` without the normalised input; `w` (G, H), result (n, H)."""
    out: torch.Tensor = apply(_FoldedFirst, x, w, scale, shift)
    return out


class _MaskedFirst(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, w: torch.Tensor, at: CSRParts) -> torch.Tensor:
        ctx.at = at
        ctx.save_for_backward(values, w)
        # Where many values are stored this is a dense product, which autocast would give fewer
        # digits; the backward pass, outside it, would then meet gradients of another type.
        with torch.autocast("cpu", enabled=False):
            return csr_times(at._replace(values=values.detach()), w.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        values, w = ctx.saved_tensors
        grad = grad.contiguous()
        dvalues = sampled_dots(ctx.at, grad, w) if ctx.needs_input_grad[0] else None
        dw = None
        if ctx.needs_input_grad[1]:
            dw = csr_transpose_times(ctx.at._replace(values=values), grad, len(w))
        return dvalues, dw, None


def masked_first(values: torch.Tensor, w: torch.Tensor, at: CSRParts) -> torch.Tensor:
    """Rows with `values` (nnz,) at the positions of `at`, times `w` (G, H); result (n, H)."""
    out: torch.Tensor = apply(_MaskedFirst, values, w, at)
    return out
