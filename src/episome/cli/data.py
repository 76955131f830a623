"""``episome data``: files of cells, their digests, and the same cells in another form."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from episome.cli._command import (
    NO_DIFFERENCE,
    Outcome,
    command_options,
    examples,
    file_options,
    made_before,
    remembered,
    run_command,
    state_of,
)

if TYPE_CHECKING:
    from episome.jobs import DataDigest

__all__ = ["command"]


@click.group(
    "data",
    epilog=examples(
        "episome data hash cells.h5ad", "episome data convert filtered_matrix.h5 -o cells.h5ad"
    ),
)
def command() -> None:
    """Say which cells a file holds, or write them in another form."""


# -- hash ----------------------------------------------------------------------------------------


@command.command(
    "hash",
    epilog=examples("episome data hash cells.h5ad", "episome data hash cells.zarr --layer counts"),
)
@click.argument("input", type=click.Path(path_type=Path))
@click.option("--layer", help="Layer that holds the values; default X.")
@click.option("--use-raw", is_flag=True, help="Take the values of raw.")
@file_options
@command_options
@click.pass_context
def hash_command(ctx: click.Context, /, **options: Any) -> None:
    """Print the digest of the cells of INPUT, and that of its bytes.

    The first is the same for the same cells in any form: sparse by cells or by genes, dense, h5ad
    or zarr, genes in any order. INPUT is never changed.
    """
    run_command(ctx, "data hash", lambda: _hash(ctx, options))


def _hash(ctx: click.Context, options: dict[str, Any]) -> Outcome:
    from episome.data import check_inputs

    path = options.pop("input")
    check_inputs(path)

    from episome.cli._ui import progress
    from episome.jobs import data_hash

    state = state_of(ctx)
    visible = state.progress and state.verbosity >= 0
    with progress(None, "reading", unit="cells", enabled=visible) as bar:
        found = data_hash(path, progress=lambda done, n: bar.update(done, f"of {n:,}"), **options)
    facts = {"path": str(path), "sha256": found.sha256, "n_obs": found.n_obs}
    return Outcome(
        text="\n".join([str(path), *_digests(found)]),
        inputs=[{**facts, "n_vars": found.n_vars}],
        data=asdict(found),
    )


def _digests(found: DataDigest) -> list[str]:
    lines = [f"  {found.n_obs:,} cells, {found.n_vars:,} genes, {found.slot}"]
    lines.append(f"  content  {found.content}")
    return [*lines, f"  sha256   {found.sha256}"] if found.sha256 else lines


# -- convert -------------------------------------------------------------------------------------


@command.command(
    "convert",
    epilog=examples(
        "episome data convert filtered_feature_bc_matrix.h5 -o cells.h5ad",
        "episome data convert cells.h5ad -o cells.zarr --form csr",
        "episome data convert annotated.h5ad --to cas --author 'First Last' -o annotation.json",
    ),
)
@click.argument("input", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="File .h5ad, or .zarr."
)
@click.option(
    "--form",
    type=click.Choice(["as is", "csr", "csc", "dense"]),
    default="as is",
    show_default=True,
    help="How matrices are stored: csr by cells, csc by genes.",
)
@click.option(
    "--to",
    type=click.Choice(["cellxgene", "cas", "vitessce", "cellbrowser"]),
    help="Write annotated cells for others: an h5ad by the CELLxGENE schema, JSON of the cell "
    "annotation schema, or a folder for the viewers Vitessce and UCSC Cell Browser.",
)
@click.option(
    "--prefix",
    default="episome_",
    show_default=True,
    help="Of the columns of the calls, with --to.",
)
@click.option("--author", default="", metavar="NAME", help="Who annotated, with --to cas.")
@click.option("--title", default="", help="Of the data, with --to; default the name of INPUT.")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@file_options
@command_options
@click.pass_context
def convert_command(ctx: click.Context, /, **options: Any) -> None:
    """Write the cells of INPUT, of any kind that is read, as h5ad or zarr.

    What was written is read back, and its digest has to be that of INPUT, which is never changed.
    With --to, the calls of `episome annotate -o annotated.h5ad` go along in the form of another
    program.
    """
    run_command(ctx, "data convert", lambda: _convert(options))


def _convert(options: dict[str, Any]) -> Outcome:
    from episome.data import check_inputs
    from episome.io import CELL_KINDS, check_output

    source, output = options["input"], options["output"]
    check_inputs(source)
    of_export = {k: options.pop(k) for k in ("to", "prefix", "author", "title")}
    if of_export["to"]:
        del options["form"]
        return _exported({**options, **of_export})

    from episome.jobs import ConvertRequest, Run, data_convert

    other = {k: v for k, v in options.items() if k not in {"input", "output", *NO_DIFFERENCE}}
    run = Run("data convert", output, other, [source])
    if before := made_before(run, overwrite=options["overwrite"]):
        return before
    check_output(output, overwrite=options["overwrite"], kinds=CELL_KINDS, source=source)
    found = data_convert(ConvertRequest(**options))
    outcome = Outcome(
        text="\n".join([str(output), *_digests(found)]),
        inputs=[{"path": str(source)}],
        outputs=[{"path": str(output), "sha256": found.sha256}],
        data=asdict(found),
    )
    return remembered(run, outcome)


def _exported(options: dict[str, Any]) -> Outcome:
    from episome.jobs import ExportRequest, data_export

    found = data_export(ExportRequest(form=options.pop("to"), **options))
    lines = [str(found.output), f"  {found.n_obs:,} cells, {found.n_vars:,} genes, {found.form}"]
    if found.missing:
        lines.append(f"  the portal also wants {'; '.join(found.missing)}")
    return Outcome(
        text="\n".join(lines),
        inputs=[{"path": str(options["input"]), "n_obs": found.n_obs, "n_vars": found.n_vars}],
        outputs=[{"path": str(found.output)}],
        data={"form": found.form, "missing": list(found.missing)},
    )


# -- census --------------------------------------------------------------------------------------


@command.command(
    "census",
    epilog=examples(
        "episome data census \"census:homo_sapiens@2025-01-30?tissue == 'lung'\" -o lung.h5ad",
        "episome data census \"census:mus_musculus?cell_type == 'neuron'\" -o neurons.zarr",
    ),
)
@click.argument("query")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="File .h5ad, or .zarr."
)
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@command_options
@click.pass_context
def census_command(ctx: click.Context, /, **options: Any) -> None:
    """Write the cells of QUERY, census:ORGANISM@RELEASE?FILTER, from the CELLxGENE Census.

    They are in memory together; `episome corpus build` takes a query of more cells than fit. The
    Census is read over the network, by the extra episome[census].
    """
    run_command(ctx, "data census", lambda: _census(ctx, options))


def _census(ctx: click.Context, options: dict[str, Any]) -> Outcome:
    from episome.cli._ui import progress
    from episome.io import CELL_KINDS, check_output

    output = options["output"]
    check_output(output, overwrite=options["overwrite"], kinds=CELL_KINDS)

    from episome.jobs import data_census

    state = state_of(ctx)
    visible = state.progress and state.verbosity >= 0
    with progress(None, "reading", unit="cells", enabled=visible) as bar:
        found = data_census(progress=lambda done, n: bar.update(done, f"of {n:,}"), **options)
    return Outcome(
        text="\n".join([str(output), *_digests(found)]),
        inputs=[{"path": options["query"], "n_obs": found.n_obs, "n_vars": found.n_vars}],
        outputs=[{"path": str(output), "sha256": found.sha256}],
        data=asdict(found),
    )
