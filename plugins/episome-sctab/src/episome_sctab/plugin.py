"""What this plugin adds to the host: names and targets only, nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome.plugins import ConverterSpec, ModelSpec, StudySpec, TaskSpec, hookimpl

if TYPE_CHECKING:
    import click

EPISOME_API = (1, 0)


@hookimpl
def episome_register_models() -> tuple[ModelSpec, ...]:
    """Return the models of this plugin."""
    return (
        ModelSpec(
            name="sctab",
            target="episome_sctab.model:SCTab",
            core="episome_sctab.core:SCTabCore",
            summary="TabNet classifier for cell types, one step of sparse gene selection",
            reference="10.1038/s41467-024-51059-5",
            capabilities=("annotation", "embedding", "explanation"),
            tags=("demo",),
        ),
    )


@hookimpl
def episome_register_tasks() -> tuple[TaskSpec, ...]:
    """Return what the study asks besides the tasks of the host."""
    return (
        TaskSpec(
            name="donor-variance",
            target="episome_sctab.variance:DonorVarianceTask",
            summary="what donor and type explain, before and after donor augmentation",
        ),
    )


@hookimpl
def episome_register_studies() -> tuple[StudySpec, ...]:
    """Return the study of the paper."""
    return (
        StudySpec(
            name="sctab",
            target="episome_sctab.studies:sctab",
            summary="scTab against plainer models, with few and many donors, organs and members",
            reference="10.1038/s41467-024-51059-5",
            tasks=(
                "annotation",
                "ensemble",
                "label-efficiency",
                "donor-variance",
                "groups",
                "gene-panel",
            ),
            models=("sctab", "mlp", "linear", "celltypist", "xgboost"),
        ),
    )


@hookimpl
def episome_cli(app: click.Group) -> None:
    """Add ``episome sctab-import``."""
    from episome_sctab.cli import command

    app.add_command(command)


@hookimpl
def episome_register_converters() -> tuple[ConverterSpec, ...]:
    """Return the format of published weights."""
    return (
        ConverterSpec(
            name="sctab",
            target="episome_sctab.model:SCTab.from_reference_checkpoint",
            summary="checkpoints of the published code",
        ),
    )
