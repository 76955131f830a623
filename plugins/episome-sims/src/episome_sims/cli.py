"""``episome sims-import``: a published checkpoint becomes a model folder."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]

_PATH = click.Path(path_type=Path)


@click.command("sims-import", short_help="Turn a published SIMS checkpoint into a model folder.")
@click.argument("checkpoint", type=_PATH)
@click.option("--genes", type=_PATH, help="Genes of the inputs in order, where the file has none.")
@click.option("--labels", type=_PATH, help="Classes of the outputs in order, likewise.")
@click.option(
    "--trust",
    is_flag=True,
    help="Read files that name a label encoder and arrays, in a process of its own.",
)
@click.option("-o", "--output", type=_PATH, required=True, help="Folder of the model.")
@click.option("--overwrite", is_flag=True, help="Replace an existing model folder.")
def command(
    checkpoint: Path,
    genes: Path | None,
    labels: Path | None,
    trust: bool,  # noqa: FBT001 - click passes options by name
    output: Path,
    overwrite: bool,  # noqa: FBT001 - click passes options by name
) -> None:
    """Turn CHECKPOINT, a file of the published SIMS, into a model folder.

    The file is read for its tensors, names and plain settings; nothing in it is run.
    """
    from episome.io import check_model_output

    check_model_output(output, overwrite=overwrite)

    from episome_sims.model import SIMS

    model = SIMS.from_reference_checkpoint(checkpoint, genes=genes, labels=labels, trust=trust)
    model.save(output, overwrite=overwrite)
    click.echo(f"{output}: {len(model.labels)} classes, {len(model.features):,} genes")
