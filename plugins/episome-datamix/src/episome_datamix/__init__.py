"""What the composition of training data does, for episome."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome._lazy import lazy_names

if TYPE_CHECKING:
    from episome_datamix.model import LDVAE
    from episome_datamix.scores import (
        Reconstruction,
        cell_correlations,
        rank_correlations,
        reconstruction_r2,
        residuals,
    )

_HOME = {
    "LDVAE": "model",
    "Reconstruction": "scores",
    "cell_correlations": "scores",
    "rank_correlations": "scores",
    "reconstruction_r2": "scores",
    "residuals": "scores",
}
__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
