"""``episome ssl-import``: a published checkpoint becomes a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

__all__ = ["command"]

_PATH = click.Path(path_type=Path)


@click.command("ssl-import", short_help="Turn published self-supervised weights into a folder.")
@click.argument("checkpoint", type=_PATH)
@click.option(
    "--genes",
    type=_PATH,
    required=True,
    help="Genes of the inputs in order: the store that the model was trained on, its var.parquet, "
    "or a list.",
)
@click.option(
    "--activation",
    type=click.Choice(["selu", "relu"]),
    default="selu",
    show_default=True,
    help="selu is that of pretraining; the published code embeds with relu.",
)
@click.option(
    "--output-activation",
    type=click.Choice(["identity", "softplus", "sigmoid"]),
    default="sigmoid",
    show_default=True,
    help="Of the reconstruction.",
)
@click.option(
    "--embedding-activation",
    type=click.Choice(["identity", "relu"]),
    default="identity",
    show_default=True,
    help="Of the embedding; the published code reads it with relu.",
)
@click.option("-o", "--output", type=_PATH, required=True, help="Folder of the model.")
@click.option("--overwrite", is_flag=True, help="Replace an existing model folder.")
def command(
    checkpoint: Path,
    genes: Path,
    output: Path,
    overwrite: bool,  # noqa: FBT001 - click passes options by name
    **network: Any,
) -> None:
    """Turn CHECKPOINT, weights of the published code, into a model folder.

    The file is read for its tensors; nothing in it is run.
    """
    from episome.io import check_model_output

    check_model_output(output, overwrite=overwrite)

    from episome_ssl.model import SSLEncoder

    model = SSLEncoder.from_reference_checkpoint(checkpoint, genes=genes, **network)
    model.save(output, overwrite=overwrite)
    click.echo(
        f"{output}: {len(model.features):,} genes, {model.module.config['n_latent']} dimensions"
    )
