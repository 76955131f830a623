"""Models named ``embedding:KEY``: an installed model that reads an array of ``obsm``."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from episome.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from episome.plugins._specs import ModelSpec

PREFIX = "embedding:"
#: Tag of the models that are right on any dense vectors.
TAG = "probe"


def embedding_spec(
    name: str, specs: Iterable[ModelSpec], get: Callable[[str], ModelSpec]
) -> ModelSpec:
    """Return the spec that ``embedding:KEY`` or ``embedding:KEY:MODEL`` stands for.

    Without a model it is the first, by name, of the installed ones that are tagged ``probe`` and
    ``floor``: of those in this repository the vote of neighbours.

    Parameters
    ----------
    name
        The whole name.
    specs
        The installed models.
    get
        Finds a spec by name.

    Raises
    ------
    PluginError
        No key is named, the model is not installed, or none is right on vectors (E-P01).
    """
    key, _, model = name.removeprefix(PREFIX).partition(":")
    probes = sorted((s for s in specs if TAG in s.tags), key=lambda s: s.name)
    if not key:
        raise PluginError(
            "E-P01",
            f"{name!r} names no array of obsm",
            fix=f"{PREFIX}KEY, such as {PREFIX}X_pca, or {PREFIX}KEY:MODEL",
        )
    if model:
        chosen = get(model)
    elif probes:
        chosen = next((s for s in probes if "floor" in s.tags), probes[0])
    else:
        raise PluginError(
            "E-P01",
            "no installed model learns from vectors",
            where=name,
            fix="`pip install episome-baselines`",
        )
    if TAG not in chosen.tags:
        raise PluginError(
            "E-P01",
            f"{chosen.name} does not learn from vectors",
            where=name,
            why=f"those that do: {', '.join(s.name for s in probes) or 'none'}",
            fix=f"{PREFIX}{key}",
        )
    return replace(chosen, obsm_key=key)


@lru_cache(maxsize=64)
def reading(cls: type, key: str) -> Any:
    """Return the class with another place of its values; the same one for the same key.

    It goes by the name of the class it derives from, so folders name that one.
    """
    members = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "default_obsm_key": key,
    }
    return type(cls)(cls.__name__, (cls,), members)
