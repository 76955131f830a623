"""Self-supervised pretext tasks for episome: pretrain once, probe, fine-tune, integrate."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from episome_ssl.classifier import SSLClassifier
    from episome_ssl.model import SSLEncoder
    from episome_ssl.reconstructor import SSLReconstructor

__all__ = ["SSLClassifier", "SSLEncoder", "SSLReconstructor"]

_HOME = {"SSLClassifier": "classifier", "SSLEncoder": "model", "SSLReconstructor": "reconstructor"}


def __getattr__(name: str) -> object:
    """Import a model on first use."""
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
