"""`SIMSCore`: the TabNet of SIMS as a core that predicts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from episome.nn import CSRParts, TabNet, TabNetCore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: What may be done to the values of a cell beside the host's normalisation.
SCALINGS = ("none", "l2", "zscore_train")


class SIMSCore(TabNetCore):
    """TabNet with the loss term and the input scalings of SIMS.

    On the CPU predictions work in float64, at a quarter more time: masks of several steps magnify
    rounding, and what a cell gets would depend on the cells beside it.

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
        if n_top_genes is not None and n_top_genes >= n_features:
            n_top_genes = None
        _check(input_scaling, feature_groups, n_top_genes)
        config = {k: v for k, v in locals().items() if k not in {"self", "__class__"}}
        super().__init__(**{k: v for k, v in config.items() if k != "input_scaling"})
        self.config, self.input_scaling = config, input_scaling
        if input_scaling == "zscore_train":
            n_input = n_top_genes or n_features
            self.register_buffer("mean", torch.zeros(n_input))
            self.register_buffer("deviation", torch.ones(n_input))

    @property
    def prediction_dtype(self) -> torch.dtype:
        """Type in which predictions are computed: float64 on the CPU."""
        return torch.float64 if self.device.type == "cpu" else self.dtype

    def set_statistics(self, mean: NDArray[np.floating], deviation: NDArray[np.floating]) -> None:
        """Keep the statistics of training cells, (n_features,) each; genes that never vary stay.

        Only for ``input_scaling="zscore_train"``.
        """
        columns = self.genes.cpu()
        spread = torch.as_tensor(deviation)[columns]
        self.mean.copy_(torch.as_tensor(mean)[columns])
        self.deviation.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        """Scale the chosen genes of a dense batch."""
        if self.input_scaling == "l2":
            length = x.norm(dim=1, keepdim=True)
            return x / torch.where(length > 0, length, torch.ones_like(length))
        if self.input_scaling == "zscore_train":
            return (x - self.mean) / self.deviation
        return x

    def input_rows(self, cells: CSRParts) -> CSRParts | torch.Tensor:
        """Return what enters the network for a sparse batch; z-scores have no zeros to spare."""
        if self.input_scaling == "zscore_train":
            return self.inputs(cells.to_dense(int(self.config["n_features"])))
        return super().input_rows(cells)

    def scaled_rows(self, cells: CSRParts) -> CSRParts:
        """Scale sparse cells to unit length where that is the scaling; zeros stay zero."""
        return unit_rows(cells) if self.input_scaling == "l2" else cells

    def network_of_plain_values(self) -> TabNet:
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
