"""Run a study: plan it, do what a store lacks, keep every result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from episome.benchmark._local import LocalExecutor
from episome.benchmark._perform import task_named
from episome.benchmark._runs import Planned, Run, plan
from episome.benchmark._store import ResultStore
from episome.errors import InputFileError
from episome.io import ensure_free
from episome.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from episome.benchmark._store import RunResult
    from episome.benchmark._study import Study

logger = get_logger(__name__)

Report = Callable[[int, int, Run, "RunResult"], None]


class Executor(Protocol):
    """Does runs somewhere."""

    def run(
        self,
        runs: Sequence[Run],
        store: ResultStore,
        report: Callable[[Run, RunResult], None] | None = None,
    ) -> None:
        """Do runs and write every result into the store."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class StudyResult:
    """What a study left.

    Parameters
    ----------
    store
        All results.
    planned
        Its runs, and what was left out.
    counts
        Number of runs by how they ended, those of earlier times included.
    """

    store: ResultStore
    planned: Planned
    counts: Mapping[str, int]


def run_study(
    study: Study,
    output: str | Path,
    *,
    base: str | Path | None = None,
    executor: Executor | None = None,
    retry_failed: bool = False,
    progress: Report | None = None,
    command: str = "",
    partial: bool = False,
) -> StudyResult:
    """Run what is missing of a study.

    Runs that are in the store already are not repeated, unless what decides them changed: the
    cells, the code of the model's package, a setting. So a study that was stopped goes on.

    Parameters
    ----------
    study
        What is compared.
    output
        Folder of results; several studies may share one.
    base
        Folder that paths of data are relative to.
    executor
        Where runs happen; default :class:`LocalExecutor`.
    retry_failed
        Repeat runs that did not end well.
    progress
        Called after every run with the number done, their total, the run and its result.
    command
        For the report: what runs the study again.
    partial
        Whether ``study`` is a part of a larger one of the same name, whose other results stay in
        the report.

    Returns
    -------
    A :class:`StudyResult`.

    Raises
    ------
    UsageError
        The study asks for what is none, or nothing of it can be run (E-B10).
    InputFileError
        The folder of results cannot be written (E-F27).
    """
    store = ResultStore(output)
    ensure_free(store.path / "runs", overwrite=True)
    planned = plan(study, task_named(study.task), None if base is None else Path(base))
    for name, reason in planned.missing.items():
        logger.warning("%s takes no part: %s", name, reason)
    asked = {**study.to_dict(), "missing": dict(planned.missing), "command": command}
    runs = {r.digest: json.dumps(list(r.key.values())) for r in planned.runs}
    store.remember_study(study.name, asked, runs, partial=partial)

    def is_done(run: Run) -> bool:
        if not store.has(run.digest):
            return False
        try:
            status = store.status(run.digest)
        except InputFileError as error:
            logger.warning("%s is damaged: its run is repeated", error.problems[0].where)
            return False
        return not (retry_failed and status != "ok")

    todo = [r for r in planned.runs if not is_done(r)]
    total, done = len(planned.runs), len(planned.runs) - len(todo)
    if done:
        logger.info("%d of %d runs are there already", done, total)

    def report(run: Run, result: RunResult) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total, run, result)

    if todo:
        (executor or LocalExecutor(max_memory=study.max_memory)).run(todo, store, report)
    counts: dict[str, int] = {}
    for run in planned.runs:
        status = store.status(run.digest) if store.has(run.digest) else "missing"
        counts[status] = counts.get(status, 0) + 1
    return StudyResult(store, planned, counts)
