"""Runs of a plan: a study of the shared benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from episome.benchmark import (
    DataEntry,
    ResultStore,
    SplitEntry,
    Study,
    run_study,
    task_named,
)
from episome.benchmark import (
    plan as planned_runs,
)
from episome_datamix.checks import require_ready
from episome_datamix.mixing import (
    CORPUS,
    MIX_DONOR,
    address,
    smallest,
    write_plan,
)
from episome_datamix.plan import Plan

if TYPE_CHECKING:
    from episome.benchmark import Executor, Run, RunResult

#: Between a mix and its number of cells, of plans with a series of sizes.
AT = " @ "
#: Words in the names of the plans that an advice is made of, before "of" and its target.
OF_ADVICE = PROXIES, CHECK = "proxies", "check"


@dataclass(frozen=True, slots=True, eq=False)
class MixResult:
    """What a plan left.

    Parameters
    ----------
    plan
        The plan.
    store
        Results of it, and of others that share the folder.
    counts
        Runs by how they ended.
    missing
        What took no part, with its reason.
    reasons
        Why runs did not end well, each once.
    """

    plan: Plan
    store: ResultStore
    counts: dict[str, int]
    missing: dict[str, str]
    reasons: tuple[str, ...] = ()


def study_of(plan: Plan, *, keep: str | Path = "") -> Study:
    """Return the study of the shared benchmark that a plan stands for.

    Every mix and size is a data set whose training cells are drawn by the seed of a run, and whose
    test cells are those of all evaluation sets.

    Parameters
    ----------
    plan
        The plan.
    keep
        Folder in which trained models are kept; empty: none are.
    """
    file = write_plan(plan)
    known = all(c.donor_key for c in (*plan.corpora.values(), *plan.evaluation.values()))
    # The baseline comes first: that is how the report knows it.
    mixes = sorted(plan.mixes, key=lambda m: m.name != plan.baseline)
    data = tuple(
        DataEntry(
            mix.name if not plan.sizes else f"{mix.name}{AT}{n}",
            address(file, mix=mix.name, n_cells=n),
            query=address(file),
            donor_key=MIX_DONOR if known else None,
            batch_key=CORPUS if plan.batch else None,
            min_cells=1,
        )
        for n in plan.numbers
        for mix in mixes
    )
    return Study(
        plan.name,
        f"mix-{plan.target}",
        data,
        plan.models,
        splits=(SplitEntry("query", allow=plan.allow),),
        seeds=plan.seeds,
        options={
            "n_top_genes": plan.n_top_genes,
            "n_samples": plan.n_samples,
            "coverage": plan.coverage,
            "keep": str(keep),
        },
        floor=False,
        timeout=plan.timeout,
        summary="What does the composition of the training data do?",
    )


def main_metric(plan: Plan) -> str:
    """Return the metric that a plan is about: ``r2``, or ``f1_macro`` of annotation.

    Parameters
    ----------
    plan
        The plan.
    """
    return task_named(f"mix-{plan.target}").main


def runs_of(plan: Plan, base: str | Path = ".") -> tuple[Run, ...]:
    """Return the runs of a plan in their order; each is named by a hash of all that decides it.

    Parameters
    ----------
    plan
        The plan.
    base
        Folder that paths are relative to.

    Raises
    ------
    InputDataError
        Corpora and evaluation sets overlap (E-L20), or a corpus is too small (E-B06).
    """
    base = Path(base)
    require_ready(plan, base)
    return planned_runs(study_of(plan), task_named(f"mix-{plan.target}"), base).runs


def run(
    plan: Plan | str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    executor: Executor | None = None,
    keep_models: bool = False,
    retry_failed: bool = False,
    progress: Callable[[int, int, Run, RunResult], None] | None = None,
    command: str = "",
) -> MixResult:
    """Do what is missing of a plan.

    Runs that are in the folder are not repeated, so a plan that was stopped goes on, and one that
    was enlarged does what is new.

    Parameters
    ----------
    plan
        The plan, or its TOML file.
    out
        Folder of results; it may be that of other plans and studies.
    base
        Folder that paths are relative to; default that of the file, or the current one.
    executor
        Where runs happen; default in processes of this machine.
    keep_models
        Keep every trained model in ``out/models/MIX/seed N/MODEL``.
    retry_failed
        Repeat runs that did not end well.
    progress
        Called after every run with the number done, their total, the run and its result.
    command
        For the report: what does the same again.

    Returns
    -------
    A :class:`MixResult`.

    Raises
    ------
    InputDataError
        Corpora and evaluation sets overlap (E-L20), or a corpus is too small (E-B06).
    UsageError
        Nothing of it can be run (E-B10).
    """
    if not isinstance(plan, Plan):
        base = Path(plan).resolve().parent if base is None else base
        plan = Plan.from_toml(plan)
    base = Path("." if base is None else base).resolve()
    require_ready(plan, base)
    if plan.n_cells is None and not plan.sizes:
        # Refused here, before anything runs, where a corpus has no cells.
        smallest(plan, base)
    keep = Path(out).resolve() / "models" if keep_models else ""
    found = run_study(
        study_of(plan, keep=keep),
        out,
        base=base,
        executor=executor,
        retry_failed=retry_failed,
        progress=progress,
        command=command,
    )
    reasons = reasons_of(found.store, plan.name)
    return MixResult(plan, found.store, dict(found.counts), dict(found.planned.missing), reasons)


def reasons_of(store: ResultStore, study: str) -> tuple[str, ...]:
    """Return why runs of a plan did not end well, each reason once.

    Parameters
    ----------
    store, study
        The results, and the name of the plan.
    """
    table = store.current()
    bad = table[(table["study"] == study) & (table["status"] != "ok")]
    return tuple(dict.fromkeys(bad["reason"].astype(str)))
