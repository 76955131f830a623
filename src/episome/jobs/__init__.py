"""The verbs as plain functions; the command line and the page call these."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from episome.jobs._annotate import AnnotateRequest, AnnotateResult, annotate, describe_input
    from episome.jobs._demo import DemoResult, DemoScore, demo
    from episome.jobs._labels_file import LabelJoin, join_labels
    from episome.jobs._train import TrainRequest, TrainResult, device_arguments, train

_HOME = {
    "AnnotateRequest": "_annotate",
    "AnnotateResult": "_annotate",
    "DemoResult": "_demo",
    "DemoScore": "_demo",
    "LabelJoin": "_labels_file",
    "TrainRequest": "_train",
    "TrainResult": "_train",
    "annotate": "_annotate",
    "demo": "_demo",
    "describe_input": "_annotate",
    "device_arguments": "_train",
    "join_labels": "_labels_file",
    "train": "_train",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
