"""Runs on this machine, each in a process of its own."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing as mp
import os
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from episome import plugins, resources
from episome.benchmark._perform import perform
from episome.benchmark._store import ResultStore, RunResult
from episome.errors import UsageError

if TYPE_CHECKING:
    from episome.benchmark._runs import Run

#: Seconds between two looks at memory and clock.
_TICK = 0.2
#: Bytes that a run is assumed to need at least.
_LEAST = 1 << 30
GPUS = "CUDA_VISIBLE_DEVICES"
#: Names the modules of the models of a study, for the process that runs are forked from.
MODULES = "EPISOME_BENCHMARK_MODULES"
# Imported there alone: it sets the threads of whoever imports it.
_PRELOAD = "episome.benchmark._preload"


@dataclass(slots=True, eq=False)
class _Child:
    """A run that goes on."""

    run: Run
    process: Any
    pipe: Connection
    gpu: str | None
    started: float
    peak: int = 0
    result: RunResult | None = None
    ending: tuple[str, str] | None = None


class LocalExecutor:
    """Runs in processes of this machine, as many at a time as it has cores and memory for.

    Every run is forked from one process that has imported everything, has one thread, and leaves
    nothing behind. One that crashes, takes too long or too much memory is a row with its reason.

    Parameters
    ----------
    jobs
        Runs at a time; default as many as there are cores, or GPUs, and gibibytes.
    max_memory
        Bytes a run may take; default the available memory shared among them.
    gpus
        Names of devices, one for each run at a time; default those that torch sees. Every run sees
        its own alone.

    Raises
    ------
    UsageError
        Fewer than one run at a time (E-U22).
    """

    def __init__(
        self,
        jobs: int | None = None,
        *,
        max_memory: int | None = None,
        gpus: Sequence[str] | None = None,
    ) -> None:
        if jobs is not None and jobs < 1:
            raise UsageError("E-U22", f"jobs={jobs}", fix="pass 1 or more")
        self.gpus = tuple(_visible_gpus() if gpus is None else gpus)
        room = max(resources.available_memory() // _LEAST, 1)
        most = len(self.gpus) or resources.cpu_count()
        self.jobs = int(jobs or max(min(most, room), 1))
        self.max_memory = max_memory or resources.available_memory() // self.jobs

    def run(
        self,
        runs: Sequence[Run],
        store: ResultStore,
        report: Callable[[Run, RunResult], None] | None = None,
    ) -> None:
        """Do runs and write what they leave into a store.

        Parameters
        ----------
        runs
            Those that are missing.
        store
            Where results go; every run is written when it ends.
        report
            Called after each.
        """
        context = _context(runs)
        waiting, going = list(runs), list[_Child]()
        free = list(self.gpus)
        try:
            while waiting or going:
                while waiting and len(going) < self.jobs:
                    gpu = free.pop(0) if free else None
                    going.append(_start(context, waiting.pop(0), gpu))
                wait([c.process.sentinel for c in going] + [c.pipe for c in going], _TICK)
                for child in list(going):
                    self._look(child)
                    if child.process.is_alive():
                        continue
                    going.remove(child)
                    if child.gpu is not None:
                        free.append(child.gpu)
                    result = _ended(child)
                    store.add(result)
                    if report is not None:
                        report(child.run, result)
        finally:
            for child in going:
                _kill(child)

    def _look(self, child: _Child) -> None:
        """Take the result if it is there, and stop what takes too much."""
        with contextlib.suppress(EOFError, OSError):
            if child.result is None and child.pipe.poll():
                child.result = child.pipe.recv()
        used = resources.used_memory(child.process.pid)
        child.peak = max(child.peak, used)
        seconds = time.monotonic() - child.started
        if child.result is not None or child.ending is not None:
            return
        if used > self.max_memory:
            limit = f"{self.max_memory / 2**30:.1f} GiB"
            child.ending = ("out of memory", f"took more than the {limit} that a run may take")
            _kill(child)
        elif seconds > child.run.timeout:
            child.ending = ("timeout", f"took more than {child.run.timeout:g} s")
            _kill(child)


def _start(context: Any, run: Run, gpu: str | None) -> _Child:
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(run, theirs, gpu), daemon=False)
    with _without_main():
        process.start()
    theirs.close()
    return _Child(run, process, ours, gpu, time.monotonic())


def _ended(child: _Child) -> RunResult:
    """Return the result of a process that is over, or why there is none."""
    with contextlib.suppress(EOFError, OSError):
        if child.result is None and child.pipe.poll():
            child.result = child.pipe.recv()
    child.pipe.close()
    child.process.join()
    seconds = time.monotonic() - child.started
    peak = max(child.peak, 0) / 2**20
    if child.result is not None:
        known = float(child.result.facts.get("peak_mib") or 0.0)
        return child.result.with_facts(peak_mib=max(known, peak))
    status, reason = child.ending or _why(child.process.exitcode)
    return RunResult.of(child.run, status, reason, seconds=seconds, peak_mib=peak)


def _why(code: int | None) -> tuple[str, str]:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        memory = " (the system does that where memory is short)" if -code == signal.SIGKILL else ""
        return "killed", f"the process was ended by {name}{memory}"
    return "failed", f"the process ended with {code} and said nothing"


def _kill(child: _Child) -> None:
    """End a run and whatever it started."""
    pid = child.process.pid
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    child.process.kill()
    child.process.join()


# -- in the child --------------------------------------------------------------------------------


def _work(run: Run, pipe: Connection, gpu: str | None) -> None:
    """Do a run and send what it left; ends with the program that asked for it."""
    with contextlib.suppress(OSError):
        os.setsid()
    # Ctrl-C is for the program, which ends its runs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    if gpu is not None:
        os.environ[GPUS] = gpu
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    resources.set_threads(1)
    found = perform(run)
    device, device_peak = device_used(gpu)
    peak = resources.peak_memory() / 2**20
    pipe.send(found.with_facts(peak_mib=peak, device=device, device_peak_mib=device_peak))


def _end_with(pipe: Connection) -> None:
    """End the process when the other end of the pipe is gone: nobody waits for the result."""
    try:
        pipe.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


def device_used(gpu: str | None = None) -> tuple[str, float | None]:
    """Return what this process computed on, and the peak of its memory there in MiB."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return ("cpu" if gpu is None else f"gpu {gpu}"), None
    return torch.cuda.get_device_name(0), torch.cuda.max_memory_allocated() / 2**20


# -- helpers -------------------------------------------------------------------------------------


def _context(runs: Sequence[Run]) -> Any:
    """Return how processes are started: forked from one that has imported what runs need."""
    if "forkserver" not in mp.get_all_start_methods():
        return mp.get_context("spawn")
    modules = set()
    for name in {r.model.model for r in runs}:
        with contextlib.suppress(Exception):  # the run itself says what is wrong with the model
            modules.add(plugins.get_spec(name).target.partition(":")[0])
    os.environ[MODULES] = ",".join(sorted(modules))
    context = mp.get_context("forkserver")
    context.set_forkserver_preload([_PRELOAD])
    return context


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Start a process that does not import the user's script again, guarded or not."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _visible_gpus() -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [str(i) for i in range(torch.cuda.device_count())]
