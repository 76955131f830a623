"""The likelihood of antibody counts: a background that all cells have, and what binds."""

from __future__ import annotations

import torch
import torch.nn.functional as F

EPS = 1e-8


def background_mixture_log_likelihood(
    counts: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    logits: torch.Tensor,
    theta: torch.Tensor,
) -> torch.Tensor:
    """Return the log likelihood of counts that are background, or background and foreground.

    A mixture of two negative binomials of one dispersion, as for antibodies in
    :cite:p:`gayoso2021totalvi`.

    Parameters
    ----------
    counts
        (B, P).
    low, high
        Means of either, (B, P), above zero.
    logits
        Of being background, (B, P).
    theta
        Inverse dispersions, (P,), above zero.

    Returns
    -------
    (B, P).
    """
    shared = torch.lgamma(counts + theta) - torch.lgamma(theta) - torch.lgamma(counts + 1)

    def of(mean: torch.Tensor) -> torch.Tensor:
        total = torch.log(theta + mean + EPS)
        return theta * (torch.log(theta + EPS) - total) + counts * (torch.log(mean + EPS) - total)

    background = F.logsigmoid(logits) + of(low)
    foreground = F.logsigmoid(-logits) + of(high)
    return torch.logaddexp(background, foreground) + shared
