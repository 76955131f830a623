"""What every request passes first: to whom it is addressed, who sends it, and from which site."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from episome.errors import EpisomeError
from episome.web._errors import forbidden, foreign

if TYPE_CHECKING:
    from episome.web._store import Store

__all__ = ["Guard", "csrf_token"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
#: Sent with every answer: nothing is loaded from elsewhere, no script or style stands in a page.
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",  # without any, forms have the origin "null"
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
#: The page goes on by itself, as a step of its own: its cookie is then one of the same site.
WELCOME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>episome</title>
<link rel="icon" href="/static/icon.svg"><meta http-equiv="refresh" content="0; url=/"></head>
<body><p><a href="/">Go on to the page</a></p></body></html>
"""


class Guard:
    """Middleware: host, session, origin, headers.

    Parameters
    ----------
    app
        What answers the requests that pass.
    store
        Of the sessions.
    refuse
        Makes the answer to one that does not.
    """

    def __init__(
        self, app: Any, *, store: Store, refuse: Callable[[Request, EpisomeError], Response]
    ) -> None:
        self.app, self.store, self.refuse = app, store, refuse
        self.settings = store.settings
        self.cookie = f"episome_{self.settings.port}"

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here speaks websocket
            await send({"type": "websocket.close", "code": 1008})
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if not scope["path"].startswith("/static/"):
                    headers["cache-control"] = "no-store"
                if cookie := scope["state"].get("new_cookie"):
                    headers.append("set-cookie", self._set_cookie(cookie))
            await send(message)

        scope.setdefault("state", {})
        scope["state"]["owner"] = None
        try:
            answer = self._checked(scope)
        except EpisomeError as error:
            answer = self.refuse(Request(scope), error)
            # What is still being sent is not wanted.
            answer.headers["connection"] = "close"
        if answer is None:
            await self.app(scope, receive, sealed)
        else:
            await answer(scope, receive, sealed)

    def _checked(self, scope: Message) -> Response | None:
        """Return an answer, or nothing where the request may pass."""
        headers = Headers(scope=scope)
        self._check_host(headers.get("host", ""))
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if scope["path"].startswith("/static/"):
            return None
        state = scope["state"]
        state["owner"] = self._owner(headers.get("cookie", ""))
        token = self.settings.token
        if state["owner"] is None:
            given = query.get("token", [""])[0]
            if token is None or hmac.compare_digest(given.encode(), token.encode()):
                if scope["method"] not in SAFE:
                    raise foreign(what="it has no session")
                cookie = self.store.new_session()
                state["new_cookie"] = cookie
                state["owner"] = self.store.owner_of(cookie)
                if token is not None:
                    return HTMLResponse(WELCOME)
            else:
                raise forbidden()
        elif "token" in query and scope["method"] == "GET" and scope["path"] == "/":
            return HTMLResponse(WELCOME)
        state["csrf"] = csrf_token(self.store, state["owner"])
        if scope["method"] not in SAFE:
            given = headers.get("x-csrf-token") or query.get("csrf", [""])[0]
            self._check_origin(headers, given, state["csrf"])
        return None

    def _owner(self, cookies: str) -> str | None:
        try:
            found = SimpleCookie(cookies).get(self.cookie)
        except CookieError:
            return None
        return None if found is None else self.store.owner_of(found.value)

    def _set_cookie(self, value: str) -> str:
        age = int(self.settings.keep) + 7 * 24 * 3600
        return f"{self.cookie}={value}; Max-Age={age}; Path=/; HttpOnly; SameSite=Strict"

    def _check_host(self, host: str) -> None:
        """Refuse names that are not ours: a foreign name may be made to lead here."""
        name, _, port = host.rpartition(":")
        if not name or not port.isdigit():
            name = host
        name = name.lower()
        if name in self.settings.hosts:
            return
        if self.settings.any_address:
            try:
                ipaddress.ip_address(name.strip("[]"))
            except ValueError:
                pass
            else:
                return
        raise foreign(what=f"it is addressed to {name[:100] or 'nobody'!r}")

    def _check_origin(self, headers: Headers, given: str, wanted: str) -> None:
        """Refuse what changes something and does not come from our own pages."""
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            raise foreign(what="it comes from another site")
        if headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
            raise foreign(what="it comes from another site")
        if not hmac.compare_digest(given.encode(), wanted.encode()):
            raise foreign(what="its token is missing or old")


def csrf_token(store: Store, owner: str) -> str:
    """Return what requests of a user that change something must carry."""
    return hmac.new(store.secret.encode(), owner.encode(), "sha256").hexdigest()
