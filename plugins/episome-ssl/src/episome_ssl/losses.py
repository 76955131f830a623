"""Losses that compare two views of the same cells.

All of them take a batch as it is: B is the number of its cells, never a configured one. None
fails for a single cell, although only that of BYOL then says something.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

__all__ = [
    "BarlowParts",
    "VICRegParts",
    "barlow_loss",
    "byol_loss",
    "cosine_distance",
    "cross_correlation",
    "nt_xent",
    "vicreg_loss",
]

#: Of torch's batch norm, which the published loss standardises with.
_NORM_EPS = 1e-5


class BarlowParts(NamedTuple):
    """Loss of Barlow Twins, and the two sums that it consists of.

    Parameters
    ----------
    loss
        ``on_diagonal + off_weight * off_diagonal``.
    on_diagonal
        Squared distances of the diagonal of the cross-correlation from one.
    off_diagonal
        Squares beside the diagonal.
    """

    loss: torch.Tensor
    on_diagonal: torch.Tensor
    off_diagonal: torch.Tensor


class VICRegParts(NamedTuple):
    """Loss of VICReg, and its three terms without their weights.

    Parameters
    ----------
    loss
        Weighted sum of the terms.
    invariance, variance, covariance
        The terms.
    """

    loss: torch.Tensor
    invariance: torch.Tensor
    variance: torch.Tensor
    covariance: torch.Tensor


def cosine_distance(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    r"""Return :math:`2 - 2 \cos(p_i, t_i)` of every row.

    The squared distance of rows that are scaled to unit length; no gradient enters ``target``.

    Parameters
    ----------
    prediction, target
        (B, D) float.

    Returns
    -------
    (B,), from 0 to 4.
    """
    directions = F.normalize(prediction, dim=1), F.normalize(target.detach(), dim=1)
    return 2 - 2 * (directions[0] * directions[1]).sum(1)


def byol_loss(
    predictions: tuple[torch.Tensor, torch.Tensor], targets: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    r"""Return the loss of BYOL: each view predicts what the target network says of the other.

    .. math:: \frac{1}{B} \sum_i (2 - 2 \cos(p^1_i, t^2_i)) + (2 - 2 \cos(p^2_i, t^1_i))

    Equation 2 of :cite:p:`grill2020byol`, both ways; no gradient enters the targets.

    Parameters
    ----------
    predictions
        p of either view, (B, D) each.
    targets
        t of either view, (B, D) each.

    Returns
    -------
    Scalar, from 0 to 8.
    """
    first = cosine_distance(predictions[0], targets[1])
    second = cosine_distance(predictions[1], targets[0])
    return (first + second).mean()


def cross_correlation(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
    r"""Return how the dimensions of two views correlate over the cells of a batch.

    .. math:: c_{ij} = \frac{1}{B} \sum_b
        \frac{z^1_{bi} - \mu^1_i}{\sqrt{v^1_i + \epsilon}}
        \frac{z^2_{bj} - \mu^2_j}{\sqrt{v^2_j + \epsilon}}

    with the means and (biased) variances of the batch and :math:`\epsilon = 10^{-5}`.

    Parameters
    ----------
    z1, z2
        Projections, (B, D) float.

    Returns
    -------
    (D, D), between -1 and 1; zeros for a single cell.
    """
    return _standardised(z1).T @ _standardised(z2) / len(z1)


def _standardised(z: torch.Tensor) -> torch.Tensor:
    # Not torch's batch norm, which refuses a single cell.
    centred = z - z.mean(0)
    return centred * (centred.square().mean(0) + _NORM_EPS).rsqrt()


def barlow_loss(z1: torch.Tensor, z2: torch.Tensor, *, off_weight: float = 0.0051) -> BarlowParts:
    r"""Return the loss of Barlow Twins.

    .. math:: \sum_i (c_{ii} - 1)^2 + \lambda \sum_i \sum_{j \ne i} c_{ij}^2

    Equation 1 of :cite:p:`zbontar2021barlow`, c as :func:`cross_correlation` has it.

    Parameters
    ----------
    z1, z2
        Projections of two views of the same cells, (B, D) float.
    off_weight
        :math:`\lambda`.

    Returns
    -------
    Scalars. A single cell correlates with nothing: its loss is D.
    """
    c = cross_correlation(z1, z2)
    on = (c.diagonal() - 1).square().sum()
    off = _off_diagonal_squares(c)
    return BarlowParts(on + off_weight * off, on, off)


def _off_diagonal_squares(matrix: torch.Tensor) -> torch.Tensor:
    # The diagonal is taken out, not subtracted: it may be much larger than the rest.
    return (matrix - torch.diag(matrix.diagonal())).square().sum()


def vicreg_loss(
    z1: torch.Tensor,
    z2: torch.Tensor,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    eps: float = 1e-4,
) -> VICRegParts:
    r"""Return the loss of VICReg, which keeps dimensions alive and apart without negative pairs.

    .. math::
        \lambda \frac{1}{B D} \sum_{bi} (z^1_{bi} - z^2_{bi})^2
        + \mu \sum_{v = 1}^2 \frac{1}{D} \sum_i \max(0, 1 - \sqrt{\mathrm{Var}(z^v_i) + \epsilon})
        + \nu \sum_{v = 1}^2 \frac{1}{D} \sum_{i \ne j} \mathrm{Cov}(z^v_i, z^v_j)^2

    Equation 6 of :cite:p:`bardes2022vicreg`, its invariance averaged over the dimensions too, as
    in the algorithm of the paper. Variances and covariances are unbiased.

    Parameters
    ----------
    z1, z2
        Projections of two views of the same cells, (B, D) float.
    invariance, variance, covariance
        Weights :math:`\lambda`, :math:`\mu` and :math:`\nu`.
    eps
        :math:`\epsilon`, which keeps the gradient of the root finite.

    Returns
    -------
    Scalars. A single cell varies as little as a collapsed batch.
    """
    centred = [z - z.mean(0) for z in (z1, z2)]
    n = max(len(z1) - 1, 1)
    spreads = [(z.square().sum(0) / n + eps).sqrt() for z in centred]
    same = F.mse_loss(z1, z2)
    alive = sum((F.relu(1 - s).mean() for s in spreads), z1.new_zeros(()))
    apart = sum((_off_diagonal_squares(z.T @ z / n) for z in centred), z1.new_zeros(()))
    apart = apart / z1.shape[1]
    loss = invariance * same + variance * alive + covariance * apart
    return VICRegParts(loss, same, alive, apart)


def nt_xent(z1: torch.Tensor, z2: torch.Tensor, *, temperature: float = 0.1) -> torch.Tensor:
    r"""Return the loss of SimCLR: a view has to find the other one among all views of the batch.

    .. math:: -\frac{1}{2B} \sum_{i = 1}^{2B} \log
        \frac{\exp(\cos(z_i, z_{p(i)}) / \tau)}{\sum_{k \ne i} \exp(\cos(z_i, z_k) / \tau)}

    over the views of all cells, where p(i) is the other view of the cell of i; equation 1 of
    :cite:p:`chen2020simclr`.

    Parameters
    ----------
    z1, z2
        Projections of two views of the same cells, (B, D) float.
    temperature
        :math:`\tau`, above 0.

    Returns
    -------
    Scalar. A single cell has nothing to be mistaken for: its loss is 0.
    """
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    likeness = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    other = torch.arange(2 * n, device=z.device).roll(n)
    return F.cross_entropy(likeness, other)
