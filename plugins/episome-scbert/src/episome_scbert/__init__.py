"""SCBERT for episome: a transformer over binned expression, for any genes and on one machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from episome_scbert.model import SCBERT

__all__ = ["SCBERT"]


def __getattr__(name: str) -> object:
    """Import the model on first use."""
    if name == "SCBERT":
        from episome_scbert.model import SCBERT

        return SCBERT
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
