"""Runs on a cluster of Ray, with the results of a single machine."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from episome import resources
from episome.benchmark._local import device_used
from episome.benchmark._perform import perform
from episome.benchmark._store import ResultStore, RunResult
from episome.errors import MissingDependencyError

if TYPE_CHECKING:
    from episome.benchmark._runs import Run


def require_ray() -> None:
    """Check that Ray is there.

    Raises
    ------
    MissingDependencyError
        It is not (E-P02).
    """
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "E-P02",
            "Ray is not installed",
            why="it runs several trainings at a time",
            fix='pip install "episome[tune]"',
        ) from error


@contextmanager
def ray_cluster() -> Iterator[Any]:
    """Give Ray: the user's, where it runs already or RAY_ADDRESS names one, else one of ours."""
    # Nothing is sent anywhere.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ours = not ray.is_initialized()
    if ours:
        ray.init(
            address=os.environ.get("RAY_ADDRESS"),
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


class RayExecutor:
    """Runs as tasks of Ray, wherever its cluster has room.

    Every run asks for one core (and one GPU where the cluster has some). A worker that dies is
    replaced and its run repeated; after ``retries`` it is a row with its reason.

    Parameters
    ----------
    retries
        How often a run is repeated whose worker died.

    Raises
    ------
    MissingDependencyError
        Ray is not installed (E-P02).
    """

    def __init__(self, *, retries: int = 1) -> None:
        require_ray()
        self.retries = retries

    def run(
        self,
        runs: Sequence[Run],
        store: ResultStore,
        report: Callable[[Run, RunResult], None] | None = None,
    ) -> None:
        """Do runs and write what they leave into a store of this machine.

        Parameters
        ----------
        runs
            Those that are missing. Every machine reads the data sets from the same paths.
        store
            Where results go; every run is written when it ends.
        report
            Called after each.
        """
        with ray_cluster() as ray:
            gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
            # A process of its own for every run: what one leaves behind is no other's.
            made = ray.remote(num_cpus=1, num_gpus=gpus, max_calls=1, max_retries=self.retries)
            task = made(_perform)
            jobs = {task.remote(run): run for run in runs}
            while jobs:
                (job,), _ = ray.wait(list(jobs), num_returns=1)
                run = jobs.pop(job)
                try:
                    result = ray.get(job)
                except ray.exceptions.RayError as error:
                    result = RunResult.of(run, "killed", str(error).partition("\n")[0])
                store.add(result)
                if report is not None:
                    report(run, result)


class _OverdueError(BaseException):
    """A run takes too long; no model's own handling of errors is to catch it."""


def _perform(run: Run) -> RunResult:
    """Do a run in a worker."""
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    resources.set_threads(1)

    def overdue(*_: object) -> None:
        raise _OverdueError

    # Waiting for a core does not count: the clock starts here.
    signal.signal(signal.SIGALRM, overdue)
    signal.setitimer(signal.ITIMER_REAL, run.timeout)
    try:
        found = perform(run)
    except _OverdueError:
        return RunResult.of(run, "timeout", f"took more than {run.timeout:g} s")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    device, device_peak = device_used()
    peak = resources.peak_memory() / 2**20
    return found.with_facts(peak_mib=peak, device=device, device_peak_mib=device_peak)
