"""The pages: they work without any script, and are livelier with one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, StreamingResponse
from starlette.responses import JSONResponse, Response

from episome import __version__
from episome.web import _present as present
from episome.web._compare import confusion
from episome.web._errors import not_found, wrong_form
from episome.web._runner import read_json
from episome.web._settings import SUFFIXES
from episome.web._steps import OPTIONS
from episome.web._store import DONE, Job
from episome.web._upload import receive_form
from episome.web._work import ROWS, Work

if TYPE_CHECKING:
    from episome.errors import EpisomeError

__all__ = ["Pages", "pages_router"]

HERE = Path(__file__).parent
PICTURES = ("label", "confidence", "novelty")


class Pages:
    """Renders pages.

    Parameters
    ----------
    work
        What is shown.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        self._templates.filters |= {
            "size": present.size,
            "duration": present.duration,
            "when": present.when,
        }
        self._templates.globals |= {
            "bars": present.bars,
            "version": __version__,
            "settings": work.store.settings,
            "endings": SUFFIXES,
        }

    def render(
        self, request: Request, name: str, /, status: int = 200, **values: Any
    ) -> HTMLResponse:
        """Return a page."""
        csrf = getattr(request.state, "csrf", "")
        text = self._templates.get_template(name).render(csrf=csrf, **values)
        return HTMLResponse(text, status_code=status)

    def error(self, request: Request, error: EpisomeError, status: int) -> HTMLResponse:
        """Return the page of an error: its message, as every surface has it."""
        return self.render(request, "error.html", status=status, error=error.to_json())

    def job(self, request: Request, job: Job) -> HTMLResponse:
        """Return the page of a job: progress while it runs, then its result."""
        work = self.work
        values: dict[str, Any] = {"job": work.facts(job), "repeat": work.repeat(job)}
        if not job.active:
            values["answer"] = work.answer(job)
        if job.kind == "annotate" and job.state == DONE:
            values |= self._result(request, job)
        return self.render(request, f"{_template(job)}.html", **values)

    def _result(self, request: Request, job: Job) -> dict[str, Any]:
        """Return what the page of a result shows, as its address asks for."""
        asked, view, model = request.query_params, self.work.view(job), self.work.model_of(job)
        n_levels = len(view.get("levels", []))
        level = min(_number(asked.get("level"), 0), n_levels)
        page = max(_number(asked.get("page"), 1), 1)
        search, label = asked.get("search", "")[:200], asked.get("label", "")[:200]
        table = self.work.calls(job)
        rows, total = table.page(search=search, label=label, number=page)
        columns = list(view.get("composition", {}))
        by = asked.get("by") if asked.get("by") in columns else next(iter(columns), None)
        return {
            "view": view,
            "calibration": None if model is None else model.facts["calibration"],
            "level": level,
            "n_levels": n_levels,
            "counts": present.counts_at(view, level),
            "by": by,
            "composition": present.composition(view, by, level) if by else None,
            "columns": table.columns(),
            "rows": rows,
            **self._genes_shown(job, view, asked.get("gene", "")[:200]),
            **self._truth(view, asked.get("truth", "")),
            "total": total,
            "page": page,
            "pages": max(-(-total // ROWS), 1),
            "search": search,
            "label": label,
        }

    def _genes_shown(self, job: Job, view: dict[str, Any], gene: str) -> dict[str, Any]:
        """Return the gene that the map is coloured by, and names that begin as it does."""
        if not gene or not (view.get("scatter") or {}).get("genes"):
            return {"gene": gene, "gene_found": None, "offered": []}
        known = self.work.expression(job)
        found = known.gene(gene)
        offered = known.names(gene) if found is None else []
        return {"gene": gene, "gene_found": found, "offered": offered}

    @staticmethod
    def _truth(view: dict[str, Any], asked: str) -> dict[str, Any]:
        """Return the table of a column of labels against the calls."""
        names = list(view.get("reliability", {}))
        truth = asked if asked in names else next(iter(names), None)
        if truth is None or truth not in view["composition"]:
            return {"truth": None, "truths": names, "against": None}
        counts = view["composition"][truth]
        pairs = [(a, b, n) for a, row in counts.items() for b, n in row.items()]
        return {"truth": truth, "truths": names, "against": confusion(pairs)}


def _template(job: Job) -> str:
    if job.active or job.state != DONE:
        return "job"
    named = {"annotate": "result", "train": "trained", "explain": "explained"}
    return named.get(job.kind, "job")


def _number(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdigit() and len(text) < 9 else default


def pages_router(pages: Pages) -> APIRouter:
    """Return the routes of the pages."""
    router, work = APIRouter(include_in_schema=False), pages.work
    store = work.store

    def go(path: str) -> RedirectResponse:
        return RedirectResponse(path, status_code=303)

    @router.get("/health")
    def health() -> dict[str, Any]:
        return {"ok": True, "version": __version__}

    @router.get("/")
    def home(request: Request) -> Response:
        owner = request.state.owner
        return pages.render(
            request,
            "home.html",
            files=store.files(owner),
            jobs=[work.facts(j) for j in store.jobs(owner) if j.kind != "check"],
            models=work.models.all(owner),
        )

    @router.get("/about")
    def about(request: Request) -> Response:
        return pages.render(request, "about.html")

    # -- files -------------------------------------------------------------------------------

    @router.post("/files")
    async def upload(request: Request) -> Response:
        file = await receive_form(store, request.state.owner, request)
        work.ask(file.owner, "check", file=file.id)
        return go(f"/files/{file.id}")

    @router.post("/paths")
    async def by_path(request: Request) -> Response:
        form = await _form(request)
        file = work.adopt_path(request.state.owner, form.get("path", ""))
        work.ask(file.owner, "check", file=file.id)
        return go(f"/files/{file.id}")

    @router.post("/demo")
    def demo(request: Request) -> Response:
        return go(f"/jobs/{work.ask(request.state.owner, 'demo').id}")

    @router.get("/files/{id_}")
    def file(request: Request, id_: str) -> Response:
        return _file_page(pages, request, id_)

    @router.get("/files/{id_}/report")
    def report(request: Request, id_: str) -> Response:
        owner = request.state.owner
        store.file(owner, id_)
        check = next((j for j in store.jobs(owner, file=id_, kind="check")), None)
        answer = _fragment(pages, request, check)
        if check is not None and not check.active:
            answer.headers["hx-refresh"] = "true"
        return answer

    @router.post("/files/{id_}/delete")
    def delete_file(request: Request, id_: str) -> Response:
        store.delete_file(request.state.owner, id_)
        return go("/")

    @router.post("/files/{id_}/{kind}")
    async def ask(request: Request, id_: str, kind: str) -> Response:
        form = await _form(request)
        model = form.pop("model", "")
        job = work.ask(request.state.owner, kind, file=id_, model=model, options=form)
        return go(f"/files/{id_}" if kind == "check" else f"/jobs/{job.id}")

    # -- jobs --------------------------------------------------------------------------------

    @router.get("/jobs/{id_}")
    def job(request: Request, id_: str) -> Response:
        return pages.job(request, store.job(request.state.owner, id_))

    @router.get("/jobs/{id_}/progress")
    def progress(request: Request, id_: str) -> Response:
        found = store.job(request.state.owner, id_)
        answer = _fragment(pages, request, found)
        if not found.active:
            answer.headers["hx-refresh"] = "true"
        return answer

    @router.post("/jobs/{id_}/cancel")
    def cancel(request: Request, id_: str) -> Response:
        store.cancel_job(request.state.owner, id_)
        return go(f"/jobs/{id_}")

    @router.post("/jobs/{id_}/delete")
    def delete(request: Request, id_: str) -> Response:
        store.delete_job(request.state.owner, id_)
        return go("/")

    @router.get("/jobs/{id_}/picture/{name}.png")
    def picture(request: Request, id_: str, name: str) -> Response:
        found = store.job(request.state.owner, id_)
        path = store.job_folder(found.id) / f"scatter-{name}.png"
        if name not in PICTURES or not path.is_file():
            raise not_found()
        return FileResponse(path, media_type="image/png")

    @router.get("/jobs/{id_}/picture/gene.svg")
    def gene_picture(request: Request, id_: str, name: str = "") -> Response:
        found = store.job(request.state.owner, id_)
        gene = work.expression(found).gene(name[:200])
        points = read_json(store.job_folder(found.id) / "scatter.json")
        if gene is None or not points:
            raise not_found()
        return Response(present.gene_svg(points, gene), media_type="image/svg+xml")

    @router.get("/jobs/{id_}/cells/{row}")
    def cell(request: Request, id_: str, row: int) -> Response:
        found = store.job(request.state.owner, id_)
        call = work.calls(found).row(row)
        if call is None:
            raise not_found()
        kept = {k: found.options[k] for k in OPTIONS["explain"] if found.options.get(k)}
        model = work.model_of(found)
        return pages.render(
            request,
            "cell.html",
            job=work.facts(found),
            call=call,
            row=row,
            kept=kept,
            explains=model is not None and model.facts["explains"],
        )

    @router.get("/compare")
    def compare(request: Request, first: str = "", second: str = "") -> Response:
        found = work.compare(request.state.owner, first, second)
        pairs = [(p["first"], p["second"], p["n"]) for p in found["pairs"]]
        names = [work.facts(store.job(request.state.owner, j)) for j in found["jobs"]]
        return pages.render(
            request, "compare.html", found=found, jobs=names, table=confusion(pairs)
        )

    @router.get("/jobs/{id_}/download/{name}")
    def download(request: Request, id_: str, name: str) -> Response:
        return _download(work, store.job(request.state.owner, id_), name)

    # -- models ------------------------------------------------------------------------------

    @router.get("/models")
    def models(request: Request) -> Response:
        return pages.render(request, "models.html", models=work.models.all(request.state.owner))

    @router.get("/models/{id_}")
    def model(request: Request, id_: str) -> Response:
        found = work.models.find(request.state.owner, id_)
        return pages.render(request, "model.html", model=found)

    return router


def _fragment(pages: Pages, request: Request, job: Job | None) -> HTMLResponse:
    facts = None if job is None else pages.work.facts(job)
    return pages.render(request, "_progress.html", job=facts)


def _file_page(pages: Pages, request: Request, id_: str) -> Response:
    work, owner = pages.work, request.state.owner
    file = work.store.file(owner, id_)
    jobs = work.store.jobs(owner, file=id_)
    check = next((j for j in jobs if j.kind == "check"), None)
    answer = None if check is None or check.active else work.answer(check)
    return pages.render(
        request,
        "file.html",
        file=file,
        check=None if check is None else work.facts(check),
        answer=answer,
        columns=_columns(answer),
        models=work.models.all(owner),
        methods=work.methods(),
        jobs=[work.facts(j) for j in jobs if j.kind != "check"],
        annotations=[work.facts(j) for j in jobs if j.kind == "annotate" and j.state == DONE],
    )


def _columns(answer: dict[str, Any] | None) -> dict[str, Any]:
    """Return what the check found that forms begin with: columns, and arguments."""
    found: dict[str, Any] = (answer or {}).get("inspection") or {}
    if "modalities" in found:
        used = found["modalities"].get(found.get("used") or "", {})
        return {"labels": used.get("labels", []), "donors": used.get("donors", []),
                "arguments": found.get("arguments", {})}  # fmt: skip
    return {
        "labels": found.get("labels", []),
        "donors": found.get("donors", []),
        "arguments": found.get("arguments", {}),
    }


async def _form(request: Request) -> dict[str, str]:
    """Return the texts of a small form.

    Raises
    ------
    UsageError
        It is large, or holds files (E-W14).
    """
    length = request.headers.get("content-length", "")
    if not length.isdigit() or int(length) > 100_000:
        raise wrong_form(what="the form is too large", fix="use the forms of the page")
    form = await request.form(max_files=0, max_fields=50)
    return {k: v for k, v in form.items() if isinstance(v, str)}


def _download(work: Work, job: Job, name: str) -> Response:
    """Return a result as an attachment."""
    if name not in work.results(job):
        raise not_found()
    folder = work.store.job_folder(job.id)
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    if name == "calls.csv":
        return StreamingResponse(
            work.calls(job).csv(), media_type="text/csv; charset=utf-8", headers=headers
        )
    if name == "result.json":
        return JSONResponse(work.answer(job), headers=headers)
    if name == "model.zip":
        path = folder / "model.zip"
        if not path.is_file():
            shutil.make_archive(str(folder / "model"), "zip", folder / "model")
        return FileResponse(path, media_type="application/zip", headers=headers)
    kinds = {".html": "text/html; charset=utf-8", ".json": "application/json"}
    kind = kinds.get(Path(name).suffix, "application/x-hdf5")
    return FileResponse(folder / name, media_type=kind, headers=headers)
