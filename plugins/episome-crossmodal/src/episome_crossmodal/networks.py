"""Networks: an encoder of RNA, a decoder that is told batches, and outputs of many features."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn

from episome.nn import times_genes

if TYPE_CHECKING:
    from episome.nn import CSRParts

ACTIVATIONS = {"relu": nn.ReLU, "selu": nn.SELU}


class Layers(nn.Module):
    """Hidden layers, each told the batch of the cell: linear, norm, activation, dropout.

    Parameters
    ----------
    widths
        Width of the input, and of every layer.
    n_batch
        Batches; a one-hot of so many is put beside the input of every layer, 0: nothing is.
    activation
        ``"relu"`` or ``"selu"``.
    dropout
        After every activation.
    norm
        Whether there are batch norms.
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        n_batch: int = 0,
        activation: str = "relu",
        dropout: float = 0.1,
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.linear, self.rest = nn.ModuleList(), nn.ModuleList()
        for before, after in pairwise(widths):
            self.linear.append(nn.Linear(before + n_batch, after))
            parts: list[nn.Module] = [nn.BatchNorm1d(after)] if norm else []
            self.rest.append(nn.Sequential(*parts, ACTIVATIONS[activation](), nn.Dropout(dropout)))

    def forward(self, x: torch.Tensor, batch: torch.Tensor | None = None) -> torch.Tensor:
        """Return the last hidden layer (B, H) of (B, n_in); ``batch``: one-hot (B, n_batch)."""
        for linear, rest in zip(self.linear, self.rest, strict=True):
            x = rest(linear(x if batch is None else torch.cat([x, batch], dim=1)))
        return x


class GeneEncoder(nn.Module):
    """Log1p expression to an embedding; every layer is told the batch.

    The published network, without the columns of the other modality that were always zero.

    Parameters
    ----------
    n_features
        Genes.
    hidden, n_latent
        Widths of the layers, and of the embedding, which no activation follows.
    n_batch, activation, dropout, norm
        Of :class:`Layers`.
    """

    def __init__(
        self,
        n_features: int,
        *,
        hidden: Sequence[int] = (256, 256),
        n_latent: int = 40,
        n_batch: int = 0,
        activation: str = "relu",
        dropout: float = 0.1,
        norm: bool = True,
    ) -> None:
        super().__init__()
        if not hidden or min(*hidden, n_features, n_latent) < 1:
            msg = (
                f"hidden is {tuple(hidden)}, n_latent {n_latent} and n_features {n_features}; "
                "there must be one hidden layer at least, and every width must be 1 or more."
            )
            raise ValueError(msg)
        # Kept gene by gene: the genes of another model go to those of the same name.
        self.first = nn.Parameter(torch.empty(n_features, hidden[0]))
        self.first_bias = nn.Parameter(torch.empty(hidden[0]))
        self.first_batch = nn.Parameter(torch.zeros(n_batch, hidden[0]))
        nn.init.kaiming_normal_(self.first.T)
        nn.init.zeros_(self.first_bias)
        parts: list[nn.Module] = [nn.BatchNorm1d(hidden[0])] if norm else []
        self.begin = nn.Sequential(*parts, ACTIVATIONS[activation](), nn.Dropout(dropout))
        self.layers = Layers(
            hidden, n_batch=n_batch, activation=activation, dropout=dropout, norm=norm
        )
        self.out = nn.Linear(hidden[-1] + n_batch, n_latent)

    def forward(self, x: torch.Tensor | CSRParts, batch: torch.Tensor | None) -> torch.Tensor:
        """Return the embedding (B, n_latent) of (B, G) cells."""
        hidden = times_genes(x, self.first) + self.first_bias
        if batch is not None:
            hidden = hidden + batch @ self.first_batch
        hidden = self.layers(self.begin(hidden), batch)
        found: torch.Tensor = self.out(
            hidden if batch is None else torch.cat([hidden, batch], dim=1)
        )
        return found


class Output(nn.Module):
    """The last map, to all features of the modality: one matrix, or the product of two.

    Parameters
    ----------
    width
        Of the last hidden layer, with the one-hot of the batch.
    n_features
        Features, P.
    rank
        Width between the two; ``None``: one matrix.
    """

    def __init__(self, width: int, n_features: int, *, rank: int | None = None) -> None:
        super().__init__()
        if rank is not None and rank < 1:
            msg = f"head_rank is {rank}; it must be 1 or more."
            raise ValueError(msg)
        self.reduce = None if rank is None else nn.Linear(width, rank, bias=False)
        inner = width if rank is None else rank
        self.weight = nn.Parameter(torch.empty(n_features, inner))
        self.bias = nn.Parameter(torch.zeros(n_features))
        # Small: the bias begins at the mean, and noise on it would have to be unlearned.
        nn.init.normal_(self.weight, std=0.01 * inner**-0.5)

    def inner(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return what the matrix of features is multiplied with, (B, H)."""
        return hidden if self.reduce is None else self.reduce(hidden)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the output, (B, P)."""
        return self.inner(hidden) @ self.weight.T + self.bias
