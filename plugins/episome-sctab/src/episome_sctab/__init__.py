"""scTab for episome: cell type annotation with a TabNet classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from episome_sctab.model import SCTab

__all__ = ["SCTab"]


def __getattr__(name: str) -> object:
    """Import the model on first use."""
    if name == "SCTab":
        from episome_sctab.model import SCTab

        return SCTab
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
