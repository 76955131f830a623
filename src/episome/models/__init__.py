"""Models: the bases, and every installed model by its class name, imported when it is used.

``from episome.models import SCTab`` finds ``SCTab`` through the plugin manager.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from episome.models._annotation import AnnotationMixin
    from episome.models._array_classifier import ArrayClassifierModel, TrainingCells
    from episome.models._base import EpisomeModel, as_rows
    from episome.models._classifier import ClassifierModel

_HOME = {
    "AnnotationMixin": "_annotation",
    "ArrayClassifierModel": "_array_classifier",
    "ClassifierModel": "_classifier",
    "EpisomeModel": "_base",
    "TrainingCells": "_array_classifier",
    "as_rows": "_base",
}
__all__ = [*sorted(_HOME), "load"]


def load(path: str | Path, **kwargs: Any) -> EpisomeModel:
    """Load any model folder with the class that its plugin registers.

    Parameters
    ----------
    path
        A folder that ``save`` wrote.
    **kwargs
        Of ``EpisomeModel.load``.

    Raises
    ------
    ModelFileError
        See ``episome.io.read_model_folder``.
    PluginError
        The plugin that wrote it is not installed (E-P01).
    """
    from episome import plugins
    from episome.inference import folder_spec
    from episome.io import read_manifest

    spec = folder_spec(read_manifest(path)["model"])
    model: EpisomeModel = plugins.load_class(spec).load(path, **kwargs)
    return model


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    if name.startswith("__"):
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from episome import plugins
    from episome.errors import PluginError

    try:
        return plugins.load_class(plugins.get_spec(name))
    except PluginError as error:
        raise AttributeError(str(error)) from error


def __dir__() -> list[str]:
    from episome import plugins

    classes = {spec.target.rsplit(":", 1)[1] for spec in plugins.models().values()}
    return sorted({*__all__, *classes})
