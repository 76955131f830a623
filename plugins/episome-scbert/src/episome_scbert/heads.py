"""What reads a class off the genes of a cell: by place as published, or whatever their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from episome_scbert.tokens import Sequences


class PositionHead(nn.Module):
    """The published head: one number of every gene by one shared map, then a dense network.

    Its first dense layer has a column for every place, so that it knows genes by their place.

    Parameters
    ----------
    n_places
        Genes, and the appended token where there is one.
    dim, n_classes
        Width of the network, and classes.
    hidden
        Widths of the two hidden layers.
    dropout
        Of the hidden layers, in training.
    """

    def __init__(
        self, n_places: int, dim: int, n_classes: int, *, hidden: tuple[int, int], dropout: float
    ) -> None:
        super().__init__()
        self.n_places, self.dropout = n_places, dropout
        self.reduce = nn.Linear(dim, 1)
        self.first = nn.Linear(n_places, hidden[0])
        self.second = nn.Linear(hidden[0], hidden[1])
        self.out = nn.Linear(hidden[1], n_classes)

    def forward(
        self,
        h: torch.Tensor,
        sequences: Sequences,
        pooled: torch.Tensor,
        drawn: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return logits, (B, n_classes); genes that are not in a sequence count as zero.

        Parameters
        ----------
        h, sequences, pooled
            Vectors of the tokens, and what they are of.
        drawn
            Share of the genes of every cell that was drawn, (B,): others are scaled up.
        """
        found = F.relu(self.reduce(h))[:, 0]
        if drawn is not None:
            found = found / drawn[sequences.cells].to(found.dtype)
        places = found.new_zeros(len(sequences.lengths), self.n_places)
        places = places.index_put((sequences.cells, sequences.genes), found)
        x = F.dropout(F.relu(self.first(places)), self.dropout, self.training)
        x = F.dropout(F.relu(self.second(x)), self.dropout, self.training)
        logits: torch.Tensor = self.out(x)
        return logits


class PooledHead(nn.Module):
    """A weighted mean over the expressed genes of a cell, then a dense network.

    Weights are a softmax of what a learned vector finds in every gene, equal at the start. The
    order of the genes plays no part. Means are standardised by what training cells gave before
    training; no statistics of batches are used.

    Parameters
    ----------
    dim, n_classes, hidden, dropout
        Of :class:`PositionHead`; the first width alone is used.
    """

    def __init__(
        self, dim: int, n_classes: int, *, hidden: tuple[int, int], dropout: float
    ) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        # Means over hundreds of genes differ little between cells: what differs is made large.
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.first = nn.Linear(dim, hidden[0])
        self.out = nn.Linear(hidden[0], n_classes)
        self.dropout = dropout

    def settle(self, means: torch.Tensor) -> None:
        """Take the spread of the means of training cells, (n, dim), out of what is read."""
        self.centre.copy_(means.mean(0))
        self.scale.copy_(1 / means.std(0, unbiased=False).clamp_min(1e-3))

    def forward(
        self,
        h: torch.Tensor,
        sequences: Sequences,
        pooled: torch.Tensor,
        drawn: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return logits, (B, n_classes), of the genes that ``pooled`` marks, bool (T,).

        Parameters
        ----------
        h, sequences, pooled
            Vectors of the tokens, what they are of, and which take part.
        drawn
            Plays no part in a mean.
        """
        x = pooled_mean(h, sequences, pooled, self.score(h)[:, 0])
        x = (x - self.centre) * self.scale
        x = F.dropout(x, self.dropout, self.training)
        x = F.dropout(F.gelu(self.first(x)), self.dropout, self.training)
        logits: torch.Tensor = self.out(x)
        return logits


def pooled_mean(
    h: torch.Tensor,
    sequences: Sequences,
    pooled: torch.Tensor,
    score: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the mean over some tokens of every cell, (B, dim); zeros where there are none.

    Parameters
    ----------
    h
        Vectors of the tokens, (T, dim).
    sequences
        Of the cells.
    pooled
        Which tokens take part, bool (T,).
    score
        Logarithm of the weight of every token, (T,); default equal weights.
    """
    n, cells = len(sequences.lengths), sequences.cells
    if score is None:
        weight = pooled.to(h.dtype)
    else:
        score = score.masked_fill(~pooled, -torch.inf)
        largest = score.new_full((n,), -torch.inf).detach()
        largest = largest.scatter_reduce(0, cells, score.detach(), "amax")
        largest = largest.masked_fill(~torch.isfinite(largest), 0.0)
        weight = (score - largest[cells]).exp().to(h.dtype)
    total = weight.new_zeros(n).index_add(0, cells, weight)
    summed = h.new_zeros(n, h.shape[1]).index_add(0, cells, h * weight[:, None])
    return summed / total.clamp_min(1e-12)[:, None]
