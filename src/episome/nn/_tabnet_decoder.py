"""What TabNet is pretrained with: a decoder, and the loss of the values that were hidden."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, cast

import torch
import torch.nn.functional as F
from torch import nn

from episome.nn._norm import GhostBatchNorm
from episome.nn._tabnet_layers import FeatureTransformer, NormSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["TabNetDecoder", "hidden_value_loss", "hidden_value_scale"]

#: Below this share of its squared mean a variance is rounding: the gene is constant.
ROUNDING = 1e-10


class TabNetDecoder(nn.Module):
    """From the decision vectors of a TabNet back to all its genes (:cite:p:`arik2021tabnet`).

    One stack of gated layers for every step, summed over steps, then a linear map without bias.

    Parameters
    ----------
    n_features
        Genes out.
    n_d, n_steps
        Width of the decision vectors and their number, as in the encoder.
    n_shared, n_independent
        Gated layers whose weights all steps share, and of each step alone.
    virtual_batch_size, momentum, ghost_rounding
        Of the norms; see :class:`GhostBatchNorm`.

    Examples
    --------
    >>> import torch
    >>> from episome.nn import TabNet
    >>> net = TabNet(20, 3, n_d=4, n_a=4, n_steps=2).eval()
    >>> decoder = TabNetDecoder(20, n_d=4, n_steps=2).eval()
    >>> decoder(net(torch.rand(8, 20)).decisions).shape
    torch.Size([8, 20])
    """

    def __init__(
        self,
        n_features: int,
        *,
        n_d: int,
        n_steps: int,
        n_shared: int = 1,
        n_independent: int = 1,
        virtual_batch_size: int = 256,
        momentum: float = 0.02,
        ghost_rounding: Literal["floor", "ceil"] = "floor",
    ) -> None:
        super().__init__()
        if n_shared < 1 or n_independent < 0:
            msg = (
                f"n_shared is {n_shared} and n_independent {n_independent}; the steps of a "
                "decoder share one layer at least. Set n_shared to 1 or more."
            )
            raise ValueError(msg)
        norm: NormSettings = {
            "virtual_batch_size": virtual_batch_size,
            "momentum": momentum,
            "rounding": ghost_rounding,
        }
        self.shared = nn.ParameterList(
            nn.Parameter(torch.empty(2 * n_d, n_d)) for _ in range(n_shared)
        )
        self.transformers = nn.ModuleList(
            FeatureTransformer(n_d, n_shared + n_independent, n_independent, norm)
            for _ in range(n_steps)
        )
        self.out = nn.Linear(n_d, n_features, bias=False)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew: normal, with standard deviation falling as the width**(1/4).

        Parameters
        ----------
        generator
            Source of random numbers; by default torch's global one.
        """
        width = self.out.in_features**0.25
        own = [w for k in range(len(self.transformers)) for w in self._transformer(k).specific]
        for w in [*self.shared, *own]:
            nn.init.normal_(w, std=math.sqrt(2.0) / width, generator=generator)
        nn.init.normal_(self.out.weight, std=1 / width, generator=generator)
        for m in self.modules():
            if isinstance(m, GhostBatchNorm):
                m.reset_parameters()

    def _transformer(self, k: int) -> FeatureTransformer:
        return cast("FeatureTransformer", self.transformers[k])

    def forward(self, decisions: Sequence[torch.Tensor]) -> torch.Tensor:
        """Reconstruct a batch.

        Parameters
        ----------
        decisions
            Decision vector of every step, each (B, n_d).

        Returns
        -------
        Expected values of all genes, (B, n_features).
        """
        first, *rest = cast("list[torch.Tensor]", list(self.shared))
        parts = [self._transformer(k)(F.linear(d, first), rest) for k, d in enumerate(decisions)]
        out: torch.Tensor = self.out(torch.stack(parts).sum(0))
        return out


def hidden_value_scale(x: torch.Tensor) -> torch.Tensor:
    """Return the scale of the squared errors of every gene in a batch.

    It is the variance over cells (biased); for a gene that is constant its absolute mean, and one
    where that is zero too.

    Parameters
    ----------
    x
        Values, (B, G).

    Returns
    -------
    Positive numbers, (G,), without a graph.
    """
    x = x.detach()
    mean, variance = x.mean(0), x.var(0, correction=0)
    size = mean.abs()
    constant = torch.where(size > 0, size, torch.ones_like(size))
    return torch.where(variance > ROUNDING * mean.square(), variance, constant)


def hidden_value_loss(
    reconstruction: torch.Tensor,
    target: torch.Tensor,
    hidden: torch.Tensor,
    scale: torch.Tensor,
    *,
    epsilon: float = 1e-9,
) -> torch.Tensor:
    """Return the mean over cells of the mean scaled squared error of the hidden values.

    Values that were not hidden do not count, whatever was made of them.

    Parameters
    ----------
    reconstruction, target
        Values, (B, G).
    hidden
        1 where a value was hidden, else 0, (B, G).
    scale
        Divisor of the squared errors of every gene, (G,); see :func:`hidden_value_scale`.
    epsilon
        Added to the number of hidden values of a cell.

    Returns
    -------
    A scalar.
    """
    error = ((reconstruction - target) * hidden).square() / scale
    return (error.sum(1) / (hidden.sum(1) + epsilon)).mean()
