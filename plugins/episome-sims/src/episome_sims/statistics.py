"""What a core learns of the values of training cells before it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from episome.data import variable_genes
from episome.nn import host_batch, normalized_batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.train import CellDataModule
    from episome_sims.core import SIMSCore

CELLS_AT_A_TIME = 2048


def normalised_blocks(
    data: CellDataModule, rows: NDArray[np.int64]
) -> Iterator[sparse.csr_matrix]:
    """Yield the normalised values of chosen rows, CSR, some thousand cells at a time."""
    for batch in data.loader(rows, batch_size=CELLS_AT_A_TIME):
        ready = normalized_batch(
            host_batch(batch),
            target_sum=data.rule.target_sum,
            n_features=data.alignment.n_features,
            input_format="scipy",
        )
        yield ready["X"]


def mean_and_deviation(
    data: CellDataModule, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean and the standard deviation of every gene over chosen rows, (G,) each."""
    n_genes = data.alignment.n_features
    total, squares = np.zeros(n_genes), np.zeros(n_genes)
    for block in normalised_blocks(data, rows):
        # Squares in float32 would leave nothing of a small variance beside a large mean.
        exact = block.astype(np.float64)
        total += np.asarray(exact.sum(axis=0)).ravel()
        squares += np.asarray(exact.power(2).sum(axis=0)).ravel()
    mean = total / len(rows)
    variance = squares / len(rows) - mean**2
    # What rounding leaves of a gene that does not vary is no variance.
    return mean, np.sqrt(np.where(variance > 1e-12 * (1 + mean**2), variance, 0.0))


def learn_genes(core: SIMSCore, data: CellDataModule, rows: NDArray[np.int64]) -> None:
    """Choose the most variable genes, where the core wants only some."""
    n_top = core.config["n_top_genes"]
    if n_top is not None:
        values = sparse.vstack(list(normalised_blocks(data, rows)), format="csr")
        core.select_genes(variable_genes(values, int(n_top)))


def learn_scale(core: SIMSCore, data: CellDataModule, rows: NDArray[np.int64]) -> None:
    """Keep mean and deviation of training cells, where the core takes them out."""
    if core.input_scaling == "zscore_train":
        core.set_statistics(*mean_and_deviation(data, rows))
