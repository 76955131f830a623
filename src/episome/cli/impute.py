"""``episome impute``: the expression that a model expects of every cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from episome.cli._cells import asked, described, keep_answer, output_of
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
    run_command,
    value_options,
)

__all__ = ["command"]


@click.command(
    "impute",
    cls=WithInput,
    epilog=examples(
        "episome impute query.h5ad -m my-model -o imputed.h5ad",
        "episome impute query.h5ad -m my-model -o genes.csv --genes CD3E --genes MS4A1",
        "episome impute query.h5ad -m my-model -o hidden.h5ad --hide CD3E --log1p",
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
    help="imputed.h5ad (default); for few genes .csv, .csv.gz, .tsv, .tsv.gz or .parquet; - for "
    "standard output.",
)
@click.option(
    "--genes",
    multiple=True,
    metavar="NAME",
    help="Gene to write, by identifier or symbol, or a file (.txt, .csv, .tsv) with one a line; "
    "may be repeated. Default all genes of the model.",
)
@click.option(
    "--hide",
    multiple=True,
    metavar="NAME",
    help="Gene that the model must not see in any cell, so that it is imputed from the others; "
    "named like --genes, may be repeated.",
)
@click.option(
    "--library-size",
    type=click.FloatRange(0, min_open=True),
    default=1e4,
    show_default=True,
    help="Molecules of a cell to which the result is scaled; 1 gives proportions.",
)
@click.option("--log1p", is_flag=True, help="Write the logarithm of one plus the result.")
@value_options
@gene_options
@cell_options
@machine_options
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@file_options
@command_options
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Write the expression that a model expects of every cell of INPUT.

    INPUT is a file of cells, or a corpus, a folder of h5ad files or an address, which are read in
    blocks. The model is one with the capability reconstruction. Genes of the model that INPUT
    lacks are imputed too. Cells are in the order of INPUT, which is never changed.
    """
    run_command(ctx, "impute", lambda: _impute(ctx, options))


def _impute(ctx: click.Context, options: dict[str, Any]) -> Outcome:
    from episome.io import EXPRESSION_KINDS

    output = output_of(options, "imputed.h5ad")
    files = [Path(word) for word in (*options["genes"], *options["hide"])]
    run, before = asked(
        "impute", options, output, EXPRESSION_KINDS, files=[p for p in files if p.is_file()]
    )
    if before is not None:
        return before

    from episome.jobs import ImputeRequest, impute

    with described(ctx, options, ImputeRequest, output, "imputing") as (request, progress):
        result = impute(request, progress=progress)
    text = [f"{result.n_genes:,} genes of {result.n_obs:,} cells"]
    if result.n_missing:
        text.append(f"not in the query, and imputed: {result.n_missing:,} of the model's genes")
    if result.n_hidden:
        text.append(f"hidden from the model, and imputed: {result.n_hidden:,}")
    if result.n_unknown:
        text.append(f"NaN, as the model expects nothing of them: {result.n_unknown:,}")
    data = {
        "n_obs": result.n_obs,
        "n_vars": result.n_vars,
        "n_genes": result.n_genes,
        "n_missing": result.n_missing,
        "n_hidden": result.n_hidden,
        "n_unknown": result.n_unknown,
        "notes": list(result.notes),
    }
    return keep_answer(ctx, run, output, result.expression, text, data)
