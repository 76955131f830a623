"""``episome mix``: what the composition of training data does."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from episome.cli import (
    Outcome,
    command_options,
    examples,
    progress,
    run_command,
    runs_text,
    state_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from episome.benchmark import Executor, Run, RunResult
    from episome_datamix.plan import Plan

__all__ = ["command"]

_PATH = click.Path(path_type=Path)
_OUTPUT = click.option("-o", "--output", required=True, type=_PATH, help="Folder of results.")
_DATA = click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder that the plan's paths are relative to; default that of the plan.",
)
_STUDY = click.option("--plan", "study", help="Name of the plan, where RESULTS has several.")
_METRIC = click.option(
    "--metric", help="What is compared; default r2, or f1_macro of plans on annotation."
)
#: Runs that are listed, and mixes that are shown of an advice.
_SHOWN = 40
_BEST = 5


@click.group(
    "mix",
    short_help="Which cells to train on: mixes, what they give, advice.",
    epilog=examples(
        "episome mix run plan.toml -o results", "episome mix report results -o mixes.html"
    ),
)
def command() -> None:
    """Ask which cells a model should be trained on."""


def _machine_options(function: Any) -> Any:
    for option in (
        click.option("--retry-failed", is_flag=True, help="Repeat runs that did not end well."),
        click.option("--ray", is_flag=True, help="Run on Ray: its cluster, or this machine."),
        click.option("--jobs", type=click.IntRange(1), help="Runs at a time; default by cores."),
    ):
        function = option(function)
    return function


# --- run --------------------------------------------------------------------------------------


@command.command(
    "run",
    epilog=examples(
        "episome mix run plan.toml -o results",
        "episome mix run plan.toml -o results --dry-run",
    ),
)
@click.argument("plan", type=_PATH)
@_OUTPUT
@_DATA
@click.option("--keep-models", is_flag=True, help="Keep every trained model in the folder.")
@click.option("--dry-run", is_flag=True, help="List the runs, and run nothing.")
@_machine_options
@command_options
@click.pass_context
def run_(ctx: click.Context, /, **options: Any) -> None:
    """Train every mix of PLAN with every seed, and score it on every evaluation set.

    What is in the folder is not repeated, so the same command goes on where it was stopped.
    """
    run_command(ctx, "mix run", lambda: _run(ctx, options))


def _run(ctx: click.Context, options: dict[str, Any]) -> Outcome:
    from episome_datamix.runner import main_metric, run, runs_of
    from episome_datamix.sections import mix_report

    plan, base = _plan_of(options)
    if options["dry_run"]:
        todo = runs_of(plan, base)
        lines = [f"{plan.name}: {len(todo):,} runs", *(f"  {r.text}" for r in todo[:_SHOWN])]
        lines += [f"  and {len(todo) - _SHOWN:,} more"] if len(todo) > _SHOWN else []
        return Outcome(
            text="\n".join(lines), data={"runs": [{**r.key, "digest": r.digest} for r in todo]}
        )
    state_of(ctx).resumable = True
    with _shown(ctx, "mixes") as said:
        found = run(
            plan,
            options["output"],
            base=base,
            executor=_executor(options),
            keep_models=options["keep_models"],
            retry_failed=options["retry_failed"],
            progress=said,
            command=_again("mix run", options),
        )
    lines = runs_text(found.counts, found.missing, found.reasons)
    written: list[Path] = []
    if found.counts:
        page = mix_report(found.store, plan.name, main_metric(plan), plan.baseline)
        ends = (".html", ".md")
        written = [page.write(options["output"] / f"{plan.name}{e}", overwrite=True) for e in ends]
    return Outcome(
        text="\n".join([*map(str, written), *lines]),
        outputs=[str(p) for p in written],
        data={
            "plan": plan.digest,
            "counts": found.counts,
            "missing": found.missing,
            "reasons": list(found.reasons),
        },
        exit_code=0 if found.counts.get("ok") else 1,
    )


# --- what corpora hold ------------------------------------------------------------------------


@command.command(
    "corpora",
    epilog=examples(
        "episome mix corpora plan.toml", "episome mix corpora plan.toml --data folder --json"
    ),
)
@click.argument("plan", type=_PATH)
@_DATA
@command_options
@click.pass_context
def corpora(ctx: click.Context, /, **options: Any) -> None:
    """Say what the corpora and evaluation sets of PLAN hold, before anything is trained."""
    run_command(ctx, "mix corpora", lambda: _corpora(options))


def _corpora(options: dict[str, Any]) -> Outcome:
    from episome.io import records
    from episome_datamix.corpora import corpus_statistics
    from episome_datamix.mixing import gene_space

    plan, base = _plan_of(options)
    table = corpus_statistics(plan, base).reset_index()
    n_genes = len(gene_space(plan, base))
    text = f"{table.round(2).to_string(index=False, na_rep='')}\n{n_genes:,} genes in the plan"
    return Outcome(text=text, data={"rows": records(table), "n_genes": n_genes})


# --- what results say -------------------------------------------------------------------------


@command.command(
    "report",
    epilog=examples(
        "episome mix report results -o mixes.html",
        "episome mix report results -o mixes.md --plan blood --baseline pbmc",
    ),
)
@click.argument("results", type=_PATH)
@click.option("-o", "--output", required=True, type=_PATH, help="File: .html, .md or .csv.")
@_STUDY
@_METRIC
@click.option("--baseline", default="", help="Mix that others are compared with.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@command_options
@click.pass_context
def report(ctx: click.Context, /, **options: Any) -> None:
    """Write heat maps, tests over seeds and donors, coverage and curves of RESULTS."""
    run_command(ctx, "mix report", lambda: _report(options))


def _report(options: dict[str, Any]) -> Outcome:
    from episome.benchmark import ResultStore
    from episome.errors import UsageError
    from episome.io import write_file
    from episome_datamix.analysis import metric_of, plan_in, results
    from episome_datamix.sections import mix_report

    place = options["output"]
    if place.suffix not in (".html", ".md", ".csv"):
        raise UsageError(
            "E-U30", f"{place} is no file of a report", fix="end its name in .html, .md or .csv"
        )
    if place.suffix == ".csv":
        text = results(options["results"], options["study"]).to_csv(index=False)
        write_file(place, text.encode(), overwrite=options["overwrite"])
    else:
        store = ResultStore(options["results"])
        name = plan_in(store, options["study"])
        metric = options["metric"] or metric_of(store, name)
        page = mix_report(store, name, metric, options["baseline"])
        page.write(place, overwrite=options["overwrite"])
    return Outcome(text=str(place), outputs=[str(place)])


@command.command(
    "compare",
    epilog=examples(
        "episome mix compare results blood+marrow blood+blood",
        "episome mix compare results blood+marrow blood --over donors",
    ),
)
@click.argument("results", type=_PATH)
@click.argument("first")
@click.argument("second")
@_STUDY
@_METRIC
@click.option(
    "--over",
    type=click.Choice(["seeds", "donors"]),
    default="seeds",
    show_default=True,
    help="What the units of the test are.",
)
@command_options
@click.pass_context
def compare(ctx: click.Context, /, **options: Any) -> None:
    """Compare two mixes of RESULTS, FIRST less SECOND, on every evaluation set."""
    run_command(ctx, "mix compare", lambda: _compare(options))


def _compare(options: dict[str, Any]) -> Outcome:
    from episome.benchmark import ResultStore
    from episome.io import records
    from episome_datamix.analysis import compare_mixes, metric_of, plan_in, results

    store = ResultStore(options["results"])
    name = plan_in(store, options["study"])
    table = results(store, name)
    found = compare_mixes(
        table,
        options["first"],
        options["second"],
        metric=options["metric"] or metric_of(store, name),
        over=options["over"],
    )
    text = found.round(4).to_string(index=False, na_rep="")
    return Outcome(text=text, data={"rows": records(found)})


@command.command(
    "compare-plans",
    epilog=examples(
        "episome mix compare-plans results other --baselines blood,atlas",
        "episome mix compare-plans results results --models ldvae,scvi --baselines blood,blood",
    ),
)
@click.argument("first", type=_PATH)
@click.argument("second", type=_PATH)
@click.option("--baselines", required=True, metavar="A,B", help="Mix that each is compared with.")
@click.option("--plans", metavar="A,B", help="Names of the plans, where a folder has several.")
@click.option("--models", metavar="A,B", help="Model of each, where a plan has several.")
@click.option("--metrics", default="r2,r2", show_default=True, metavar="A,B")
@command_options
@click.pass_context
def compare_plans_(ctx: click.Context, /, **options: Any) -> None:
    """Ask whether what mixes gain in FIRST, they gain in SECOND: another model or baseline."""
    run_command(ctx, "mix compare-plans", lambda: _compare_plans(options))


def _compare_plans(options: dict[str, Any]) -> Outcome:
    from episome.io import records
    from episome_datamix.analysis import results
    from episome_datamix.comparison import compare_plans

    plans = _two(options["plans"], "--plans") if options["plans"] else (None, None)
    models = _two(options["models"], "--models") if options["models"] else (None, None)
    tables = [
        results(place, name)
        for place, name in zip((options["first"], options["second"]), plans, strict=True)
    ]
    found = compare_plans(
        *tables,
        baselines=_two(options["baselines"], "--baselines"),
        metrics=_two(options["metrics"], "--metrics"),
        models=models,
    )
    kept = int(found.survives["survives"].sum())
    text = (
        f"slope {found.slope:.2f} ({found.low:.2f} to {found.high:.2f}), p(0) {found.p_zero:.3g}, "
        f"p(1) {found.p_one:.3g}, Pearson {found.r:.2f}, Spearman {found.rank_r:.2f}, "
        f"{len(found.points)} mixes and evaluation sets\n"
        f"{kept} of {len(found.survives)} gains of the first are gains in the second"
    )
    numbers = ("slope", "low", "high", "p_zero", "p_one", "r", "rank_r")
    return Outcome(
        text=text,
        metrics={n: getattr(found, n) for n in numbers},
        data={"points": records(found.points), "survives": records(found.survives)},
    )


# --- advice -----------------------------------------------------------------------------------


@command.command(
    "advise",
    epilog=examples(
        "episome mix advise plan.toml -o results --target marrow --n-cells 20000",
        "episome mix advise plan.toml -o results --target marrow --n-cells 20000 --check 12",
    ),
)
@click.argument("plan", type=_PATH)
@_OUTPUT
@click.option("--target", required=True, help="Evaluation set that is to gain.")
@click.option("--n-cells", type=click.IntRange(2), required=True, help="Cells to be added.")
@click.option("--start", default="", metavar="MIX", help="Mix that they are added to.")
@click.option("--mixes", "n_mixes", type=click.IntRange(4), help="Small runs per seed.")
@click.option("--proxy-cells", type=click.IntRange(50), help="Cells that a small run adds.")
@click.option(
    "--check", type=click.IntRange(3), metavar="N", help="Run N mixes in full, and compare."
)
@_DATA
@_machine_options
@command_options
@click.pass_context
def advise_(ctx: click.Context, /, **options: Any) -> None:
    """Say which next cells, of which corpora of PLAN, a target gains most from.

    Small runs of designed mixes, scored on half of the target's donors; --check runs others in
    full on the other half.
    """
    run_command(ctx, "mix advise", lambda: _advise(ctx, options))


def _advise(ctx: click.Context, options: dict[str, Any]) -> Outcome:
    from episome.io import records
    from episome_datamix.advisor import advise, check_advice
    from episome_datamix.sections import write_advice

    plan, base = _plan_of(options)
    state_of(ctx).resumable = True
    more: dict[str, Any] = {"base": base, "executor": _executor(options)}
    same = ("n_cells", "start", "n_mixes", "proxy_cells")
    with _shown(ctx, "small runs") as said:
        found = advise(
            plan,
            options["target"],
            options["output"],
            progress=said,
            **{name: options[name] for name in same},
            **more,
        )
    check = None
    if options["check"] is not None:
        with _shown(ctx, "full runs") as said:
            check = check_advice(
                found, options["output"], n_mixes=options["check"], progress=said, **more
            )
    written = write_advice(found, check, options["output"])
    lines = [str(p) for p in written] + [found.text]
    lines.append(found.candidates.head(_BEST).round(3).to_string(index=False))
    data: dict[str, Any] = {
        "best": found.best,
        "sure": found.sure,
        "candidates": records(found.candidates.head(_SHOWN)),
        "proxies": records(found.proxies.reset_index()),
    }
    if check is not None:
        lines.append(check.text)
        data["check"] = {
            "ranks": records(check.ranks.rename_axis("ranking").reset_index()),
            "mixes": records(check.mixes.reset_index()),
            "difference": list(check.difference),
            "gain": list(check.gain),
        }
    return Outcome(text="\n".join(lines), outputs=[str(p) for p in written], data=data)


# --- helpers ----------------------------------------------------------------------------------


def _plan_of(options: dict[str, Any]) -> tuple[Plan, Path]:
    from episome_datamix.plan import Plan

    file = options["plan"]
    plan = Plan.from_toml(file)
    return plan, (options["data"] or file.resolve().parent).resolve()


def _executor(options: dict[str, Any]) -> Executor:
    from episome.benchmark import LocalExecutor, RayExecutor

    return RayExecutor() if options["ray"] else LocalExecutor(options["jobs"])


@contextlib.contextmanager
def _shown(ctx: click.Context, label: str) -> Iterator[Callable[[int, int, Run, RunResult], None]]:
    """Show how far the runs are."""
    state = state_of(ctx)
    visible = state.progress and state.verbosity >= 0
    with progress(None, label, unit="runs", enabled=visible) as bar:
        yield lambda done, total, run, result: bar.update(
            done, f"of {total:,}: {run.text}: {result.status}"
        )


def _again(verb: str, options: dict[str, Any]) -> str:
    found = ["episome", *verb.split(), str(options["plan"]), "-o", str(options["output"])]
    if options["data"] is not None:
        found += ["--data", str(options["data"])]
    return shlex.join(found)


def _two(text: str, flag: str) -> tuple[str, str]:
    from episome.errors import UsageError

    words = [w.strip() for w in text.split(",")]
    if len(words) != 2 or not all(words):
        raise UsageError("E-U30", f"{flag} {text!r}", fix=f"give two, such as {flag} a,b")
    return words[0], words[1]
