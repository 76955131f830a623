"""With what something was made."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from episome import settings

_VERSIONS = (
    "episome",
    "scvi-tools",
    "torch",
    "lightning",
    "anndata",
    "numpy",
    "scipy",
    "scikit-learn",
)


def provenance() -> dict[str, Any]:
    """Versions, seed and date; no user, host or path."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": settings.seed,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": {name: version_of(name) for name in _VERSIONS},
    }


def version_of(distribution: str) -> str | None:
    """Return the version of an installed distribution; ``None`` where it is not there."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
