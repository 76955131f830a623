"""Attributions of networks that read dense batches: input times gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from episome.nn._core import TorchCore

__all__ = ["input_gradients"]


def input_gradients(core: TorchCore, x: torch.Tensor) -> torch.Tensor:
    """Return how much every value adds to the call of its cell, to first order.

    It is the value times the gradient of the called class's logit, less the mean of all logits:
    positive where the value speaks for the call, zero where a gene is not expressed.

    Parameters
    ----------
    core
        A network with logits that reads dense batches; its mode is left as it was.
    x
        Normalised expression, (B, G), on the core's device.

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
            called = logits.argmax(dim=1, keepdim=True)
            score = logits.gather(1, called).sum() - logits.mean(dim=1).sum()
            (gradient,) = torch.autograd.grad(score, values)
    finally:
        core.train(mode)
    return gradient * x
