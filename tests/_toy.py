"""A small network under the host's contract: quick to train, and good on simulated cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from episome.data import simulate_cells
from episome.models import (
    ClassifierModel,
    EmbeddingMixin,
    NetworkModel,
    ReconstructionMixin,
    TranslationMixin,
)
from episome.nn import TorchCore

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


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
    """Annotator with a :class:`ToyCore` of some ``width``."""

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


class ToyEncoderCore(TorchCore):
    """An autoencoder of one hidden layer."""

    mean_scale = "log1p"

    def __init__(self, n_features: int, *, n_latent: int = 4) -> None:
        super().__init__()
        self.config = {"n_features": n_features, "n_latent": n_latent}
        self.encoder = nn.Linear(n_features, n_latent)
        self.decoder = nn.Linear(n_latent, n_features)

    def forward(self, batch: dict[str, object]) -> dict[str, torch.Tensor]:
        latent = self.encoder(batch["X"])
        return {"latent": latent, "mean": self.decoder(latent)}

    def loss(self, batch: dict[str, object]) -> torch.Tensor:
        return ((self(batch)["mean"] - batch["X"]) ** 2).mean()


class ToyEncoder(EmbeddingMixin, ReconstructionMixin, NetworkModel):
    """Embedding of ``n_latent`` dimensions, and reconstruction, without labels."""

    capabilities = ("embedding", "reconstruction")
    _core_cls = ToyEncoderCore

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, object] | None = None,
        *,
        n_latent: int = 4,
    ) -> None:
        super().__init__(adata, registry)
        core = self._build_core(n_latent=n_latent)
        self._finish_init(core, locals(), f"ToyEncoder with n_latent={n_latent}")

    def _training_defaults(self) -> dict[str, object]:
        return {"max_epochs": 30, "batch_size": 32, "plan_kwargs": {"lr": 0.02}}


class ToyTranslatorCore(TorchCore):
    """A linear map from genes to proteins."""

    def __init__(self, n_features: int, *, n_targets: dict[str, int]) -> None:
        super().__init__()
        self.config = {"n_features": n_features, "n_targets": n_targets}
        self.map = nn.Linear(n_features, n_targets["protein"])

    def forward(self, batch: dict[str, object]) -> dict[str, torch.Tensor]:
        return {"target": self.map(batch["X"])}

    def loss(self, batch: dict[str, object]) -> dict[str, torch.Tensor]:
        error = self(batch)["target"] - torch.log1p(batch["protein"])
        return {"loss": (error**2).mean(), "absolute_error": error.abs().mean()}


class ToyTranslator(TranslationMixin, NetworkModel):
    """Proteins from RNA."""

    _core_cls = ToyTranslatorCore

    def __init__(
        self, mdata: MuData | None = None, registry: dict[str, object] | None = None
    ) -> None:
        super().__init__(mdata, registry)
        core = self._build_core(**self._target_config())
        self._finish_init(core, locals(), "ToyTranslator")

    def _compared_scale(self) -> str:
        return "log1p"

    def _training_defaults(self) -> dict[str, object]:
        return {"max_epochs": 20, "batch_size": 32, "plan_kwargs": {"lr": 0.02}}


def pairs(n_cells: int = 120, start: int = 0) -> MuData:
    """Cells with RNA and six proteins, of which every type has its own two."""
    import anndata
    import mudata
    import numpy as np
    import pandas as pd

    rna = cells(320)[start : start + n_cells].copy()
    types = rna.obs["cell_type"].astype("category").cat.codes.to_numpy()
    mean = np.where(types[:, None] == np.arange(6) % 3, 20.0, 2.0)
    counts = np.random.default_rng(start).poisson(mean).astype(np.float32)
    names = [f"CD{i}" for i in range(6)]
    protein = anndata.AnnData(
        counts, obs=pd.DataFrame(index=rna.obs_names), var=pd.DataFrame(index=names)
    )
    return mudata.MuData({"rna": rna, "prot": protein})


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
