"""Scores and their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome._lazy import lazy_names

if TYPE_CHECKING:
    from episome.metrics._bootstrap import MIN_DONORS, Interval, bootstrap, class_intervals
    from episome.metrics._bootstrap_mean import bootstrap_mean
    from episome.metrics._calibration import (
        brier_score,
        disagreement,
        error_auroc,
        expected_calibration_error,
        negative_log_likelihood,
        risk_coverage,
        uncertainty,
    )
    from episome.metrics._classification import (
        accuracy,
        balanced_accuracy,
        by_group,
        class_table,
        classification_scores,
        macro_f1,
        median_f1,
        weighted_f1,
    )
    from episome.metrics._modality import (
        ModalityScores,
        cell_scores,
        difficult_features,
        feature_scores,
        modality_scores,
    )
    from episome.metrics._neighbors import knn_mean, knn_probabilities

_HOME = {
    "MIN_DONORS": "_bootstrap",
    "Interval": "_bootstrap",
    "ModalityScores": "_modality",
    "accuracy": "_classification",
    "balanced_accuracy": "_classification",
    "bootstrap": "_bootstrap",
    "bootstrap_mean": "_bootstrap_mean",
    "brier_score": "_calibration",
    "by_group": "_classification",
    "cell_scores": "_modality",
    "class_intervals": "_bootstrap",
    "class_table": "_classification",
    "classification_scores": "_classification",
    "difficult_features": "_modality",
    "disagreement": "_calibration",
    "error_auroc": "_calibration",
    "expected_calibration_error": "_calibration",
    "feature_scores": "_modality",
    "knn_mean": "_neighbors",
    "knn_probabilities": "_neighbors",
    "macro_f1": "_classification",
    "median_f1": "_classification",
    "modality_scores": "_modality",
    "negative_log_likelihood": "_calibration",
    "risk_coverage": "_calibration",
    "uncertainty": "_calibration",
    "weighted_f1": "_classification",
}
__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
