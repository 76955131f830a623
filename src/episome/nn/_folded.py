"""TabNet for prediction: batch norms folded into linear maps, masks and input kept sparse."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import nn

from episome.nn._csr import CSRParts, csr_times
from episome.nn._entmax import entmax15, sparsemax
from episome.nn._glu import gate_in_place
from episome.nn._numba import numba_enabled
from episome.nn._tabnet import TabNetOutput
from episome.nn._tabnet_attention import AttentionStep, score_rows
from episome.nn._tabnet_layers import HALF
from episome.nn._tabnet_sparse import SparseInput
from episome.nn._validate import csr_input

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from episome.nn._groups import FeatureGroups
    from episome.nn._norm import GhostBatchNorm
    from episome.nn._tabnet import Steps, TabNet

__all__ = ["FoldedTabNet"]

Part: TypeAlias = "torch.Tensor | NDArray[np.generic]"
Cells: TypeAlias = "torch.Tensor | tuple[Part, Part, Part]"


class FoldedTabNet(nn.Module):
    """A trained :class:`TabNet` with all batch norms folded in; it predicts and does not train.

    Build it with :meth:`from_tabnet` or :meth:`TabNet.folded`. It holds copies of the weights, so
    later training of the source does not change it. All numbers equal those of the source in
    evaluation mode up to rounding.

    Notes
    -----
    On the CPU the gene-wide layers run over the non-zero inputs and the support of the masks. On
    other devices, and with ``EPISOME_NUMBA=0``, the folded network runs as dense torch operations.

    Examples
    --------
    >>> import torch
    >>> from episome.nn import TabNet
    >>> net = TabNet(20, 3, n_d=4, n_a=4).eval()
    >>> out = net.folded()(torch.rand(8, 20), return_masks=True)
    >>> out.logits.shape, out.masks[0].to_dense(20).shape
    (torch.Size([8, 3]), torch.Size([8, 20]))
    """

    def __init__(self) -> None:
        super().__init__()
        self.n_features = self.n_classes = self.n_d = self.n_steps = self.n_layers = 0
        self.gamma = self.epsilon = 0.0
        self.mask = ""
        self.groups: FeatureGroups | None = None

    @classmethod
    def from_tabnet(cls, net: TabNet) -> FoldedTabNet:
        """Fold a network; the source is not changed."""
        self = cls()
        for name in ("n_features", "n_classes", "n_d", "n_steps", "gamma", "epsilon", "mask"):
            setattr(self, name, getattr(net, name))
        self.groups = net.groups
        dtype = net.head.weight.dtype
        scale, shift = _affine(net.input_norm)
        self._keep("gene_scale", scale, dtype)
        self._keep("gene_shift", shift, dtype)
        for i, w in enumerate(net.first):
            self._keep(f"first_{i}", w.detach().clone(), dtype)
        for k in range(net.n_steps + 1):
            transformer = net.transformer(k)
            norms = cast("list[GhostBatchNorm]", list(transformer.norms))
            gain, bias = _affine(norms[0])
            if k == 0:
                bias = bias + (shift @ net.first_weight(0).detach().double()) * gain
            self._keep(f"gain_{k}", gain, dtype)
            self._keep(f"bias_{k}_0", bias, dtype)
            layers = [*net.shared, *transformer.specific]
            self.n_layers = len(layers)
            for i, (w, norm) in enumerate(zip(layers, norms[1:], strict=True), 1):
                gain, bias = _affine(norm)
                self._keep(f"weight_{k}_{i}", w.detach().double() * gain[:, None], dtype)
                self._keep(f"bias_{k}_{i}", bias, dtype)
        for t in range(net.n_steps):
            attention = net.attention(t)
            gain, bias = _affine(attention.norm)
            w = attention.weight.detach().double() * gain[:, None]
            self._keep(f"attention_{t}", w, dtype)
            self._keep(f"attention_bias_{t}", bias, dtype)
        self._keep("head", net.head.weight.detach().clone(), dtype)
        return self.eval()

    def _keep(self, name: str, value: torch.Tensor, dtype: torch.dtype) -> None:
        self.register_buffer(name, value.detach().to(dtype).contiguous())

    def _part(self, name: str) -> torch.Tensor:
        return self.get_buffer(name)

    def _first(self, transformer: int) -> torch.Tensor:
        own = f"first_{transformer}"
        return self._part(own if own in self._buffers else "first_0")

    @torch.no_grad()
    def forward(
        self, x: Cells, *, prior: torch.Tensor | None = None, return_masks: bool = False
    ) -> TabNetOutput:
        """Classify a batch.

        Parameters
        ----------
        x
            Expression of B cells: a dense tensor (B, n_features), a sparse CSR tensor, or the
            three parts ``(indptr, indices, values)`` of a CSR matrix as tensors or arrays.
        prior
            Starting factor of the mask scores, (B, n_groups); by default one.
        return_masks
            Whether to return the gene masks, as :class:`CSRParts`.

        Returns
        -------
        Logits, embedding, sparsity, masks and decision vectors.
        """
        decisions, masks, entropies = self.run_steps(x, prior=prior)
        embedding = decisions[0]
        for d in decisions[1:]:
            embedding = embedding + d
        return TabNetOutput(
            F.linear(embedding, self._part("head")),
            embedding,
            torch.stack(entropies).mean(),
            [self.gene_parts(m) for m in masks] if return_masks else None,
            tuple(decisions),
        )

    @torch.no_grad()
    def run_steps(self, x: Cells, *, prior: torch.Tensor | None = None) -> Steps:
        """Decision vectors (B, n_d), group masks (dense or CSR) and entropies of all steps."""
        scale = self._part("gene_scale")
        cells = self._cells(x, scale)
        if cells.n_rows > 0 and _kernels_fit(scale):
            if cells.csr is None and cells.dense is not None:
                cells = SparseInput.from_dense(cells.dense.contiguous())
            return self._steps_sparse(cells, prior)
        return self._steps_dense(cells.to_dense(self.n_features), prior)

    def _cells(self, x: Cells, like: torch.Tensor) -> SparseInput:
        """Check the input and bring it to the device and dtype of the weights."""
        if isinstance(x, torch.Tensor) and x.layout == torch.sparse_csr:
            if x.shape[1] != self.n_features:
                self._wrong_shape(tuple(x.shape))
            x = (x.crow_indices(), x.col_indices(), x.values())
        if isinstance(x, tuple):
            return SparseInput(None, csr_input(x, self.n_features, like))
        if x.ndim != 2 or x.shape[1] != self.n_features:
            self._wrong_shape(tuple(x.shape))
        return SparseInput(x.to(like), None)

    def _wrong_shape(self, shape: tuple[int, ...]) -> None:
        msg = (
            f"Input has shape {shape}; expected (cells, {self.n_features}). "
            "Align the genes to the model's first."
        )
        raise ValueError(msg)

    def _layers(self, k: int, z: torch.Tensor) -> torch.Tensor:
        """Run transformer `k` after its gene-wide product `z` (B, 2 H), which is overwritten."""
        gain, bias = self._part(f"gain_{k}"), self._part(f"bias_{k}_0")
        if _kernels_fit(z):
            h = gate_in_place(z, None, HALF, gain, bias)
            for i in range(1, self.n_layers + 1):
                w, b = self._part(f"weight_{k}_{i}"), self._part(f"bias_{k}_{i}")
                h = gate_in_place(F.linear(h, w, b), h, HALF)
            return h
        h = F.glu(z.mul_(gain).add_(bias))
        for i in range(1, self.n_layers + 1):
            w, b = self._part(f"weight_{k}_{i}"), self._part(f"bias_{k}_{i}")
            h = h.add_(F.glu(F.linear(h, w, b))).mul_(HALF)
        return h

    def _steps_sparse(self, cells: SparseInput, prior: torch.Tensor | None) -> Steps:
        scale, shift = self._part("gene_scale"), self._part("gene_shift")
        if prior is not None:
            prior = prior.to(scale).expand(cells.n_rows, -1).contiguous()
        z = cells.scaled_times(scale, self._first(0))
        h = self._layers(0, z)
        decisions, entropies = [], []
        masks: list[CSRParts] = []
        for t in range(self.n_steps):
            step = AttentionStep(self.mask == "entmax15", self.gamma, prior, list(masks))
            w, bias = self._part(f"attention_{t}"), self._part(f"attention_bias_{t}")
            mask = score_rows(h[:, self.n_d :].contiguous(), w, bias, step, 0)
            entropies.append(self._entropy(mask.values) / cells.n_rows)
            genes = mask if self.groups is None else self.groups.expand(mask)
            found = cells.values_at(genes)
            values = genes.values * torch.addcmul(
                shift[genes.indices], found, scale[genes.indices]
            )
            z = csr_times(genes._replace(values=values), self._first(t + 1))
            h = self._layers(t + 1, z)
            decisions.append(h[:, : self.n_d].relu())
            masks.append(mask)
        return decisions, masks, entropies

    def _steps_dense(self, x: torch.Tensor, prior: torch.Tensor | None) -> Steps:
        scale, shift = self._part("gene_scale"), self._part("gene_shift")
        prior = None if prior is None else prior.to(scale)
        mask_of = entmax15 if self.mask == "entmax15" else sparsemax
        h = self._layers(0, (x * scale) @ self._first(0))
        x = torch.addcmul(shift, x, scale)
        decisions, masks, entropies = [], [], []
        for t in range(self.n_steps):
            w, bias = self._part(f"attention_{t}"), self._part(f"attention_bias_{t}")
            scores = F.linear(h[:, self.n_d :], w, bias)
            mask = mask_of(scores if prior is None else scores * prior)
            entropies.append(self._entropy(mask) / max(len(x), 1))
            if t + 1 < self.n_steps:
                prior = (self.gamma - mask) * (1.0 if prior is None else prior)
            genes = mask if self.groups is None else self.groups.spread(mask)
            h = self._layers(t + 1, (genes * x) @ self._first(t + 1))
            decisions.append(h[:, : self.n_d].relu())
            masks.append(mask)
        return decisions, masks, entropies

    def _entropy(self, p: torch.Tensor) -> torch.Tensor:
        return -(p * torch.log(p + self.epsilon)).sum()

    def gene_parts(self, mask: torch.Tensor | CSRParts) -> CSRParts:
        """Gene mask as CSR of a group mask of :meth:`run_steps`."""
        if isinstance(mask, CSRParts):
            return mask if self.groups is None else self.groups.expand(mask)
        return CSRParts.from_dense(mask if self.groups is None else self.groups.spread(mask))


def _kernels_fit(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and numba_enabled() and len(x) > 0


def _affine(norm: GhostBatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift, float64, that a batch norm amounts to in evaluation mode."""
    var, mean = norm.running_var.double(), norm.running_mean.double()
    scale = norm.weight.detach().double() * (var + norm.eps).rsqrt()
    return scale, norm.bias.detach().double() - mean * scale
