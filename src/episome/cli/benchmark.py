"""``episome benchmark``: models x data x splits x seeds, without leaks, resumable."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from episome.cli._command import (
    Outcome,
    command_options,
    examples,
    run_command,
    runs_text,
    state_of,
)

if TYPE_CHECKING:
    from episome.benchmark import Run, RunResult

__all__ = ["command"]


@click.group(
    "benchmark",
    epilog=examples(
        "episome benchmark run study.toml -o results",
        "episome benchmark compare results logreg sctab",
    ),
)
def command() -> None:
    """Compare models on the same held-out cells, with intervals and a report."""


def _words(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(w.strip() for w in (value or "").split(",") if w.strip())


def _numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(w) for w in _words(ctx, param, value))
    except ValueError as error:
        text = f"{value!r} is no list of seeds, such as 0,1,2"
        raise click.BadParameter(text, ctx, param) from error


@command.command(
    "run",
    epilog=examples(
        "episome benchmark run study.toml -o results",
        "episome benchmark run study.toml -o results --models logreg,sctab --seeds 0 --dry-run",
    ),
)
@click.argument("study")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of results."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder that the study's paths are relative to; default that of the TOML file.",
)
@click.option(
    "--scale",
    type=click.Choice(["tiny", "small", "full"]),
    default="small",
    show_default=True,
    help="Size of a registered study.",
)
@click.option(
    "--parts", callback=_words, metavar="A,B", help="Only these questions of a registered study."
)
@click.option("--models", callback=_words, metavar="A,B", help="Only these models.")
@click.option("--sets", callback=_words, metavar="A,B", help="Only these data sets of the study.")
@click.option("--seeds", callback=_numbers, metavar="0,1", help="Other seeds.")
@click.option("--jobs", type=click.IntRange(1), help="Runs at a time; default by cores.")
@click.option("--ray", is_flag=True, help="Run on Ray: its cluster, or one of this machine.")
@click.option("--timeout", type=click.FloatRange(1), help="Seconds a run may take.")
@click.option("--max-memory", type=click.FloatRange(0.1), help="GiB a run may take.")
@click.option("--device", "accelerator", help="cpu, gpu or auto.")
@click.option("--precision", help="Of trainings, as Lightning names it.")
@click.option("--retry-failed", is_flag=True, help="Repeat runs that did not end well.")
@click.option("--dry-run", is_flag=True, help="List what would be run, and run nothing.")
@command_options
@click.pass_context
def run(ctx: click.Context, /, **options: Any) -> None:
    """Run STUDY, a TOML file or a registered name.

    Every run has a process of its own; what fails is a row with its reason. Results that are in
    the folder are not repeated, so the same command goes on where it was stopped.
    """
    run_command(ctx, "benchmark run", lambda: _run(ctx, options), long=True)


def _run(ctx: click.Context, options: dict[str, Any]) -> Outcome:
    from episome.cli._ui import progress
    from episome.jobs import BenchmarkRequest, benchmark_plan, benchmark_run

    state = state_of(ctx)
    dry = options.pop("dry_run")
    memory = options.pop("max_memory")
    request = BenchmarkRequest(
        data_sets=options.pop("sets"),
        max_memory=None if memory is None else int(memory * 2**30),
        **options,
    )
    if dry:
        studies, todo, missing = benchmark_plan(request)
        names = ", ".join(s.name for s in studies)
        lines = [f"{names}: {len(todo):,} runs to do", *(f"  {r.text}" for r in todo[:40])]
        lines += [f"  and {len(todo) - 40:,} more"] if len(todo) > 40 else []
        lines += [f"  {name} takes no part: {why}" for name, why in missing.items()]
        data = {"todo": [r.key for r in todo], "missing": missing}
        return Outcome(text="\n".join(lines), data=data)
    state.resumable = True
    visible = state.progress and state.verbosity >= 0
    with progress(None, "benchmark", unit="runs", enabled=visible) as bar:

        def said(done: int, total: int, run: Run, result: RunResult) -> None:
            bar.update(done, f"of {total:,}: {run.text}: {result.status}")

        found = benchmark_run(request, progress=said)
    lines = [str(p) for p in found.reports]
    lines += runs_text(found.counts, found.missing, found.reasons)
    facts = {"counts": found.counts, "missing": found.missing, "reasons": list(found.reasons)}
    return Outcome(
        text="\n".join(lines),
        outputs=[str(p) for p in found.reports],
        data={"study": found.study, **facts},
        exit_code=0 if found.counts.get("ok") else 1,
    )


@command.command(
    "list", epilog=examples("episome benchmark list", "episome benchmark list --json")
)
@command_options
@click.pass_context
def listed(ctx: click.Context, /) -> None:
    """List the tasks and the registered studies."""
    run_command(ctx, "benchmark list", _listed)


def _listed() -> Outcome:
    from episome.jobs import benchmark_list

    found = benchmark_list()
    lines = ["tasks"]
    lines += [f"  {t['name']:<18} {t['summary']}" for t in found["tasks"]]
    lines += ["studies"]
    lines += [f"  {s['name']:<18} {s['summary']}" for s in found["studies"]] or ["  none"]
    return Outcome(text="\n".join(lines), data=dict(found))


@command.command(
    "report",
    epilog=examples(
        "episome benchmark report results -o report.html",
        "episome benchmark report results --study annotation -o report.md",
    ),
)
@click.argument("results", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="report.html, report.md, or the table as .csv or .parquet.",
)
@click.option("--study", help="Only this one.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@command_options
@click.pass_context
def reported(ctx: click.Context, /, **options: Any) -> None:
    """Write the report of RESULTS: one file that needs nothing else."""
    run_command(ctx, "benchmark report", lambda: _reported(options))


def _reported(options: dict[str, Any]) -> Outcome:
    from episome.jobs import benchmark_report

    path = benchmark_report(
        options["results"],
        options["output"],
        study=options["study"],
        overwrite=options["overwrite"],
    )
    return Outcome(text=str(path), outputs=[str(path)])


@command.command(
    "compare",
    epilog=examples(
        "episome benchmark compare results logreg sctab",
        "episome benchmark compare results logreg sctab --by-class",
    ),
)
@click.argument("results", type=click.Path(path_type=Path))
@click.argument("first")
@click.argument("second")
@click.option("--metric", default="f1_macro", show_default=True, help="What is compared.")
@click.option("--by-class", is_flag=True, help="Differences of F1 by class and its size.")
@command_options
@click.pass_context
def compared(ctx: click.Context, /, **options: Any) -> None:
    """Compare two models of RESULTS, FIRST less SECOND, over test donors or runs."""
    run_command(ctx, "benchmark compare", lambda: _compared(options))


def _compared(options: dict[str, Any]) -> Outcome:
    from episome.io import records
    from episome.jobs import benchmark_compare

    frame = benchmark_compare(
        options["results"],
        options["first"],
        options["second"],
        metric=options["metric"],
        by_class=options["by_class"],
    )
    text = frame.round(4).to_string(index=False, na_rep="")
    return Outcome(text=text, data={"rows": records(frame)})


@command.command("merge", epilog=examples("episome benchmark merge here there -o all"))
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder that gets all."
)
@command_options
@click.pass_context
def merged(ctx: click.Context, /, results: tuple[Path, ...], output: Path) -> None:
    """Join RESULTS of several machines in one folder."""
    run_command(ctx, "benchmark merge", lambda: _merged(results, output))


def _merged(results: tuple[Path, ...], output: Path) -> Outcome:
    from episome.jobs import benchmark_merge

    found = benchmark_merge(results, output)
    text = f"{output}: {found['runs']:,} runs, {found['added']:,} of them added"
    return Outcome(text=text, outputs=[str(output)], data=found)
