"""``episome evaluate``: score the calls of a model on labelled cells, with a gate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from episome.cli._cells import asked, described, report_of, report_options
from episome.cli._command import (
    MODEL,
    Outcome,
    WithInput,
    cell_options,
    command_options,
    examples,
    file_options,
    gene_options,
    machine_options,
    remembered,
    run_command,
    value_options,
)

if TYPE_CHECKING:
    from episome.jobs import EvaluateResult

__all__ = ["command"]

#: Exit code of a gate that is not met.
NOT_MET = 9
#: Options of the gate, and the score that each looks at.
GATES = {"min_macro_f1": "f1_macro", "min_macro_f1_ontology": "f1_macro_ontology"}
#: Rows that are shown of a table.
SHOWN = 10


@click.command(
    "evaluate",
    cls=WithInput,
    epilog=examples(
        "episome evaluate labelled.h5ad -m my-model --labels-key cell_type",
        "episome evaluate labelled.h5ad -m my-model --labels-key cell_type --donor-key donor_id "
        "-o scores.json",
        "episome evaluate labelled.h5ad -m my-model --labels-key cell_type --min-macro-f1 0.8",
    ),
)
@click.argument("input", type=click.Path(path_type=Path))
@click.option(
    "-m",
    "--model",
    required=True,
    type=MODEL,
    help="Folder of the model, or its name on the hub.",
)
@click.option("--labels-key", required=True, help="Column of obs with the labels.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Also write the table of classes (.csv, .tsv), or everything (.json).",
)
@click.option(
    "--min-macro-f1",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="Exit with code 9 where macro F1 is below X.",
)
@click.option(
    "--min-macro-f1-ontology",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="The same of macro F1 with calls of a kind of the true type counted as right.",
)
@click.option(
    "--donor-key", help="Column of the donor: intervals are over donors, and each has scores."
)
@click.option(
    "--ontology-term-key",
    help="Column of obs with the Cell Ontology terms of the labels; default "
    "<labels-key>_ontology_term_id. Other labels are looked up by name.",
)
@click.option(
    "--error-rate",
    "error_rates",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    multiple=True,
    default=(0.05, 0.1),
    show_default=True,
    metavar="SHARE",
    help="Error rate of the label sets whose coverage is measured; may be repeated.",
)
@click.option(
    "--draws",
    "n_draws",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Draws that the intervals are made from.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@report_options
@value_options
@gene_options
@cell_options
@machine_options
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@file_options
@command_options
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Score the calls of a model on INPUT, cells with labels.

    Every class has precision, recall and F1 with an interval, plain and by the Cell Ontology; then
    calibration, label sets, novelty and what is confused with what. A call is the most probable
    class. Cells without a label take no part, and INPUT is never changed.
    """
    run_command(ctx, "evaluate", lambda: _evaluate(ctx, options), long=True)


def _evaluate(ctx: click.Context, options: dict[str, Any]) -> Outcome:
    from episome.io import EVALUATION_KINDS

    gates = {name: options[name] for name in GATES if options[name] is not None}
    output = options["output"]
    kept = {k: v for k, v in options.items() if k not in GATES}
    run, before = asked("evaluate", kept, output, EVALUATION_KINDS)
    if before is None:
        from episome.jobs import EvaluateRequest, evaluate

        kept["report"] = report_of(options, output)
        with described(ctx, kept, EvaluateRequest, output, "evaluating") as (request, progress):
            result = evaluate(request, progress=progress)
        before = remembered(
            run,
            Outcome(
                text="\n".join(([] if output is None else [str(output)]) + _text(result)),
                outputs=[] if output is None else [{"path": str(output)}],
                metrics=dict(result.scores),
                data={
                    **result.to_json(),
                    "notes": list(result.notes),
                    "report": None if result.report is None else str(result.report),
                },
            ),
        )
    return _gated(before, gates)


def _gated(outcome: Outcome, gates: dict[str, float]) -> Outcome:
    """Add what becomes of the gates."""
    outcome.data["gates"] = []
    for name, least in gates.items():
        value = outcome.metrics.get(GATES[name])
        met = value is not None and value >= least
        facts = {"score": GATES[name], "least": least, "value": value, "met": met}
        outcome.data["gates"].append(facts)
        found = "is not known" if value is None else f"is {value:.4f}"
        verdict = "met" if met else f"not met (exit code {NOT_MET})"
        outcome.text += (
            f"\n  gate: {GATES[name]} {found}, at least {least:g} is asked for: {verdict}"
        )
        if not met:
            outcome.exit_code = NOT_MET
    return outcome


def _text(result: EvaluateResult) -> list[str]:
    over = "cells" if result.donors is None else f"{len(result.donors)} donors"
    lines = [
        f"  {result.n_scored:,} of {result.n_obs:,} cells have a label",
        f"  in brackets 95 % intervals over {over}",
    ]
    for name, value in result.scores.items():
        low_high = result.intervals.get(name)
        span = "" if low_high is None else f" ({low_high[0]:.3f} to {low_high[1]:.3f})"
        lines.append(f"  {name:<26} {value:.3f}{span}")
    lines += _sure(result)
    lines += _classes(result)
    for row in result.confused.head(SHOWN).itertuples():
        lines.append(f"  {row.n_cells:>6,} of {row.label} ({row.share:.0%}) called {row.called}")
    return lines + ([f"  report: {result.report}"] if result.report else [])


def _sure(result: EvaluateResult) -> list[str]:
    found, lines = result.calibration, []
    if found["n_cells"]:
        lines.append(
            f"  calibration error {found['ece']:.3f}; surest {found['kept']:.0%} of the cells are "
            "called with at most 5 % wrong"
        )
    for rate, sets in result.coverage.items():
        lines.append(
            f"  label sets of error rate {rate} hold the truth of {sets['overall']:.1%} "
            f"({sets['size']:.2f} classes a set)"
        )
    if result.novelty["n_unseen"]:
        value = result.novelty["auroc"]
        told = "no novelty is known" if value != value else f"AUROC of novelty {value:.3f}"
        lines.append(
            f"  {result.novelty['n_unseen']:,} cells of types unknown to the model: {told}"
        )
    return lines


def _classes(result: EvaluateResult) -> list[str]:
    """Return the worst classes, by the score that is the most lenient."""
    table = result.classes[result.classes["n_true"] > 0]
    worst = table.sort_values(["f1", "n_true"]).head(SHOWN)
    width = max(len(str(name)) for name in worst.index)
    lines = [f"  worst of {len(table):,} classes:"]
    for name, row in worst.iterrows():
        known = "" if row["in_training"] else ", no class of the model"
        lines.append(
            f"    {name!s:<{width}}  F1 {row['f1']:.3f} ({row['f1_low']:.3f} to "
            f"{row['f1_high']:.3f}), {int(row['n_true']):,} cells{known}"
        )
    return lines
