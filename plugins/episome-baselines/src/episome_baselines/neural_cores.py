"""Cores of `LinearClassifier` and `MLPClassifier`: torch, without scvi-tools or Lightning."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from scipy import sparse
from torch import nn

from episome.nn import CSRParts, TorchCore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class _SparseTimes(torch.autograd.Function):
    """Sparse cells (n, G) times weights (G, H) on the CPU, with the gradient of the weights.

    Scipy's products: on a batch of 2,048 cells of 19,331 genes (7 % stored) and 164 classes they
    take 0.11 s forth and back, dense ones 0.37 s, ``torch.sparse`` 0.20 s (one core).
    """

    @staticmethod
    def forward(ctx: Any, cells: sparse.csr_matrix, weight: torch.Tensor) -> torch.Tensor:
        ctx.cells = cells
        return torch.from_numpy(cells @ weight.detach().numpy())

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, torch.from_numpy(ctx.cells.T @ grad.contiguous().numpy())


class SparseLinear(nn.Module):
    """``x @ weight + bias`` for sparse or dense cells; starts as ``nn.Linear`` does.

    Parameters
    ----------
    n_input, n_output
        Widths; ``weight`` is (n_input, n_output), so that a row belongs to a gene.
    """

    def __init__(self, n_input: int, n_output: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(n_input)
        self.weight = nn.Parameter(torch.empty(n_input, n_output).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_output).uniform_(-bound, bound))

    def forward(self, x: torch.Tensor | CSRParts) -> torch.Tensor:
        """Return (n, n_output) for a dense tensor or sparse cells (n, n_input)."""
        if isinstance(x, CSRParts):
            x = x._replace(values=x.values.to(self.weight.dtype))
            if x.values.device.type == "cpu" and not x.is_dense(len(self.weight)):
                return _SparseTimes.apply(as_scipy(x, len(self.weight)), self.weight) + self.bias
            x = x.to_dense(len(self.weight))
        return x @ self.weight + self.bias


def as_scipy(cells: CSRParts, n_columns: int) -> sparse.csr_matrix:
    """Return sparse cells as scipy's CSR, without a copy."""
    indptr, indices, values = cells.numpy()
    return sparse.csr_matrix((values, indices, indptr), shape=(cells.n_rows, n_columns))


class GeneCore(TorchCore):
    """Base: sparse cells of all genes or of chosen ones, some of them hidden in training.

    Parameters
    ----------
    n_features
        Genes of the model.
    n_top_genes
        Only so many of the most variable training genes enter; ``None``: all.
    input_dropout
        Share of the expressed genes of a cell that are set to zero in training.
    """

    input_format: ClassVar[str] = "csr"
    inference_format: ClassVar[str] = "csr"
    genes: torch.Tensor

    def __init__(self, n_features: int, *, n_top_genes: int | None, input_dropout: float) -> None:
        super().__init__()
        self.n_features, self.input_dropout = n_features, input_dropout
        self.chosen = n_top_genes is not None
        self.register_buffer("genes", torch.arange(n_top_genes or n_features))

    def select_genes(self, columns: NDArray[np.int64]) -> None:
        """Choose the genes that enter, int64 (n_top_genes,), ascending."""
        self.genes.copy_(torch.as_tensor(columns))

    def inputs(self, x: torch.Tensor | CSRParts) -> torch.Tensor | CSRParts:
        """Return what enters the first layer for cells (n, n_features), sparse or dense."""
        if not isinstance(x, CSRParts):
            x = x[:, self.genes] if self.chosen else x
            return F.dropout(x, self.input_dropout, self.training)
        x = x.select(self._positions()) if self.chosen else x
        return x._replace(values=F.dropout(x.values, self.input_dropout, self.training))

    def _positions(self) -> torch.Tensor:
        """Place of every gene among the chosen ones, -1 for the others."""
        device = self.genes.device
        positions = torch.full((self.n_features,), -1, dtype=torch.int32, device=device)
        positions[self.genes] = torch.arange(len(self.genes), dtype=torch.int32, device=device)
        return positions


class LinearClassifierCore(GeneCore):
    """One linear layer and a softmax.

    Parameters
    ----------
    n_features, n_classes
        Genes of the model and classes.
    n_top_genes, input_dropout
        Of :class:`GeneCore`.
    center
        Learn from differences to the mean training cell, which is found on the way. The model is
        as linear as without; but a mean that all types share is most of a cell, and gradient
        steps take long to see past it.
    """

    attributions_hold_values: ClassVar[bool] = True
    mean: torch.Tensor
    n_seen: torch.Tensor

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        *,
        n_top_genes: int | None = None,
        input_dropout: float = 0.0,
        center: bool = False,
    ) -> None:
        n_top_genes = fewer(n_top_genes, n_features)
        super().__init__(n_features, n_top_genes=n_top_genes, input_dropout=input_dropout)
        self.register_buffer("mean", torch.zeros(len(self.genes)))
        self.register_buffer("n_seen", torch.zeros((), dtype=torch.int64))
        self.linear = SparseLinear(len(self.genes), n_classes)
        # The problem is convex: a random start is noise that short trainings do not get rid of.
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.config = {
            "n_features": n_features,
            "n_classes": n_classes,
            "n_top_genes": n_top_genes,
            "input_dropout": input_dropout,
            "center": center,
        }

    def forward(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return ``logits`` (B, C)."""
        x = self.inputs(batch["X"])
        if not self.config["center"]:
            return {"logits": self.linear(x)}
        if self.training:
            self._see(x)
        return {"logits": self.linear(x) - self.mean @ self.linear.weight}

    @torch.no_grad()
    def _see(self, x: torch.Tensor | CSRParts) -> None:
        """Move the mean cell to that of all cells seen so far."""
        if isinstance(x, CSRParts):
            n = x.n_rows
            total = torch.zeros_like(self.mean)
            total.index_add_(0, x.indices.long(), x.values.to(total.dtype))
        else:
            n, total = len(x), x.sum(0)
        self.n_seen += n
        self.mean += (total - n * self.mean) / self.n_seen

    def gene_axes(self) -> dict[str, int]:
        """Name the one weight, (genes, classes)."""
        return {"linear.weight": 0}

    def explaining(self) -> Callable[[Mapping[str, Any]], CSRParts]:
        """Return what each value adds to the call's score, less the mean over the classes."""
        between = self.contrasting()

        def explain(batch: Mapping[str, Any]) -> CSRParts:
            with torch.no_grad():
                called = self(batch)["logits"].argmax(dim=1)
            return between(batch, called, None)

        return explain

    def contrasting(self) -> Callable[..., CSRParts]:
        """Return what each value adds to the score of a class over another, or over the mean."""
        self.eval()

        def explain(batch: Mapping[str, Any], classes: Any, others: Any) -> CSRParts:
            weight = self.linear.weight.detach()
            cells = self.inputs(batch["X"])
            columns, rows = cells.indices.long(), cells.rows()
            chosen = torch.as_tensor(classes, device=weight.device)
            counts = weight[columns, chosen[rows]]
            if others is None:
                counts = counts - weight.mean(dim=1)[columns]
            else:
                counts -= weight[columns, torch.as_tensor(others, device=weight.device)[rows]]
            genes = self.genes.to(torch.int32)[columns]
            return CSRParts(cells.indptr, genes, cells.values.to(weight.dtype) * counts)

        return explain


class MLPClassifierCore(GeneCore):
    """Blocks of a linear layer, batch norm, SiLU and dropout; then a linear layer.

    Parameters
    ----------
    n_features, n_classes
        Genes of the model and classes.
    n_hidden, n_layers
        Width and number of the blocks.
    dropout_rate
        Behind every block.
    n_top_genes, input_dropout
        Of :class:`GeneCore`.
    """

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        *,
        n_hidden: int = 128,
        n_layers: int = 8,
        dropout_rate: float = 0.1,
        n_top_genes: int | None = None,
        input_dropout: float = 0.0,
    ) -> None:
        n_top_genes = fewer(n_top_genes, n_features)
        super().__init__(n_features, n_top_genes=n_top_genes, input_dropout=input_dropout)
        if n_layers < 1:
            msg = f"n_layers is {n_layers}; a network has at least 1"
            raise ValueError(msg)
        deeper = [nn.Linear(n_hidden, n_hidden) for _ in range(n_layers - 1)]
        self.layers = nn.ModuleList([SparseLinear(len(self.genes), n_hidden), *deeper])
        self.norms = nn.ModuleList(nn.BatchNorm1d(n_hidden) for _ in range(n_layers))
        self.dropout = nn.Dropout(dropout_rate)
        self.head = nn.Linear(n_hidden, n_classes)
        self.config = {
            "n_features": n_features,
            "n_classes": n_classes,
            "n_hidden": n_hidden,
            "n_layers": n_layers,
            "dropout_rate": dropout_rate,
            "n_top_genes": n_top_genes,
            "input_dropout": input_dropout,
        }

    def gene_axes(self) -> dict[str, int]:
        """Name the first weight, (genes, n_hidden)."""
        return {"layers.0.weight": 0}

    def forward(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return ``logits`` (B, C) and, as ``latent``, the last block's output (B, n_hidden)."""
        x = self.inputs(batch["X"])
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.dropout(F.silu(norm(layer(x))))
        return {"logits": self.head(x), "latent": x}


def fewer(n_top_genes: int | None, n_features: int) -> int | None:
    """Return the number of chosen genes; ``None`` where that is all of them."""
    return n_top_genes if n_top_genes and n_top_genes < n_features else None
