"""What pages and API share: jobs are asked for, looked at and answered in one way."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from episome import plugins
from episome.errors import EpisomeError
from episome.web._compare import compared
from episome.web._errors import not_found, told, wrong_form
from episome.web._expression import Expression
from episome.web._runner import read_json, read_progress
from episome.web._steps import FLAGS, OPTIONS, repeat, steps
from episome.web._store import DONE, FAILED, RUNNING, WAITING, File, Job, Store, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from episome.web._models import Model, Models

__all__ = ["ROWS", "Calls", "Work"]

#: Rows of a page of calls, letters of an option, and what a spreadsheet takes for a formula.
ROWS, LONGEST, FORMULA = 50, 200, ("=", "+", "-", "@", "\t", "\r")
#: What a job leaves for its user: name of the download -> file in the job's folder.
RESULTS = {
    "report.html": "report.html",
    "calls.csv": "calls.sqlite3",
    "annotated.h5ad": "annotated.h5ad",
    "annotation.json": "annotation.json",
}


@dataclass(frozen=True, slots=True)
class Work:
    """The page's work for one user at a time.

    Parameters
    ----------
    store, models
        Of the page.
    """

    store: Store
    models: Models

    # -- asking ------------------------------------------------------------------------------

    def ask(
        self,
        owner: str,
        kind: str,
        *,
        file: str | None = None,
        model: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Job:
        """Put a job into the queue.

        Raises
        ------
        UsageError
            The file, the model or an option is missing or none (E-W04, E-W14).
        ResourceError
            There is no room (E-W02, E-W03).
        """
        if kind not in OPTIONS:
            raise wrong_form(
                what=f"there is no job {kind[:LONGEST]!r}", fix=f"one of {', '.join(OPTIONS)}"
            )
        if kind != "demo":
            if not file:
                raise wrong_form(what="no file is named", fix="choose one of your files")
            if not self.store.file(owner, file).complete:
                raise wrong_form(
                    what="the upload is not complete", fix="send the rest of it first"
                )
        if kind in {"annotate", "explain"} and not model:
            raise wrong_form(what="no model is chosen", fix="choose one of the models")
        if model:
            self.models.find(owner, model)
        chosen = _chosen(kind, options or {})
        if kind == "explain" and not chosen.get("cell"):
            raise wrong_form(what="no cell is named", fix="choose one of the table of calls")
        if kind == "train" and not chosen.get("labels_key"):
            raise wrong_form(
                what="no column of labels is named", fix="choose the column with cell types"
            )
        return self.store.new_job(owner, kind, file=file, model=model or None, options=chosen)

    def adopt_path(self, owner: str, text: str) -> File:
        """Take a file of this machine by its path, where that is allowed.

        Raises
        ------
        UsageError
            The page does not offer it, or the path is none (E-W14).
        """
        if not self.store.settings.local:
            raise wrong_form(what="paths are not read here", fix="upload the file")
        path = Path(text.strip()).expanduser()
        if "\0" in text or not path.is_absolute() or not path.exists():
            raise wrong_form(what="there is no such file or folder", fix="give its whole path")
        self.store.check_room()
        return self.store.adopt_file(owner, path, path.name, own=False)

    @staticmethod
    def methods() -> list[tuple[str, str]]:
        """Return names and summaries of the installed annotators."""
        found = [
            (spec.name, spec.summary)
            for spec in plugins.models().values()
            if "annotation" in spec.capabilities and "unlabelled" not in spec.tags
        ]
        return [
            ("auto", "compare the installed models on held-out cells, and train the best"),
            *found,
        ]

    # -- looking -----------------------------------------------------------------------------

    def names(self, job: Job) -> dict[str, str]:
        """Return paths of the server, and what the user of a job knows them by."""
        folder = self.store.job_folder(job.id)
        found = {
            f"{folder}/calls.parquet": "calls.csv",
            f"{folder}/model": str(job.options.get("name") or "my-model"),
            f"{folder}/": "",
            str(folder): "",
        }
        file, model = self.file_of(job), self.model_of(job)
        if file is not None:
            path = Path(file.path)
            found |= {file.path: file.name, path.name: file.name}
            if file.own:
                found[str(path.parent)] = "the uploads"
        if model is not None:
            found[str(model.folder)] = model.name
        return found

    def file_of(self, job: Job) -> File | None:
        """Return the file of a job; ``None`` where it has none or it was deleted."""
        try:
            return self.store.file(job.owner, job.file) if job.file else None
        except EpisomeError:
            return None

    def model_of(self, job: Job) -> Model | None:
        """Return the model of a job; ``None`` where it has none or it was deleted."""
        try:
            return self.models.find(job.owner, job.model) if job.model else None
        except EpisomeError:
            return None

    def answer(self, job: Job) -> dict[str, Any]:
        """Return the object that the command of a job printed, in the user's names."""
        found = read_json(self.store.job_folder(job.id) / "answer-0.json")
        if job.error is not None and found.get("error") is None:
            found["ok"], found["error"] = False, job.error
        answer: dict[str, Any] = told(found, self.names(job))
        return answer

    def error(self, job: Job) -> dict[str, Any] | None:
        """Return why a job failed, in the user's names."""
        return None if job.error is None else told(job.error, self.names(job))

    def view(self, job: Job) -> dict[str, Any]:
        """Return what the page shows of a result; empty where there is none."""
        return read_json(self.store.job_folder(job.id) / "view.json")

    def facts(self, job: Job) -> dict[str, Any]:
        """Return how a job is, for its page and the API."""
        file, model = self.file_of(job), self.model_of(job)
        found: dict[str, Any] = {
            "id": job.id,
            "kind": job.kind,
            "state": job.state,
            "file": job.file,
            "file_name": None if file is None else file.name,
            "model": job.model,
            "model_name": None if model is None else model.name,
            "options": job.options,
            "created": job.created,
            "started": job.started,
            "ended": job.ended,
            "error": self.error(job),
            "results": self.results(job),
            "deleted_at": None if job.ended is None else self.store.deleted_at(job.ended),
        }
        if job.state == WAITING:
            found["position"] = self.store.position(job) + 1
        if job.state == RUNNING:
            found["progress"] = self._progress(job)
        return found

    def _progress(self, job: Job) -> dict[str, Any]:
        folder = self.store.job_folder(job.id)
        planned = [s.label for s in steps(job, None, None, folder, self.store.settings)]
        at = max(len(list(folder.glob("answer-*.json"))) - 1, 0)
        found = read_progress(folder)
        return {
            "stage": planned[min(at, len(planned) - 1)],
            "step": at + 1,
            "steps": len(planned),
            "done": found.get("done"),
            "total": found.get("total"),
            "unit": found.get("unit") or "",
            "text": told(str(found.get("text") or ""), self.names(job)),
            "seconds_left": found.get("seconds_left"),
            "seconds": None if job.started is None else self.store.now() - job.started,
        }

    def results(self, job: Job) -> list[str]:
        """Return the names of what may be downloaded."""
        if job.state not in {DONE, FAILED}:
            return []
        folder = self.store.job_folder(job.id)
        found = [name for name, file in RESULTS.items() if (folder / file).is_file()]
        found += ["model.zip"] if (folder / "model").is_dir() else []
        return [*found, "result.json"]

    def repeat(self, job: Job) -> tuple[str, str] | None:
        """Return the command line and the Python code that do the same."""
        file, model = self.file_of(job), self.model_of(job)
        return repeat(
            job,
            "cells.h5ad" if file is None else file.name,
            "my-model" if model is None else model.name,
        )

    def expression(self, job: Job) -> Expression:
        """Return the values of genes in the cells of the map.

        Raises
        ------
        UsageError
            There are none (E-W04).
        """
        path = self.store.job_folder(job.id) / "expression.sqlite3"
        if not path.is_file():
            raise not_found()
        return Expression(path)

    def compare(self, owner: str, first: str, second: str) -> dict[str, Any]:
        """Return how two annotations of one file agree.

        Raises
        ------
        UsageError
            One is not there (E-W04), or they are of other files (E-W14).
        """
        jobs = [self.store.job(owner, first), self.store.job(owner, second)]
        if jobs[0].file != jobs[1].file:
            raise wrong_form(
                what="the two annotations are of different files",
                fix="choose two of the same file",
            )
        found = compared(*(self.calls(job).path for job in jobs))
        models = [self.model_of(job) for job in jobs]
        named = [None if m is None else m.name for m in models]
        return {"jobs": [j.id for j in jobs], "models": named, "file": jobs[0].file, **found}

    def calls(self, job: Job) -> Calls:
        """Return the table of calls of a job.

        Raises
        ------
        UsageError
            It has none (E-W04).
        """
        path = self.store.job_folder(job.id) / "calls.sqlite3"
        if not path.is_file():
            raise not_found()
        return Calls(path)


@dataclass(frozen=True, slots=True)
class Calls:
    """A table of calls on disk.

    Parameters
    ----------
    path
        Of the database.
    """

    path: Path

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)

    def columns(self) -> list[str]:
        """Return the names of the columns."""
        db = self._open()
        try:
            return [r[1] for r in db.execute("PRAGMA table_info(calls)") if r[1] != "row"]
        finally:
            db.close()

    def page(
        self, *, search: str = "", label: str = "", number: int = 1, rows: int = ROWS
    ) -> tuple[list[tuple[Any, ...]], int]:
        """Return some rows, and how many there are of them all.

        Parameters
        ----------
        search
            Part of the name of a cell or of its label.
        label
            Only the cells that are called so.
        number
            Of the page, from 1.
        rows
            Of a page.
        """
        conditions, values = ["1"], []
        if search:
            text = search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            conditions.append("(cell LIKE ? ESCAPE '\\' OR label LIKE ? ESCAPE '\\')")
            values += [f"%{text}%"] * 2
        if label:
            conditions.append("label = ?")
            values.append(label)
        where = " AND ".join(conditions)
        names = ", ".join(_quoted(n) for n in ("row", *self.columns()))
        db = self._open()
        try:
            total = db.execute(f"SELECT count(*) FROM calls WHERE {where}", values).fetchone()[0]
            start = (max(number, 1) - 1) * rows
            query = f"SELECT {names} FROM calls WHERE {where} ORDER BY row LIMIT ? OFFSET ?"
            return db.execute(query, (*values, rows, start)).fetchall(), int(total)
        finally:
            db.close()

    def row(self, number: int) -> dict[str, Any] | None:
        """Return the call of one cell; ``None`` where there is no such row."""
        names = self.columns()
        listed = ", ".join(_quoted(n) for n in names)
        db = self._open()
        try:
            found = db.execute(f"SELECT {listed} FROM calls WHERE row = ?", (number,)).fetchone()
        finally:
            db.close()
        return None if found is None else dict(zip(names, found, strict=True))

    def csv(self) -> Iterator[str]:
        """Yield the table as csv in which no text is a formula to a spreadsheet."""
        names = self.columns()
        yield ",".join(_cell(n) for n in names) + "\r\n"
        db = self._open()
        try:
            listed = ", ".join(_quoted(n) for n in names)
            found = db.execute(f"SELECT {listed} FROM calls ORDER BY row")
            while block := found.fetchmany(1000):
                yield "".join(",".join(map(_cell, row)) + "\r\n" for row in block)
        finally:
            db.close()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _cell(value: Any) -> str:
    """Return a value of csv; texts that would be formulas get an apostrophe before them."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return f"{value:.6g}" if isinstance(value, float) else str(value)
    text = f"'{value}" if value.startswith(FORMULA) else value
    if any(c in text for c in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def _chosen(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a form that a job of a kind has.

    Raises
    ------
    UsageError
        One is too long, or there is no such (E-W14).
    """
    known = {
        *OPTIONS[kind],
        *{"annotate": ("h5ad", "author"), "train": ("method", "name")}.get(kind, ()),
    }
    found: dict[str, Any] = {}
    for name, value in options.items():
        if value in (None, "", False):
            continue
        if name not in known:
            raise wrong_form(what=f"there is no option {name[:LONGEST]!r}", fix="leave it out")
        if name in FLAGS or name == "h5ad":
            found[name] = True
            continue
        text = str(value)
        if len(text) > LONGEST or not text.isprintable() or text.startswith("-"):
            raise wrong_form(
                what=f"{name} is none: {text[:40]!r}", fix="give a shorter, plain one"
            )
        found[name] = text
    if kind == "train":
        names = [name for name, _ in Work.methods()]
        if found.setdefault("method", "auto") not in names:
            raise wrong_form(what="there is no such method", fix=f"one of {', '.join(names)}")
        name = shown(found.get("name", "my-model"))
        found["name"] = name or "my-model"
    return found
