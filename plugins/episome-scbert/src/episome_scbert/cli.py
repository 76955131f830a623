"""``episome scbert-import``: a user's checkpoint of the original becomes a model folder."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]

_PATH = click.Path(path_type=Path)


@click.command("scbert-import", short_help="Turn your checkpoint of scBERT into a folder.")
@click.argument("checkpoint", type=_PATH)
@click.option(
    "--genes", type=_PATH, required=True, help="List of the genes of the inputs, in their order."
)
@click.option(
    "--labels", type=_PATH, help="List of the classes in their order, for a fine-tuned classifier."
)
@click.option("--gene-table", type=_PATH, help="Vectors by gene, where the checkpoint holds none.")
@click.option("-o", "--output", type=_PATH, required=True, help="Folder of the model.")
@click.option("--overwrite", is_flag=True, help="Replace an existing model folder.")
def command(
    checkpoint: Path,
    genes: Path,
    labels: Path | None,
    gene_table: Path | None,
    output: Path,
    overwrite: bool,  # noqa: FBT001 - click passes options by name
) -> None:
    """Turn CHECKPOINT, weights of the original scBERT that are yours, into a model folder.

    The file is read for its tensors; nothing in it is run.
    """
    from episome.io import check_model_output

    check_model_output(output, overwrite=overwrite)

    from episome_scbert.model import SCBERT

    model = SCBERT.from_reference_checkpoint(
        checkpoint, genes=genes, labels=labels, gene_table=gene_table
    )
    model.save(output, overwrite=overwrite)
    n_classes = 0 if model.labels is None else len(model.labels)
    click.echo(f"{output}: {len(model.features):,} genes, {n_classes} classes")
