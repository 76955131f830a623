"""The transformer: embeddings of level and gene, attention, one vector for every gene."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from episome_scbert.exact import exact_attention
from episome_scbert.favor import (
    Stabilizer,
    favor_attention,
    n_features_for,
    orthogonal_features,
)

if TYPE_CHECKING:
    from episome_scbert.tokens import Sequences

#: Number of a layer, its attention, queries and keys (T, H, d), and the sequences.
Look: TypeAlias = "Callable[[Attention, torch.Tensor, torch.Tensor, Sequences], None]"


class GeneTable(nn.Module):
    """A vector for every gene, and zeros for the appended token.

    Parameters
    ----------
    n_genes, width
        Genes, and length of their vectors.
    dim
        Width of the network; where it is another, a linear map brings vectors to it.
    appended
        Whether there is a token behind the genes.
    trainable
        Whether the vectors are trained.
    """

    def __init__(
        self, n_genes: int, width: int, dim: int, *, appended: bool, trainable: bool
    ) -> None:
        super().__init__()
        start = torch.randn(n_genes + appended, width)
        start[n_genes:] = 0
        self.n_genes, self.appended = n_genes, appended
        self.weight = nn.Parameter(start, requires_grad=trainable)
        self.map = None if width == dim else nn.Linear(width, dim, bias=False)

    def set_genes(self, vectors: torch.Tensor) -> None:
        """Give vectors to the genes, (n_genes, width)."""
        with torch.no_grad():
            self.weight[: self.n_genes] = vectors.to(self.weight)

    def forward(self, genes: torch.Tensor) -> torch.Tensor:
        """Return the vectors of genes by number, (T, dim)."""
        found = F.embedding(genes, self.weight)
        if self.appended and self.weight.requires_grad:
            found = found * (genes < self.n_genes)[:, None]
        return found if self.map is None else self.map(found)


class Attention(nn.Module):
    """Attention of the genes of a cell to each other.

    Parameters
    ----------
    dim, heads, dim_head
        Width of the network, heads and their width.
    kind
        ``"favor"`` or ``"exact_nonzero"``.
    nb_features
        Random features of ``"favor"``; ``None``: d ln d.
    stabilizer
        Of :func:`episome_scbert.favor.favor_attention`.
    """

    projection: torch.Tensor

    def __init__(
        self,
        dim: int,
        heads: int,
        dim_head: int,
        *,
        kind: str,
        nb_features: int | None = None,
        stabilizer: Stabilizer = "head",
    ) -> None:
        super().__init__()
        inner = heads * dim_head
        self.heads, self.dim_head, self.kind, self.stabilizer = heads, dim_head, kind, stabilizer
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(dim, inner, bias=False)
        self.to_v = nn.Linear(dim, inner, bias=False)
        self.to_out = nn.Linear(inner, dim)
        if kind == "favor":
            n = n_features_for(dim_head) if nb_features is None else nb_features
            self.register_buffer("projection", orthogonal_features(n, dim_head))

    def redraw(self, generator: torch.Generator) -> None:
        """Draw the random features anew."""
        fresh = orthogonal_features(*self.projection.shape, generator)
        self.projection.copy_(fresh)

    def forward(
        self, h: torch.Tensor, sequences: Sequences, look: Look | None = None
    ) -> torch.Tensor:
        """Return what every token gathers, (T, dim)."""
        q, k, v = (
            of(h).view(len(h), self.heads, self.dim_head)
            for of in (self.to_q, self.to_k, self.to_v)
        )
        if look is not None:
            look(self, q, k, sequences)
        if self.kind == "favor":
            whole = (self.by_cell(t, sequences) for t in (q, k, v))
            out = favor_attention(
                *whole,
                self.projection,
                keys=self.keys_by_cell(sequences),
                stabilizer=self.stabilizer,
            )
            out = out.transpose(1, 2).reshape(len(h), -1)
        else:
            out = exact_attention(q, k, v, sequences.lengths, sequences.keys).flatten(1)
        gathered: torch.Tensor = self.to_out(out)
        return gathered

    def by_cell(self, t: torch.Tensor, sequences: Sequences) -> torch.Tensor:
        """Return (T, H, d) of cells of one length as (B, H, L, d)."""
        n = len(sequences.lengths)
        return t.view(n, len(t) // max(n, 1), self.heads, self.dim_head).transpose(1, 2)

    @staticmethod
    def keys_by_cell(sequences: Sequences) -> torch.Tensor | None:
        """Return which tokens are keys, (B, L), of cells of one length."""
        n, keys = len(sequences.lengths), sequences.keys
        return None if keys is None else keys.view(n, len(keys) // max(n, 1))


class Layer(nn.Module):
    """Attention and a dense network, each behind a norm and added to what enters.

    Parameters
    ----------
    dim
        Width.
    attention
        The attention.
    ff_mult
        Hidden width of the dense network, in ``dim``.
    dropout
        Share of what is added that is set to zero in training.
    """

    def __init__(self, dim: int, attention: Attention, *, ff_mult: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(dim), attention
        self.ff_norm = nn.LayerNorm(dim)
        self.ff_in = nn.Linear(dim, ff_mult * dim)
        self.ff_out = nn.Linear(ff_mult * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, h: torch.Tensor, sequences: Sequences, look: Look | None = None
    ) -> torch.Tensor:
        """Return the tokens after this layer, (T, dim)."""
        h = h + self.dropout(self.attention(self.attention_norm(h), sequences, look))
        return h + self.dropout(self.ff_out(F.gelu(self.ff_in(self.ff_norm(h)))))


class Encoder(nn.Module):
    """From sequences to a vector for every gene of every cell.

    Parameters
    ----------
    genes
        Vectors of the genes.
    n_tokens
        Size of the vocabulary: levels, and the mask.
    dim, depth, heads, dim_head, ff_mult
        Sizes; see the paper.
    kind, nb_features, stabilizer
        Of :class:`Attention`.
    dropout
        Of embeddings and layers.
    checkpointing
        Compute layers once more in the backward pass instead of keeping what they computed.
    """

    def __init__(
        self,
        genes: GeneTable,
        n_tokens: int,
        *,
        dim: int,
        depth: int,
        heads: int,
        dim_head: int,
        kind: str,
        ff_mult: int = 4,
        nb_features: int | None = None,
        stabilizer: Stabilizer = "head",
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(n_tokens, dim)
        self.genes, self.checkpointing = genes, checkpointing
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            Layer(
                dim,
                Attention(
                    dim,
                    heads,
                    dim_head,
                    kind=kind,
                    nb_features=nb_features,
                    stabilizer=stabilizer,
                ),
                ff_mult=ff_mult,
                dropout=dropout,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.to_tokens = nn.Linear(dim, n_tokens)

    def forward(self, sequences: Sequences, look: Look | None = None) -> torch.Tensor:
        """Return the vector of every token in its cell, (T, dim)."""
        h = self.dropout(self.embed(sequences))
        for layer in self.layers:
            if self.checkpointing and self.training and torch.is_grad_enabled():
                h = checkpoint(layer, h, sequences, look, use_reentrant=False)
            else:
                h = layer(h, sequences, look)
        out: torch.Tensor = self.norm(h)
        return out

    def embed(self, sequences: Sequences) -> torch.Tensor:
        """Return the sum of the vectors of level and gene, (T, dim)."""
        level = self.token_embedding(sequences.tokens)
        if sequences.slopes is not None:
            # Between two levels the embedding is a line: that is what a gradient follows.
            last = self.token_embedding.num_embeddings - 2
            up = (sequences.tokens + 1).clamp(max=last)
            down = (up - 1).clamp(min=0)
            step = self.token_embedding(up) - self.token_embedding(down)
            level = level + sequences.slopes[:, None] * step
        out: torch.Tensor = level + self.genes(sequences.genes)
        return out

    def redraw(self, generator: torch.Generator) -> None:
        """Draw the random features of every layer anew."""
        for layer in self.layers:
            layer.attention.redraw(generator)
