"""Groups of genes that a mask chooses together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from episome.nn._csr import CSRParts

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FeatureGroups"]


class FeatureGroups(nn.Module):
    """From weights of groups to weights of genes, without a groups x genes matrix.

    Parameters
    ----------
    group_of
        Group of each feature, (n_features,) integers ``0 .. n_groups - 1``, none left out.
    n_features
        Number of features.
    """

    group_of: torch.Tensor
    sizes: torch.Tensor
    starts: torch.Tensor
    members: torch.Tensor

    def __init__(
        self, group_of: NDArray[np.integer] | torch.Tensor | list[int], n_features: int
    ) -> None:
        super().__init__()
        groups = np.asarray(group_of)
        if groups.shape != (n_features,) or groups.dtype.kind not in "iu":
            msg = (
                f"feature_groups has shape {groups.shape} and dtype {groups.dtype}; expected "
                f"one integer per feature, shape ({n_features},)."
            )
            raise ValueError(msg)
        if groups.min() < 0:
            msg = f"feature_groups holds {groups.min()}; groups are numbered from 0."
            raise ValueError(msg)
        sizes = np.bincount(groups)
        if not sizes.all():
            msg = (
                f"feature_groups leaves out group {int(np.argmin(sizes))} of {len(sizes)}; "
                "number the groups 0 .. n_groups - 1 without gaps."
            )
            raise ValueError(msg)
        members = np.argsort(groups, kind="stable")
        starts = np.concatenate([[0], np.cumsum(sizes)])
        self.n_groups = len(sizes)
        for name, value in {
            "group_of": groups.astype(np.int64),
            "sizes": sizes.astype(np.int64),
            "starts": starts.astype(np.int64),
            "members": members.astype(np.int64),
        }.items():
            self.register_buffer(name, torch.tensor(value), persistent=False)

    def spread(self, mask: torch.Tensor) -> torch.Tensor:
        """Return the gene weights (B, n_features) of dense group weights (B, n_groups)."""
        return (mask / self.sizes)[:, self.group_of]

    def expand(self, mask: CSRParts) -> CSRParts:
        """Return the gene weights for CSR, columns ascending; differentiable in the values."""
        cols = mask.indices.long()
        repeats = self.sizes[cols]
        source = torch.repeat_interleave(torch.arange(len(cols), device=cols.device), repeats)
        ends = repeats.cumsum(0)
        within = torch.arange(len(source), device=cols.device) - (ends - repeats)[source]
        genes = self.members[self.starts[cols][source] + within]
        rows = mask.rows()[source]
        order = torch.argsort(rows * len(self.group_of) + genes)
        source, genes = source[order], genes[order]
        total = torch.cat([ends.new_zeros(1), ends])
        values = mask.values[source] / repeats[source]
        return CSRParts(total[mask.indptr], genes.to(torch.int32), values)
