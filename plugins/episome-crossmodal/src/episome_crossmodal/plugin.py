"""What this plugin adds to the host: names and targets only, nothing heavy."""

from __future__ import annotations

from episome.plugins import ModelSpec, StudySpec, hookimpl

EPISOME_API = (1, 0)

_PAPER = "10.1038/s42256-024-00934-3"


@hookimpl
def episome_register_models() -> tuple[ModelSpec, ...]:
    """Return the model of this plugin."""
    return (
        ModelSpec(
            name="crossmodal",
            target="episome_crossmodal.model:CrossModal",
            core="episome_crossmodal.core:CrossModalCore",
            summary="Surface proteins, chromatin or another modality, from RNA alone",
            reference=_PAPER,
            capabilities=("translation", "embedding"),
            modalities=("rna", "protein", "atac"),
        ),
    )


@hookimpl
def episome_register_studies() -> tuple[StudySpec, ...]:
    """Return the study of proteins and peaks."""
    return (
        StudySpec(
            name="crossmodal",
            target="episome_crossmodal.studies:crossmodal",
            summary="Proteins and open chromatin from RNA, by one protocol, beside honest peers",
            reference=_PAPER,
            tasks=("cross-modality",),
            models=("crossmodal", "ridge", "knn-translation", "totalvi", "feature-mean"),
        ),
    )
