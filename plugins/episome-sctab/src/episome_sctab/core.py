"""`SCTabCore`: the TabNet of scTab as a core that predicts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch

from episome.nn import CSRParts, TabNet, TorchCore, explanation_csr, gene_mask_csr

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from episome.nn import FoldedTabNet


class SCTabCore(TorchCore):
    """TabNet with the scTab loss term.

    Training reads dense batches, prediction sparse ones.

    Parameters
    ----------
    n_features, n_classes
        Genes of the model and classes.
    n_d, n_a, n_steps, n_shared, n_independent, virtual_batch_size, gamma, momentum, mask, \
    dropout, embedding_dropout, input_eps, mask_scale
        Of ``episome.nn.TabNet``.
    lambda_sparse
        Weight of the mean mask entropy in the loss (Fischer et al. 2024; the published code writes
        it as minus the negative entropy).
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
        embedding_dropout: float = 0.0,
        input_eps: float = 1e-5,
        mask_scale: float = 1.0,
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
            embedding_dropout=embedding_dropout,
            input_eps=input_eps,
            mask_scale=mask_scale,
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
        """Return an equal function that never forms what is zero."""
        network, chosen = self._folded()

        def predict(batch: dict[str, object]) -> dict[str, torch.Tensor]:
            out = network(chosen(batch["X"]))
            return {"logits": out.logits, "latent": out.embedding}

        return predict

    def explaining(self) -> Callable[[dict[str, object]], CSRParts]:
        """Return the attributions of a batch: masks times the sum of their decisions."""
        return self._per_gene(explanation_csr)

    def masking(self, step: int | None = 0) -> Callable[[dict[str, object]], CSRParts]:
        """Return the gene mask of a batch at one step, or its mean over steps with ``None``."""
        return self._per_gene(partial(gene_mask_csr, step=step))

    def _folded(self) -> tuple[FoldedTabNet, Callable[[CSRParts], CSRParts]]:
        """Return the network with its norms folded away, and what picks its genes of a batch."""
        self.eval()
        positions = self._positions()
        if positions is None:
            return self.net.folded(), lambda cells: cells
        return self.net.folded(), lambda cells: cells.select(positions)

    def _per_gene(
        self, weights: Callable[[FoldedTabNet, CSRParts], tuple[np.ndarray, ...]]
    ) -> Callable[[dict[str, object]], CSRParts]:
        """Return what gives weights of the network's genes as those of all genes of the model."""
        network, chosen = self._folded()
        genes = self.genes.cpu().to(torch.int32)

        def run(batch: dict[str, object]) -> CSRParts:
            parts = CSRParts(*map(torch.from_numpy, weights(network, chosen(batch["X"]))))
            return parts._replace(indices=genes[parts.indices.long()])

        return run

    def _positions(self) -> torch.Tensor | None:
        """Place of every gene among the chosen ones, -1 for the others; ``None`` for all genes."""
        if self.config["n_top_genes"] is None:
            return None
        n_features = int(self.config["n_features"])
        positions = torch.full((n_features,), -1, dtype=torch.int32, device=self.genes.device)
        positions[self.genes] = torch.arange(
            len(self.genes), dtype=torch.int32, device=positions.device
        )
        return positions
