"""``episome sctab-import``: a published checkpoint becomes a model folder."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]

_PATH = click.Path(path_type=Path)


@click.command("sctab-import", short_help="Turn a published scTab checkpoint into a model folder.")
@click.argument("checkpoint", type=_PATH)
@click.option(
    "--genes",
    type=_PATH,
    help="Genes of the inputs in order: the store that the model was trained on, its var.parquet, "
    "or a list.",
)
@click.option(
    "--labels",
    type=_PATH,
    help="Classes of the outputs in order: the store, its categorical_lookup/cell_type.parquet, "
    "or a list. Default the store given as --genes.",
)
@click.option("-o", "--output", type=_PATH, required=True, help="Folder of the model.")
@click.option("--overwrite", is_flag=True, help="Replace an existing model folder.")
def command(
    checkpoint: Path,
    genes: Path | None,
    labels: Path | None,
    output: Path,
    overwrite: bool,  # noqa: FBT001 - click passes options by name
) -> None:
    """Turn CHECKPOINT, a file of the published scTab, into a model folder.

    The file is read for its tensors and plain settings; nothing in it is run.
    """
    from episome.io import check_model_output

    check_model_output(output, overwrite=overwrite)

    from episome_sctab.model import SCTab

    model = SCTab.from_reference_checkpoint(checkpoint, genes=genes, labels=labels)
    model.save(output, overwrite=overwrite)
    click.echo(f"{output}: {len(model.labels)} classes, {len(model.features):,} genes")
