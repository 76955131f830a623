"""`SIMSCore`: the TabNet of SIMS as a core that predicts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from episome.nn import CSRParts, TabNet, TorchCore, explanation_csr

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from episome.nn import FoldedTabNet

#: What may be done to the values of a cell beside the host's normalisation.
SCALINGS = ("none", "l2", "zscore_train")
_OF_TABNET = (
    "n_d",
    "n_a",
    "n_steps",
    "n_shared",
    "n_independent",
    "virtual_batch_size",
    "ghost_rounding",
    "gamma",
    "momentum",
    "mask",
    "feature_groups",
    "dropout",
    "embedding_dropout",
    "input_eps",
    "mask_scale",
)


class SIMSCore(TorchCore):
    """TabNet with the loss term and the input scalings of SIMS.

    Training reads dense batches, prediction sparse ones.

    Parameters
    ----------
    n_features, n_classes
        Genes of the model and classes.
    n_d, n_a, n_steps, n_shared, n_independent, virtual_batch_size, ghost_rounding, gamma, \
    momentum, mask, feature_groups, dropout, embedding_dropout, input_eps, mask_scale
        Of ``episome.nn.TabNet``; ``feature_groups`` as a list of integers.
    lambda_sparse
        Weight of the mean mask entropy in the loss.
    input_scaling
        ``"none"``; ``"l2"``: every cell is divided by its Euclidean length; ``"zscore_train"``:
        mean and standard deviation of training cells, kept here, are taken out of every gene.
    n_top_genes
        Only so many of the most variable training genes enter the network; ``None``: all.
    """

    inference_format = "csr"
    attributions_hold_values = False

    @property
    def preferred_attribution(self) -> str:
        """Masks that stay narrow say what is read; broad ones do not, and gradients do."""
        return "native" if self.config["mask_scale"] == 1.0 else "gradient"

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        *,
        n_d: int = 32,
        n_a: int = 32,
        n_steps: int = 3,
        n_shared: int = 2,
        n_independent: int = 2,
        virtual_batch_size: int = 128,
        ghost_rounding: str = "floor",
        gamma: float = 1.3,
        momentum: float = 0.02,
        mask: str = "sparsemax",
        lambda_sparse: float = 1e-3,
        feature_groups: Sequence[int] | None = None,
        input_scaling: str = "none",
        dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        input_eps: float = 1e-5,
        mask_scale: float = 1.0,
        n_top_genes: int | None = None,
    ) -> None:
        super().__init__()
        if n_top_genes is not None and n_top_genes >= n_features:
            n_top_genes = None
        _check(input_scaling, feature_groups, n_top_genes)
        self.config = {k: v for k, v in locals().items() if k not in {"self", "__class__"}}
        n_input = n_top_genes or n_features
        self.net = TabNet(n_input, n_classes, **{k: self.config[k] for k in _OF_TABNET})
        self.lambda_sparse, self.input_scaling = lambda_sparse, input_scaling
        self.register_buffer("genes", torch.arange(n_input))
        if input_scaling == "zscore_train":
            self.register_buffer("mean", torch.zeros(n_input))
            self.register_buffer("deviation", torch.ones(n_input))

    def select_genes(self, columns: NDArray[np.int64]) -> None:
        """Choose the genes that enter the network, int64 (n_input,)."""
        self.genes.copy_(torch.as_tensor(columns))

    def set_statistics(self, mean: NDArray[np.floating], deviation: NDArray[np.floating]) -> None:
        """Keep the statistics of training cells, (n_features,) each; genes that never vary stay.

        Only for ``input_scaling="zscore_train"``.
        """
        columns = self.genes.cpu()
        spread = torch.as_tensor(deviation)[columns]
        self.mean.copy_(torch.as_tensor(mean)[columns])
        self.deviation.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))

    def inputs(self, x: torch.Tensor) -> torch.Tensor:
        """Return what enters the network for a dense batch (B, G)."""
        chosen = x if self.config["n_top_genes"] is None else x[:, self.genes]
        if self.input_scaling == "l2":
            length = chosen.norm(dim=1, keepdim=True)
            return chosen / torch.where(length > 0, length, torch.ones_like(length))
        if self.input_scaling == "zscore_train":
            return (chosen - self.mean) / self.deviation
        return chosen

    def forward(self, batch: dict[str, object]) -> dict[str, torch.Tensor]:
        """Return ``logits`` (B, C), ``latent`` (B, n_d) and the ``penalty`` of the loss."""
        out = self.net(self.inputs(batch["X"]))
        return {
            "logits": out.logits,
            "latent": out.embedding,
            "penalty": self.lambda_sparse * out.sparsity,
        }

    def inference(self) -> Callable[[dict[str, object]], dict[str, torch.Tensor]]:
        """Return an equal function that never forms what is zero."""
        network, read = self._folded()

        def predict(batch: dict[str, object]) -> dict[str, torch.Tensor]:
            out = network(read(batch["X"]))
            return {"logits": out.logits.to(self.dtype), "latent": out.embedding.to(self.dtype)}

        return predict

    def explaining(self) -> Callable[[dict[str, object]], CSRParts]:
        """Return the attributions of a batch: masks times the sum of their decisions."""
        network, read = self._folded()
        genes = self.genes.cpu().to(torch.int32)

        def explain(batch: dict[str, object]) -> CSRParts:
            arrays = explanation_csr(network, read(batch["X"]))
            parts = CSRParts(*map(torch.from_numpy, arrays))
            values = parts.values.to(self.dtype)
            return CSRParts(parts.indptr, genes[parts.indices.long()], values)

        return explain

    def _folded(self) -> tuple[FoldedTabNet, Callable[[CSRParts], CSRParts]]:
        """Return the network with norms and z-scores folded away, and what reads cells for it.

        On the CPU both work in float64, at a quarter more time: masks of several steps magnify
        rounding, and what a cell gets would depend on the cells beside it.
        """
        self.eval()
        positions = self._positions()
        exact = torch.float64 if self.device.type == "cpu" else self.dtype

        def read(cells: CSRParts) -> CSRParts:
            chosen = cells if positions is None else cells.select(positions)
            chosen = chosen._replace(values=chosen.values.to(exact))
            return unit_rows(chosen) if self.input_scaling == "l2" else chosen

        return self._reading_plain_values().folded().to(exact), read

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.net.head.weight.dtype

    def _reading_plain_values(self) -> TabNet:
        """Return a network that does to plain values what ours does to z-scores.

        The norm of the input is linear in evaluation, and takes the z-score in.
        """
        if self.input_scaling != "zscore_train":
            return self.net
        net = copy.deepcopy(self.net)
        norm = net.input_norm
        with torch.no_grad():
            norm.running_mean.mul_(self.deviation).add_(self.mean)
            norm.weight.div_(self.deviation)
        return net

    def _positions(self) -> torch.Tensor | None:
        """Place of every gene among the chosen ones, -1 for the others; ``None`` for all genes."""
        if self.config["n_top_genes"] is None:
            return None
        n_features, device = int(self.config["n_features"]), self.genes.device
        positions = torch.full((n_features,), -1, dtype=torch.int32, device=device)
        positions[self.genes] = torch.arange(len(self.genes), dtype=torch.int32, device=device)
        return positions


def unit_rows(cells: CSRParts) -> CSRParts:
    """Divide every row by its Euclidean length; empty rows stay empty."""
    rows = cells.rows()
    squares = cells.values.new_zeros(cells.n_rows).index_add_(0, rows, cells.values.square())
    return cells._replace(values=cells.values / squares.sqrt()[rows].clamp_min(1e-30))


def _check(
    input_scaling: str, feature_groups: Sequence[int] | None, n_top_genes: int | None
) -> None:
    if input_scaling not in SCALINGS:
        msg = f"input_scaling is {input_scaling!r}; expected one of {', '.join(SCALINGS)}."
        raise ValueError(msg)
    if feature_groups is not None and n_top_genes is not None:
        msg = "feature_groups name all genes, n_top_genes leaves some out. Give one of them."
        raise ValueError(msg)
