"""What this plugin adds to the host: names and targets only, nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome.plugins import (
    ConverterSpec,
    DatasetSpec,
    ModelSpec,
    SourceSpec,
    StudySpec,
    TaskSpec,
    hookimpl,
)

if TYPE_CHECKING:
    import click

EPISOME_API = (1, 0)


@hookimpl
def episome_register_models() -> tuple[ModelSpec, ...]:
    """Return the model of this plugin."""
    return (
        ModelSpec(
            name="ldvae",
            target="episome_datamix.model:LDVAE",
            core="episome_datamix.core:LDVAECore",
            summary="Autoencoder of counts with a linear decoder: loadings of every gene",
            reference="10.1093/bioinformatics/btaa169",
            capabilities=("embedding", "reconstruction"),
        ),
    )


@hookimpl
def episome_register_sources() -> tuple[SourceSpec, ...]:
    """Return the source that reads mixes of a plan."""
    return (
        SourceSpec(
            name="mixes",
            target="episome_datamix.mixing:cells_at",
            summary="Cells of a mix of a plan, drawn by its seed",
            schemes=("mix:",),
        ),
    )


@hookimpl
def episome_register_tasks() -> tuple[TaskSpec, ...]:
    """Return the tasks of mixes."""
    coverage = ("coverage_cells", "coverage_types", "coverage_genes")
    return (
        TaskSpec(
            name="mix-reconstruction",
            target="episome_datamix.tasks:MixReconstructionTask",
            summary="Reconstruction of cells that no corpus of a mix holds",
            capability="reconstruction",
            metrics=("r2", "r", "rank_r", "constant", "genes", "n_cells", *coverage),
        ),
        TaskSpec(
            name="mix-annotation",
            target="episome_datamix.tasks:MixAnnotationTask",
            summary="Types of cells that no corpus of a mix holds",
            capability="annotation",
            metrics=("f1_macro", "f1_macro_known", "accuracy", "n_cells", *coverage),
        ),
    )


@hookimpl
def episome_register_studies() -> tuple[StudySpec, ...]:
    """Return the study of the paper."""
    return (
        StudySpec(
            name="datamix",
            target="episome_datamix.studies:datamix",
            summary="What mixes of training data give, near and far from them, by two models",
            reference="10.1101/2025.02.19.639127",
            tasks=("mix-reconstruction",),
            models=("ldvae", "scvi"),
        ),
    )


@hookimpl
def episome_cli(app: click.Group) -> None:
    """Add ``episome mix``."""
    from episome_datamix.cli import command

    app.add_command(command)


@hookimpl
def episome_register_datasets() -> tuple[DatasetSpec, ...]:
    """Return the simulated pools of the smallest scale."""
    return tuple(
        DatasetSpec(
            name=f"simulated-{name}",
            target=f"episome_datamix.simulated:{name}",
            kind="anndata",
            summary=f"Simulated cells of known programmes: {name}",
        )
        for name in ("near", "far", "mixed", "target")
    )


@hookimpl
def episome_register_converters() -> tuple[ConverterSpec, ...]:
    """Return the format of scvi-tools, both ways."""
    return (
        ConverterSpec(
            name="linear-scvi",
            target="episome_datamix.convert:read_scvi",
            summary="saved LinearSCVI models of scvi-tools, with their cells",
        ),
        ConverterSpec(
            name="linear-scvi-export",
            target="episome_datamix.convert:write_scvi",
            summary="LDVAE as a saved LinearSCVI model of scvi-tools, with its cells",
            direction="export",
        ),
    )
