"""SIMS for episome: label transfer with a TabNet classifier of several steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from episome_sims.model import SIMS
    from episome_sims.stability import ExplanationStability

__all__ = ["SIMS", "ExplanationStability"]

_HOME = {
    "SIMS": "model",
    "ExplanationStability": "stability",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f"episome_sims.{_HOME[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
