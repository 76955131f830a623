"""`SCTabCore`: the TabNet of scTab as a core that predicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from episome.nn import TabNet, TorchCore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class SCTabCore(TorchCore):
    """TabNet with the scTab loss term.

    Parameters
    ----------
    n_features, n_classes
        Genes of the model and classes.
    n_d, n_a, n_steps, n_shared, n_independent, virtual_batch_size, gamma, momentum, mask, dropout
        Of ``episome.nn.TabNet``.
    lambda_sparse
        Weight of the mean mask entropy in the loss (Fischer et al. 2024; the published code writes
        it as minus the negative entropy).
    n_top_genes
        Only so many of the most variable training genes enter the network; ``None``: all.
    """

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        *,
        n_d: int = 128,
        n_a: int = 64,
        n_steps: int = 1,
        n_shared: int = 3,
        n_independent: int = 5,
        virtual_batch_size: int = 256,
        gamma: float = 1.3,
        momentum: float = 0.02,
        mask: str = "entmax15",
        lambda_sparse: float = 1e-5,
        dropout: float = 0.0,
        n_top_genes: int | None = None,
    ) -> None:
        super().__init__()
        if n_top_genes is not None and n_top_genes >= n_features:
            n_top_genes = None
        self.config = {k: v for k, v in locals().items() if k not in {"self", "__class__"}}
        n_input = n_top_genes or n_features
        self.net = TabNet(
            n_input,
            n_classes,
            n_d=n_d,
            n_a=n_a,
            n_steps=n_steps,
            n_shared=n_shared,
            n_independent=n_independent,
            virtual_batch_size=virtual_batch_size,
            gamma=gamma,
            momentum=momentum,
            mask=mask,
            dropout=dropout,
        )
        self.lambda_sparse = lambda_sparse
        self.register_buffer("genes", torch.arange(n_input))

    def select_genes(self, columns: NDArray[np.int64]) -> None:
        """Choose the genes that enter the network, int64 (n_input,)."""
        self.genes.copy_(torch.as_tensor(columns))

    def inputs(self, x: torch.Tensor) -> torch.Tensor:
        """Return the chosen genes of a dense batch (B, G)."""
        return x if self.config["n_top_genes"] is None else x[:, self.genes]

    def forward(self, batch: dict[str, object]) -> dict[str, torch.Tensor]:
        """Return ``logits`` (B, C), ``latent`` (B, n_d) and the ``penalty`` of the loss."""
        out = self.net(self.inputs(batch["X"]))
        return {
            "logits": out.logits,
            "latent": out.embedding,
            "penalty": self.lambda_sparse * out.sparsity,
        }

    def inference(self) -> Callable[[dict[str, object]], dict[str, torch.Tensor]]:
        """Return an equal function with every batch norm folded into its neighbour."""
        self.eval()
        folded = self.net.folded()

        def run(batch: dict[str, object]) -> dict[str, torch.Tensor]:
            out = folded(self.inputs(batch["X"]))
            return {"logits": out.logits, "latent": out.embedding}

        return run
