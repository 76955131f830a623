"""The order in which a training loader visits cells that stay on disk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Bytes of values that a buffer of mixed cells may take.
BUFFER_BYTES = 256 << 20
#: Neighbouring cells that are read together; fewer cost a seek each, more mix badly.
SMALLEST_BLOCK, LARGEST_BLOCK = 8, 64
#: How much further than random batches a batch may be from the composition of the whole.
WANTED_MIXING = 1.1


@dataclass(frozen=True, slots=True)
class BlockOrder:
    """Epochs of blocks of neighbouring cells, in random order, many of them mixed in a buffer.

    Random single rows are the slowest that a disk can be asked for. Cells that are neighbours in
    a file are often alike, so a batch must not be a block: a buffer holds many blocks, and its
    cells are visited in random order. Where all cells fit into the buffer the order is an exact
    permutation, the same that cells in memory have.

    Parameters
    ----------
    n_rows
        Cells of an epoch.
    batch_size
        Cells of a batch.
    buffer_rows
        Cells of a buffer, whole batches.
    block_rows
        Cells of a block.
    """

    n_rows: int
    batch_size: int
    buffer_rows: int
    block_rows: int

    @classmethod
    def choose(
        cls,
        n_rows: int,
        *,
        batch_size: int,
        row_bytes: float,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> BlockOrder:
        """Choose buffer and blocks by memory and mixing.

        Parameters
        ----------
        n_rows
            Cells of an epoch.
        batch_size
            Cells of a batch.
        row_bytes
            Bytes of the values of a cell, on average.
        buffer_bytes
            Bytes that the buffer may take.
        """
        n_batches = max(1, int(buffer_bytes / max(row_bytes, 1.0)) // batch_size)
        buffer_rows = n_batches * batch_size
        # As many blocks as keep the mixing, see ``mixing``.
        wanted = batch_size / (WANTED_MIXING**2 - 1)
        block = int(np.clip(buffer_rows / wanted, SMALLEST_BLOCK, LARGEST_BLOCK))
        return cls(n_rows, batch_size, buffer_rows, min(block, buffer_rows))

    @property
    def is_exact(self) -> bool:
        """Whether all cells are in one buffer, and every order is as likely as any other."""
        return self.n_rows <= self.buffer_rows

    @property
    def mixing(self) -> float:
        """How far batches are from the composition of the whole, in multiples of random batches.

        At worst, that is where the cells of a block are all alike: the composition of a buffer
        then varies as that of so many cells as it has blocks.
        """
        if self.is_exact:
            return 1.0
        batch, buffer = self.batch_size, self.buffer_rows
        return math.sqrt(1 - batch / buffer + batch * self.block_rows / buffer)

    @property
    def text(self) -> str:
        """One line for the log."""
        n = f"{self.n_rows:,} cells"
        if self.is_exact:
            return f"{n} fit into the buffer: their order is an exact permutation"
        n_blocks = self.buffer_rows // self.block_rows
        return (
            f"{n} are visited in blocks of {self.block_rows}, {n_blocks:,} of them mixed in a "
            "buffer: the composition of a batch deviates at most "
            f"{self.mixing:.2f} times as much as that of random batches"
        )

    def epoch(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the rows in the order of an epoch.

        Parameters
        ----------
        rows
            Rows of the source, int64 (n_rows,).
        rng
            Seeded by the caller.

        Returns
        -------
        The same rows, int64 (n_rows,); every ``buffer_rows`` of them are one buffer.
        """
        if self.is_exact:
            return rng.permutation(rows)
        # Borders of blocks move from epoch to epoch: no two neighbours are always together.
        first = int(rng.integers(self.block_rows))
        starts = np.arange(first - self.block_rows, self.n_rows, self.block_rows)
        starts = starts[starts + self.block_rows > 0]
        places = rng.permutation(starts)[:, None] + np.arange(self.block_rows)
        inside = places[(places >= 0) & (places < self.n_rows)]
        order = np.sort(rows)[inside]
        for start in range(0, self.n_rows, self.buffer_rows):
            buffer = order[start : start + self.buffer_rows]
            order[start : start + self.buffer_rows] = rng.permutation(buffer)
        return order
