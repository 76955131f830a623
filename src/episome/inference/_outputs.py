"""From what cores return to numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse

from episome.errors import PluginError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data import Labels


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


def columns_of(values: Any, columns: NDArray[np.int64], n_columns: int) -> Any:
    """Return some columns of a block in any form: dense where it is dense, else scipy CSR."""
    if isinstance(values, torch.Tensor):
        # On the device, so that only what is used is copied.
        chosen = torch.as_tensor(columns, device=values.device)
        return to_numpy(values.index_select(1, chosen))
    return as_csr(values, n_columns)[:, columns]


def without(block: sparse.csr_matrix, hidden: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return a block whose entries are zero where ``hidden`` is set; the block stays."""
    kept = block - block.multiply(hidden)
    kept.eliminate_zeros()
    return sparse.csr_matrix(kept)


def without_values(block: sparse.csr_matrix) -> NDArray[np.bool_]:
    """Return which rows hold nothing but zeros, also where zeros are stored."""
    stored = np.diff(block.indptr)
    if block.data.all():
        return np.asarray(stored == 0)
    before = np.concatenate([[0], np.cumsum(block.data != 0)])
    return np.asarray(before[block.indptr[1:]] == before[block.indptr[:-1]])


def require_outputs(
    outputs: Mapping[str, NDArray[Any]], n_cells: int, labels: Labels | None, core: object
) -> None:
    """Refuse what no core may give: rows that are not the cells, probabilities that are none.

    Raises
    ------
    PluginError
        E-P06, naming the class of the core and the package that it comes from.
    """
    wrong = [f"{k} of shape {v.shape}" for k, v in outputs.items() if v.shape[:1] != (n_cells,)]
    if wrong:
        raise _broken(
            core, f"gives {wrong[0]} for {n_cells} cells", "every output has a row a cell"
        )
    found = outputs.get("probabilities")
    if found is None or labels is None:
        return
    if found.shape[1:] != (len(labels),):
        what = f"gives probabilities of shape {found.shape} for {len(labels)} classes"
        raise _broken(core, what, "every class has a column, in the order of the labels")
    sums = found.sum(axis=1)
    bad = ~np.isfinite(sums) | (np.abs(sums - 1) > 1e-3) | (found < -1e-6).any(axis=1)
    if bad.any():
        what = f"gives probabilities that do not sum to one, or are no numbers, for {bad.sum()} "
        raise _broken(core, what + f"of {n_cells} cells of a batch", "no call can be made of them")


def _broken(core: object, what: str, why: str) -> PluginError:
    module = type(core).__module__.partition(".")[0]
    return PluginError(
        "E-P06",
        f"{type(core).__name__} {what}",
        where=f"package {module.replace('_', '-')}",
        why=why,
        fix="update the plugin, or train the model again where its weights are not finite",
    )
