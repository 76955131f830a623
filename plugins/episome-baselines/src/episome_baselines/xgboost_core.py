"""The core of `XGBoostPCA`: loadings as arrays, the trees as xgboost's own JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from episome.errors import ModelFileError
from episome.inference import ArrayCore
from episome_baselines.components import project
from episome_baselines.extras import require_extra

if TYPE_CHECKING:
    import xgboost
    from numpy.typing import NDArray

#: File of the trees in a model folder.
TREES = "xgboost.json"


class XGBoostPCACore(ArrayCore):
    """Loadings of chosen genes, and boosted trees on the components."""

    array_names = ("genes", "mean", "loadings")
    needs = ("xgboost",)
    booster: xgboost.Booster

    def prepare(self) -> None:
        """Check the shapes."""
        n_genes = len(self.require("genes", None))
        self.require("loadings", None, n_genes)
        self.require("mean", n_genes)

    def components(self, values: object) -> NDArray[np.float32]:
        """Project sparse rows over all model genes, CSR (B, n_features), on the components."""
        a = self.arrays
        return project(values[:, a["genes"]], a["mean"], a["loadings"])

    def forward(self, batch: Mapping[str, object]) -> dict[str, NDArray[np.floating]]:
        """Return the sums of the trees as logits: their softmax is xgboost's probability."""
        latent = self.components(batch["X"])
        n_classes = int(self.config["n_classes"])
        if len(latent) == 0:
            return {"logits": np.empty((0, n_classes), dtype=np.float32)}
        margins = self.booster.inplace_predict(latent, predict_type="margin")
        return {"logits": margins.reshape(len(latent), n_classes)}

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays, and the file of the trees as bytes."""
        return {**super().state_dict(), TREES: np.frombuffer(self._trees(), dtype=np.uint8)}

    def state(self) -> tuple[dict[str, NDArray[np.generic]], dict[str, bytes]]:
        """Return the arrays, and the trees as a file."""
        arrays, _ = super().state()
        return arrays, {TREES: self._trees()}

    def _trees(self) -> bytes:
        return bytes(self.booster.save_raw(raw_format="json"))

    def load_state(
        self, tensors: Mapping[str, NDArray[np.generic]], files: Mapping[str, bytes] | None = None
    ) -> None:
        """Fill the core strictly; without files the trees stay what they are.

        Raises
        ------
        ModelFileError
            Arrays or trees are missing, unreadable or of another model (E-M06).
        MissingDependencyError
            xgboost is not installed (E-P02).
        """
        super().load_state(tensors)
        if files is None:
            return
        if TREES not in files:
            why = "there is no such file in the folder"
            raise _other_trees(why)
        self.booster = read_trees(files[TREES])
        width = self.arrays["loadings"].shape[0]
        found = self.booster.num_features(), _n_classes(self.booster)
        if found != (width, int(self.config["n_classes"])):
            why = f"they read {found[0]} components and know {found[1]} classes"
            raise _other_trees(why)


def read_trees(data: bytes) -> xgboost.Booster:
    """Read xgboost's JSON; nothing in it is executed.

    Parameters
    ----------
    data
        Content of the file.

    Raises
    ------
    ModelFileError
        It cannot be read (E-M06).
    MissingDependencyError
        xgboost is not installed (E-P02).
    """
    require_extra("xgboost", why="the trees of XGBoostPCA are run by it")
    import xgboost

    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(data))
    except xgboost.core.XGBoostError as error:
        raise _other_trees(str(error).strip().splitlines()[-1][:200]) from error
    booster.set_param({"nthread": n_threads(), "verbosity": 0})
    return booster


def n_threads() -> int:
    """Return the threads that torch uses: xgboost itself looks at no setting of the process."""
    import torch

    return int(torch.get_num_threads())


def _n_classes(booster: xgboost.Booster) -> int:
    import json

    config: dict[str, Any] = json.loads(booster.save_config())
    return int(config["learner"]["learner_model_param"]["num_class"])


def _other_trees(why: str) -> ModelFileError:
    return ModelFileError(
        "E-M06",
        "the trees do not fit the model",
        where=f"files/{TREES}",
        why=why,
        fix="train the model again, or install the version that wrote it",
    )
