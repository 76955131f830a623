"""The application: routes, static files, and what errors look like."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from episome import __version__
from episome.errors import EpisomeError
from episome.log import get_logger
from episome.web._api import api_router, error_json
from episome.web._errors import RETRY, not_found, status_of, wrong_form
from episome.web._guard import Guard
from episome.web._models import Models
from episome.web._pages import Pages, pages_router
from episome.web._runner import Runner
from episome.web._store import Store
from episome.web._work import Work

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.responses import Response

    from episome.web._settings import ServeSettings

__all__ = ["create_app"]

log = get_logger("web")
HERE = Path(__file__).parent
#: Nothing is counted, whatever the environment asks of FastAPI.
SILENT = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


def create_app(settings: ServeSettings) -> FastAPI:
    """Return the page as an ASGI application.

    The queue is worked off while its lifespan lasts; ``app.state.runner`` and ``app.state.work``
    are what does it.

    Parameters
    ----------
    settings
        Folders, limits, who may come.
    """
    store = Store(settings)
    work = Work(store, Models(store))
    runner = Runner(store, work.models)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        runner.start()
        yield
        runner.stop()

    app = FastAPI(
        title="episome",
        version=__version__,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
        telemetry=SILENT,
    )
    app.state.work, app.state.runner = work, runner
    pages = Pages(work)
    app.include_router(api_router(work))
    app.include_router(pages_router(pages))
    app.mount("/static", StaticFiles(directory=HERE / "static"))

    def refuse(request: Request, error: EpisomeError, status: int | None = None) -> Response:
        status = status or status_of(error.code)
        if request.url.path.startswith("/api"):
            answer: Response = error_json(error, status)
        else:
            answer = pages.error(request, error, status)
        if status == 503:
            answer.headers["retry-after"] = str(RETRY)
        if status == 413 or status == 408:
            answer.headers["connection"] = "close"
        return answer

    @app.exception_handler(EpisomeError)
    async def known(request: Request, error: EpisomeError) -> Response:
        return refuse(request, error)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return refuse(request, not_found())
        found = wrong_form(
            what=f"the request is none: {error.detail}", fix="use the forms of the page"
        )
        return refuse(request, found, error.status_code)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        wrong = [".".join(map(str, e["loc"][1:])) + f": {e['msg']}" for e in error.errors()]
        found = wrong_form(
            what=f"the request is none: {'; '.join(wrong)[:300]}", fix="see /api/openapi.json"
        )
        return refuse(request, found, 422)

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        log.error("a bug of the page", exc_info=error)
        body: dict[str, Any] = {
            "code": "E-X01",
            "class": type(error).__name__,
            "message": "a bug in the page; its log has the place",
            "fix": "tell who runs the page",
            "details": {},
        }
        return JSONResponse({"ok": False, "error": body}, status_code=500)

    app.add_middleware(Guard, store=store, refuse=refuse)
    return app
