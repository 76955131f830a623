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
    from episome.cli._ui import progress
    from episome.jobs import PluginCheckRequest, check_plugin

    state = state_of(ctx)
    shown = state.progress and state.verbosity >= 0
    request = PluginCheckRequest(options["name"], options["import_limit"], options["check_limit"])
    with progress(None, "checking", unit="checks", enabled=shown) as bar:
        done = 0

        def report(result: Checked) -> None:
            nonlocal done
            done += 1
            bar.update(done, f"{result.subject}: {result.check}")

        found = check_plugin(request, report=report)
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


def _table(found: PluginCheckResult) -> list[str]:
    """Return a row for every check and a column for every object that it says something about."""
    subjects = list(dict.fromkeys(r.subject for r in found.results if r.subject[:6] == "model "))
    marks = {(r.check, r.subject): _MARKS[r.status] for r in found.results}
    checks = list(dict.fromkeys(r.check for r in found.results if r.subject in set(subjects)))
    if not checks:
        return []
    names = [s.removeprefix("model ") for s in subjects]
    width = max(len(c) for c in checks)
    columns = [max(len(n), 6) for n in names]
    head = "  ".join(f"{n:<{w}}" for n, w in zip(names, columns, strict=True))
    lines = [f"  {'':<{width}}  {head}".rstrip()]
    for check in checks:
        cells = [marks.get((check, s), "-") for s in subjects]
        row = "  ".join(f"{c:<{w}}" for c, w in zip(cells, columns, strict=True))
        lines.append(f"  {check:<{width}}  {row}".rstrip())
    return lines


def _text(found: PluginCheckResult) -> str:
    states = [r.status for r in found.results]
    lines = [f"{found.plugin} ({found.distribution} {found.version})", *_table(found)]
    for result in found.results:
        if not result.subject.startswith("model "):
            lines.append(f"  {result.subject}: {result.check}: {_MARKS[result.status]}")
    for name, cost in found.costs.items():
        lines.append(
            f"  {name}: {cost['train_seconds']:.2f} s to train on {cost['n_cells']} cells x "
            f"{cost['n_genes']} genes, {cost['cells_per_second']:,.0f} cells answered a second, "
            f"{cost['peak_memory'] / 1e6:,.0f} MB at most"
        )
    for result in found.results:
        if result.status == "expected":
            lines.append(f"  exempt: {result.subject}: {result.check}: {result.message}")
    for result in found.failures:
        lines.append(f"  FAILED: {result.subject}: {result.check}: {result.message}")
    lines.append(
        f"  {states.count('passed')} checks passed, {len(found.failures)} failed, "
        f"{states.count('expected')} exempt, {states.count('skipped')} not run or not for them"
    )
    return "\n".join(lines)
