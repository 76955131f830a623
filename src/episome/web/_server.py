"""The server: connections that are idle or too many are closed, the queue is worked off."""

from __future__ import annotations

from collections import Counter
from typing import IO, TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from episome.errors import UsageError
from episome.web._app import create_app

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

    from episome.web._settings import ServeSettings

__all__ = ["make_server"]


def protocol_of(settings: ServeSettings) -> type[H11Protocol]:
    """Return the protocol with the limits of the settings."""
    open_by: Counter[str] = Counter()

    class Guarded(H11Protocol):
        """HTTP that waits neither for ever nor for everybody."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            peer = transport.get_extra_info("peername")
            self._address = peer[0] if peer else ""
            open_by[self._address] += 1
            if open_by[self._address] > settings.per_address:
                transport.abort()
                self._timer = None
                super().connection_made(transport)
                return
            super().connection_made(transport)
            self._timer = self.loop.call_later(settings.idle, self._check)

        def _check(self) -> None:
            """Close a connection whose request is not complete; others have their own limits."""
            if self.cycle is None and not self.transport.is_closing():
                self.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            open_by[self._address] -= 1
            if open_by[self._address] <= 0:
                del open_by[self._address]
            if self._timer is not None:
                self._timer.cancel()
            super().connection_lost(exc)

    return Guarded


def taken(state: Path) -> IO[bytes]:
    """Take a folder of state for this process, as long as the file that is returned is open.

    Raises
    ------
    UsageError
        Another page has it (E-W17).
    """
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = (state / "lock").open("ab")
    try:
        import fcntl
    except ImportError:  # not on Windows
        return handle
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise UsageError(
            "E-W17",
            "another page uses this folder",
            where=str(state),
            why="each would run the jobs of the other",
            fix="end it, or choose another folder with --state",
        ) from error
    return handle


def make_server(
    settings: ServeSettings, *, host: str, port: int, **options: Any
) -> uvicorn.Server:
    """Return a server of the page, not yet started.

    Parameters
    ----------
    settings
        Of the page.
    host, port
        Where it listens.
    **options
        Of ``uvicorn.Config``.

    Raises
    ------
    UsageError
        Another page uses the folder of the state (E-W17).
    """
    lock = taken(settings.state)
    config = uvicorn.Config(
        create_app(settings),
        host=host,
        port=port,
        http=protocol_of(settings),
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=3,
        **options,
    )
    server = uvicorn.Server(config)
    server.lock = lock  # type: ignore[attr-defined]
    return server
