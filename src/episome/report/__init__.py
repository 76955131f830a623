"""Reports: one HTML file that needs nothing else, and the same as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome._lazy import lazy_names

if TYPE_CHECKING:
    from episome.report._annotation import annotation_page
    from episome.report._calls import CallSummary
    from episome.report._evaluation import audit_page, evaluation_page, model_page
    from episome.report._page import Code, Figure, Page, Part, Table, Text
    from episome.report._parts import figure

_HOME = {
    "CallSummary": "_calls",
    "Code": "_page",
    "Figure": "_page",
    "Page": "_page",
    "Part": "_page",
    "Table": "_page",
    "Text": "_page",
    "annotation_page": "_annotation",
    "audit_page": "_evaluation",
    "evaluation_page": "_evaluation",
    "figure": "_parts",
    "model_page": "_evaluation",
}
__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
