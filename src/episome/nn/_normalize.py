"""Normalisation and densifying on the device: sparse until there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from episome.nn._csr import CSRParts

if TYPE_CHECKING:
    from scipy import sparse

__all__ = ["host_batch", "log_normalize", "normalized_batch", "with_format"]


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
    scaled = cells.values * factor.to(cells.values.dtype)[cells.rows()]
    return cells._replace(values=torch.log1p(scaled))


def normalized_batch(
    batch: dict[str, Any], *, target_sum: float, n_features: int, input_format: str = "dense"
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
    """
    cells = batch["X"]
    if "size_factor" in batch:
        cells = log_normalize(cells, batch["size_factor"], target_sum)
    return {**batch, "X": with_format(cells, "csr", input_format, n_features=n_features)}


def with_format(cells: Any, given: str, wanted: str, *, n_features: int) -> Any:
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
    """
    if given == wanted:
        return cells
    return _dense(cells, n_features) if wanted == "dense" else _scipy(cells, n_features)


def _dense(cells: CSRParts, n_features: int) -> torch.Tensor:
    # Stored entries are unique, so a plain scatter does; accumulating would be slower.
    out = cells.values.new_zeros(cells.n_rows * n_features)
    out[cells.rows() * n_features + cells.indices] = cells.values
    return out.view(cells.n_rows, n_features)


def _scipy(cells: CSRParts, n_features: int) -> sparse.csr_matrix:
    from scipy import sparse

    indptr, indices, values = cells.numpy()
    return sparse.csr_matrix((values, indices, indptr), shape=(cells.n_rows, n_features))
