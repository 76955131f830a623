"""Gene masks and explanations of a batch as compressed sparse rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch

from episome.nn._csr import CSRParts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from episome.nn._folded import Cells, FoldedTabNet
    from episome.nn._tabnet import TabNet

__all__ = ["explanation_csr", "gene_mask_csr"]

Arrays: TypeAlias = "tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.floating]]"


def gene_mask_csr(network: TabNet | FoldedTabNet, x: Cells, *, step: int | None = None) -> Arrays:
    """Gene masks of a batch in evaluation mode, as the parts of a CSR matrix.

    Parameters
    ----------
    network
        A network, whose mode is left as it was.
    x
        Expression of B cells; a :class:`FoldedTabNet` also takes CSR.
    step
        Decision step; None gives the mean over steps. Rows sum to one either way.

    Returns
    -------
    indptr (B + 1,) int64, indices (nnz,) int32 ascending within a row, values (nnz,), for
    ``scipy.sparse.csr_matrix((values, indices, indptr), shape=(B, n_features))``.
    """
    _, masks = _run(network, x)
    if step is not None:
        return masks[step].numpy()
    weights = [m.values.new_full((m.n_rows,), 1 / len(masks)) for m in masks]
    return _weighted_sum(masks, weights, network.n_features).numpy()


def explanation_csr(
    network: TabNet | FoldedTabNet, x: Cells, *, normalize: bool = False
) -> Arrays:
    """Weight of each gene in the decision for each cell, as the parts of a CSR matrix.

    The sparse form of :meth:`TabNet.explain`.

    Parameters
    ----------
    network
        A network, whose mode is left as it was.
    x
        Expression of B cells; a :class:`FoldedTabNet` also takes CSR.
    normalize
        Whether to divide rows by their sum; rows of zeros stay as they are.

    Returns
    -------
    indptr (B + 1,) int64, indices (nnz,) int32 ascending within a row, values (nnz,).
    """
    decisions, masks = _run(network, x)
    total = _weighted_sum(masks, [d.sum(1) for d in decisions], network.n_features)
    if normalize:
        sums = total.values.new_zeros(total.n_rows).index_add_(0, total.rows(), total.values)
        sums = sums.where(sums > 0, torch.ones_like(sums))
        total = total._replace(values=total.values / sums[total.rows()])
    return total.numpy()


@torch.no_grad()
def _run(network: TabNet | FoldedTabNet, x: Cells) -> tuple[list[torch.Tensor], list[CSRParts]]:
    mode = network.training
    network.eval()
    try:
        decisions, masks, _ = network.run_steps(x)  # type: ignore[arg-type]  # only FoldedTabNet takes CSR
    finally:
        network.train(mode)
    return decisions, [network.gene_parts(m) for m in masks]


def _weighted_sum(masks: list[CSRParts], weights: list[torch.Tensor], n_columns: int) -> CSRParts:
    """Sum of CSR matrices, each with a weight per row."""
    if len(masks) == 1:
        return masks[0]._replace(values=masks[0].values * weights[0][masks[0].rows()])
    keys = torch.cat([m.rows() * n_columns + m.indices for m in masks])
    values = torch.cat([m.values * w[m.rows()] for m, w in zip(masks, weights, strict=True)])
    where, inverse = torch.unique(keys, return_inverse=True)
    summed = values.new_zeros(len(where)).index_add_(0, inverse, values)
    rows = torch.div(where, n_columns, rounding_mode="floor")
    counts = torch.bincount(rows, minlength=masks[0].n_rows)
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return CSRParts(indptr, (where - rows * n_columns).to(torch.int32), summed)
