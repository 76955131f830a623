"""AdamW whose second moment the genes of a weight share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from episome.errors import UsageError

if TYPE_CHECKING:
    from episome.nn import TorchCore


class SharedMomentAdamW(torch.optim.Optimizer):
    """AdamW with one second moment for all genes of an output.

    AdamW divides each step by the size of past gradients of the same weight, so that the weights
    of a gene that few cells express move as far as those of the best expressed one, and a model
    comes to rest on hundreds of rare genes whose counts do not carry over to other donors,
    machines or species. The penalised optimum, which L-BFGS finds for logistic regression, weighs
    genes by what they vary. With the mean of squared gradients over the genes in place of each
    one's own, steps stay as large as AdamW's, and genes keep their proportions.

    Parameters
    ----------
    params
        Groups of parameters; a group may hold ``gene_axis``: the axis over which squared gradients
        are averaged, of all of its parameters; ``None``: plain AdamW.
    lr, betas, eps, weight_decay
        As for ``torch.optim.AdamW``.
    """

    def __init__(
        self,
        params: Sequence[Mapping[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__([dict(group) for group in params], {**defaults, "gene_axis": None})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)
        return loss

    def _update(self, weight: torch.Tensor, grad: torch.Tensor, group: Mapping[str, Any]) -> None:
        axis, (beta1, beta2) = group["gene_axis"], group["betas"]
        squares = grad.square() if axis is None else grad.square().mean(axis, keepdim=True)
        state = self.state[weight]
        if not state:
            # On the CPU, as torch keeps it: asking a device for it would wait for its work.
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(weight)
            state["exp_avg_sq"] = torch.zeros_like(squares)
        state["step"] += 1
        n = float(state["step"])
        state["exp_avg"].lerp_(grad, 1 - beta1)
        state["exp_avg_sq"].lerp_(squares, 1 - beta2)
        size = (state["exp_avg_sq"] / (1 - beta2**n)).sqrt_().add_(group["eps"])
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.addcdiv_(state["exp_avg"], size, value=-group["lr"] / (1 - beta1**n))


def adamw(
    core: TorchCore,
    *,
    lr: float,
    weight_decay: float,
    share_moment: bool,
    mixed_precision: bool = False,
) -> torch.optim.Optimizer:
    """Return AdamW over a core's parameters; see :class:`SharedMomentAdamW` for the second moment.

    On the CPU one pass over every weight updates it, instead of ten; not in mixed precision, where
    Lightning would refuse to clip its gradients.

    Raises
    ------
    UsageError
        A moment is to be shared, and the core names no weight of genes (E-U15).
    """
    if not share_moment:
        fused = (core.device.type == "cpu" and not mixed_precision) or None
        return torch.optim.AdamW(core.parameters(), lr=lr, weight_decay=weight_decay, fused=fused)
    axes, named = core.gene_axes(), {name for name, _ in core.named_parameters()}
    if not axes or not named.issuperset(axes):
        raise UsageError(
            "E-U15",
            f"share_moment=True for {type(core).__name__}",
            where="plan_kwargs",
            why="its gene_axes() name no weight that it has",
            fix="leave it out, or let gene_axes() of the core name the weights of genes",
        )
    groups: dict[int | None, list[torch.Tensor]] = {}
    for name, weight in core.named_parameters():
        groups.setdefault(axes.get(name), []).append(weight)
    params = [{"params": weights, "gene_axis": axis} for axis, weights in groups.items()]
    return SharedMomentAdamW(params, lr=lr, weight_decay=weight_decay)
