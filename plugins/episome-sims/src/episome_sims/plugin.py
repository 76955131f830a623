"""What this plugin adds to the host: names and targets only, nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome.plugins import ConverterSpec, ModelSpec, StudySpec, hookimpl

if TYPE_CHECKING:
    import click

EPISOME_API = (1, 0)


@hookimpl
def episome_register_models() -> tuple[ModelSpec, ...]:
    """Return the models of this plugin."""
    return (
        ModelSpec(
            name="sims",
            target="episome_sims.model:SIMS",
            core="episome_sims.core:SIMSCore",
            summary="TabNet classifier for cell types, several steps of sparse gene selection",
            reference="10.1016/j.xgen.2024.100581",
            capabilities=("annotation", "embedding", "explanation"),
        ),
    )


@hookimpl
def episome_register_studies() -> tuple[StudySpec, ...]:
    """Return the study of the paper."""
    return (
        StudySpec(
            name="sims",
            target="episome_sims.studies:sims",
            summary="SIMS with few cells, across donors, technologies, conditions, and new types",
            reference="10.1016/j.xgen.2024.100581",
            tasks=("annotation", "label-efficiency", "novelty"),
            models=("sims", "mlp", "celltypist"),
        ),
    )


@hookimpl
def episome_cli(app: click.Group) -> None:
    """Add ``episome sims-import``."""
    from episome_sims.cli import command

    app.add_command(command)


@hookimpl
def episome_register_converters() -> tuple[ConverterSpec, ...]:
    """Return the format of published weights."""
    return (
        ConverterSpec(
            name="sims",
            target="episome_sims.model:SIMS.from_reference_checkpoint",
            summary="checkpoints of the published SIMS",
        ),
    )
