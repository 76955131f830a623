"""With what something was made."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
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


#: Ending of the record that a command leaves beside its output.
RECORD = ".run.json"


def record_beside(output: Path) -> Path:
    """Return where the record of the run that wrote a file or folder is: ``OUTPUT.run.json``."""
    whole = output.absolute()
    return whole.with_name(whole.name + RECORD)


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
