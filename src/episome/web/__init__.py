"""The local page: the verbs of the command line in a browser, on one's own files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome._lazy import lazy_names

if TYPE_CHECKING:
    from episome.web._app import create_app
    from episome.web._server import make_server
    from episome.web._settings import ServeSettings

_HOME = {
    "ServeSettings": "_settings",
    "create_app": "_app",
    "make_server": "_server",
}
__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
