"""A small network under the host's contract: quick to train, and good on simulated cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from episome.data import simulate_cells
from episome.models import ClassifierModel
from episome.nn import TorchCore

if TYPE_CHECKING:
    from anndata import AnnData


class ToyCore(TorchCore):
    """Linear, batch norm, linear."""

    def __init__(self, n_features: int, n_classes: int, *, width: int = 16) -> None:
        super().__init__()
        self.config = {"n_features": n_features, "n_classes": n_classes, "width": width}
        self.body = nn.Sequential(
            nn.Linear(n_features, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1)
        )
        self.head = nn.Linear(width, n_classes)

    def forward(self, batch: dict[str, object]) -> dict[str, torch.Tensor]:
        latent = self.body(batch["X"])
        return {"logits": self.head(latent), "latent": latent}


class ToyModel(ClassifierModel):
    """Annotator with a :class:`ToyCore`."""

    _core_cls = ToyCore

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, object] | None = None,
        *,
        width: int = 16,
    ) -> None:
        super().__init__(adata, registry)
        self._finish_init(self._build_core(width=width), locals(), f"ToyModel of width {width}")

    def _training_defaults(self) -> dict[str, object]:
        return {"max_epochs": 12, "batch_size": 32, "plan_kwargs": {"lr": 0.02}}


class OtherModel(ToyModel):
    """The same under another name."""


def cells(n_cells: int = 200, seed: int = 0, **kwargs: object) -> AnnData:
    """Cells of three types and five donors."""
    options = {"n_types": 3, "n_donors": 5, "n_genes": 40, **kwargs}
    return simulate_cells(n_cells, seed=seed, **options)


def query(n_cells: int = 60, seed: int = 1, **kwargs: object) -> AnnData:
    """Cells of the same types and genes as :func:`cells`; other cells."""
    both = cells(n_cells + 200, seed=0, **kwargs)
    return both[200:].copy()


def trained(adata: AnnData | None = None, **train: object) -> ToyModel:
    """Set up, build and train."""
    adata = cells() if adata is None else adata
    if not ToyModel._is_set_up(adata):
        ToyModel.setup_anndata(adata, labels_key="cell_type")
    model = ToyModel(adata)
    model.train(**{"accelerator": "cpu", **train})
    return model
