"""Prediction without scvi-tools or Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome._lazy import lazy_names

if TYPE_CHECKING:
    from episome.inference._array_core import ArrayCore
    from episome.inference._attribution import (
        Attribution,
        ContrastingCore,
        ExplainingCore,
        attribution,
    )
    from episome.inference._calls import CALL_COLUMNS, CallLimits, calls_frame
    from episome.inference._completed import completed_calls
    from episome.inference._cores import BatchSource, Core
    from episome.inference._device import pick_device
    from episome.inference._ensemble import EnsembleCore
    from episome.inference._expected import ExpectedExpression
    from episome.inference._folders import (
        CONFIDENCE_PREFIX,
        IMPORTANCE,
        INDEX_PREFIX,
        TARGET_PREFIX,
        core_from_folder,
        folder_confidence,
        folder_features,
        folder_importance,
        folder_labels,
        folder_rule,
        folder_spec,
    )
    from episome.inference._gene_sets import GeneSetScores, read_gene_sets
    from episome.inference._importance import gene_importance, mean_importance
    from episome.inference._modality import (
        BATCH_KEY,
        PredictedModality,
        TargetFacts,
        folder_target,
        without_small,
    )
    from episome.inference._outputs import as_csr
    from episome.inference._predictor import Predictor
    from episome.inference._shift_report import ShiftReport, proportions, shift_report
    from episome.inference._vote import VOTE_COLUMNS, cluster_votes, warn_unless_clusters

_HOME = {
    "BATCH_KEY": "_modality",
    "PredictedModality": "_modality",
    "TARGET_PREFIX": "_folders",
    "TargetFacts": "_modality",
    "folder_target": "_modality",
    "CALL_COLUMNS": "_calls",
    "CONFIDENCE_PREFIX": "_folders",
    "CallLimits": "_calls",
    "GeneSetScores": "_gene_sets",
    "IMPORTANCE": "_folders",
    "INDEX_PREFIX": "_folders",
    "ArrayCore": "_array_core",
    "Attribution": "_attribution",
    "BatchSource": "_cores",
    "ContrastingCore": "_attribution",
    "Core": "_cores",
    "EnsembleCore": "_ensemble",
    "ExpectedExpression": "_expected",
    "ExplainingCore": "_attribution",
    "Predictor": "_predictor",
    "ShiftReport": "_shift_report",
    "as_csr": "_outputs",
    "VOTE_COLUMNS": "_vote",
    "attribution": "_attribution",
    "calls_frame": "_calls",
    "cluster_votes": "_vote",
    "completed_calls": "_completed",
    "core_from_folder": "_folders",
    "folder_confidence": "_folders",
    "folder_features": "_folders",
    "folder_rule": "_folders",
    "folder_importance": "_folders",
    "folder_labels": "_folders",
    "folder_spec": "_folders",
    "gene_importance": "_importance",
    "mean_importance": "_importance",
    "pick_device": "_device",
    "read_gene_sets": "_gene_sets",
    "proportions": "_shift_report",
    "shift_report": "_shift_report",
    "warn_unless_clusters": "_vote",
    "without_small": "_modality",
}
__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
