"""Who owns which files and jobs, in SQLite: it outlives the process, and needs no other."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from episome.errors import InputFileError
from episome.web._errors import busy, disk_low, not_found, too_large
from episome.web._settings import SUFFIXES, ServeSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["File", "Job", "Store"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS sessions (owner TEXT PRIMARY KEY, seen REAL);
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, owner TEXT, name TEXT, path TEXT, size INTEGER, received INTEGER,
    own INTEGER, touched REAL);
CREATE TABLE IF NOT EXISTS jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, owner TEXT, kind TEXT, file TEXT,
    model TEXT, options TEXT, state TEXT, created REAL, started REAL, ended REAL,
    pid INTEGER, born TEXT, attempts INTEGER DEFAULT 0, error TEXT);
CREATE INDEX IF NOT EXISTS jobs_state ON jobs (state, seq);
"""
#: States in which a job takes room in the queue.
WAITING, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"


@dataclass(frozen=True, slots=True)
class File:
    """A file of cells that a user gave."""

    id: str
    owner: str
    name: str
    path: str
    size: int
    received: int
    own: bool
    touched: float

    @property
    def complete(self) -> bool:
        """Whether all of it is here."""
        return self.received == self.size


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of work that a user asked for."""

    seq: int
    id: str
    owner: str
    kind: str
    file: str | None
    model: str | None
    options: dict[str, Any]
    state: str
    created: float
    started: float | None
    ended: float | None
    pid: int | None
    born: str | None
    attempts: int
    error: dict[str, Any] | None = field(default=None)

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in {WAITING, RUNNING}


class Store:
    """Sessions, files and jobs of the page.

    Parameters
    ----------
    settings
        Of the page.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.folder = settings.state.resolve()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in ("files", "jobs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        self._database = self.folder / "page.sqlite3"
        with self._open() as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(_SCHEMA)
            secret = secrets.token_hex(32)
            db.execute("INSERT OR IGNORE INTO facts VALUES ('secret', ?)", (secret,))
            self.secret: str = db.execute("SELECT value FROM facts").fetchone()[0]

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the database for one transaction: threads share nothing."""
        db = sqlite3.connect(self._database, timeout=30, isolation_level=None)
        db.row_factory = sqlite3.Row
        try:
            db.execute("PRAGMA synchronous = NORMAL")
            yield db
        finally:
            db.close()

    def now(self) -> float:
        """Return the time."""
        return self.settings.clock()

    # -- sessions ----------------------------------------------------------------------------

    def new_session(self) -> str:
        """Return the secret of a new user's cookie."""
        cookie = secrets.token_urlsafe(32)
        with self._open() as db:
            db.execute("INSERT INTO sessions VALUES (?, ?)", (_owner(cookie), self.now()))
        return cookie

    def owner_of(self, cookie: str) -> str | None:
        """Return the user of a cookie; ``None`` for one that was never given out."""
        owner = _owner(cookie)
        with self._open() as db:
            found = db.execute("SELECT 1 FROM sessions WHERE owner = ?", (owner,)).fetchone()
        return owner if found else None

    # -- files -------------------------------------------------------------------------------

    def check_room(self, size: int = 0) -> None:
        """Refuse work for which there is no room, before anything is uploaded.

        Raises
        ------
        InputFileError
            The upload is too large (E-W01).
        ResourceError
            The queue is full (E-W02), or the disk nearly so (E-W03).
        """
        if size > self.settings.max_upload:
            raise too_large(self.settings.max_upload)
        with self._open() as db:
            query = "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')"
            if db.execute(query).fetchone()[0] >= self.settings.max_queue:
                raise busy(self.settings.max_queue)
        if shutil.disk_usage(self.folder).free - size < self.settings.min_free:
            raise disk_low()

    def new_file(self, owner: str, name: str, size: int) -> File:
        """Make an empty file for an upload.

        Raises
        ------
        EpisomeError
            Those of :meth:`check_room`; it is no file of cells by its name (E-W15).
        """
        suffix = suffix_of(name)
        self.check_room(size)
        id_ = secrets.token_hex(16)
        folder = self.folder / "files" / id_
        folder.mkdir(mode=0o700)
        path = folder / f"{id_}{suffix}"
        path.touch(mode=0o600)
        return self._add_file(
            File(id_, owner, shown(name), str(path), size, 0, own=True, touched=self.now())
        )

    def adopt_file(self, owner: str, path: Path, name: str, *, own: bool) -> File:
        """Take a file that is on the disk already; ``own`` ones are deleted with the rest."""
        id_ = secrets.token_hex(16)
        size = path.stat().st_size if path.is_file() else 0
        return self._add_file(
            File(id_, owner, shown(name), str(path), size, size, own, self.now())
        )

    def _add_file(self, file: File) -> File:
        values = [getattr(file, n) for n in File.__slots__]
        with self._open() as db:
            db.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        return file

    def file(self, owner: str, id_: str) -> File:
        """Return a user's file.

        Raises
        ------
        UsageError
            There is none (E-W04).
        """
        with self._open() as db:
            query = "SELECT * FROM files WHERE id = ? AND owner = ?"
            row = db.execute(query, (id_, owner)).fetchone()
        if row is None:
            raise not_found()
        return _file(row)

    def files(self, owner: str) -> list[File]:
        """Return a user's files, the newest first."""
        with self._open() as db:
            query = "SELECT * FROM files WHERE owner = ? ORDER BY touched DESC"
            return [_file(r) for r in db.execute(query, (owner,))]

    def received(self, id_: str, received: int, size: int | None = None) -> None:
        """Record how much of an upload is here; ``size`` where it was not known before."""
        with self._open() as db:
            query = "UPDATE files SET received = ?, size = coalesce(?, size), touched = ?"
            db.execute(f"{query} WHERE id = ?", (received, size, self.now(), id_))

    def delete_file(self, owner: str, id_: str) -> None:
        """Delete a user's file with all jobs of it."""
        file = self.file(owner, id_)
        for job in self.jobs(owner, file=id_):
            self.delete_job(owner, job.id)
        self._remove_file(file)

    def _remove_file(self, file: File) -> None:
        if file.own:
            Path(file.path).unlink(missing_ok=True)
            shutil.rmtree(self.folder / "files" / file.id, ignore_errors=True)
        with self._open() as db:
            db.execute("DELETE FROM files WHERE id = ?", (file.id,))

    # -- jobs --------------------------------------------------------------------------------

    def new_job(
        self,
        owner: str,
        kind: str,
        *,
        file: str | None = None,
        model: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> Job:
        """Add a job to the end of the queue.

        Raises
        ------
        ResourceError
            There is no room; see :meth:`check_room`.
        """
        self.check_room()
        id_ = secrets.token_hex(16)
        self.job_folder(id_).mkdir(mode=0o700)
        with self._open() as db:
            query = "INSERT INTO jobs (id, owner, kind, file, model, options, state, created)"
            db.execute(
                f"{query} VALUES (?, ?, ?, ?, ?, ?, 'queued', ?)",
                (id_, owner, kind, file, model, json.dumps(options or {}), self.now()),
            )
        return self.job(owner, id_)

    def job_folder(self, id_: str) -> Path:
        """Return the folder of a job."""
        return self.folder / "jobs" / id_

    def job(self, owner: str, id_: str) -> Job:
        """Return a user's job.

        Raises
        ------
        UsageError
            There is none (E-W04).
        """
        found = self.any_job(id_)
        if found is None or found.owner != owner:
            raise not_found()
        return found

    def any_job(self, id_: str) -> Job | None:
        """Return a job, whoever's it is."""
        with self._open() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (id_,)).fetchone()
        return None if row is None else _job(row)

    def jobs(self, owner: str, *, file: str | None = None, kind: str | None = None) -> list[Job]:
        """Return a user's jobs, the newest first."""
        with self._open() as db:
            query = "SELECT * FROM jobs WHERE owner = ? ORDER BY seq DESC"
            found = [_job(r) for r in db.execute(query, (owner,))]
        return [j for j in found if file in (None, j.file) and kind in (None, j.kind)]

    def in_state(self, state: str) -> list[Job]:
        """Return all jobs in a state, the oldest first."""
        with self._open() as db:
            query = "SELECT * FROM jobs WHERE state = ? ORDER BY seq"
            return [_job(r) for r in db.execute(query, (state,))]

    def position(self, job: Job) -> int:
        """Return how many jobs wait or run before a job."""
        with self._open() as db:
            query = "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running') AND seq < ?"
            return int(db.execute(query, (job.seq,)).fetchone()[0])

    def update_job(self, id_: str, **values: Any) -> None:
        """Change columns of a job; ``error`` is plain data."""
        if values.get("error") is not None:
            values["error"] = json.dumps(values["error"])
        columns = ", ".join(f"{name} = ?" for name in values)
        with self._open() as db:
            db.execute(f"UPDATE jobs SET {columns} WHERE id = ?", (*values.values(), id_))

    def move_job(self, id_: str, before: str, after: str, **values: Any) -> bool:
        """Change the state of a job if it is what the caller thinks; say whether it was."""
        columns = "".join(f", {name} = ?" for name in values)
        with self._open() as db:
            done = db.execute(
                f"UPDATE jobs SET state = ?{columns} WHERE id = ? AND state = ?",
                (after, *values.values(), id_, before),
            )
        return done.rowcount == 1

    def cancel_job(self, owner: str, id_: str) -> None:
        """Take a job out of the queue; one that runs is ended by the runner, which sees it."""
        self.job(owner, id_)
        for state in (WAITING, RUNNING):
            if self.move_job(id_, state, CANCELLED, ended=self.now()) and state == WAITING:
                shutil.rmtree(self.job_folder(id_), ignore_errors=True)

    def delete_job(self, owner: str, id_: str) -> None:
        """Delete a job with its results; one that runs is ended."""
        self.job(owner, id_)
        self.cancel_job(owner, id_)
        with self._open() as db:
            db.execute("DELETE FROM jobs WHERE id = ?", (id_,))
        shutil.rmtree(self.job_folder(id_), ignore_errors=True)

    # -- what is kept ------------------------------------------------------------------------

    def sweep(self) -> None:
        """Delete what is older than it may be."""
        now, keep = self.now(), self.settings.keep
        with self._open() as db:
            query = "SELECT * FROM jobs WHERE state NOT IN ('queued', 'running') AND ended < ?"
            old = [_job(r) for r in db.execute(query, (now - keep,))]
            used = {j.file for s in (WAITING, RUNNING) for j in self.in_state(s)}
            files = [_file(r) for r in db.execute("SELECT * FROM files")]
        for job in old:
            self.delete_job(job.owner, job.id)
        for file in files:
            limit = keep if file.complete else self.settings.keep_partial
            if file.id not in used and file.touched < now - limit:
                self.delete_file(file.owner, file.id)

    def deleted_at(self, since: float) -> float:
        """Return when what ended or was uploaded at a time is deleted."""
        return since + self.settings.keep


def suffix_of(name: str) -> str:
    """Return the ending of a file of cells.

    Raises
    ------
    InputFileError
        Files of this ending are not read (E-W15).
    """
    fitting = [s for s in SUFFIXES if name.lower().endswith(s)]
    if not fitting:
        raise InputFileError(
            "E-W15",
            "files of this kind are not read",
            where=shown(name),
            fix=f"upload one of {', '.join(SUFFIXES)}",
        )
    return max(fitting, key=len)


def shown(name: str) -> str:
    """Return what a file's name is shown as: its last part, printable and short."""
    last = name.replace("\\", "/").rpartition("/")[2]
    plain = "".join(c for c in last if c.isprintable())
    return plain if len(plain) <= 100 else f"{plain[:60]}...{plain[-30:]}"


def process_start(pid: int) -> str | None:
    """Return when a process started, in the system's ticks; ``None`` where it has gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        try:
            os.kill(pid, 0)
        except OSError:
            return None
        return "unknown"
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def _owner(cookie: str) -> str:
    """Return what is kept of a cookie: not the cookie."""
    return hashlib.sha256(cookie.encode()).hexdigest()


def _file(row: sqlite3.Row) -> File:
    return File(**{**dict(row), "own": bool(row["own"])})


def _job(row: sqlite3.Row) -> Job:
    values = dict(row)
    values["options"] = json.loads(values["options"])
    values["error"] = None if values["error"] is None else json.loads(values["error"])
    return Job(**values)
