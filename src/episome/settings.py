"""Settings of the session: the seed and its streams, the stack level of warnings, folders.

The module is the settings object: ``from episome import settings; settings.seed = 1``. Every
random choice comes from its own named stream, so that changing how one is drawn leaves the others
as they were. Nothing here touches the global random state of Python, numpy or torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from platformdirs import user_cache_path

from episome.errors import RemoteError, UsageError
from episome.log import get_logger

__all__ = [
    "STREAMS",
    "cache_folder",
    "home",
    "home_folder",
    "member_seed",
    "offline",
    "require_online",
    "seed",
    "stream_seed",
    "using_seed",
    "warnings_stacklevel",
]

#: Names of the streams that the host draws from; plugins may use further names.
STREAMS = ("split", "subset", "init", "order", "augment", "mask")

#: Seed of every stream whose caller gives none.
seed: int = 0

#: ``stacklevel`` of the warnings that episome issues.
warnings_stacklevel: int = 2

#: Whether every connection is refused, see :func:`require_online`.
offline: bool = False

#: Folder for caches and reports; ``None`` means ``EPISOME_HOME`` or the platform's cache folder.
home: str | Path | None = None

_log = get_logger("settings")
_unwritable: dict[Path, Path] = {}


def stream_seed(name: str, seed: int | None = None, *, bits: int = 63) -> int:
    """Return the seed of a named stream.

    Parameters
    ----------
    name
        Name of the stream, see :data:`STREAMS`.
    seed
        Seed of the run; ``None`` takes ``settings.seed``.
    bits
        Length of the result: 63 suits ``numpy.random.default_rng`` and ``torch.Generator``, some
        libraries want 32 or 31.

    Returns
    -------
    An integer below ``2 ** bits``, the same on every platform and in every session.
    """
    value = globals()["seed"] if seed is None else seed
    try:
        value = value.__index__()
    except AttributeError:
        value = -1
    if value < 0:
        given = globals()["seed"] if seed is None else seed
        raise UsageError(
            "E-U05",
            f"the seed {given!r} is not a whole number of zero or more",
            why="every run must be repeatable from one number",
            fix="`seed=0` or `episome.settings.seed = 0`",
        )
    digest = hashlib.sha256(f"episome/1/{name}/{value}".encode()).digest()
    return int.from_bytes(digest[:16], "big") >> (128 - bits)


def member_seed(member: int, seed: int | None = None) -> int:
    """Return the seed of a member of an ensemble; member 0 has the seed itself."""
    if member == 0:
        return globals()["seed"] if seed is None else seed
    return stream_seed(f"member-{member}", seed)


@contextlib.contextmanager
def using_seed(value: int | None) -> Iterator[None]:
    """Set :data:`seed` for a while; ``None`` leaves it."""
    before = globals()["seed"]
    if value is not None:
        globals()["seed"] = value
    try:
        yield
    finally:
        globals()["seed"] = before


def require_online(what: str, fix: str) -> None:
    """Refuse a connection where :data:`offline` says that there is to be none.

    Parameters
    ----------
    what
        What wants one.
    fix
        What works without.

    Raises
    ------
    RemoteError
        E-N04.
    """
    if globals()["offline"]:
        raise RemoteError(
            "E-N04",
            f"{what} needs a connection, and none is to be opened",
            why="offline (--offline) is set",
            fix=fix,
        )


def home_folder() -> Path:
    """Return the folder for caches and reports, creating it.

    It is ``settings.home``, else the environment variable ``EPISOME_HOME``, else the platform's
    cache folder. When it cannot be written to, a temporary folder takes its place and a line in
    the log says so.
    """
    wanted = Path(home or os.environ.get("EPISOME_HOME") or _platform_folder()).expanduser()
    if wanted in _unwritable:
        return _unwritable[wanted]
    if not _writable(wanted):
        _unwritable[wanted] = Path(tempfile.mkdtemp(prefix="episome-"))
        _log.warning(
            "%s cannot be written to; using %s for this session. EPISOME_HOME names another.",
            wanted,
            _unwritable[wanted],
        )
        return _unwritable[wanted]
    return wanted


def cache_folder(name: str = "") -> Path:
    """Return a folder inside :func:`home_folder`, creating it."""
    folder = home_folder() / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _platform_folder() -> Path:
    try:
        return user_cache_path("episome", appauthor=False)
    except RuntimeError:  # no home folder
        return Path(tempfile.gettempdir()) / "episome"


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
