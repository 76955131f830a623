"""``episome audit``: find cells whose label is likely wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from episome.cli._command import (
    NO_DIFFERENCE,
    Outcome,
    command_options,
    examples,
    file_options,
    machine_options,
    made_before,
    remembered,
    run_command,
    state_of,
    value_options,
)
from episome.cli.train import given_settings, set_option, setup_arguments, with_settings
from episome.errors import UsageError

if TYPE_CHECKING:
    from episome.jobs import AuditRequest, AuditResult, Run
    from episome.models import Audit, AuditPlan

__all__ = ["command"]

#: Rows that are shown of a table.
SHOWN = 10


@click.command(
    "audit",
    epilog=examples(
        "episome audit atlas.h5ad --labels-key cell_type --donor-key donor_id -o audit.csv",
        "episome audit atlas.h5ad --labels-key cell_type --cluster-key leiden --method logreg",
        "episome audit atlas.h5ad --labels-key cell_type -o audited.h5ad --corrected new_type",
        "episome audit atlas.h5ad --labels-key cell_type --donor-key donor_id --dry-run",
    ),
)
@click.argument("input", type=click.Path(path_type=Path))
@click.option("--labels-key", required=True, help="Column of obs with the labels.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="audit.csv (default), .tsv, .parquet, or .h5ad for a copy with new columns.",
)
@click.option("--donor-key", multiple=True, help="Column of the donor; may be given twice.")
@click.option(
    "--cluster-key",
    metavar="COLUMN",
    help="Column of obs with clusters: says which of them are labelled wrongly.",
)
@click.option(
    "--method", help="Annotator that judges; default an installed one that is small and quick."
)
@click.option(
    "--ontology-term-key",
    help="Column of obs with the Cell Ontology terms of the labels; default "
    "<labels-key>_ontology_term_id. Other labels are looked up by name.",
)
@click.option(
    "--own-terms",
    type=click.Path(path_type=Path),
    help="JSON file of terms of your own below the Cell Ontology.",
)
@click.option("--obsm-key", help="Array of obsm to judge by instead of genes.")
@click.option(
    "--folds",
    "n_folds",
    type=click.IntRange(2),
    default=5,
    show_default=True,
    help="Parts of the cells that are judged in turn.",
)
@click.option(
    "--rounds",
    "n_rounds",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="How often; from the second on the models learn without the cells doubted before.",
)
@click.option(
    "--false-discoveries",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    metavar="SHARE",
    help="Expected share of right labels among those that are called wrong.",
)
@click.option(
    "--corrected",
    metavar="COLUMN",
    help="Add a column in which the labels that are called wrong are replaced.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    metavar="P",
    help="Replace labels from this probability of being wrong on; with --corrected.",
)
@click.option("--prefix", metavar="TEXT", help="Before the names of the columns; default audit_ "
              "in an h5ad, else nothing.")  # fmt: skip
@value_options
@click.option(
    "--duplicates",
    type=click.Choice(["error", "sum"]),
    default="error",
    show_default=True,
    help="What to do with genes of one name.",
)
@click.option(
    "--unlabeled",
    type=click.Choice(["error", "keep"]),
    default="error",
    show_default=True,
    help="keep leaves cells without a label out; they get no verdict.",
)
@set_option
@click.option("--preset", help="Size preset of the model, where it has some.")
@click.option("--max-epochs", type=click.IntRange(1), help="Passes over the cells.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--dry-run", is_flag=True, help="Check everything, say what would be done, stop.")
@machine_options
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option("--overwrite-columns", is_flag=True, help="Replace columns that exist already.")
@file_options
@command_options
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Rank the cells of INPUT by how likely their label is wrong.

    Models judge cells that they never saw, whole donors where those are known. INPUT is never
    changed; labels are corrected in a new column, and only with --corrected.
    """
    run_command(ctx, "audit", lambda: _audit(ctx, options), long=True)


def _audit(ctx: click.Context, options: dict[str, Any]) -> Outcome:
    from episome.cli._ui import progress
    from episome.data import check_inputs
    from episome.io import records
    from episome.jobs import audit, describe_input
    from episome.resources import set_threads

    if options["threshold"] is not None and options["corrected"] is None:
        raise UsageError(
            "E-U34",
            "--threshold is given without --corrected",
            why="it says which labels the corrected column replaces",
            fix="give --corrected COLUMN too, or --false-discoveries for what is called wrong",
        )
    check_inputs(options["input"])
    request = _request(options)
    run = None if request.output is None else _run(request.output, options)
    if run is not None and (before := made_before(run, overwrite=options["overwrite"])):
        return before
    set_threads(options["threads"])
    state = state_of(ctx)
    state.inputs.append(
        describe_input(request.input) if state.json else {"path": str(request.input)}
    )
    visible = state.progress and state.verbosity >= 0
    with progress(None, "judging labels", unit="trainings", enabled=visible) as bar:
        result = audit(request, progress=lambda done, total: bar.update(done, total=total))
    if result.audit is None:
        return Outcome(text=_planned(result.plan), data={"dry_run": True, **_plan(result.plan)})
    clusters, genes = (
        None if t is None else records(t) for t in (result.audit.clusters, result.audit.genes)
    )
    outcome = Outcome(
        text=_text(result, result.audit, options),
        outputs=[{"path": str(result.output)}],
        metrics={
            "n_wrong": result.audit.n_wrong,
            "expected_false": result.audit.expected_false,
            "noise": result.audit.noise,
            "threshold": result.audit.threshold,
        },
        data={
            **_plan(result.plan),
            "n_corrected": result.n_corrected,
            "clusters": clusters,
            "pairs": records(result.audit.pairs),
            "genes": genes,
        },
    )
    return remembered(run, outcome)


def _request(options: dict[str, Any]) -> AuditRequest:
    from episome.jobs import AuditRequest, device_arguments

    train: dict[str, object] = dict(device_arguments(options["device"]))
    if options["max_epochs"] is not None:
        train["max_epochs"] = options["max_epochs"]
    model, train_settings = given_settings(options)
    same = (
        "input", "method", "cluster_key", "n_folds", "n_rounds", "false_discoveries", "threshold",
        "corrected", "prefix", "overwrite", "overwrite_columns", "dry_run", "seed", "max_memory",
        "trust",
    )  # fmt: skip
    return AuditRequest(
        output=None if options["dry_run"] else options["output"] or Path("audit.csv"),
        setup=setup_arguments(options),
        model=model,
        train=with_settings(train, train_settings),
        **{name: options[name] for name in same},
    )


def _run(output: Path, options: dict[str, Any]) -> Run:
    from episome.jobs import Run

    read = ("input", "own_terms")
    other = {k: v for k, v in options.items() if k not in {*read, "output", *NO_DIFFERENCE}}
    return Run("audit", output, other, [options[k] for k in read])


def _plan(plan: AuditPlan) -> dict[str, Any]:
    return {
        "model": plan.model,
        "classes": dict(plan.classes),
        "n_folds": plan.n_folds,
        "n_rounds": plan.n_rounds,
        "held_out_by": plan.held_out_by,
        "notes": list(plan.notes),
    }


def _planned(plan: AuditPlan) -> str:
    n_judged = int((plan.folds >= 0).sum())
    lines = [
        "nothing is trained or written (--dry-run)",
        f"  {n_judged:,} of {len(plan.folds):,} cells of {len(plan.classes)} classes would be "
        f"judged by {plan.model}, in {plan.n_folds} folds by {plan.held_out_by} and "
        f"{plan.n_rounds} round{'s' if plan.n_rounds > 1 else ''}",
    ]
    return "\n".join([*lines, *(f"  {note}" for note in plan.notes)])


def _text(result: AuditResult, found: Audit, options: dict[str, Any]) -> str:
    by = f"{result.plan.n_folds} folds by {result.plan.held_out_by}"
    lines = [str(result.output), f"  {found.text}; {result.plan.model}, {by}"]
    lines += [f"  {note}" for note in result.plan.notes]
    for row in found.pairs.head(SHOWN).itertuples():
        verdict = f": {row.verdict}" if row.verdict else ""
        lines.append(
            f"  {row.n_wrong:>6,} wrong, {row.n_like:,} of {row.n_label:,} {row.label} look like "
            f"{row.suggested}{verdict}"
        )
    if found.clusters is not None:
        doubted = found.clusters[found.clusters["n_wrong"] > 0]
        for name, row in doubted.head(SHOWN).iterrows():
            lines.append(
                f"  cluster {name}: {row['wrong_share']:.0%} of {row['n_judged']:,} labels look "
                f"wrong; labelled {row['label']}, looks like {row['suggested']}"
            )
    if options["corrected"] is not None:
        lines.append(f"  {result.n_corrected:,} labels are others in {options['corrected']}")
    return "\n".join(lines)
