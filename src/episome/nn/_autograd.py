"""Small differences between releases of torch, and between torch and its types."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["apply", "autocast_on_cpu"]


def apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """Call an autograd function; torch leaves ``Function.apply`` untyped."""
    return function.apply(*args)  # type: ignore[no-untyped-call, unused-ignore]


def autocast_on_cpu() -> bool:
    """Whether operations on the CPU run under autocast."""
    try:
        return torch.is_autocast_enabled("cpu")
    except TypeError:  # torch 2.3 asks about each device by another name
        return torch.is_autocast_cpu_enabled()
