"""Models that were pulled from a hub, in the cache folder, by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from episome import settings

if TYPE_CHECKING:
    from collections.abc import Mapping

_SLASH = "--"
_MANIFEST = "manifest.json"


def cached_model(name: str) -> Path:
    """Return where the model of a name is, or would be, in the cache.

    Parameters
    ----------
    name
        ``owner/name``, as on the hub.
    """
    return settings.cache_folder("models") / name.replace("/", _SLASH)


def cached_models() -> Mapping[str, Path]:
    """Return the models in the cache by their names, sorted."""
    folders = settings.cache_folder("models").iterdir()
    found = {p.name.replace(_SLASH, "/", 1): p for p in folders if (p / _MANIFEST).is_file()}
    return dict(sorted(found.items()))


def find_model(name: str | Path) -> Path:
    """Return the folder that is meant: the path itself, else the cached model of that name.

    Parameters
    ----------
    name
        A path, or ``owner/name`` of a model that was pulled. What is neither comes back as a
        path, and whoever reads it says that there is no such folder.
    """
    path = Path(name)
    if path.exists() or not _is_name(str(name)):
        return path
    cached = cached_model(str(name))
    return cached if (cached / _MANIFEST).is_file() else path


def _is_name(text: str) -> bool:
    """Whether a text may be a name on a hub: one slash, no way out of a folder."""
    parts = text.split("/")
    plain = [p.replace(".", "").replace("-", "").replace("_", "") for p in parts]
    return len(parts) == 2 and all(p.isalnum() for p in plain) and not text.startswith(".")
