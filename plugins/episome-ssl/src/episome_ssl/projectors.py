"""Heads that embeddings pass before contrastive losses compare them.

Layers keep the order of the published heads, so that weights can be handed over by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

__all__ = ["barlow_projector", "mlp", "simsiam_projector"]


def mlp(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    """Return Linear, BatchNorm, ReLU, Linear: projector and predictor of BYOL.

    Parameters
    ----------
    n_in, hidden, n_out
        Widths: (B, n_in) becomes (B, n_out).
    """
    _check(n_in, hidden, n_out)
    return nn.Sequential(
        nn.Linear(n_in, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, n_out)
    )


def simsiam_projector(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    """Return three linear layers without biases, each with a BatchNorm, ReLU between them.

    The last BatchNorm has no weights of its own. Projector of SimSiam.

    Parameters
    ----------
    n_in, hidden, n_out
        Widths: (B, n_in) becomes (B, n_out).
    """
    head = barlow_projector(n_in, (hidden, hidden, n_out))
    return head.append(nn.BatchNorm1d(n_out, affine=False))


def barlow_projector(n_in: int, widths: Sequence[int]) -> nn.Sequential:
    """Return Linear, BatchNorm, ReLU for every width but the last, then Linear; no biases.

    Projector of Barlow Twins.

    Parameters
    ----------
    n_in
        Width of the embedding.
    widths
        Of the layers; (B, n_in) becomes (B, widths[-1]).
    """
    _check(n_in, *widths)
    head = nn.Sequential()
    for before, after in pairwise((n_in, *widths[:-1])):
        head.extend([nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()])
    return head.append(nn.Linear((n_in, *widths)[-2], widths[-1], bias=False))


def _check(*widths: int) -> None:
    if len(widths) < 2 or min(widths) < 1:
        msg = f"widths of a projector are {widths}; there must be an output, and all above 0."
        raise ValueError(msg)
