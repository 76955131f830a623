"""``episome explain``: the genes behind the calls of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from episome.cli._cells import asked, described, output_of
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
    state_of,
    value_options,
)

__all__ = ["command"]

#: Genes of a group that are shown.
SHOWN = 5
#: Groups that are shown.
GROUPS = 20


@click.command(
    "explain",
    cls=WithInput,
    epilog=examples(
        "episome explain query.h5ad -m my-model -o genes.csv",
        "episome explain query.h5ad -m my-model --by cells --top 10 -o genes.parquet",
        "episome explain query.h5ad -m my-model --of 'B cell' --against 'plasma cell' -o b.csv",
    ),
)
@click.argument("input", type=click.Path(path_type=Path))
@click.option(
    "-m", "--model", required=True, type=MODEL, help="Folder of the model, or its name on the hub."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    help="genes.csv (default), .tsv or .parquet; - for standard output.",
)
@click.option(
    "--by",
    default="prediction",
    show_default=True,
    metavar="prediction|cells|all|COLUMN",
    help="Genes of every called class, of every cell, of all cells, or of the values of a column.",
)
@click.option(
    "--top",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Genes of every group or cell at most.",
)
@click.option(
    "--cell",
    "cells",
    multiple=True,
    metavar="NAME",
    help="Only this cell, with --by cells its own genes; may be repeated.",
)
@click.option("--of", metavar="CLASS", help="Class that genes speak for; default the call.")
@click.option(
    "--against",
    metavar="CLASS|second",
    help="Class that it is compared with, or the runner-up; default the mean of all.",
)
@click.option(
    "--method",
    type=click.Choice(["auto", "native", "gradient"]),
    default="auto",
    show_default=True,
    help="native: masks or coefficients of the model; gradient: of networks.",
)
@click.option(
    "--weight",
    type=click.Choice(["auto", "expression", "none"]),
    default="auto",
    show_default=True,
    help="Whether attributions are multiplied by the value of the gene.",
)
@value_options
@gene_options
@cell_options
@machine_options
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@file_options
@command_options
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Write the genes that the calls of a model on INPUT rest on.

    The model is one with the capability explanation, or an ensemble of such. INPUT is never
    changed.
    """
    run_command(ctx, "explain", lambda: _explain(ctx, options))


def _explain(ctx: click.Context, options: dict[str, Any]) -> Outcome:
    from episome.io import TABLES

    output = output_of(options, "genes.csv")
    run, before = asked("explain", options, output, TABLES)
    if before is not None:
        return before

    from episome.jobs import ExplainRequest, explain

    with described(ctx, options, ExplainRequest, output, "explaining") as (request, progress):
        result = explain(request, progress=progress)
    table, state = result.genes, state_of(ctx)
    group = "cell" if options["by"] == "cells" else "group"
    data = {"n_obs": result.n_obs, "n_rows": len(table), "by": options["by"]}
    if output is None:
        if state.stdout is not None and not state.json:
            state.stdout.write(table.to_csv(index=False))
            return Outcome()
        return Outcome(data={**data, "genes": table.to_dict("records")})
    lines = [str(output), f"  {len(table):,} genes of {table[group].nunique():,} {group}s"]
    for name, part in list(table.groupby(group, sort=False))[:GROUPS]:
        best = ", ".join(part["gene_name"].head(SHOWN))
        lines.append(f"    {name}: {best}")
    outcome = Outcome(text="\n".join(lines), outputs=[{"path": str(output)}], data=data)
    return remembered(run, outcome)
