"""Reports: one HTML file that needs nothing else, and the same as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome._lazy import lazy_names

if TYPE_CHECKING:
    from episome.report._page import Figure, Page, Part, Table, Text

_HOME = {"Figure": "_page", "Page": "_page", "Part": "_page", "Table": "_page", "Text": "_page"}
__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
