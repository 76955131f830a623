"""The optimiser of Barlow Twins, and how its learning rate runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import nn
from torch.optim import Optimizer

__all__ = ["LARS", "LR_BIASES", "LR_WEIGHTS", "lars_groups", "warmup_cosine"]

#: Published learning rates for a batch of 256.
LR_WEIGHTS = 0.2
LR_BIASES = 0.0048


class LARS(Optimizer):
    r"""Gradient descent whose step is a share of the length of every weight.

    .. math::
        d &= g + w\,\theta, \quad
        d \leftarrow d \; \eta \, \lVert \theta \rVert / \lVert d \rVert, \\
        m &\leftarrow \mu\, m + d, \quad
        \theta \leftarrow \theta - \mathrm{lr} \; m

    The first line is left out for parameters of one dimension at most (biases, weights of norms);
    its factor is one where a length is zero.

    Parameters
    ----------
    params
        Parameters or groups of them.
    lr
        Learning rate, 0 or more.
    momentum
        :math:`\mu`, at least 0 and below 1.
    eta
        Share :math:`\eta` of the length of a weight, above 0.
    weight_decay
        w, 0 or more.

    Raises
    ------
    ValueError
        A setting is out of range.

    Notes
    -----
    Of :cite:p:`you2017lars`, with the choices of the published Barlow Twins. The momentum ``m``
    lasts as long as the optimiser, in ``state``; the published training of cells made a new
    optimiser for every step, and therefore had none.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = LR_WEIGHTS,
        *,
        momentum: float = 0.9,
        eta: float = 0.001,
        weight_decay: float = 1e-6,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "eta": eta, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own.

        Parameters
        ----------
        param_group
            ``params``, and what differs from the defaults.
        """
        settings = self.defaults | param_group
        for name in ("lr", "weight_decay"):
            if not 0 <= settings[name] < math.inf:
                msg = f"Invalid {name}: {settings[name]}; it must be a number of 0 or more."
                raise ValueError(msg)
        if not 0 <= settings["momentum"] < 1:
            msg = f"Invalid momentum: {settings['momentum']}; it must be at least 0 and below 1."
            raise ValueError(msg)
        if not 0 < settings["eta"] < math.inf:
            msg = f"Invalid eta: {settings['eta']}; it must be a number above 0."
            raise ValueError(msg)
        super().add_param_group(param_group)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step.

        Parameters
        ----------
        closure
            Computes the loss and its gradients anew.

        Returns
        -------
        What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_of(parameter, parameter.grad, group)
        return loss

    def _step_of(
        self, parameter: nn.Parameter, direction: torch.Tensor, group: dict[str, Any]
    ) -> None:
        if direction.is_sparse:
            msg = "LARS does not support sparse gradients."
            raise RuntimeError(msg)
        if parameter.ndim > 1:
            direction = direction.add(parameter, alpha=group["weight_decay"])
            long, step = parameter.norm(), direction.norm()
            # Chosen on the device: asking for a length would wait for it.
            share = torch.where((long > 0) & (step > 0), group["eta"] * long / step, 1.0)
            direction = direction.mul_(share)
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(direction)
        parameter.add_(buffer, alpha=-group["lr"])


def lars_groups(
    parameters: Iterable[nn.Parameter],
    *,
    lr_weights: float = LR_WEIGHTS,
    lr_biases: float = LR_BIASES,
) -> list[dict[str, Any]]:
    """Return parameters in two groups: weights, and what has one dimension at most.

    Parameters
    ----------
    parameters
        To be trained; those that take no gradient are left out.
    lr_weights, lr_biases
        Learning rate of either group. Together with :func:`warmup_cosine` as factor: those for a
        batch of 256.

    Returns
    -------
    Groups for :class:`LARS`; one is left out where it is empty.
    """
    trained = [p for p in parameters if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "lr": lr_weights},
        {"params": [p for p in trained if p.ndim <= 1], "lr": lr_biases},
    ]
    return [group for group in groups if group["params"]]


def warmup_cosine(
    step: int,
    n_steps_per_epoch: int,
    n_epochs: int,
    *,
    batch_size: int,
    warmup_epochs: int = 10,
    floor: float = 1e-3,
) -> float:
    r"""Return the factor of the learning rates of Barlow Twins at a step.

    .. math::
        \frac{B}{256} \begin{cases}
            t / t_w & t < t_w \\
            f + (1 - f) \, (1 + \cos(\pi \, (t - t_w) / (T - t_w))) / 2 & t \ge t_w
        \end{cases}

    for T steps of which :math:`t_w` are warm-up.

    Parameters
    ----------
    step
        Number t of the step, from 0; beyond the last the factor stays.
    n_steps_per_epoch, n_epochs
        Steps of an epoch, and epochs.
    batch_size
        Cells B of a step.
    warmup_epochs
        Epochs in which the factor rises from 0; fewer than ``n_epochs``.
    floor
        Share f that is left at the end.

    Returns
    -------
    What :data:`LR_WEIGHTS` and :data:`LR_BIASES` are multiplied with.

    Raises
    ------
    ValueError
        A number is out of range.

    Examples
    --------
    >>> [warmup_cosine(t, 10, 30, batch_size=256) for t in (50, 100, 200, 300)]
    [0.5, 1.0, 0.5005, 0.001]
    """
    if step < 0 or n_steps_per_epoch < 1 or batch_size < 1:
        msg = (
            f"step is {step}, n_steps_per_epoch {n_steps_per_epoch} and batch_size {batch_size}; "
            "a step counts from 0, and the others from 1."
        )
        raise ValueError(msg)
    if not 0 <= warmup_epochs < n_epochs:
        msg = (
            f"warmup_epochs is {warmup_epochs} of {n_epochs} epochs; it must be at least 0 and "
            "less than n_epochs. Train for more epochs or warm up for fewer."
        )
        raise ValueError(msg)
    if not 0 <= floor <= 1:
        msg = f"floor is {floor}; it must be between 0 and 1."
        raise ValueError(msg)
    warmup, total = warmup_epochs * n_steps_per_epoch, n_epochs * n_steps_per_epoch
    base = batch_size / 256
    if step < warmup:
        return base * step / warmup
    share = min((step - warmup) / (total - warmup), 1.0)
    return base * (floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2)
