"""The cores of the baselines: what predicts, without scvi-tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from episome.inference import ArrayCore
from episome.metrics import knn_probabilities
from episome_baselines.components import project
from episome_baselines.nearest import ApproximateIndex, wants_approximate

if TYPE_CHECKING:
    from numpy.typing import NDArray


class MajorityClassCore(ArrayCore):
    """Class frequencies."""

    array_names = ("frequencies",)

    def prepare(self) -> None:
        """Check the shape."""
        self.require("frequencies", int(self.config["n_classes"]))

    def forward(self, batch: Mapping[str, object]) -> dict[str, NDArray[np.floating]]:
        """Return the same probabilities for every cell."""
        n = batch["X"].shape[0]
        return {"probabilities": np.tile(self.arrays["frequencies"].astype(np.float32), (n, 1))}


class NearestCentroidCore(ArrayCore):
    """Unit-length class means and a temperature."""

    array_names = ("centroids", "scale")

    def prepare(self) -> None:
        """Check the shapes."""
        self.require("centroids", int(self.config["n_classes"]), int(self.config["n_features"]))
        self.require("scale", 1)

    def forward(self, batch: Mapping[str, object]) -> dict[str, NDArray[np.floating]]:
        """Return scaled cosine similarities as logits."""
        similarity = cosine(batch["X"], self.arrays["centroids"])
        return {"logits": (similarity * self.arrays["scale"][0]).astype(np.float32)}


def cosine(values: sparse.csr_matrix, centroids: NDArray[np.floating]) -> NDArray[np.floating]:
    """Cosine similarity of sparse rows to unit-length centroids; an empty row gives zeros."""
    # In double precision: a calibrated temperature may sharpen what rounding left.
    values, centroids = values.astype(np.float64), centroids.astype(np.float64)
    length = np.sqrt(np.asarray(values.multiply(values).sum(axis=1)).ravel())
    return (values @ centroids.T) / np.where(length > 0, length, 1.0)[:, None]


class NeighborsCore(ArrayCore):
    """Loadings and the training cells' components, among which neighbours are searched."""

    array_names = ("genes", "mean", "loadings", "reference")

    def prepare(self) -> None:
        """Check the shapes; an index over the reference is built at its first use."""
        n_genes = len(self.require("genes", None))
        width = self.require("loadings", None, n_genes).shape[0]
        self.require("mean", n_genes)
        self.require("reference", None, width)
        self._index: ApproximateIndex | None = None

    def index(self) -> ApproximateIndex | None:
        """Return the index over the reference; ``None`` where all distances are computed."""
        reference = self.arrays["reference"]
        if self._index is None and wants_approximate(self.config["index"], len(reference)):
            self._index = ApproximateIndex(
                reference,
                n_neighbors=int(self.config["n_neighbors"]),
                metric=self.config["metric"],
            )
        return self._index

    def index_facts(self, seed: int) -> dict[str, object]:
        """Return which index is used, and the share of the exact neighbours that it finds."""
        index = self.index()
        if index is None:
            return {"index": "exact"}
        recall = index.recall(int(self.config["n_neighbors"]), seed=seed)
        return {"index": "approximate", "recall": round(recall, 4)}

    def components(self, batch: Mapping[str, object]) -> NDArray[np.float32]:
        """Return the components of the cells of a batch."""
        a = self.arrays
        return project(batch["X"][:, a["genes"]], a["mean"], a["loadings"])


class KNNClassifierCore(NeighborsCore):
    """The same with the classes of the training cells."""

    array_names = (*NeighborsCore.array_names, "codes")

    def prepare(self) -> None:
        """Check the shapes."""
        super().prepare()
        self.require("codes", len(self.arrays["reference"]))

    def forward(self, batch: Mapping[str, object]) -> dict[str, NDArray[np.floating]]:
        """Return vote shares as probabilities and the components as latent."""
        a, latent = self.arrays, self.components(batch)
        votes = knn_probabilities(
            a["reference"],
            a["codes"],
            latent,
            n_classes=int(self.config["n_classes"]),
            n_neighbors=int(self.config["n_neighbors"]),
            weights=self.config["weights"],
            metric=self.config["metric"],
            ties="distance",
            search=self.index(),
        )
        return {"probabilities": votes, "latent": latent}


class LogisticRegressionCore(ArrayCore):
    """Coefficients of chosen genes."""

    array_names = ("genes", "coefficients", "intercept")

    def prepare(self) -> None:
        """Check the shapes."""
        n_classes = int(self.config["n_classes"])
        n_genes = len(self.require("genes", None))
        self.require("coefficients", n_classes, n_genes)
        self.require("intercept", n_classes)

    def forward(self, batch: Mapping[str, object]) -> dict[str, NDArray[np.floating]]:
        """Return the linear scores as logits."""
        a = self.arrays
        return {"logits": batch["X"][:, a["genes"]] @ a["coefficients"].T + a["intercept"]}

    attributions_hold_values = True

    def explaining(self) -> Callable[[Mapping[str, object]], sparse.csr_matrix]:
        """Return what each value adds to the call's score, less the mean over the classes."""
        between = self.contrasting()
        return lambda batch: between(batch, self.forward(batch)["logits"].argmax(axis=1), None)

    def contrasting(self) -> Callable[..., sparse.csr_matrix]:
        """Return what each value adds to the score of a class over another, or over the mean."""
        a = self.arrays
        contrast = a["coefficients"] - a["coefficients"].mean(axis=0)
        width = int(self.config["n_features"])

        def explain(
            batch: Mapping[str, object],
            classes: NDArray[np.int64],
            others: NDArray[np.int64] | None,
        ) -> sparse.csr_matrix:
            values = sparse.csr_matrix(batch["X"][:, a["genes"]])
            rows = np.repeat(np.arange(values.shape[0]), np.diff(values.indptr))
            counts = contrast[classes[rows], values.indices]
            if others is not None:
                counts = counts - contrast[others[rows], values.indices]
            shape, columns = (values.shape[0], width), a["genes"][values.indices]
            return sparse.csr_matrix((values.data * counts, columns, values.indptr), shape)

        return explain
