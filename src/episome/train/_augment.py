"""Donor augmentation of training batches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from episome import settings
from episome.errors import UsageError
from episome.nn import CSRParts, shift_expression

if TYPE_CHECKING:
    from typing import TypeVar

    from episome.data import DonorShifts

    Cells = TypeVar("Cells", torch.Tensor, CSRParts)

#: Upper bound of augmented values where counts are scaled to 10,000 (scTab's code).
HIGH = 9.0


class DonorAugmentation(nn.Module):
    """Add a difference between two donors, with a random sign, to every cell of a batch.

    Draws come from a generator of their own on the host, so they are the same on every device.

    Parameters
    ----------
    shifts
        The table.
    target_sum
        Library size to which counts are scaled; the upper bound follows its logarithm.
    strength
        Share of a difference that is added, above 0; 1 as published.
    seed
        Default ``episome.settings.seed``; the stream is ``"augment"``.

    References
    ----------
    Fischer et al. (2024), Methods, data augmentation.
    """

    indptr: torch.Tensor
    indices: torch.Tensor
    values: torch.Tensor

    def __init__(
        self,
        shifts: DonorShifts,
        *,
        target_sum: float = 1e4,
        strength: float = 1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if not (math.isfinite(strength) and strength > 0):
            raise UsageError(
                "E-U22", f"augment_strength={strength!r}", fix="pass a number above 0, such as 0.5"
            )
        table = shifts.vectors.sorted_indices()
        self.register_buffer("indptr", torch.as_tensor(table.indptr).long(), persistent=False)
        self.register_buffer("indices", torch.as_tensor(table.indices).int(), persistent=False)
        self.register_buffer("values", torch.as_tensor(table.data * strength), persistent=False)
        self.facts = {**shifts.facts, "strength": strength}
        self.high = HIGH * math.log1p(target_sum) / math.log1p(1e4)
        self.generator = torch.Generator().manual_seed(settings.stream_seed("augment", seed))

    def draw(self, n_cells: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the vector (int64) and the sign (1 or -1) of every cell, both (n_cells,)."""
        n_vectors = len(self.indptr) - 1
        index = torch.randint(n_vectors, (n_cells,), generator=self.generator)
        sign = 2 * torch.randint(2, (n_cells,), generator=self.generator) - 1
        return index, sign

    def forward(self, x: Cells) -> Cells:
        """Return the augmented batch (B, G), between 0 and the upper bound; CSR stays CSR."""
        n_cells, device = (
            (x.n_rows, x.values.device) if isinstance(x, CSRParts) else (len(x), x.device)
        )
        index, sign = (d.to(device) for d in self.draw(n_cells))
        table = CSRParts(self.indptr, self.indices, self.values)
        return shift_expression(x, table, index, sign, high=self.high)
