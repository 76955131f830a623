"""`MLPClassifier`: a plain network of dense layers, as in the scTab study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from episome.models import ClassifierModel
from episome.train import ONTOLOGY_MONITOR
from episome_baselines.neural_cores import MLPClassifierCore
from episome_baselines.neural_presets import (
    PAPER_MLP,
    SMALL_MLP,
    paper_training,
    preset_name,
    small_training,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from episome.models import TuningSpace


class MLPClassifier(ClassifierModel):
    """Blocks of a linear layer, batch norm, SiLU and dropout, and a softmax.

    Parameters
    ----------
    adata, registry
        As for every model.
    preset
        ``"paper"``: eight blocks of 128 and the published schedule, made for millions of cells;
        its authors train it with ``train(augment="donor")``. ``"small"``: chosen here for
        references of hundreds to tens of thousands of cells. ``"auto"``: by the number of training
        cells.
    n_hidden, n_layers
        Width and number of the blocks; ``None``: the preset's, here and below.
    dropout_rate
        Behind every block.
    n_top_genes
        Only so many of the most variable training genes enter; 0: all.
    input_dropout
        Share of the expressed genes of a cell that are hidden in training.

    References
    ----------
    Fischer et al., Nature Communications 15, 6611 (2024).
    """

    _core_cls = MLPClassifierCore

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
        n_hidden: int | None = None,
        n_layers: int | None = None,
        dropout_rate: float | None = None,
        n_top_genes: int | None = None,
        input_dropout: float | None = None,
    ) -> None:
        init_locals = dict(locals())
        super().__init__(adata, registry)
        self.preset = preset_name(preset, self.summary_stats.n_cells)
        values = PAPER_MLP if self.preset == "paper" else SMALL_MLP
        given = {k: init_locals[k] for k in values if init_locals[k] is not None}
        core = self._build_core(**{**values, **given})
        sizes = f"{core.config['n_layers']} x {core.config['n_hidden']}"
        summary = f"MLPClassifier ({self.preset}, {sizes}) of {len(self.labels)} classes"
        self._finish_init(core, init_locals, summary)

    def _training_defaults(self) -> dict[str, object]:
        if self.preset == "small":
            n_cells = self.summary_stats.n_cells
            return small_training(n_cells, batch_size=128, lr=1e-2, weight_decay=0.05)
        defaults = paper_training(lr=2e-3, weight_decay=0.05)
        if self.class_hierarchy() is not None:
            defaults["early_stopping_monitor"] = ONTOLOGY_MONITOR
        return defaults
