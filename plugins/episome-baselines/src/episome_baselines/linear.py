"""`LinearClassifier`: softmax regression trained by gradient steps, as in the scTab study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from episome.models import ClassifierModel
from episome.train import ONTOLOGY_MONITOR
from episome_baselines.neural_cores import LinearClassifierCore
from episome_baselines.neural_presets import (
    PAPER_LINEAR,
    SMALL_LINEAR,
    paper_training,
    preset_name,
    small_training,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from episome.models import TuningSpace


class LinearClassifier(ClassifierModel):
    """One linear layer and a softmax, trained by AdamW, batch by batch.

    It reads sparse batches as they are, and never holds all cells at once: for references that
    ``LogisticRegression`` is too slow for.

    Parameters
    ----------
    adata, registry
        As for every model.
    preset
        ``"paper"``: the schedule of the published "optimised linear" model, made for millions of
        cells. ``"small"``: chosen here for references of hundreds to tens of thousands of cells.
        ``"auto"``: by the number of training cells.
    n_top_genes
        Only so many of the most variable training genes enter; 0: all; ``None``: the preset's.
    input_dropout
        Share of the expressed genes of a cell that are hidden in training; ``None``: the preset's.
    center
        Learn from differences to the mean training cell; ``None``: the preset's.

    References
    ----------
    Fischer et al., Nature Communications 15, 6611 (2024).
    """

    capabilities = ("annotation", "explanation")
    _core_cls = LinearClassifierCore

    @classmethod
    def tuning_space(cls, *, has_donors: bool = False) -> TuningSpace:
        """Add the size presets; see ``EpisomeModel.tuning_space``."""
        return {"model.preset": ("small", "paper"), **super().tuning_space(has_donors=has_donors)}

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, object] | None = None,
        *,
        preset: Literal["auto", "small", "paper"] = "auto",
        n_top_genes: int | None = None,
        input_dropout: float | None = None,
        center: bool | None = None,
    ) -> None:
        init_locals = dict(locals())
        super().__init__(adata, registry)
        self.preset = preset_name(preset, self.summary_stats.n_cells)
        values = PAPER_LINEAR if self.preset == "paper" else SMALL_LINEAR
        given = {k: init_locals[k] for k in values if init_locals[k] is not None}
        core = self._build_core(**{**values, **given})
        summary = f"LinearClassifier ({self.preset}) of {len(self.labels)} classes"
        self._finish_init(core, init_locals, summary)

    def _training_defaults(self) -> dict[str, object]:
        if self.preset == "small":
            n_cells = self.summary_stats.n_cells
            return small_training(n_cells, batch_size=64, lr=3e-3, weight_decay=1.0)
        defaults = paper_training(lr=5e-4, weight_decay=0.01)
        # The published training of this model cuts no gradients.
        defaults["gradient_clip_val"] = None
        if self.class_hierarchy() is not None:
            defaults["early_stopping_monitor"] = ONTOLOGY_MONITOR
        return defaults
