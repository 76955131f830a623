"""What the composition of training data does, for episome."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from episome_datamix.analysis import compare_mixes, coverage_table, matrix, results
    from episome_datamix.comparison import PlanComparison, compare_plans
    from episome_datamix.coverage import Coverage, CoverageOf
    from episome_datamix.latents import (
        LatentComparison,
        compare_latents,
        compare_loadings,
        factor_table,
    )
    from episome_datamix.model import LDVAE
    from episome_datamix.plan import QC, Corpus, Mix, Plan
    from episome_datamix.runner import MixResult, run, runs_of, studies_of
    from episome_datamix.scores import (
        Reconstruction,
        cell_correlations,
        reconstruction_r2,
        residuals,
    )
    from episome_datamix.sizes import SizeCurve, size_curves

__all__ = [
    "Corpus",
    "Coverage",
    "CoverageOf",
    "LDVAE",
    "LatentComparison",
    "Mix",
    "MixResult",
    "Plan",
    "PlanComparison",
    "QC",
    "Reconstruction",
    "SizeCurve",
    "cell_correlations",
    "compare_latents",
    "compare_loadings",
    "compare_mixes",
    "compare_plans",
    "coverage_table",
    "factor_table",
    "matrix",
    "reconstruction_r2",
    "residuals",
    "results",
    "run",
    "runs_of",
    "size_curves",
    "studies_of",
]

_HOME = {
    "Corpus": "plan",
    "Coverage": "coverage",
    "CoverageOf": "coverage",
    "LDVAE": "model",
    "LatentComparison": "latents",
    "Mix": "plan",
    "MixResult": "runner",
    "Plan": "plan",
    "PlanComparison": "comparison",
    "QC": "plan",
    "Reconstruction": "scores",
    "SizeCurve": "sizes",
    "cell_correlations": "scores",
    "compare_latents": "latents",
    "compare_loadings": "latents",
    "compare_mixes": "analysis",
    "compare_plans": "comparison",
    "coverage_table": "analysis",
    "factor_table": "latents",
    "matrix": "analysis",
    "reconstruction_r2": "scores",
    "residuals": "scores",
    "results": "analysis",
    "run": "runner",
    "runs_of": "runner",
    "size_curves": "sizes",
    "studies_of": "runner",
}


def __getattr__(name: str) -> object:
    """Import a name on first use."""
    if name not in _HOME:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
