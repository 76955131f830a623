"""`MajorityClass`: the frequencies of the training labels for every cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from episome.models import ArrayClassifierModel, TrainingCells
from episome_baselines.cores import MajorityClassCore

if TYPE_CHECKING:
    from anndata import AnnData


class MajorityClass(ArrayClassifierModel):
    """Call every cell the commonest training class: the floor under every table.

    Parameters
    ----------
    adata, registry
        As for every model.
    """

    _core_cls = MajorityClassCore

    def __init__(
        self, adata: AnnData | None = None, registry: dict[str, object] | None = None
    ) -> None:
        super().__init__(adata, registry)
        self._finish_init(
            self._build_core(), locals(), f"MajorityClass of {len(self.labels)} classes"
        )

    def _fit_core(self, cells: TrainingCells) -> dict[str, object]:
        counts = np.bincount(cells.codes, minlength=cells.n_classes)
        self.module.fill(frequencies=(counts / counts.sum()).astype(np.float32))
        return {}
