"""What this plugin adds to the host: names and targets only, nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome.plugins import ConverterSpec, ModelSpec, PretextSpec, StudySpec, hookimpl

if TYPE_CHECKING:
    import click

EPISOME_API = (1, 0)

_PAPER = "10.1038/s42256-024-00934-3"


@hookimpl
def episome_register_models() -> tuple[ModelSpec, ...]:
    """Return the models of this plugin."""
    return (
        ModelSpec(
            name="ssl",
            target="episome_ssl.model:SSLEncoder",
            core="episome_ssl.core:SSLCore",
            summary="Encoder trained without labels by a pretext task, to embed and reconstruct",
            reference=_PAPER,
            capabilities=("embedding", "reconstruction", "pretraining"),
        ),
        ModelSpec(
            name="ssl-classifier",
            target="episome_ssl.classifier:SSLClassifier",
            core="episome_ssl.core:SSLClassifierCore",
            summary="Cell types by a dense network, from scratch or from a pretrained encoder",
            reference=_PAPER,
            capabilities=("annotation", "embedding", "explanation"),
        ),
        ModelSpec(
            name="ssl-reconstructor",
            target="episome_ssl.reconstructor:SSLReconstructor",
            core="episome_ssl.core:SSLReconstructorCore",
            summary="Autoencoder that is told batches, from scratch or from a pretrained encoder",
            reference=_PAPER,
            capabilities=("embedding", "reconstruction"),
        ),
    )


@hookimpl
def episome_register_pretext_tasks() -> tuple[PretextSpec, ...]:
    """Return the pretext tasks of this plugin."""
    return (
        PretextSpec(
            name="random_mask",
            target="episome_ssl.masking:RandomMaskTask",
            summary="Half of the genes of a cell are hidden at random and asked for",
            reference=_PAPER,
        ),
        PretextSpec(
            name="programme_mask",
            target="episome_ssl.masking:ProgrammeMaskTask",
            summary="Whole gene programmes are hidden and asked for",
            reference=_PAPER,
        ),
        PretextSpec(
            name="programme_to_programme",
            target="episome_ssl.masking:ProgrammeToProgrammeTask",
            summary="One programme is shown, and asked for",
            reference=_PAPER,
        ),
        PretextSpec(
            name="programme_to_tf",
            target="episome_ssl.masking:ProgrammeToTFTask",
            summary="The targets of a transcription factor are shown, and it is asked for",
            reference=_PAPER,
        ),
        PretextSpec(
            name="byol",
            target="episome_ssl.contrastive:BYOL",
            summary="One view of a cell predicts how a moving average of the network sees another",
            reference="10.48550/arXiv.2006.07733",
        ),
        PretextSpec(
            name="barlow",
            target="episome_ssl.contrastive:BarlowTwins",
            summary="Dimensions of two views of a cell agree, and are uncorrelated otherwise",
            reference="10.48550/arXiv.2103.03230",
        ),
        PretextSpec(
            name="vicreg",
            target="episome_ssl.contrastive:VICReg",
            summary="Two views agree, dimensions keep their variance and are uncorrelated",
            reference="10.48550/arXiv.2105.04906",
        ),
        PretextSpec(
            name="simclr",
            target="episome_ssl.contrastive:SimCLR",
            summary="Two views of a cell are nearer than views of other cells",
            reference="10.48550/arXiv.2002.05709",
        ),
    )


@hookimpl
def episome_register_studies() -> tuple[StudySpec, ...]:
    """Return the study of the paper."""
    return (
        StudySpec(
            name="ssl",
            target="episome_ssl.studies:ssl",
            summary="Pretext tasks against training from scratch, with few labels, on new studies",
            reference=_PAPER,
            tasks=("label-efficiency", "embedding", "reconstruction", "integration"),
            models=("ssl", "ssl-classifier", "ssl-reconstructor", "pca", "scvi"),
        ),
    )


@hookimpl
def episome_cli(app: click.Group) -> None:
    """Add ``episome ssl-import``."""
    from episome_ssl.cli import command

    app.add_command(command)


@hookimpl
def episome_register_converters() -> tuple[ConverterSpec, ...]:
    """Return the format of published weights."""
    return (
        ConverterSpec(
            name="ssl",
            target="episome_ssl.model:SSLEncoder.from_reference_checkpoint",
            summary="checkpoints of the published self-supervised networks",
        ),
    )
