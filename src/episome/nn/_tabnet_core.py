"""`TabNetCore`: what every core made of a TabNet does the same way."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from episome.nn._core import TorchCore
from episome.nn._csr import CSRParts
from episome.nn._mask_csr import explanation_csr, gene_mask_csr
from episome.nn._tabnet import TabNet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from episome.nn._folded import FoldedTabNet


class TabNetCore(TorchCore):
    """A TabNet over all genes or chosen ones, with the entropy of its masks as a penalty.

    Training and prediction read sparse batches; dense ones may be given too. Subclasses set
    ``config``, which has ``n_features``, ``n_top_genes`` and ``mask_scale`` at least; they may
    scale what enters the network (:meth:`scaled`, :meth:`scaled_rows`,
    :meth:`network_of_plain_values`).

    Parameters
    ----------
    n_features, n_classes
        Genes of the model and classes.
    lambda_sparse
        Weight of the mean mask entropy in the loss (Fischer et al. 2024; the published code writes
        it as minus the negative entropy).
    n_top_genes
        Only so many of the most variable training genes enter the network; ``None``: all.
    **tabnet
        Of :class:`TabNet`.
    """

    input_format: ClassVar[str] = "csr"
    inference_format: ClassVar[str] = "csr"
    attributions_hold_values: ClassVar[bool] = False
    genes: torch.Tensor

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        *,
        lambda_sparse: float,
        n_top_genes: int | None,
        **tabnet: object,
    ) -> None:
        super().__init__()
        n_input = n_top_genes or n_features
        self.net = TabNet(n_input, n_classes, **tabnet)  # type: ignore[arg-type]  # checked there
        if not 0 <= lambda_sparse < math.inf:
            msg = f"lambda_sparse is {lambda_sparse!r}; expected zero or a positive number."
            raise ValueError(msg)
        self.lambda_sparse = lambda_sparse
        self.register_buffer("genes", torch.arange(n_input))

    @property
    def preferred_attribution(self) -> str:
        """Masks that stay narrow say what is read; broad ones do not, and gradients do."""
        return "native" if self.config["mask_scale"] == 1.0 else "gradient"

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.net.head.weight.dtype

    @property
    def prediction_dtype(self) -> torch.dtype:
        """Type in which predictions are computed."""
        return self.dtype

    def select_genes(self, columns: NDArray[np.int64]) -> None:
        """Choose the genes that enter the network, int64 (n_input,)."""
        self.genes.copy_(torch.as_tensor(columns))

    # --- what enters the network ------------------------------------------------------------

    def inputs(self, x: torch.Tensor) -> torch.Tensor:
        """Return what enters the network for a dense batch (B, G)."""
        return self.scaled(x if self.config["n_top_genes"] is None else x[:, self.genes])

    def input_rows(self, cells: CSRParts) -> CSRParts | torch.Tensor:
        """Return what enters the network for a sparse batch."""
        positions = self._positions()
        return self.scaled_rows(cells if positions is None else cells.select(positions))

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        """Scale the chosen genes of a dense batch; as they are unless a subclass does."""
        return x

    def scaled_rows(self, cells: CSRParts) -> CSRParts:
        """Scale sparse cells as :meth:`scaled` does, as far as zeros stay zero."""
        return cells

    def network_of_plain_values(self) -> TabNet:
        """Return a network that reads what :meth:`scaled_rows` gives."""
        return self.net

    # --- what it gives ----------------------------------------------------------------------

    def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return ``logits`` (B, C), ``latent`` (B, n_d) and the ``penalty`` of the loss."""
        x: torch.Tensor | CSRParts = batch["X"]
        out = self.net(self.input_rows(x) if isinstance(x, CSRParts) else self.inputs(x))
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
        return self._per_gene(explanation_csr)

    def masking(self, step: int | None = 0) -> Callable[[dict[str, object]], CSRParts]:
        """Return the gene mask of a batch at one step, or its mean over steps with ``None``."""
        return self._per_gene(partial(gene_mask_csr, step=step))

    def _folded(self) -> tuple[FoldedTabNet, Callable[[object], CSRParts]]:
        """Return the network with its norms folded away, and what reads cells for it."""
        self.eval()
        positions, exact = self._positions(), self.prediction_dtype

        def read(cells: object) -> CSRParts:
            chosen: CSRParts = cells if positions is None else cells.select(positions)  # type: ignore[attr-defined,assignment]
            return self.scaled_rows(chosen._replace(values=chosen.values.to(exact)))

        return self.network_of_plain_values().folded().to(exact), read

    def _per_gene(
        self, weights: Callable[[FoldedTabNet, CSRParts], tuple[np.ndarray, ...]]
    ) -> Callable[[dict[str, object]], CSRParts]:
        """Return what gives weights of the network's genes as those of all genes of the model."""
        network, read = self._folded()
        genes = self.genes.cpu().to(torch.int32)

        def run(batch: dict[str, object]) -> CSRParts:
            parts = CSRParts(*map(torch.from_numpy, weights(network, read(batch["X"]))))
            values = parts.values.to(self.dtype)
            return CSRParts(parts.indptr, genes[parts.indices.long()], values)

        return run

    def _positions(self) -> torch.Tensor | None:
        """Place of every gene among the chosen ones, -1 for the others; ``None`` for all genes."""
        if self.config["n_top_genes"] is None:
            return None
        n_features, device = int(self.config["n_features"]), self.genes.device  # type: ignore[call-overload]
        positions = torch.full((n_features,), -1, dtype=torch.int32, device=device)
        positions[self.genes] = torch.arange(len(self.genes), dtype=torch.int32, device=device)
        return positions
