"""Normalisation and densifying on the device: sparse until there."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from scipy import sparse


class CSRBatch(NamedTuple):
    """A batch of cells in compressed rows.

    ``indptr`` int64 (B + 1,), ``indices`` int64 (nnz,), ``values`` float32 (nnz,), ``n_cols`` genes.
    """

    indptr: torch.Tensor
    indices: torch.Tensor
    values: torch.Tensor
    n_cols: int

    @classmethod
    def from_scipy(cls, block: sparse.csr_matrix) -> CSRBatch:
        """Wrap a CSR block; values share memory."""
        return cls(
            torch.as_tensor(block.indptr).to(torch.int64),
            torch.as_tensor(block.indices).to(torch.int64),
            torch.as_tensor(block.data),
            int(block.shape[1]),
        )

    @property
    def n_rows(self) -> int:
        """Number of cells."""
        return len(self.indptr) - 1

    @property
    def rows(self) -> torch.Tensor:
        """Row of every stored value, int64 (nnz,)."""
        return torch.repeat_interleave(
            torch.arange(self.n_rows, device=self.indptr.device), self.indptr.diff()
        )

    def to(self, device: torch.device | str) -> CSRBatch:
        """Move to a device."""
        return CSRBatch(
            self.indptr.to(device, non_blocking=True),
            self.indices.to(device, non_blocking=True),
            self.values.to(device, non_blocking=True),
            self.n_cols,
        )

    def to_scipy(self) -> sparse.csr_matrix:
        """Return the batch as scipy CSR on the host."""
        from scipy import sparse

        parts = (self.values, self.indices, self.indptr)
        return sparse.csr_matrix(
            tuple(p.cpu().numpy() for p in parts), shape=(self.n_rows, self.n_cols)
        )

    def dense(self) -> torch.Tensor:
        """Return the dense (B, G) matrix; stored entries must be unique per cell and gene."""
        out = torch.zeros(
            self.n_rows * self.n_cols, dtype=self.values.dtype, device=self.values.device
        )
        out[self.rows * self.n_cols + self.indices] = self.values
        return out.view(self.n_rows, self.n_cols)


def log_normalize(batch: CSRBatch, library: torch.Tensor, target_sum: float) -> CSRBatch:
    """Return ``log1p(target_sum * x / library)`` at the stored values; zeros stay zero.

    Parameters
    ----------
    batch
        Counts.
    library
        Library size of each cell (B,); 0 is taken as 1, so empty cells stay empty.
    target_sum
        Library size after scaling.
    """
    factor = target_sum / torch.where(library > 0, library, torch.ones_like(library))
    values = torch.log1p(batch.values * factor.to(batch.values.dtype)[batch.rows])
    return batch._replace(values=values)


def host_batch(batch: dict[str, object]) -> dict[str, object]:
    """Turn a batch of the loader (scipy CSR, numpy vectors) into tensors that share its memory."""
    out: dict[str, object] = {}
    for key, value in batch.items():
        out[key] = CSRBatch.from_scipy(value) if hasattr(value, "indptr") else torch.as_tensor(value)
    return out


def normalized_batch(
    batch: dict[str, object], *, target_sum: float, input_format: str = "dense"
) -> dict[str, object]:
    """Normalise ``"X"`` of a batch where it is, and give it the form that the core reads.

    Parameters
    ----------
    batch
        From :func:`host_batch`, on any device; ``"size_factor"`` is there when values are counts.
    target_sum
        Library size after scaling.
    input_format
        ``"dense"``: (B, G) tensor; ``"csr"``: :class:`CSRBatch`; ``"scipy"``: scipy CSR on the host.
    """
    csr = batch["X"]
    if "size_factor" in batch:
        csr = log_normalize(csr, batch["size_factor"], target_sum)
    if input_format == "dense":
        return {**batch, "X": csr.dense()}
    if input_format == "csr":
        return {**batch, "X": csr}
    return {**batch, "X": csr.to_scipy()}
