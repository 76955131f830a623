"""Attributions of networks that read dense batches: input times gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from episome.nn._core import TorchCore

__all__ = ["input_gradients"]


def input_gradients(
    core: TorchCore,
    x: torch.Tensor,
    classes: torch.Tensor | None = None,
    against: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return how much every value adds to the score of one class over others, to first order.

    It is the value times the gradient of the class's logit, less the logit of another class or
    the mean of all logits: positive where the value speaks for the class, zero where a gene is
    not expressed.

    Parameters
    ----------
    core
        A network with logits that reads dense batches; its mode is left as it was.
    x
        Normalised expression, (B, G), on the core's device.
    classes
        Code of the class of every cell, int64 (B,); default the one with the largest logit.
    against
        Code of the class that it is compared with, int64 (B,); default the mean of all.

    Returns
    -------
    Attributions, (B, G), without a graph.

    References
    ----------
    Shrikumar et al. (2017), arXiv:1605.01713 (gradient times input).
    """
    mode = core.training
    core.eval()
    try:
        with torch.enable_grad():
            values = x.detach().clone().requires_grad_(True)  # noqa: FBT003 - torch's signature
            logits = core({"X": values})["logits"]
            chosen = logits.argmax(dim=1) if classes is None else classes
            score = logits.gather(1, chosen[:, None]).sum()
            if against is None:
                score = score - logits.mean(dim=1).sum()
            else:
                score = score - logits.gather(1, against[:, None]).sum()
            (gradient,) = torch.autograd.grad(score, values)
    finally:
        core.train(mode)
    return gradient * x
