"""``episome plugins check``: whether a plugin keeps the host's contract."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from episome.cli._command import Outcome, command_options, examples, run_command, state_of

if TYPE_CHECKING:
    from episome.jobs import Checked, PluginCheckResult

__all__ = ["command"]

_MARKS = {
    "passed": "ok",
    "failed": "FAILED",
    "expected": "exempt",
    "unexpected pass": "FAILED",
    "skipped": "-",
}


@click.command(
    "check",
    epilog=examples(
        "episome plugins check sctab", "episome plugins check episome-baselines --json"
    ),
)
@click.argument("name")
@click.option(
    "--import-limit",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds that the import of a model may take.",
)
@click.option(
    "--check-limit",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    help="Seconds that one check may take.",
)
@command_options
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Run the conformance checks on NAME, a plugin or one of its models.

    Every model is checked in a process of its own, so that one that crashes or hangs is found and
    reported. The exit code is 5 when a check fails.
    """
    run_command(ctx, "plugins check", lambda: _check(ctx, options))


def _check(ctx: click.Context, options: dict[str, Any]) -> Outcome:
    from episome.jobs import PluginCheckRequest, check_plugin

    state = state_of(ctx)
    shown = not state.json and state.progress and state.verbosity >= 0

    def report(result: Checked) -> None:
        if shown:
            click.echo(_line(result), err=True)

    found = check_plugin(
        PluginCheckRequest(options["name"], options["import_limit"], options["check_limit"]),
        report=report,
    )
    return Outcome(
        text=_text(found),
        data={
            "plugin": found.plugin,
            "distribution": found.distribution,
            "plugin_version": found.version,
            "results": [asdict(r) for r in found.results],
            "costs": found.costs,
        },
        error=found.error,
    )


def _line(result: Checked) -> str:
    return f"{_MARKS[result.status]:<7} {result.seconds:6.2f} s  {result.subject}: {result.check}"


def _text(found: PluginCheckResult) -> str:
    states = [r.status for r in found.results]
    lines = [f"{found.plugin} ({found.distribution} {found.version})"]
    for result in found.results:
        if result.status == "expected":
            lines.append(f"  exempt  {result.subject}: {result.check}: {result.message}")
    for name, cost in found.costs.items():
        lines.append(
            f"  {name}: {cost['train_seconds']:.2f} s to train on {cost['n_cells']} cells x "
            f"{cost['n_genes']} genes, {cost['cells_per_second']:,.0f} cells answered a second, "
            f"{cost['peak_memory'] / 1e6:,.0f} MB at most"
        )
    for result in found.failures:
        lines.append(f"  FAILED  {result.subject}: {result.check}: {result.message}")
    lines.append(
        f"  {states.count('passed')} checks passed, {len(found.failures)} failed, "
        f"{states.count('expected')} exempt, {states.count('skipped')} not for these models"
    )
    return "\n".join(lines)
