"""A typed way to call autograd functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["apply"]


def apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """Call an autograd function; torch leaves ``Function.apply`` untyped."""
    return function.apply(*args)  # type: ignore[no-untyped-call]
