"""From what cores return to numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray


def to_numpy(value: object) -> NDArray[Any]:
    """Return a tensor of any device and precision, or an array, as an array."""
    return value.float().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return class probabilities, float32, rows sum to one."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float32] = (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def class_probabilities(outputs: Mapping[str, object]) -> NDArray[np.float32]:
    """Return the probabilities of a core's outputs, from its logits where it gives no others."""
    if "probabilities" in outputs:
        return to_numpy(outputs["probabilities"])
    return softmax(to_numpy(outputs["logits"]))


def as_csr(values: Any, n_columns: int) -> sparse.csr_matrix:
    """Return a block in any form of a batch's ``"X"`` (CSR parts, dense tensor, scipy) as CSR."""
    if sparse.issparse(values):
        return sparse.csr_matrix(values)
    if hasattr(values, "indptr"):
        indptr, columns, data = values.numpy()
        return sparse.csr_matrix((data, columns, indptr), shape=(len(indptr) - 1, n_columns))
    return sparse.csr_matrix(values.cpu().numpy())


def without(block: sparse.csr_matrix, hidden: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return a block whose entries are zero where ``hidden`` is set; the block stays."""
    kept = block - block.multiply(hidden)
    kept.eliminate_zeros()
    return sparse.csr_matrix(kept)
