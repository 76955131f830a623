"""Run a study, and say what its results are."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from episome import plugins
from episome.benchmark import (
    TASKS,
    LocalExecutor,
    RayExecutor,
    ResultStore,
    Study,
    class_differences,
    compare,
    nothing_left,
    plan,
    report,
    run_study,
    task_named,
)
from episome.errors import InputFileError, UsageError, did_you_mean
from episome.io import ensure_free

if TYPE_CHECKING:
    import pandas as pd

    from episome.benchmark import Executor, Run, RunResult

#: Files that a report is written as.
REPORTS = (".html", ".md", ".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class BenchmarkRequest:
    """What ``episome benchmark run`` is asked for.

    Parameters
    ----------
    study
        A TOML file, or the name of a registered study.
    output
        Folder of results.
    data
        Folder that paths of data are relative to; default that of the TOML file.
    scale
        Of a registered study: ``"tiny"``, ``"small"`` or ``"full"``.
    parts, models, data_sets, seeds
        Only these; parts are the studies that a registered name stands for.
    jobs
        Runs at a time.
    ray
        Run on Ray: the cluster that RAY_ADDRESS names, or one of this machine.
    timeout, max_memory
        Limits of a run, seconds and bytes.
    accelerator, devices, precision
        Of trainings.
    retry_failed
        Repeat runs that did not end well.
    """

    study: str
    output: Path
    data: Path | None = None
    scale: str = "small"
    parts: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    data_sets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    jobs: int | None = None
    ray: bool = False
    timeout: float | None = None
    max_memory: int | None = None
    accelerator: str | None = None
    devices: str | int | None = None
    precision: str | None = None
    retry_failed: bool = False


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """What ``episome benchmark run`` did.

    Parameters
    ----------
    output
        Folder of results.
    study
        Its name.
    counts
        Runs by how they ended.
    missing
        What took no part, with its reason.
    reports
        Files that were written.
    reasons
        Why runs did not end well, each reason once.
    """

    output: Path
    study: str
    counts: dict[str, int]
    missing: dict[str, str]
    reports: tuple[Path, ...]
    reasons: tuple[str, ...] = ()


def studies_of(request: BenchmarkRequest) -> tuple[tuple[Study, ...], Path | None]:
    """Return the studies that are asked for, and the folder that their data are relative to.

    A TOML file is one; a registered name may stand for several, one for every question of a paper.

    Raises
    ------
    UsageError
        There is no such study (E-B14), or it asks for what is none.
    InputFileError
        The file cannot be read (E-B08).
    """
    path = Path(request.study)
    if path.suffix == ".toml" or path.exists():
        found: tuple[Study, ...] = (Study.from_toml(path),)
        base: Path | None = request.data or path.resolve().parent
    else:
        known = plugins.studies()
        if request.study not in known:
            raise UsageError(
                "E-B14",
                f"there is no study {request.study!r}",
                why=f"registered: {', '.join(sorted(known)) or 'none'}",
                fix=did_you_mean(request.study, known)
                or "pass a TOML file, or a name that `episome benchmark list` shows",
            )
        spec = known[request.study]
        made = plugins.load_object(spec.target, plugin=spec.plugin)(request.scale)
        found = (made,) if isinstance(made, Study) else tuple(made)
        base = request.data
    return tuple(_changed(s, request) for s in _chosen(found, request)), base


def _chosen(found: tuple[Study, ...], request: BenchmarkRequest) -> tuple[Study, ...]:
    """Return the parts that are asked for, of those that have what is asked of them.

    Raises
    ------
    UsageError
        There is no such part (E-B14), or no part has the data sets (E-B07).
    """
    names = [s.name for s in found]
    if unknown := [p for p in request.parts if p not in names]:
        raise UsageError(
            "E-B14",
            f"{request.study} has no part {', '.join(unknown)}",
            why=f"its parts are {', '.join(names)}",
            fix=did_you_mean(unknown[0], names) or "leave --parts out",
        )
    chosen = tuple(s for s in found if not request.parts or s.name in request.parts)
    sets = {d.name for s in chosen for d in s.data}
    if unknown := [d for d in request.data_sets if d not in sets]:
        raise UsageError(
            "E-B07",
            f"{request.study} has no data set {', '.join(unknown)}",
            why=f"it has {', '.join(sorted(sets))}",
            fix=did_you_mean(unknown[0], sorted(sets)) or "name some of them",
        )
    wanted = set(request.data_sets) or sets
    return tuple(s for s in chosen if wanted & {d.name for d in s.data})


def _changed(study: Study, request: BenchmarkRequest) -> Study:
    """Return a study with what the request says."""
    own = {d.name for d in study.data}
    sets = [d for d in request.data_sets if d in own]
    study = study.only(models=request.models or None, data=sets or None)
    given: dict[str, Any] = {
        "timeout": request.timeout,
        "max_memory": request.max_memory,
        "accelerator": request.accelerator,
        "devices": request.devices,
        "precision": request.precision,
        "seeds": request.seeds or None,
    }
    changes = {k: v for k, v in given.items() if v is not None}
    return dataclasses.replace(study, **changes)


def benchmark_run(
    request: BenchmarkRequest,
    progress: Callable[[int, int, Run, RunResult], None] | None = None,
) -> BenchmarkResult:
    """Run what is missing of a study, and write its report beside the results.

    Parameters
    ----------
    request
        What is asked for.
    progress
        Called after every run.

    Raises
    ------
    UsageError, InputFileError
        See :func:`studies_of` and :func:`episome.benchmark.run_study`.
    """
    studies, base = studies_of(request)
    counts: dict[str, int] = {}
    missing: dict[str, str] = {}
    done: list[str] = []
    store = ResultStore(request.output)
    for study in studies:
        try:
            found = run_study(
                study,
                request.output,
                base=base,
                executor=_executor(request, study),
                retry_failed=request.retry_failed,
                progress=progress,
                command=_command(request),
                partial=bool(request.models or request.data_sets or request.seeds),
            )
        except UsageError as error:
            missing[study.name] = _left_out(error, studies)
            continue
        done.append(study.name)
        for status, n in found.counts.items():
            counts[status] = counts.get(status, 0) + n
        missing |= found.planned.missing
    if not done:
        raise nothing_left(request.study, missing)
    title = done[0] if len(studies) == 1 else request.study
    page = report(store, done, title=title)
    names = [request.output / f"{title}{end}" for end in (".html", ".md")]
    written = [page.write(name, overwrite=True) for name in names]
    written.append(store.export(request.output / "results.csv", overwrite=True))
    table = store.current()
    bad = table[(table["status"] != "ok") & table["study"].isin(done)]
    reasons = tuple(dict.fromkeys(bad["reason"].astype(str)))
    return BenchmarkResult(request.output, title, counts, missing, tuple(written), reasons)


def _executor(request: BenchmarkRequest, study: Study) -> Executor:
    if request.ray:
        return RayExecutor()
    return LocalExecutor(request.jobs, max_memory=study.max_memory)


def _command(request: BenchmarkRequest) -> str:
    """Return the command that runs the whole of the study again."""
    found = ["episome", "benchmark", "run", request.study]
    if Path(request.study).suffix != ".toml":
        found += ["--scale", request.scale]
    if request.parts:
        found += ["--parts", ",".join(request.parts)]
    if request.data is not None:
        found += ["--data", str(request.data)]
    return shlex.join([*found, "-o", str(request.output)])


def _left_out(error: UsageError, studies: Sequence[Study]) -> str:
    """Return why one question of several cannot be asked here; the others still are."""
    if len(studies) == 1 or error.problems[0].code != "E-B10":
        raise error
    return str(error)


def benchmark_plan(
    request: BenchmarkRequest,
) -> tuple[tuple[Study, ...], list[Run], dict[str, str]]:
    """Return the runs of the studies that the store lacks, without running them."""
    studies, base = studies_of(request)
    store = ResultStore(request.output)
    todo: list[Run] = []
    missing: dict[str, str] = {}
    for study in studies:
        try:
            planned = plan(study, task_named(study.task), base)
        except UsageError as error:
            missing[study.name] = _left_out(error, studies)
            continue
        todo += [r for r in planned.runs if not store.has(r.digest)]
        missing |= planned.missing
    return studies, todo, missing


def benchmark_list() -> dict[str, list[dict[str, str]]]:
    """Return the tasks and studies that are there, each with one line."""
    tasks = []
    for name in sorted({**plugins.tasks(), **TASKS}):
        task = task_named(name)
        first = (type(task).__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
        tasks.append({"name": name, "capability": task.capability, "summary": first})
    studies = [
        {"name": n, "plugin": s.plugin, "summary": s.summary, "reference": s.reference}
        for n, s in sorted(plugins.studies().items())
    ]
    return {"tasks": tasks, "studies": studies}


def benchmark_report(
    results: Path, output: Path, *, study: str | None = None, overwrite: bool = False
) -> Path:
    """Write the report of results as ``.html`` or ``.md``, or their table as ``.csv``.

    Raises
    ------
    UsageError
        Another ending (E-U08), or there are no such results (E-B01, E-B13).
    InputFileError
        The file exists (E-F26).
    """
    store = opened(results)
    if output.suffix not in REPORTS:
        raise UsageError(
            "E-U08",
            f"a report cannot be written as {output.suffix or 'a file without extension'}",
            where=str(output),
            fix=f"use one of {', '.join(REPORTS)}",
        )
    ensure_free(output, overwrite=overwrite)
    if output.suffix in {".csv", ".parquet"}:
        return store.export(output, study=study, overwrite=overwrite)
    return report(store, study).write(output, overwrite=overwrite)


def benchmark_compare(
    results: Path, first: str, second: str, *, metric: str = "f1_macro", by_class: bool = False
) -> pd.DataFrame:
    """Return how two models differ, by data set, or by class.

    Raises
    ------
    UsageError
        They share no run (E-B12), or there are no results (E-B01).
    """
    import pandas as pd

    store = opened(results)
    if by_class:
        return class_differences(store, first, second)
    found = compare(store, first, second, metric=metric)
    return pd.DataFrame([dataclasses.asdict(c) for c in found])


def benchmark_merge(inputs: Sequence[Path], output: Path) -> dict[str, Any]:
    """Join results into one folder; those that are there already stay.

    Raises
    ------
    UsageError
        One of the folders holds no results (E-B01).
    """
    store = ResultStore(output)
    added = store.merge([opened(path) for path in inputs])
    return {"added": added, "runs": len(store.runs())}


def opened(path: Path) -> ResultStore:
    """Return the results of a folder.

    Raises
    ------
    UsageError
        There are none (E-B01).
    InputFileError
        The folder is missing (E-F07).
    """
    if not path.exists():
        raise InputFileError("E-F07", "no such folder", where=str(path), fix="check the path")
    if not (path / "runs").is_dir():
        raise UsageError(
            "E-B01",
            "no results of a benchmark are there",
            where=str(path),
            fix="pass the folder that `episome benchmark run -o` wrote",
        )
    return ResultStore(path)
