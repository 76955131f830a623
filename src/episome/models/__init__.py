"""Models: the bases, and every installed model by its class name, imported when it is used.

``from episome.models import SCTab`` finds ``SCTab`` through the plugin manager.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from episome.models._annotation import AnnotationMixin
    from episome.models._arguments import as_rows
    from episome.models._array import ArrayModel, TrainingCells
    from episome.models._array_classifier import ArrayClassifierModel
    from episome.models._audit import Audit, AuditPlan, audit, audit_plan
    from episome.models._base import EpisomeModel
    from episome.models._batches import (
        BatchField,
        CountsWithBatches,
        add_batches,
        batch_codes,
        batch_names,
        only_counts,
        require_batches,
        require_counts,
    )
    from episome.models._capabilities import (
        CAPABILITIES,
        SupportsAnnotation,
        SupportsEmbedding,
        SupportsExplanation,
        SupportsReconstruction,
        SupportsTranslation,
    )
    from episome.models._card import CardFacts, CardStatements, card_text
    from episome.models._classifier import ClassifierModel
    from episome.models._deletion import DeletionTest, deletion_test
    from episome.models._distil import Distilled, annotator_spec, distil
    from episome.models._embedding import EmbeddingMixin
    from episome.models._enrichment import enrichment
    from episome.models._ensemble import Ensemble
    from episome.models._explanation import ExplanationMixin
    from episome.models._gene_tables import agreement
    from episome.models._inert import inert_classes, inert_dtype, number_from_bytes
    from episome.models._network import NetworkModel
    from episome.models._optional_labels import OptionalLabels
    from episome.models._parts import (
        EncoderPart,
        EncoderReport,
        filled_by_gene,
        gene_places,
        require_known_genes,
    )
    from episome.models._reconstruction import ReconstructionMixin, decoding_into
    from episome.models._reference import ReferenceWeights
    from episome.models._registry import registry_from_parts
    from episome.models._seen import digests_of_training, donor_digests, known_share, shared_donors
    from episome.models._training import (
        checked_splitter,
        knowing_what_was_measured,
        normalized_rows,
    )
    from episome.models._transfer import LabelTransfer, label_transfer
    from episome.models._translation import TranslationMixin
    from episome.models._tuning import Between, TuningSpace
    from episome.models._warm_start import SeenDonorsMixin, WarmStartMixin
    from episome.models._weights_file import (
        WeightsContent,
        WeightsFile,
        require_finite_weights,
    )
    from episome.models._without_module import WithoutModule

_HOME = {
    "AnnotationMixin": "_annotation",
    "ArrayClassifierModel": "_array_classifier",
    "ArrayModel": "_array",
    "Audit": "_audit",
    "AuditPlan": "_audit",
    "BatchField": "_batches",
    "CountsWithBatches": "_batches",
    "Between": "_tuning",
    "CAPABILITIES": "_capabilities",
    "DeletionTest": "_deletion",
    "Distilled": "_distil",
    "EmbeddingMixin": "_embedding",
    "NetworkModel": "_network",
    "OptionalLabels": "_optional_labels",
    "checked_splitter": "_training",
    "ReconstructionMixin": "_reconstruction",
    "ReferenceWeights": "_reference",
    "SeenDonorsMixin": "_warm_start",
    "SupportsAnnotation": "_capabilities",
    "SupportsEmbedding": "_capabilities",
    "SupportsExplanation": "_capabilities",
    "SupportsReconstruction": "_capabilities",
    "SupportsTranslation": "_capabilities",
    "TranslationMixin": "_translation",
    "TuningSpace": "_tuning",
    "CardFacts": "_card",
    "CardStatements": "_card",
    "ClassifierModel": "_classifier",
    "card_text": "_card",
    "Ensemble": "_ensemble",
    "EpisomeModel": "_base",
    "known_share": "_seen",
    "label_transfer": "_transfer",
    "LabelTransfer": "_transfer",
    "shared_donors": "_seen",
    "require_known_genes": "_parts",
    "gene_places": "_parts",
    "filled_by_gene": "_parts",
    "donor_digests": "_seen",
    "EncoderReport": "_parts",
    "EncoderPart": "_parts",
    "ExplanationMixin": "_explanation",
    "TrainingCells": "_array",
    "WarmStartMixin": "_warm_start",
    "WithoutModule": "_without_module",
    "WeightsContent": "_weights_file",
    "digests_of_training": "_seen",
    "WeightsFile": "_weights_file",
    "add_batches": "_batches",
    "batch_names": "_batches",
    "only_counts": "_batches",
    "require_batches": "_batches",
    "require_counts": "_batches",
    "batch_codes": "_batches",
    "agreement": "_gene_tables",
    "audit": "_audit",
    "audit_plan": "_audit",
    "annotator_spec": "_distil",
    "as_rows": "_arguments",
    "decoding_into": "_reconstruction",
    "deletion_test": "_deletion",
    "distil": "_distil",
    "enrichment": "_enrichment",
    "inert_classes": "_inert",
    "knowing_what_was_measured": "_training",
    "inert_dtype": "_inert",
    "normalized_rows": "_training",
    "number_from_bytes": "_inert",
    "registry_from_parts": "_registry",
    "require_finite_weights": "_weights_file",
}
__all__ = [*sorted(_HOME), "load"]


def load(path: str | Path, **kwargs: Any) -> EpisomeModel | Ensemble:
    """Load any folder of a model, with the class that its plugin registers, or of an ensemble.

    Parameters
    ----------
    path
        A folder that ``save`` wrote, or the name of a model in the cache.
    **kwargs
        Of ``EpisomeModel.load``.

    Raises
    ------
    ModelFileError
        See ``episome.io.read_model_folder``.
    PluginError
        The plugin that wrote it is not installed (E-P01).
    """
    from episome import plugins
    from episome.inference import folder_spec
    from episome.io import find_model, is_ensemble, read_manifest

    path = find_model(path)
    manifest = read_manifest(path)
    if is_ensemble(manifest):
        from episome.models._ensemble import Ensemble

        return Ensemble.load(path, **kwargs)
    spec = folder_spec(manifest["model"])
    model: EpisomeModel = plugins.load_class(spec).load(path, **kwargs)
    return model


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    if name.startswith("__"):
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from episome import plugins
    from episome.errors import PluginError

    try:
        return plugins.load_class(plugins.get_spec(name))
    except PluginError as error:
        raise AttributeError(str(error)) from error


def __dir__() -> list[str]:
    from episome import plugins

    classes = {spec.target.rsplit(":", 1)[1] for spec in plugins.models().values()}
    return sorted({*__all__, *classes})
