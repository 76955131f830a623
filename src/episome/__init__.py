"""A plugin-based extension of the scverse for single-cell genomics.

Importing this package is cheap: its rooms, and the methods that are installed, are imported on
first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from episome.jobs import train_auto
    from episome.models import EpisomeModel

__all__ = ["__version__", "get_model", "list_models", "train_auto"]

__version__: str

_ROOMS = frozenset(
    {
        "benchmark",
        "confidence",
        "data",
        "errors",
        "inference",
        "io",
        "jobs",
        "log",
        "metrics",
        "models",
        "nn",
        "ontology",
        "pl",
        "plugins",
        "report",
        "resources",
        "settings",
        "testing",
        "train",
    }
)


def get_model(name: str) -> type[EpisomeModel]:
    """Return the class of an installed model.

    Parameters
    ----------
    name
        Spec name (``"sctab"``), class name (``"SCTab"``) or qualified name (``"sctab:SCTab"``);
        ``"embedding:KEY"`` for a model that learns from ``adata.obsm[KEY]``.
    """
    from episome.plugins import get_spec, load_class

    cls: type[EpisomeModel] = load_class(get_spec(name))
    return cls


def list_models() -> list[str]:
    """Return the spec names of the installed models, sorted."""
    from episome.plugins import models

    return sorted(models())


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("episome")
    except PackageNotFoundError:  # a source tree that was not installed
        return "0+unknown"


def _room(name: str) -> ModuleType | None:
    qualified = f"{__name__}.{name}"
    try:
        return importlib.import_module(qualified)
    except ModuleNotFoundError as error:
        if error.name == qualified:
            return None
        raise


def __getattr__(name: str) -> object:
    """Resolve the version, the rooms and what belongs to one of them on first use."""
    if name == "train_auto":
        from episome.jobs import train_auto

        return train_auto
    if name == "__version__":
        globals()[name] = value = _version()
        return value
    room = _room(name) if name in _ROOMS else None
    if room is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return room


def __dir__() -> list[str]:
    """List the public names and rooms."""
    return sorted({*__all__, *_ROOMS})
