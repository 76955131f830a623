"""The queue is worked off here: one process per step, watched, limited, and ended when asked."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from episome.errors import EpisomeError, ResourceError
from episome.log import get_logger
from episome.web._steps import Step, steps
from episome.web._store import CANCELLED, DONE, FAILED, RUNNING, WAITING, Job, Store, process_start

if TYPE_CHECKING:
    from episome.web._models import Models
    from episome.web._settings import ServeSettings

__all__ = ["Runner", "read_json", "read_progress"]

log = get_logger("web")

#: Seconds between two looks at the queue, between two sweeps, and that a process has to end.
PAUSE, SWEEP, GRACE = 0.1, 60.0, 2.0
#: Times that a job is begun before it is given up.
ATTEMPTS = 2
#: Bytes of a log and of an answer that are read.
MOST = 64 << 20


@dataclass(slots=True)
class _Running:
    """A job with the process of its present step."""

    job: Job
    steps: list[Step]
    folder: Path
    began: float
    number: int = 0
    process: subprocess.Popen[bytes] | None = None
    open_files: list[IO[bytes]] = field(default_factory=list)


class Runner(threading.Thread):
    """Works off the queue until it is stopped.

    Parameters
    ----------
    store
        The queue.
    models
        Models that jobs may use.
    """

    def __init__(self, store: Store, models: Models) -> None:
        super().__init__(name="episome-runner", daemon=True)
        self.store, self.models = store, models
        self.settings: ServeSettings = store.settings
        self._running: list[_Running] = []
        self._ended = threading.Event()

    def run(self) -> None:
        """Work until :meth:`stop`."""
        self.recover()
        swept = -SWEEP
        while not self._ended.is_set():
            if time.monotonic() - swept > SWEEP:
                self.store.sweep()
                swept = time.monotonic()
            self.step()
            self._ended.wait(PAUSE)
        for running in self._running:
            self._kill(running)
            # The queue is on disk: what ran is run again by the next start.
            self.store.move_job(running.job.id, RUNNING, WAITING)

    def stop(self) -> None:
        """End the jobs that run, which go back into the queue, and the thread."""
        self._ended.set()
        if self.is_alive():
            self.join(GRACE * 4)

    def recover(self) -> None:
        """End what an earlier process left running, and queue it again or give it up."""
        for job in self.store.in_state(RUNNING):
            if job.pid is not None and job.born == process_start(job.pid):
                _end_group(job.pid)
            if job.attempts < ATTEMPTS:
                self.store.move_job(job.id, RUNNING, WAITING)
            else:
                error = ResourceError(
                    "E-W11",
                    f"the page was stopped while this job ran, {job.attempts} times",
                    why="it may be what ended the page",
                    fix="start it again, or run the command below on the command line",
                )
                self._end(job, FAILED, error.to_json())

    def step(self) -> None:
        """Look at what runs, and start what may start."""
        for running in list(self._running):
            try:
                ended = self._watch(running)
            except Exception as error:  # noqa: BLE001 - one job must not end the queue
                self._kill(running)
                self._give_up(running.job, error)
                ended = True
            if ended:
                self._running.remove(running)
        for job in self.store.in_state(WAITING)[: self.settings.workers - len(self._running)]:
            try:
                self._start(job)
            except Exception as error:  # noqa: BLE001 - one job must not end the queue
                self._running = [r for r in self._running if r.job.id != job.id]
                self._give_up(job, error)

    def _give_up(self, job: Job, error: Exception) -> None:
        """End a job that the page itself could not handle."""
        log.error("a bug of the page, in job %s", job.id, exc_info=error)
        told = {
            "code": "E-X01",
            "class": type(error).__name__,
            "message": "a bug in the page; its log has the place. [E-X01]",
            "fix": "tell who runs the page",
            "details": {},
        }
        self._end(job, FAILED, told)

    # -- one job -----------------------------------------------------------------------------

    def _start(self, job: Job) -> None:
        folder = self.store.job_folder(job.id)
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "tmp").mkdir(parents=True, mode=0o700)
        now = self.store.now()
        if not self.store.move_job(
            job.id, WAITING, RUNNING, started=now, attempts=job.attempts + 1
        ):
            shutil.rmtree(folder, ignore_errors=True)
            return
        try:
            file = self.store.file(job.owner, job.file) if job.file else None
            model = self.models.find(job.owner, job.model) if job.model else None
        except EpisomeError as error:
            self._end(job, FAILED, error.to_json())
            return
        path = None if file is None else Path(file.path)
        names = ("" if file is None else file.name, "" if model is None else model.name)
        place = None if model is None else model.folder
        planned = steps(job, path, place, folder, self.settings, names)
        running = _Running(job, planned, folder, time.monotonic())
        self._running.append(running)
        self._launch(running)

    def _launch(self, running: _Running) -> None:
        """Start the process of the present step."""
        step, folder = running.steps[running.number], running.folder
        (folder / "progress.json").unlink(missing_ok=True)
        running.open_files = [
            (folder / f"answer-{running.number}.json").open("wb"),
            (folder / "log.txt").open("ab"),
        ]
        limits = ["--memory", str(self.settings.memory), "--cpu", str(self._cpu_limit())]
        if self.settings.device == "cpu":
            limits.append("--address-space")
        command = [*self.settings.program, *limits, step.module, *step.arguments]
        temporary = str(folder / "tmp")
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("EPISOME_TOKEN")},
            "EPISOME_PROGRESS_FILE": str(folder / "progress.json"),
            "TMPDIR": temporary,
            "TEMP": temporary,
            "PYTHONFAULTHANDLER": "1",
        }
        running.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=running.open_files[0],
            stderr=running.open_files[1],
            cwd=temporary,
            env=environment,
            start_new_session=True,
        )
        pid = running.process.pid
        self.store.update_job(running.job.id, pid=pid, born=process_start(pid))

    def _cpu_limit(self) -> int:
        return int(self.settings.wall * (os.cpu_count() or 1))

    def _watch(self, running: _Running) -> bool:
        """Look at a job that runs; say whether it has ended."""
        job = self.store.any_job(running.job.id)
        if job is None or job.state != RUNNING:
            self._kill(running)
            shutil.rmtree(running.folder, ignore_errors=True)
            return True
        process = running.process
        code = None if process is None else process.poll()
        if code is None:
            if time.monotonic() - running.began > self.settings.wall:
                self._kill(running)
                self._end(job, FAILED, _too_long(self.settings.wall).to_json())
                return True
            return False
        _close(running)
        if process is not None:
            _end_group(process.pid)  # what the step left behind
        answer = read_json(running.folder / f"answer-{running.number}.json")
        if code != 0 or answer.get("ok") is False:
            self._end(job, FAILED, _error(answer, code, running.folder))
            return True
        running.number += 1
        if running.number < len(running.steps):
            self._launch(running)
            return False
        if job.kind == "demo":
            _adopt(self.store, job, running.folder)
        self._end(job, DONE)
        return True

    def _end(self, job: Job, state: str, error: dict[str, Any] | None = None) -> None:
        folder = self.store.job_folder(job.id)
        shutil.rmtree(folder / "tmp", ignore_errors=True)
        self.store.move_job(
            job.id,
            RUNNING,
            state,
            ended=self.store.now(),
            pid=None,
            error=None if error is None else json.dumps(error),
        )
        if state == CANCELLED:
            shutil.rmtree(folder, ignore_errors=True)

    def _kill(self, running: _Running) -> None:
        """End the processes of a job: asked first, then not."""
        if running.process is not None:
            _end_group(running.process.pid, running.process)
        _close(running)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a step wrote; an empty one where it wrote none."""
    try:
        with path.open("rb") as handle:
            found = json.loads(handle.read(MOST) or b"{}")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_progress(folder: Path) -> dict[str, Any]:
    """Return how far the present step of a job is."""
    return read_json(folder / "progress.json")


def _adopt(store: Store, job: Job, folder: Path) -> None:
    """Give the files of the demo to the user who asked for them."""
    for name in ("demo-query.h5ad", "demo-reference.h5ad"):
        place = store.new_file(job.owner, name, 0)
        shutil.move(folder / name, place.path)
        size = Path(place.path).stat().st_size
        store.received(place.id, size, size)
        store.new_job(job.owner, "check", file=place.id)


def _close(running: _Running) -> None:
    for handle in running.open_files:
        handle.close()
    running.open_files = []


def _end_group(pid: int, process: subprocess.Popen[bytes] | None = None) -> None:
    """End all processes of a step's session: asked first where its leader lives, then not."""
    if process is not None and process.poll() is None:
        _signal_group(pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    _signal_group(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    if process is not None:
        process.wait()


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            os.kill(pid, number)
        else:
            os.killpg(pid, number)


def _too_long(wall: float) -> EpisomeError:
    return ResourceError(
        "E-W09",
        f"the job took longer than {wall / 3600:,.3g} hours",
        why="that is the limit of a job here",
        fix="run the command below on the command line, where nothing ends it",
    )


def _error(answer: dict[str, Any], code: int, folder: Path) -> dict[str, Any]:
    """Return what went wrong in a step: in its own words, or by how its process ended."""
    found = answer.get("error")
    if found is not None and found.get("class") != "MemoryError":
        return dict(found)
    if found is not None or _said_memory(folder / "log.txt"):
        what, kind = "the job needed more memory than one may take here", "E-W13"
    elif code in {-getattr(signal, "SIGXCPU", 24), -signal.SIGTERM}:
        what, kind = "the job was ended from outside, or by its limit of processor time", "E-W10"
    else:
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        what, kind = f"the process of the job ended by itself ({name})", "E-W10"
    problem = ResourceError(
        kind,
        what,
        why="it alone was ended; the page and other jobs went on",
        fix="check the file with `episome check`, or run the command below where there is more "
        "memory",
    )
    return problem.to_json()


def _said_memory(path: Path) -> bool:
    """Whether the last words of a process were about memory."""
    try:
        with path.open("rb") as handle:
            handle.seek(max(path.stat().st_size - 4000, 0))
            end = handle.read()
    except OSError:
        return False
    return b"MemoryError" in end or b"bad_alloc" in end or b"allocate memory" in end
