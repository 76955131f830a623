"""Pictures; every function takes ``ax=`` and returns it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome._lazy import lazy_names

if TYPE_CHECKING:
    from episome.pl._calibration import reliability, risk_coverage
    from episome.pl._colours import COLOURS, colours
    from episome.pl._confusion import confusion
    from episome.pl._curves import scaling_curves
    from episome.pl._embedding import embedding, map_of
    from episome.pl._flows import composition, sankey
    from episome.pl._genes import dotplot, gene_importance
    from episome.pl._heatmap import heatmap
    from episome.pl._histogram import histogram
    from episome.pl._scores import audit_map, f1_abundance, predicted_true
    from episome.pl._training import shift, training_curves

_HOME = {
    "COLOURS": "_colours",
    "audit_map": "_scores",
    "colours": "_colours",
    "composition": "_flows",
    "confusion": "_confusion",
    "dotplot": "_genes",
    "embedding": "_embedding",
    "f1_abundance": "_scores",
    "gene_importance": "_genes",
    "heatmap": "_heatmap",
    "histogram": "_histogram",
    "map_of": "_embedding",
    "predicted_true": "_scores",
    "reliability": "_calibration",
    "risk_coverage": "_calibration",
    "sankey": "_flows",
    "scaling_curves": "_curves",
    "shift": "_training",
    "training_curves": "_training",
}
__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
