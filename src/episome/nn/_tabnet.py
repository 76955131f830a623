"""TabNet: a classifier that picks a few genes per cell at every decision step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import nn

from episome.log import get_logger
from episome.nn._autograd import autocast_on_cpu
from episome.nn._csr import CSRParts
from episome.nn._entmax import entmax15, sparsemax
from episome.nn._groups import FeatureGroups
from episome.nn._norm import GhostBatchNorm
from episome.nn._numba import numba_enabled
from episome.nn._tabnet_attention import AttentionStep, attend
from episome.nn._tabnet_layers import (
    Attention,
    FeatureTransformer,
    NormSettings,
    check_sizes,
)
from episome.nn._tabnet_sparse import SparseInput, folded_first, masked_first

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from episome.nn._folded import FoldedTabNet

__all__ = ["TabNet", "TabNetOutput"]

_LOG = get_logger("nn")

Masks: TypeAlias = "list[torch.Tensor] | list[CSRParts]"
Steps: TypeAlias = "tuple[list[torch.Tensor], Masks, list[torch.Tensor]]"


class TabNetOutput(NamedTuple):
    """What a TabNet returns for a batch of B cells.

    Parameters
    ----------
    logits
        Class scores, (B, n_classes).
    embedding
        Sum over steps of the decision vectors, (B, n_d), not negative.
    sparsity
        Mean over steps and cells of the entropy of the mask, a scalar >= 0. A training loss adds
        ``lambda_sparse * sparsity``; the reference's ``M_loss`` is ``-sparsity``.
    masks
        Gene masks of the steps, each (B, n_features), or None if they were not asked for.
        Dense from :class:`TabNet`, CSR from :class:`FoldedTabNet`.
    decisions
        Decision vectors of the steps, each (B, n_d).
    """

    logits: torch.Tensor
    embedding: torch.Tensor
    sparsity: torch.Tensor
    masks: Masks | None
    decisions: tuple[torch.Tensor, ...]


class TabNet(nn.Module):
    """TabNet encoder with a linear head (:cite:p:`arik2021tabnet,fischer2024sctab`).

    Parameters
    ----------
    n_features, n_classes
        Genes in, classes out.
    n_d, n_a
        Width of the decision vector (the embedding) and of the attention vector.
    n_steps
        Number of decision steps.
    gamma
        How freely later steps may use a gene again; 1 forbids what a mask used fully.
    n_shared, n_independent
        Gated layers whose weights are shared between steps, and of each step alone. With no
        shared layer, each step has its own gene-wide first layer.
    virtual_batch_size, ghost_rounding, momentum
        Ghost batch norms; see :class:`GhostBatchNorm`.
    mask
        ``"entmax15"`` or ``"sparsemax"``.
    epsilon
        Added inside the logarithm of the entropy.
    input_momentum
        Momentum of the batch norm over genes (a plain one, over the whole batch).
    feature_groups
        Group of each feature, (n_features,) integers ``0 .. n_groups - 1``. Masks then choose
        groups; the weight of a group is spread evenly over its genes. Default: each gene alone.
    dropout
        Probability with which an input value is dropped in training.
    embedding_dropout
        Share of the embedding set to zero in training, before the head.
    input_eps
        Added to the variance of every gene in the input norm. The published 1e-5 gives rare genes
        the weight of common ones; near one, genes keep the spread of their log1p values.
    mask_scale
        Starting weight of the norm of mask scores; below one masks start broad.
    implementation
        ``"auto"``, or ``"dense"``: always plain torch operations, the textbook form.

    Notes
    -----
    On the CPU the gene-wide work runs on the non-zero inputs and on the support of the masks,
    with the norms folded into the linear maps; on other devices, under ``torch.compile``, under
    autocast, for inputs that need a gradient, and with ``EPISOME_NUMBA=0`` it runs as plain torch
    operations. Which it is, and why, is logged (level debug). Where masks hold more than a
    quarter of the genes, products over them are taken in full, and the log says so. Both give
    the same numbers up to rounding. Dropout of sparse and of dense cells draws other numbers.

    Examples
    --------
    >>> import torch
    >>> net = TabNet(20, 3, n_d=4, n_a=4, virtual_batch_size=8)
    >>> net(torch.rand(8, 20)).logits.shape
    torch.Size([8, 3])
    """

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        *,
        n_d: int = 128,
        n_a: int = 64,
        n_steps: int = 1,
        gamma: float = 1.3,
        n_shared: int = 3,
        n_independent: int = 5,
        virtual_batch_size: int = 256,
        momentum: float = 0.02,
        mask: Literal["entmax15", "sparsemax"] = "entmax15",
        epsilon: float = 1e-15,
        input_momentum: float = 0.01,
        ghost_rounding: Literal["floor", "ceil"] = "floor",
        feature_groups: NDArray[np.integer] | torch.Tensor | list[int] | None = None,
        dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        input_eps: float = 1e-5,
        mask_scale: float = 1.0,
        implementation: Literal["auto", "dense"] = "auto",
    ) -> None:
        super().__init__()
        if implementation not in ("auto", "dense"):
            msg = f'implementation is {implementation!r}; expected "auto" or "dense".'
            raise ValueError(msg)
        self.implementation = implementation
        self._last_reason: str | None = None
        self._said_broad = False
        check_sizes(n_features, n_classes, n_d, n_a, n_steps, n_shared, n_independent)
        if not gamma >= 1:
            # What a gene is still worth to later steps is gamma less what it was looked at.
            msg = f"gamma is {gamma!r}; expected a number of at least 1."
            raise ValueError(msg)
        if not 0 < momentum <= 1:
            msg = f"momentum is {momentum!r}; expected a number above 0 and up to 1."
            raise ValueError(msg)
        if mask not in ("entmax15", "sparsemax"):
            msg = f'mask is {mask!r}; expected "entmax15" or "sparsemax".'
            raise ValueError(msg)
        self.n_features, self.n_classes = n_features, n_classes
        self.n_d, self.n_a, self.n_steps, self.gamma = n_d, n_a, n_steps, gamma
        self.n_shared, self.n_independent = n_shared, n_independent
        self.mask, self.epsilon = mask, epsilon
        self.groups = None
        if feature_groups is not None:
            self.groups = FeatureGroups(feature_groups, n_features)
        n_groups = n_features if self.groups is None else self.groups.n_groups
        hidden = n_d + n_a
        norm: NormSettings = {
            "virtual_batch_size": virtual_batch_size,
            "momentum": momentum,
            "rounding": ghost_rounding,
        }
        self.dropout, self.embedding_dropout = nn.Dropout(dropout), nn.Dropout(embedding_dropout)
        self.mask_scale = mask_scale
        self.input_norm = GhostBatchNorm(
            n_features, virtual_batch_size=None, momentum=input_momentum, eps=input_eps
        )
        self.first = nn.ParameterList(
            nn.Parameter(torch.empty(n_features, 2 * hidden))
            for _ in range(1 if n_shared else n_steps + 1)
        )
        self.shared = nn.ParameterList(
            nn.Parameter(torch.empty(2 * hidden, hidden)) for _ in range(n_shared - 1)
        )
        n_specific = n_independent if n_shared else n_independent - 1
        self.transformers = nn.ModuleList(
            FeatureTransformer(hidden, n_shared + n_independent, n_specific, norm)
            for _ in range(n_steps + 1)
        )
        self.attentions = nn.ModuleList(Attention(n_a, n_groups, norm) for _ in range(n_steps))
        self.head = nn.Linear(n_d, n_classes, bias=False)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew: normal, with standard deviation falling as the width**(1/4).

        Parameters
        ----------
        generator
            Source of random numbers; by default torch's global one.
        """
        gated = math.sqrt(2.0)
        for w in self.first:
            nn.init.normal_(w, std=gated / w.shape[0] ** 0.25, generator=generator)
        own = [w for k in range(self.n_steps + 1) for w in self.transformer(k).specific]
        for w in [*self.shared, *own]:
            nn.init.normal_(w, std=gated / w.shape[1] ** 0.25, generator=generator)
        for w in [*(self.attention(t).weight for t in range(self.n_steps)), self.head.weight]:
            nn.init.normal_(w, std=1 / w.shape[1] ** 0.25, generator=generator)
        for m in self.modules():
            if isinstance(m, GhostBatchNorm):
                m.reset_parameters()
        for t in range(self.n_steps):
            nn.init.constant_(self.attention(t).norm.weight, self.mask_scale)

    def transformer(self, k: int) -> FeatureTransformer:
        """Return feature transformer `k`; 0 is the initial splitter, ``t + 1`` that of step t."""
        return cast("FeatureTransformer", self.transformers[k])

    def attention(self, t: int) -> Attention:
        """Return the attention layer of step `t`."""
        return cast("Attention", self.attentions[t])

    def first_weight(self, k: int) -> torch.Tensor:
        """Return the gene-wide weights (n_features, 2 (n_d + n_a)) of transformer `k`."""
        return cast("torch.Tensor", self.first[k if len(self.first) > 1 else 0])

    def forward(
        self,
        x: torch.Tensor | CSRParts,
        *,
        prior: torch.Tensor | None = None,
        return_masks: bool = False,
    ) -> TabNetOutput:
        """Classify a batch.

        Parameters
        ----------
        x
            Expression, (B, n_features), dtype of the weights; dense, or the non-zero entries.
        prior
            Starting factor of the mask scores, (B, n_groups); by default one.
        return_masks
            Whether to return the gene masks, dense.

        Returns
        -------
        Logits, embedding, sparsity, masks and decision vectors.
        """
        decisions, masks, entropies = self.run_steps(x, prior=prior)
        embedding = torch.stack(decisions).sum(0) if len(decisions) > 1 else decisions[0]
        return TabNetOutput(
            self.head(self.embedding_dropout(embedding)),
            embedding,
            torch.stack(entropies).mean(),
            [self.gene_mask(m) for m in masks] if return_masks else None,
            tuple(decisions),
        )

    def run_steps(self, x: torch.Tensor | CSRParts, *, prior: torch.Tensor | None = None) -> Steps:
        """Decision vectors (B, n_d), group masks (dense or CSR) and entropies of all steps."""
        if isinstance(x, CSRParts):
            if self.dropout.training and self.dropout.p > 0:
                x = x.thinned(self.dropout.p)
            if self._takes_sparse_path(x.values, prior) and x.n_rows:
                return self._steps_sparse(SparseInput.from_csr(x, self.n_features), prior)
            return self._steps_dense(x.to_dense(self.n_features), prior)
        if x.ndim != 2 or x.shape[1] != self.n_features:
            msg = (
                f"Input has shape {tuple(x.shape)}; expected (cells, {self.n_features}). "
                "Align the genes to the model's first."
            )
            raise ValueError(msg)
        dense: torch.Tensor = self.dropout(x)
        if self._takes_sparse_path(dense, prior) and len(dense):
            return self._steps_sparse(SparseInput.from_dense(dense.contiguous()), prior)
        return self._steps_dense(dense, prior)

    def _takes_sparse_path(self, x: torch.Tensor, prior: torch.Tensor | None) -> bool:
        if torch.compiler.is_compiling():
            return False
        reason = self._against_sparse(x, prior)
        if reason != self._last_reason:
            self._last_reason = reason
            _LOG.debug("gene-wide work is done %s", reason or "on non-zero values only")
        return reason == ""

    def _against_sparse(self, x: torch.Tensor, prior: torch.Tensor | None) -> str:
        """Say why plain torch operations are needed; empty if they are not."""
        first = self.first[0]
        kinds = (torch.float32, torch.float64)
        reasons = {
            "in full, as implementation='dense' asks for": self.implementation == "dense",
            "in full: there are no compiled kernels": not numba_enabled(),
            f"in full, on {x.device}": not x.device.type == first.device.type == "cpu",
            f"in full, in {x.dtype}": x.dtype != first.dtype or x.dtype not in kinds,
            "in full: the input needs a gradient": x.requires_grad
            or (prior is not None and (prior.dtype != x.dtype or prior.requires_grad)),
            "in full, under autocast": autocast_on_cpu(),
        }
        return next((text for text, holds in reasons.items() if holds), "")

    def _watch_support(self, masks: list[CSRParts], n_columns: int) -> None:
        """Say once that masks hold so many genes that products are taken in full."""
        if not self._said_broad and any(m.is_dense(n_columns) for m in masks):
            self._said_broad = True
            share = sum(len(m.values) for m in masks) / (len(masks) * masks[0].n_rows * n_columns)
            _LOG.info(
                "masks hold %.0f%% of %d genes: products over them are taken in full",
                100 * share,
                n_columns,
            )

    def _steps_dense(self, x: torch.Tensor, prior: torch.Tensor | None) -> Steps:
        mask_of = entmax15 if self.mask == "entmax15" else sparsemax
        x = self.input_norm(x)
        h = self.transformer(0)(x @ self.first_weight(0), self.shared)
        decisions, masks, entropies = [], [], []
        for t in range(self.n_steps):
            scores = self.attention(t)(h[:, self.n_d :])
            mask = mask_of(scores if prior is None else scores * prior)
            entropies.append(-(mask * torch.log(mask + self.epsilon)).sum(1).mean())
            if t + 1 < self.n_steps:
                prior = (self.gamma - mask) * (1.0 if prior is None else prior)
            chosen = self.gene_mask(mask) * x
            h = self.transformer(t + 1)(chosen @ self.first_weight(t + 1), self.shared)
            decisions.append(F.relu(h[:, : self.n_d]))
            masks.append(mask)
        return decisions, masks, entropies

    def _steps_sparse(self, cells: SparseInput, prior: torch.Tensor | None) -> Steps:
        scale, shift = self._input_affine(cells)
        h = self.transformer(0)(
            folded_first(cells, self.first_weight(0), scale, shift), self.shared, fused=True
        )
        decisions, entropies = [], []
        masks: list[CSRParts] = []
        prior = None if prior is None else prior.expand(cells.n_rows, -1).contiguous()
        for t in range(self.n_steps):
            attention = self.attention(t)
            step = AttentionStep(self.mask == "entmax15", self.gamma, prior, list(masks))
            mask = attend(h[:, self.n_d :], attention.weight, attention.norm, step)
            v = mask.values
            entropies.append(-(v * torch.log(v + self.epsilon)).sum() / cells.n_rows)
            genes = mask if self.groups is None else self.groups.expand(mask)
            cols = genes.indices
            normed = cells.values_at(genes) * scale[cols] + shift[cols]
            z = masked_first(genes.values * normed, self.first_weight(t + 1), genes)
            h = self.transformer(t + 1)(z, self.shared, fused=True)
            decisions.append(F.relu(h[:, : self.n_d]))
            masks.append(mask)
        self._watch_support(masks, len(self.attention(0).weight))
        return decisions, masks, entropies

    def _input_affine(self, cells: SparseInput) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and shift per gene, (n_features,) each, that the input norm amounts to."""
        norm = self.input_norm
        if norm.uses_batch_statistics(cells.n_rows):
            mean, var = cells.moments(self.n_features)
            norm.update(mean[None], var[None], [cells.n_rows])
        else:
            mean, var = norm.running_mean, norm.running_var
        scale = norm.weight * (var + norm.eps).rsqrt()
        return scale, norm.bias - mean * scale

    def gene_mask(self, mask: torch.Tensor | CSRParts) -> torch.Tensor:
        """Return the gene mask of a group mask, dense (B, n_features)."""
        if isinstance(mask, CSRParts):
            genes = mask if self.groups is None else self.groups.expand(mask)
            return genes.to_dense(self.n_features)
        return mask if self.groups is None else self.groups.spread(mask)

    def gene_parts(self, mask: torch.Tensor | CSRParts) -> CSRParts:
        """Return the gene mask of a group mask as CSR."""
        if isinstance(mask, CSRParts):
            return mask if self.groups is None else self.groups.expand(mask)
        return CSRParts.from_dense(self.gene_mask(mask))

    @torch.no_grad()
    def explain(self, x: torch.Tensor, *, normalize: bool = False) -> torch.Tensor:
        """Weight of each gene in the decision for each cell.

        The mask of each step counts as much as the sum of that step's decision vector. Runs in
        evaluation mode and leaves the mode as it was.

        Parameters
        ----------
        x
            Expression, (B, n_features).
        normalize
            Whether to divide rows by their sum; rows of zeros stay as they are.

        Returns
        -------
        Weights, (B, n_features), not negative.
        """
        mode = self.training
        self.eval()
        try:
            decisions, masks, _ = self.run_steps(x)
        finally:
            self.train(mode)
        parts = [
            self.gene_mask(m) * d.sum(1, keepdim=True)
            for m, d in zip(cast("list[torch.Tensor]", masks), decisions, strict=True)
        ]
        total = torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
        if normalize:
            sums = total.sum(1, keepdim=True)
            total = total / sums.where(sums > 0, torch.ones_like(sums))
        return total

    def folded(self) -> FoldedTabNet:
        """Return an equal network for prediction, with all norms folded into linear maps."""
        from episome.nn._folded import FoldedTabNet

        return FoldedTabNet.from_tabnet(self)
