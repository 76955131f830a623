"""What the composition of training data does, for episome."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from episome_datamix.advisor import Advice, AdviceCheck, advise, check_advice
    from episome_datamix.analysis import compare_mixes, coverage_table, matrix, results
    from episome_datamix.comparison import PlanComparison, compare_plans
    from episome_datamix.corpora import corpus_statistics
    from episome_datamix.coverage import Coverage, CoverageOf
    from episome_datamix.latents import (
        LatentComparison,
        compare_latents,
        compare_loadings,
        factor_plot,
        factor_table,
        top_loadings,
    )
    from episome_datamix.mixture import MixtureRegression
    from episome_datamix.model import LDVAE
    from episome_datamix.plan import QC, Corpus, Mix, Plan
    from episome_datamix.runner import MixResult, run, runs_of, study_of
    from episome_datamix.scores import (
        Reconstruction,
        cell_correlations,
        reconstruction_r2,
        residuals,
    )
    from episome_datamix.sections import advice_report, mix_report
    from episome_datamix.sizes import SizeCurve, size_curves

__all__ = [
    "Advice",
    "AdviceCheck",
    "Corpus",
    "Coverage",
    "CoverageOf",
    "LDVAE",
    "LatentComparison",
    "Mix",
    "MixResult",
    "MixtureRegression",
    "Plan",
    "PlanComparison",
    "QC",
    "Reconstruction",
    "SizeCurve",
    "advice_report",
    "advise",
    "cell_correlations",
    "check_advice",
    "compare_latents",
    "compare_loadings",
    "compare_mixes",
    "compare_plans",
    "corpus_statistics",
    "coverage_table",
    "factor_plot",
    "factor_table",
    "matrix",
    "mix_report",
    "reconstruction_r2",
    "residuals",
    "results",
    "run",
    "runs_of",
    "size_curves",
    "study_of",
    "top_loadings",
]

_HOME = {
    "Advice": "advisor",
    "AdviceCheck": "advisor",
    "Corpus": "plan",
    "Coverage": "coverage",
    "CoverageOf": "coverage",
    "LDVAE": "model",
    "LatentComparison": "latents",
    "Mix": "plan",
    "MixResult": "runner",
    "MixtureRegression": "mixture",
    "Plan": "plan",
    "PlanComparison": "comparison",
    "QC": "plan",
    "Reconstruction": "scores",
    "SizeCurve": "sizes",
    "advice_report": "sections",
    "advise": "advisor",
    "cell_correlations": "scores",
    "check_advice": "advisor",
    "compare_latents": "latents",
    "compare_loadings": "latents",
    "compare_mixes": "analysis",
    "compare_plans": "comparison",
    "corpus_statistics": "corpora",
    "coverage_table": "analysis",
    "factor_plot": "latents",
    "factor_table": "latents",
    "matrix": "analysis",
    "mix_report": "sections",
    "reconstruction_r2": "scores",
    "residuals": "scores",
    "results": "analysis",
    "run": "runner",
    "runs_of": "runner",
    "size_curves": "sizes",
    "study_of": "runner",
    "top_loadings": "latents",
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
