"""Pictures; every function takes ``ax=`` and returns it."""

from __future__ import annotations

from episome.pl._confusion import confusion

__all__ = ["confusion"]
