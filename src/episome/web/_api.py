"""The page for programs: the objects of ``--json``, files, jobs and models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field

from episome import __version__
from episome.web._errors import not_found, wrong_form
from episome.web._settings import SUFFIXES
from episome.web._upload import append
from episome.web._work import ROWS, Work

if TYPE_CHECKING:
    from episome.errors import EpisomeError
    from episome.web._store import File

__all__ = ["api_router"]


class NewFile(BaseModel):
    """An upload that will be sent in pieces, or a path of this machine."""

    name: str = Field(
        "", max_length=20_000, description="Name with one of the endings that are read."
    )
    size: int = Field(0, ge=0, description="Bytes in all.")
    path: str = Field("", max_length=20_000, description="Path, where the page reads paths.")


class NewJob(BaseModel):
    """A job."""

    kind: str = Field(max_length=20, description="check, annotate, explain, train or demo.")
    file: str | None = Field(None, max_length=64)
    model: str | None = Field(None, max_length=64)
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the command.")


def file_facts(file: File) -> dict[str, Any]:
    """Return what the API says of a file: never where it is."""
    facts = {n: getattr(file, n) for n in ("id", "name", "size", "received", "complete")}
    return facts | {"offset": file.received}


def api_router(work: Work) -> APIRouter:
    """Return the routes under ``/api``."""
    router, store = APIRouter(prefix="/api"), work.store
    settings = store.settings

    @router.get("")
    def about(request: Request) -> dict[str, Any]:
        """Return version, limits, and the token that requests must carry that change something."""
        return {
            "version": __version__,
            "csrf": request.state.csrf,
            "max_upload": settings.max_upload,
            "endings": list(SUFFIXES),
            "methods": [name for name, _ in work.methods()],
        }

    @router.get("/models")
    def models(request: Request) -> list[dict[str, Any]]:
        """Return the models that may be chosen."""
        return [m.facts for m in work.models.all(request.state.owner)]

    @router.get("/files")
    def files(request: Request) -> list[dict[str, Any]]:
        """Return your files."""
        return [file_facts(f) for f in store.files(request.state.owner)]

    @router.post("/files", status_code=201)
    def new_file(request: Request, body: NewFile) -> dict[str, Any]:
        """Begin an upload, or name a path; a check of the file is queued when it is complete."""
        owner = request.state.owner
        if body.path:
            file = work.adopt_path(owner, body.path)
            work.ask(owner, "check", file=file.id)
        else:
            if body.size == 0:
                raise wrong_form(
                    what="the file is empty, or its size is not told", fix="give size"
                )
            file = store.new_file(owner, body.name, body.size)
        return file_facts(file)

    @router.get("/files/{id_}")
    def file(request: Request, id_: str) -> dict[str, Any]:
        """Return a file; ``offset`` is where the next piece starts."""
        return file_facts(store.file(request.state.owner, id_))

    @router.put("/files/{id_}")
    async def piece(request: Request, id_: str, offset: int = 0) -> dict[str, Any]:
        """Add the next piece of an upload, the body of the request."""
        found = await append(store, store.file(request.state.owner, id_), request, offset)
        if found.complete:
            work.ask(found.owner, "check", file=found.id)
        return file_facts(found)

    @router.delete("/files/{id_}")
    def delete_file(request: Request, id_: str) -> dict[str, Any]:
        """Delete a file, and all jobs of it."""
        store.delete_file(request.state.owner, id_)
        return {"deleted": id_}

    @router.get("/jobs")
    def jobs(request: Request) -> list[dict[str, Any]]:
        """Return your jobs, the newest first."""
        return [work.facts(j) for j in store.jobs(request.state.owner)]

    @router.post("/jobs", status_code=201)
    def new_job(request: Request, body: NewJob) -> dict[str, Any]:
        """Put a job into the queue."""
        job = work.ask(
            request.state.owner, body.kind, file=body.file, model=body.model, options=body.options
        )
        return work.facts(job)

    @router.get("/jobs/{id_}")
    def job(request: Request, id_: str) -> dict[str, Any]:
        """Return how a job is: its place in the queue, progress, results."""
        return work.facts(store.job(request.state.owner, id_))

    @router.post("/jobs/{id_}/cancel")
    def cancel(request: Request, id_: str) -> dict[str, Any]:
        """Stop a job; its files are deleted."""
        store.cancel_job(request.state.owner, id_)
        return work.facts(store.job(request.state.owner, id_))

    @router.delete("/jobs/{id_}")
    def delete_job(request: Request, id_: str) -> dict[str, Any]:
        """Delete a job and its results."""
        store.delete_job(request.state.owner, id_)
        return {"deleted": id_}

    @router.get("/jobs/{id_}/answer")
    def answer(request: Request, id_: str) -> dict[str, Any]:
        """Return the one object that the command of the job printed with ``--json``."""
        return work.answer(store.job(request.state.owner, id_))

    @router.get("/jobs/{id_}/view")
    def view(request: Request, id_: str) -> dict[str, Any]:
        """Return counts, composition, histograms, reliability and genes of a result."""
        return work.view(store.job(request.state.owner, id_))

    @router.get("/jobs/{id_}/scatter")
    def scatter(request: Request, id_: str) -> FileResponse:
        """Return the points of the map."""
        found = store.job(request.state.owner, id_)
        path = store.job_folder(found.id) / "scatter.json"
        if not path.is_file():
            raise not_found()
        return FileResponse(path, media_type="application/json")

    @router.get("/jobs/{id_}/calls")
    def calls(
        request: Request, id_: str, search: str = "", label: str = "", page: int = 1
    ) -> dict[str, Any]:
        """Return a page of the table of calls."""
        table = work.calls(store.job(request.state.owner, id_))
        rows, total = table.page(search=search, label=label, number=page)
        return {
            "columns": table.columns(),
            "rows": [row[1:] for row in rows],
            "numbers": [row[0] for row in rows],
            "total": total,
            "rows_per_page": ROWS,
        }

    @router.get("/jobs/{id_}/cells/{row}")
    def cell(request: Request, id_: str, row: int) -> dict[str, Any]:
        """Return the call of one cell, by its place in the file from 0."""
        found = work.calls(store.job(request.state.owner, id_)).row(row)
        if found is None:
            raise not_found()
        return found

    @router.get("/jobs/{id_}/genes")
    def genes(request: Request, id_: str, search: str = "") -> list[str]:
        """Return genes whose name begins with a text."""
        return work.expression(store.job(request.state.owner, id_)).names(search[:200])

    @router.get("/jobs/{id_}/genes/{name}")
    def gene(request: Request, id_: str, name: str) -> dict[str, Any]:
        """Return a gene in the cells of the map, as percents of its largest value."""
        found = work.expression(store.job(request.state.owner, id_)).gene(name)
        if found is None:
            raise not_found()
        return found

    @router.get("/compare")
    def compare(request: Request, first: str, second: str) -> dict[str, Any]:
        """Return how two annotations of one file agree."""
        return work.compare(request.state.owner, first, second)

    return router


def error_json(error: EpisomeError, status: int) -> JSONResponse:
    """Return an error as the object that ``--json`` has for it."""
    return JSONResponse({"ok": False, "error": error.to_json()}, status_code=status)
