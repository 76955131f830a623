"""``episome embed``: the vector that a model gives every cell."""

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
    "embed",
    cls=WithInput,
    epilog=examples(
        "episome embed query.h5ad -m my-model -o embedding.csv",
        "episome embed query.h5ad -m my-model -o embedded.h5ad",
        "episome embed query.h5ad -m my-model -o embedding.npy --layer counts",
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
    help="embedding.csv (default), .csv.gz, .tsv, .tsv.gz, .parquet, .npy for the array alone, or "
    ".h5ad for a copy of INPUT with the array in obsm; - for standard output.",
)
@click.option(
    "--key-added",
    metavar="KEY",
    help="Name of the array in obsm of an h5ad; default X_ and the name of the model.",
)
@value_options
@gene_options
@cell_options
@machine_options
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option(
    "--overwrite-columns", is_flag=True, help="Replace an array of obsm that exists already."
)
@file_options
@command_options
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Write the vector that a model gives every cell of INPUT.

    INPUT is a file of cells, or a corpus, a folder of h5ad files or an address, which are read in
    blocks and give a table or an array. The model is one with the capability embedding. Genes are
    matched by name, vectors are in the order of the cells, and INPUT is never changed.
    """
    run_command(ctx, "embed", lambda: _embed(ctx, options))


def _embed(ctx: click.Context, options: dict[str, Any]) -> Outcome:
    from episome.io import EMBEDDING_KINDS

    output = output_of(options, "embedding.csv")
    run, before = asked("embed", options, output, EMBEDDING_KINDS)
    if before is not None:
        return before

    from episome.jobs import EmbedRequest, embed

    with described(ctx, options, EmbedRequest, output, "embedding") as (request, progress):
        result = embed(request, progress=progress)
    text = [f"{result.n_latent:,} dimensions of {result.n_obs:,} cells"]
    if output is not None and output.suffix == ".h5ad":
        text[0] += f" in obsm[{result.key!r}]"
    data = {
        "n_obs": result.n_obs,
        "n_vars": result.n_vars,
        "n_latent": result.n_latent,
        "key": result.key,
        "notes": list(result.notes),
    }
    return keep_answer(ctx, run, output, result.embedding, text, data)
