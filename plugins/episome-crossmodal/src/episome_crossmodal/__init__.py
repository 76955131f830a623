"""Surface proteins and chromatin from RNA alone, for episome."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from episome_crossmodal.model import CrossModal

__all__ = ["CrossModal"]


def __getattr__(name: str) -> object:
    """Import the model on first use."""
    if name == "CrossModal":
        from episome_crossmodal.model import CrossModal

        return CrossModal
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
