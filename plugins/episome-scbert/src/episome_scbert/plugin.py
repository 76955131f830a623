"""What this plugin adds to the host: names and targets only, nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome.plugins import ConverterSpec, ModelSpec, StudySpec, TaskSpec, hookimpl

if TYPE_CHECKING:
    import click

EPISOME_API = (1, 0)

_PAPER = "10.1038/s42256-022-00534-z"


@hookimpl
def episome_register_models() -> tuple[ModelSpec, ...]:
    """Return the models of this plugin."""
    return (
        ModelSpec(
            name="scbert",
            target="episome_scbert.model:SCBERT",
            core="episome_scbert.core:SCBERTCore",
            summary="Transformer over binned expression, pretrained by hidden genes",
            reference=_PAPER,
            capabilities=(
                "annotation",
                "embedding",
                "explanation",
                "reconstruction",
                "pretraining",
            ),
        ),
    )


@hookimpl
def episome_register_tasks() -> tuple[TaskSpec, ...]:
    """Return what the study asks besides the tasks of the host."""
    return (
        TaskSpec(
            name="marker-deletion",
            target="episome_scbert.markers:MarkerDeletionTask",
            summary="types of unseen cells where a share of the known markers is not measured",
        ),
    )


@hookimpl
def episome_register_studies() -> tuple[StudySpec, ...]:
    """Return the study of the paper."""
    return (
        StudySpec(
            name="scbert",
            target="episome_scbert.studies:scbert",
            summary="scBERT beside logistic regression: studies, imbalance, few cells, new types",
            reference=_PAPER,
            tasks=(
                "annotation",
                "imbalance",
                "label-efficiency",
                "novelty",
                "marker-deletion",
            ),
            models=("scbert", "logreg", "sctab", "sims"),
        ),
    )


@hookimpl
def episome_cli(app: click.Group) -> None:
    """Add ``episome scbert-import``."""
    from episome_scbert.cli import command

    app.add_command(command)


@hookimpl
def episome_register_converters() -> tuple[ConverterSpec, ...]:
    """Return the format of published weights."""
    return (
        ConverterSpec(
            name="scbert",
            target="episome_scbert.model:SCBERT.from_reference_checkpoint",
            summary="your own checkpoints of the original scBERT",
        ),
    )
