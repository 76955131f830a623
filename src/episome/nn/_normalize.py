"""Normalisation and densifying on the device: sparse until there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from episome.nn import _csr_kernels as kernels
from episome.nn._csr import CSRParts
from episome.nn._numba import numba_enabled, run_rows

if TYPE_CHECKING:
    from scipy import sparse

__all__ = ["DenseBuffers", "host_batch", "log_normalize", "normalized_batch", "with_format"]


class DenseBuffers:
    """Memory of dense batches on the host, written anew for every batch.

    New memory costs more than what is written to it: the system hands it out page by page. A batch
    of a buffer is good until the next one is made, which a training step and a prediction outlive.
    """

    def __init__(self) -> None:
        self._held: dict[str, torch.Tensor] = {}

    def take(self, name: str, n_rows: int, n_columns: int) -> torch.Tensor:
        """Return memory for (n_rows, n_columns) of float32, with anything in it.

        Parameters
        ----------
        name
            What it is for; two batches of one name are the same memory.
        n_rows, n_columns
            Shape.
        """
        wanted = n_rows * n_columns
        if name not in self._held or len(self._held[name]) < wanted:
            self._held[name] = torch.from_numpy(np.empty(wanted, dtype=np.float32))
        return self._held[name][:wanted].view(n_rows, n_columns)

    def holds(self, values: np.ndarray[Any, Any]) -> bool:
        """Whether an array lies in the memory of a buffer."""
        return any(np.may_share_memory(values, held.numpy()) for held in self._held.values())


def host_batch(batch: dict[str, Any]) -> dict[str, Any]:
    """Turn a batch of the loader (scipy CSR, numpy vectors) into tensors.

    Values share memory with the batch; CSR becomes :class:`CSRParts` of int64 pointers and int32
    columns.
    """
    return {k: _parts(v) if hasattr(v, "indptr") else torch.as_tensor(v) for k, v in batch.items()}


def _parts(block: sparse.csr_matrix) -> CSRParts:
    return CSRParts(
        torch.as_tensor(block.indptr).to(torch.int64),
        torch.as_tensor(block.indices).to(torch.int32),
        torch.as_tensor(block.data),
    )


def log_normalize(cells: CSRParts, library: torch.Tensor, target_sum: float) -> CSRParts:
    """Return ``log1p(target_sum * x / library)`` at the stored values; zeros stay zero.

    Parameters
    ----------
    cells
        Counts, (B, G).
    library
        Library size of each cell (B,); 0 is taken as 1, so empty cells stay empty.
    target_sum
        Library size after scaling.
    """
    factor = target_sum / torch.where(library > 0, library, torch.ones_like(library))
    factor = factor.to(cells.values.dtype)
    if not _compiled(cells):
        return cells._replace(values=torch.log1p(cells.values * factor[cells.rows()]))
    indptr, _, values = cells.numpy()
    scaled = np.empty_like(values)
    args = (indptr, values, factor.numpy(), scaled)
    run_rows(kernels.scale_rows, cells.n_rows, *args, work=len(values))
    return cells._replace(values=torch.from_numpy(scaled).log1p_())


def _compiled(cells: CSRParts) -> bool:
    """Whether kernels may work on these cells: on the host, and nobody differentiates."""
    here = cells.values.device.type == "cpu" and not cells.values.requires_grad
    return here and numba_enabled()


def normalized_batch(
    batch: dict[str, Any],
    *,
    target_sum: float,
    n_features: int,
    input_format: str = "dense",
    buffers: DenseBuffers | None = None,
) -> dict[str, Any]:
    """Normalise ``"X"`` of a batch where it is, and give it the form that the core reads.

    Parameters
    ----------
    batch
        From :func:`host_batch`, on any device; ``"size_factor"`` is there when values are counts.
    target_sum
        Library size after scaling.
    n_features
        Genes of the model.
    input_format
        ``"dense"``: (B, G) tensor; ``"csr"``: :class:`CSRParts`; ``"scipy"``: scipy CSR on the
        host.
    buffers
        Where a dense batch on the host may lie until the next one is made.
    """
    cells = batch["X"]
    if "size_factor" in batch:
        cells = log_normalize(cells, batch["size_factor"], target_sum)
    ready = with_format(cells, "csr", input_format, n_features=n_features, buffers=buffers)
    return {**batch, "X": ready}


def with_format(
    cells: Any,
    given: str,
    wanted: str,
    *,
    n_features: int,
    buffers: DenseBuffers | None = None,
    name: str = "X",
) -> Any:
    """Return cells in another form.

    Parameters
    ----------
    cells
        In the form ``given``; only ``"csr"`` can become another.
    given, wanted
        ``"dense"``: (B, G) tensor; ``"csr"``: :class:`CSRParts`; ``"scipy"``: scipy CSR on the
        host.
    n_features
        Genes of the model.
    buffers, name
        Where dense values on the host may lie until the next of the same name are made.
    """
    if given == wanted:
        return cells
    if wanted != "dense":
        return _scipy(cells, n_features)
    if not _compiled(cells) or cells.values.dtype != torch.float32:
        return cells.to_dense(n_features)
    # numpy asks for large pages, which torch does not: ten times fewer of them are touched.
    out = (
        torch.from_numpy(np.empty((cells.n_rows, n_features), dtype=np.float32))
        if buffers is None
        else buffers.take(name, cells.n_rows, n_features)
    )
    run_rows(kernels.scatter_rows, cells.n_rows, *cells.numpy(), out.numpy(), work=out.numel())
    return out


def _scipy(cells: CSRParts, n_features: int) -> sparse.csr_matrix:
    from scipy import sparse

    indptr, indices, values = cells.numpy()
    return sparse.csr_matrix((values, indices, indptr), shape=(cells.n_rows, n_features))
