"""Layers under the names that scvi-tools gives them, and products that they make."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from episome.nn import CSRParts

#: Of scvi-tools' batch normalisation.
NORM = {"eps": 1e-3, "momentum": 0.01}


def kl_normal(
    mean: torch.Tensor, variance: torch.Tensor, at: torch.Tensor, spread: torch.Tensor
) -> torch.Tensor:
    """Return the divergence of normal distributions from others, entry by entry.

    Parameters
    ----------
    mean, variance
        Of the distribution.
    at, spread
        Mean and variance of the other.
    """
    ratio = variance / spread
    return 0.5 * (ratio + (mean - at).square() / spread - 1 - ratio.log())


def row_sums(counts: CSRParts) -> torch.Tensor:
    """Return the sum of every row, (B,).

    Parameters
    ----------
    counts
        (B, G).
    """
    return counts.values.new_zeros(counts.n_rows).index_add_(0, counts.rows(), counts.values)


def normalised_product(
    x: torch.Tensor, weight: torch.Tensor, norm: nn.BatchNorm1d
) -> torch.Tensor:
    """Return ``norm(x @ weight.T)``, whose statistics follow from those of ``x``.

    The mean of a product is the product of the mean, and its variance a quadratic form of the
    covariance of a few dimensions: the matrix of cells by genes is passed over once.

    Parameters
    ----------
    x
        (B, d).
    weight
        (G, d).
    norm
        Of G features; in training its running statistics are updated.
    """
    # Variances are differences of squares: never in fewer bits.
    with torch.autocast(x.device.type, enabled=False):
        return _normalised_product(x.float(), weight, norm)


def _normalised_product(
    x: torch.Tensor, weight: torch.Tensor, norm: nn.BatchNorm1d
) -> torch.Tensor:
    if not norm.training:
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return torch.addmm(norm.bias - norm.running_mean * scale, x, (weight * scale[:, None]).t())
    centre = x.mean(0)
    centred = x - centre
    covariance = centred.t() @ centred / len(x)
    variance = ((weight @ covariance) * weight).sum(1).clamp(min=0.0)
    with torch.no_grad():
        unbiased = variance * (len(x) / max(len(x) - 1, 1))
        norm.num_batches_tracked += 1
        # Without a momentum the statistics are the mean over batches.
        share = norm.momentum or 1 / float(norm.num_batches_tracked)
        norm.running_mean.lerp_(weight @ centre, share)
        norm.running_var.lerp_(unbiased, share)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return torch.addmm(norm.bias, centred, (weight * scale[:, None]).t())


class Encoder(nn.Module):
    """Dense layers, and means and log variances of a posterior.

    Parameters
    ----------
    n_input, n_output
        Genes, and dimensions of the posterior.
    n_hidden, n_layers
        Width and number of layers.
    dropout
        Share of the hidden values that is left out in training.
    """

    def __init__(
        self, n_input: int, n_output: int, n_hidden: int, n_layers: int, dropout: float
    ) -> None:
        super().__init__()
        widths = [n_input, *[n_hidden] * n_layers]
        layers = OrderedDict(
            (
                f"Layer {i}",
                nn.Sequential(
                    nn.Linear(widths[i], widths[i + 1]),
                    nn.BatchNorm1d(widths[i + 1], **NORM),  # type: ignore[arg-type]
                    # The place of scvi-tools' layer normalisation, which is off.
                    nn.Identity(),
                    nn.ReLU(),
                    nn.Dropout(dropout),
                ),
            )
            for i in range(n_layers)
        )
        self.encoder = _Layers(layers)
        self.mean_encoder = nn.Linear(n_hidden, n_output)
        self.var_encoder = nn.Linear(n_hidden, n_output)


class _Layers(nn.Module):
    def __init__(self, layers: OrderedDict[str, nn.Module]) -> None:
        super().__init__()
        self.fc_layers = nn.Sequential(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.fc_layers(x)
        return found


class Linear(nn.Module):
    """A matrix and a batch normalisation.

    Parameters
    ----------
    n_input, n_output
        Sizes.
    """

    def __init__(self, n_input: int, n_output: int) -> None:
        super().__init__()
        norm = nn.BatchNorm1d(n_output, **NORM)  # type: ignore[arg-type]
        block = nn.Sequential(nn.Linear(n_input, n_output, bias=False), norm)
        self.fc_layers = nn.Sequential(OrderedDict([("Layer 0", block)]))
