"""Runs of a plan: studies of the shared benchmark, one for every seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from episome_datamix.mixing import (
    CORPUS,
    MIX_DONOR,
    address,
    require_no_overlap,
    smallest,
    write_plan,
)
from episome_datamix.plan import Plan

if TYPE_CHECKING:
    from episome.benchmark import Executor, Run, RunResult

#: Between a mix and its number of cells, of plans with a series of sizes.
AT = " @ "


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
    """

    plan: Plan
    store: ResultStore
    counts: dict[str, int]
    missing: dict[str, str]


def studies_of(plan: Plan, *, keep: str | Path = "") -> tuple[Study, ...]:
    """Return the studies that a plan stands for: of one name, one for every seed.

    Every mix and size is a data set whose training cells are drawn by the seed, and whose test
    cells are those of all evaluation sets.

    Parameters
    ----------
    plan
        The plan.
    keep
        Folder in which trained models are kept; empty: none are.
    """
    file = write_plan(plan)
    known = all(c.donor_key for c in (*plan.corpora.values(), *plan.evaluation.values()))
    studies = []
    for seed in plan.seeds:
        data = tuple(
            DataEntry(
                mix.name if not plan.sizes else f"{mix.name}{AT}{n}",
                address(file, mix=mix.name, n_cells=n, seed=seed),
                query=address(file),
                donor_key=MIX_DONOR if known else None,
                batch_key=CORPUS if plan.batch else None,
                min_cells=1,
            )
            for n in plan.numbers
            for mix in plan.mixes
        )
        studies.append(
            Study(
                plan.name,
                f"mix-{plan.target}",
                data,
                plan.models,
                splits=(SplitEntry("query", allow=plan.allow),),
                seeds=(seed,),
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
        )
    return tuple(studies)


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
    require_no_overlap(plan, base)
    task = task_named(f"mix-{plan.target}")
    return tuple(r for s in studies_of(plan) for r in planned_runs(s, task, base).runs)


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
    require_no_overlap(plan, base)
    if plan.n_cells is None and not plan.sizes:
        # Refused here, before anything runs, where a corpus has no cells.
        smallest(plan, base)
    keep = Path(out).resolve() / "models" if keep_models else ""
    counts: dict[str, int] = {}
    missing: dict[str, str] = {}
    store = ResultStore(out)
    for i, study in enumerate(studies_of(plan, keep=keep)):
        more: dict[str, Any] = {"partial": i > 0}
        found = run_study(
            study,
            out,
            base=base,
            executor=executor,
            retry_failed=retry_failed,
            progress=progress,
            command=command,
            **more,
        )
        for status, n in found.counts.items():
            counts[status] = counts.get(status, 0) + n
        missing |= dict(found.planned.missing)
        store = found.store
    return MixResult(plan, store, counts, missing)
