"""``episome annotate``: annotate cells with a model folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from episome.cli._cells import report_of, report_options
from episome.cli._command import (
    MODEL,
    NO_DIFFERENCE,
    Outcome,
    WithInput,
    cell_options,
    command_options,
    examples,
    file_options,
    gene_options,
    machine_options,
    made_before,
    raw_choice,
    remembered,
    run_command,
    state_of,
    value_options,
)

if TYPE_CHECKING:
    from episome.jobs import AnnotateRequest, Run

__all__ = ["command"]


@click.command(
    "annotate",
    cls=WithInput,
    epilog=examples(
        "episome annotate query.h5ad -m my-model -o calls.csv",
        "episome annotate query.h5ad -m my-model -o annotated.h5ad",
        "episome annotate query.h5ad -m my-model -o calls.csv --cluster-key leiden",
        "episome annotate query.h5ad -m my-model -o calls.csv --roll-up 0.9",
        "episome annotate atlas.corpus -m my-model -o calls.csv --split split.json --part test",
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
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    help="calls.csv (default), .tsv, .parquet, or .h5ad for an annotated copy; - for standard "
    "output.",
)
@value_options
@gene_options
@click.option(
    "--error-rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Add label sets that miss the truth in this share of cells; calls whose set is not one "
    "class are left out of the labels.",
)
@click.option(
    "--false-alarms",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Leave out the labels of novel cells, where this share of cells of known types may be "
    "called novel.",
)
@click.option(
    "--min-confidence",
    type=click.FloatRange(0, 1),
    metavar="P",
    help="Leave out the labels of cells that the model is less sure of.",
)
@click.option(
    "--roll-up",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="P",
    help="Give every cell the deepest term of the Cell Ontology that is at least this probable.",
)
@click.option(
    "--restrict-to",
    multiple=True,
    metavar="TERM",
    help="The cells are of this type or kinds of it: a term (CL:0000084) or a name; may be "
    "repeated.",
)
@click.option(
    "--cluster-key",
    metavar="COLUMN",
    help="Column of obs with clusters: adds the label that most cells of each have, the share "
    "that agrees, and its 95 % interval. Nothing is clustered.",
)
@click.option(
    "--cellxgene",
    is_flag=True,
    help="Add cell_type and cell_type_ontology_term_id as the CELLxGENE schema wants them.",
)
@click.option(
    "-p",
    "--prefix",
    metavar="TEXT",
    help="Before the names of the columns; default episome_ in an h5ad, else nothing.",
)
@click.option(
    "--score",
    "scores",
    multiple=True,
    metavar="NAME=GENES",
    help="Add the score of a gene set, score_NAME: GENES are symbols or identifiers, separated by "
    "commas; may be repeated.",
)
@report_options
@click.option(
    "--report-names", nargs=2, hidden=True, help="Names of cells and model in the report."
)
@cell_options
@machine_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check everything, estimate time and size from a few cells, and write nothing.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option(
    "--overwrite-columns",
    is_flag=True,
    help="Replace columns of the h5ad that exist already, cell types of others included.",
)
@file_options
@command_options
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Annotate INPUT with a model folder.

    INPUT is a file of cells, or a corpus, a folder of h5ad files or an address, which are read in
    blocks and give a table. Genes are matched by name, calls are in the order of the cells, and
    INPUT is never changed.
    """
    run_command(ctx, "annotate", lambda: _annotate(ctx, options), long=True)


def _annotate(ctx: click.Context, options: dict[str, Any]) -> Outcome:
    from episome.data import check_inputs
    from episome.io import check_output, prefixed, read_manifest

    use_raw, dry = raw_choice(options), options.pop("dry_run")
    to_stdout = options["output"] == Path("-")
    output = None if to_stdout else options["output"] or Path("calls.csv")
    check_inputs(options["input"])
    read_manifest(options["model"])
    run = None if output is None or dry else _run(output, options)
    if run is not None and (before := made_before(run, overwrite=options["overwrite"])):
        return before
    if output is not None:
        check_output(output, overwrite=options["overwrite"], source=options["input"])

    from episome.cli._ui import progress
    from episome.jobs import AnnotateRequest, annotate, describe_input
    from episome.resources import set_threads

    other = {"output", "threads", "auto_raw", "no_report"}
    taken = {k: v for k, v in options.items() if k not in other}
    taken["use_raw"] = use_raw
    taken["report"] = None if dry else report_of(options, output)
    request = AnnotateRequest(output=output, **taken)
    set_threads(options["threads"])
    state = state_of(ctx)
    state.inputs.append(
        describe_input(request.input) if state.json else {"path": str(request.input)}
    )
    if dry:
        return _planned(request)
    visible = state.progress and state.verbosity >= 0
    with progress(None, "annotating", unit="cells", enabled=visible) as bar:
        result = annotate(request, progress=lambda done, total: bar.update(done, total=total))
    if to_stdout and not state.json and state.stdout is not None and result.calls is not None:
        calls = result.calls
        named = calls.set_axis(prefixed(calls.columns, options["prefix"] or ""), axis=1)
        state.stdout.write(named.to_csv(index_label="cell"))
        return Outcome()
    counts, states = result.labels, result.status
    text = [str(output)] if output else []
    text += [f"  {count:>8,}  {label}" for label, count in counts.items()]
    if set(states) - {"assigned"}:
        text.append("  " + ", ".join(f"{n:,} {name}" for name, n in states.items()))
    text += [f"  report: {result.report}"] if result.report else []
    outcome = Outcome(
        text="\n".join(text),
        outputs=[{"path": str(output)}] if output else [],
        data={
            "n_obs": result.n_obs,
            "n_vars": result.n_vars,
            "labels": counts,
            "status": states,
            "notes": list(result.notes),
            "report": None if result.report is None else str(result.report),
        },
    )
    return remembered(run, outcome)


def _planned(request: AnnotateRequest) -> Outcome:
    from episome.jobs import annotate_plan

    plan = annotate_plan(request)
    lines = [
        "nothing is written (--dry-run)",
        f"  {plan.n_obs:,} cells of {plan.n_vars:,} genes would be called in about "
        f"{plan.seconds:,.0f} s, and take about {plan.n_bytes / 1e6:,.1f} MB",
        *(f"  {note}" for note in plan.notes),
    ]
    return Outcome(text="\n".join(lines), data={"dry_run": True, **asdict(plan)})


def _run(output: Path, options: dict[str, Any]) -> Run:
    from episome.jobs import Run

    read = ("input", "model", "gene_map", "split")
    other = {k: v for k, v in options.items() if k not in {*read, "output", *NO_DIFFERENCE}}
    return Run("annotate", output, other, [options[k] for k in read])
