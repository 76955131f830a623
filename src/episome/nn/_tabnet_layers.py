"""Building blocks of TabNet."""

from __future__ import annotations

import math
from typing import Literal, TypedDict, cast

import torch
import torch.nn.functional as F
from torch import nn

from episome.nn._glu import normed_gate
from episome.nn._norm import GhostBatchNorm

__all__ = ["HALF", "Attention", "FeatureTransformer", "NormSettings", "check_sizes"]

HALF = math.sqrt(0.5)


class NormSettings(TypedDict):
    """Keywords that all ghost norms of a network share."""

    virtual_batch_size: int | None
    momentum: float
    rounding: Literal["floor", "ceil"]


class FeatureTransformer(nn.Module):
    """Gated linear layers, the first ones with weights shared between transformers.

    Parameters
    ----------
    hidden
        Width H of the output.
    n_norms
        Number of layers in all.
    n_specific
        Number of layers with weights of their own (the gene-wide first layer not counted).
    norm_settings
        Keywords of :class:`GhostBatchNorm`.
    """

    def __init__(
        self, hidden: int, n_norms: int, n_specific: int, norm_settings: NormSettings
    ) -> None:
        super().__init__()
        self.specific = nn.ParameterList(
            nn.Parameter(torch.empty(2 * hidden, hidden)) for _ in range(n_specific)
        )
        self.norms = nn.ModuleList(
            GhostBatchNorm(2 * hidden, **norm_settings) for _ in range(n_norms)
        )

    def forward(
        self, z: torch.Tensor, shared: nn.ParameterList, *, fused: bool = False
    ) -> torch.Tensor:
        """From the output (B, 2 H) of the first linear map to (B, H); `fused` uses kernels."""
        if fused:
            return self._fused(z, shared)
        h = F.glu(self.norms[0](z))
        for w, norm in zip([*shared, *self.specific], self.norms[1:], strict=True):
            h = (h + F.glu(norm(F.linear(h, w)))) * HALF
        return h

    def _fused(self, z: torch.Tensor, shared: nn.ParameterList) -> torch.Tensor:
        first, *norms = cast("list[GhostBatchNorm]", list(self.norms))
        h = normed_gate(z, None, first, HALF)
        for w, norm in zip([*shared, *self.specific], norms, strict=True):
            h = normed_gate(F.linear(h, w), h, norm, HALF)
        return h


class Attention(nn.Module):
    """Linear map and ghost norm that score the groups of genes.

    Parameters
    ----------
    n_a, n_groups
        Width of the input and of the scores.
    norm_settings
        Keywords of :class:`GhostBatchNorm`.
    """

    def __init__(self, n_a: int, n_groups: int, norm_settings: NormSettings) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_groups, n_a))
        self.norm = GhostBatchNorm(n_groups, **norm_settings)

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        """Scores (B, n_groups) of the attention vector `a` (B, n_a)."""
        out: torch.Tensor = self.norm(F.linear(a, self.weight))
        return out


def check_sizes(
    n_features: int,
    n_classes: int,
    n_d: int,
    n_a: int,
    n_steps: int,
    n_shared: int,
    n_independent: int,
) -> None:
    """Refuse sizes that no network can have."""
    sizes = {
        "n_features": n_features,
        "n_classes": n_classes,
        "n_d": n_d,
        "n_a": n_a,
        "n_steps": n_steps,
    }
    for name, value in sizes.items():
        if value < 1:
            msg = f"{name} is {value}; expected 1 or more."
            raise ValueError(msg)
    if n_shared < 0 or n_independent < 0 or n_shared + n_independent == 0:
        msg = (
            f"n_shared is {n_shared} and n_independent {n_independent}; neither may be negative "
            "and a transformer needs at least one layer. Set one of them to 1 or more."
        )
        raise ValueError(msg)
