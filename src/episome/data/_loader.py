"""`CellLoader`: aligned batches of cells from any source, in a seeded order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from episome import settings
from episome.data._keys import INDICES_KEY, LABELS_KEY, SIZE_FACTOR_KEY, X_KEY
from episome.data._order import BUFFER_BYTES, BlockOrder
from episome.data._prepared import in_memory
from episome.data._rows import ArrayPool, hold
from episome.data._rule import InputRule, QueryKind, unlog
from episome.data._values import row_sums
from episome.errors import UsageError
from episome.log import get_logger

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

    from episome.data._features import Alignment
    from episome.data._matrix import Rows
    from episome.data._rows import Held
    from episome.data._source import CellSource

logger = get_logger(__name__)

#: First cells of a source, by which the size of the others is judged.
_HEAD = 64

# Sparse block, vectors and labels under the keys of ``episome.data._keys``.
Batch: TypeAlias = "dict[str, Any]"


class CellLoader:
    """Iterate over cells as batches that every model understands.

    A batch holds ``"X"`` (CSR float32 of the model's genes, not yet normalised), ``"size_factor"``
    (library size of each cell, float64; 0 marks an empty cell; absent when nothing is to be
    normalised), ``"ind_x"`` (row numbers, int64) and, when labels are known, ``"labels"`` (int64).

    Parameters
    ----------
    source
        Where the cells come from.
    alignment
        Map of the source's genes to the model's.
    rule, kind
        The model's input convention and how this source's values reach it.
    rows
        Rows to visit; default all, in order.
    labels
        Class code of every cell of the source.
    batch_size
        Cells per batch.
    shuffle
        Draw a new order every epoch from ``seed`` and the epoch number: a permutation, or
        :class:`BlockOrder` of a source on disk that is larger than the buffer.
    drop_last
        Leave out a last batch that is smaller than ``batch_size``, unless it is the only one.
    seed
        Default ``episome.settings.seed``.
    others
        The same cells in other modalities, by name: their values, CSR float32, are in every batch
        under it.
    columns
        A number or flag of every cell of the source, by name; they are in every batch under it.
    order
        ``"exact"`` or ``"blocks"`` instead of what the source makes best.
    buffer_bytes
        Bytes of values that are read at once and mixed, of sources on disk. While they are handed
        out the next are read, so twice as many are held.
    weights
        How often every row is to be drawn, relative to the others, (n_rows,): a shuffled epoch
        then draws as many cells as there are rows, with replacement.

    Raises
    ------
    UsageError
        Rows that do not exist (E-U39), a batch size below one (E-U22), another word for ``order``
        (E-U30), or weights that are no chances (E-U98).
    """

    def __init__(
        self,
        source: CellSource,
        alignment: Alignment,
        *,
        rule: InputRule,
        kind: QueryKind,
        rows: NDArray[np.int64] | None = None,
        labels: NDArray[np.int64] | None = None,
        batch_size: int = 1024,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int | None = None,
        others: Mapping[str, CellSource] | None = None,
        columns: Mapping[str, NDArray[Any]] | None = None,
        order: Literal["auto", "exact", "blocks"] = "auto",
        buffer_bytes: int = BUFFER_BYTES,
        weights: NDArray[np.floating] | None = None,
    ) -> None:
        self.source, self.alignment, self.rule, self.kind = source, alignment, rule, kind
        self.rows = np.arange(source.n_obs) if rows is None else np.asarray(rows, dtype=np.int64)
        _require_rows(self.rows, source)
        self.labels = labels
        if batch_size < 1:
            raise UsageError("E-U22", f"batch_size={batch_size}", fix="pass 1 or more")
        self.batch_size = int(batch_size)
        self.shuffle = shuffle
        self.drop_last = drop_last and len(self.rows) >= self.batch_size
        self.seed = settings.seed if seed is None else seed
        self.others, self.columns = dict(others or {}), dict(columns or {})
        if order not in {"auto", "exact", "blocks"}:
            raise UsageError("E-U30", f"order={order!r}", fix='use "auto", "exact" or "blocks"')
        self.order, self.buffer_bytes = order, buffer_bytes
        self.chances = None if weights is None else _chances(weights, self.rows)
        self.epoch = 0
        self._pool = ArrayPool()
        # Batches of the epoch that are done, and those that the next iteration leaves out.
        self._done = self._skip = 0

    def __len__(self) -> int:
        whole, rest = divmod(len(self.rows), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration uses."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, and how many of its batches were handed out."""
        return {"epoch": self.epoch, "batches": self._done}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Let the next iteration go on where another one was left.

        Parameters
        ----------
        state
            Of :meth:`state_dict`; what was handed out is not read again.
        """
        self.epoch, self._done = int(state["epoch"]), int(state["batches"])
        self._skip = self._done

    def __iter__(self) -> Iterator[Batch]:
        self._done, self._skip = self._skip, 0
        for batch in self._epoch(self._done):
            self._done += 1
            yield batch

    def _epoch(self, done: int) -> Iterator[Batch]:
        """Batches of the epoch without those that are done."""
        if not self.shuffle:
            yield from map(self.batch, self._batches(self.rows, done))
            return
        seed = settings.stream_seed("order", self.seed)
        rng = np.random.default_rng([seed, self.epoch])
        drawn = self._order(rng)
        if self.order == "exact" or (self.order == "auto" and in_memory(self.source)):
            order = rng.permutation(self.rows) if drawn is None else drawn
            yield from map(self.batch, self._batches(order, done))
            return
        blocks = self.block_order()
        logger.debug("%s: %s", self.source.where, blocks.text)
        order = blocks.epoch(self.rows, rng) if drawn is None else drawn
        batches = self._batches(order, done)
        per_buffer = blocks.buffer_rows // self.batch_size
        # The rest of the buffer in which the epoch was left, then whole ones again.
        sizes = chain([per_buffer - done % per_buffer], repeat(per_buffer))
        with ThreadPoolExecutor(1, thread_name_prefix="episome-read") as reader:
            waiting = reader.submit(self._read, list(islice(batches, next(sizes))))
            while (held := waiting.result()) is not None:
                waiting = reader.submit(self._read, list(islice(batches, next(sizes))))
                yield from self._mixed(*held)

    def _order(self, rng: np.random.Generator) -> NDArray[np.int64] | None:
        """Return the rows of an epoch as their chances draw them; ``None`` where all are alike."""
        if self.chances is None:
            return None
        return rng.choice(self.rows, len(self.rows), p=self.chances)

    def _batches(self, order: NDArray[np.int64], done: int = 0) -> Iterator[NDArray[np.int64]]:
        for i in range(done, len(self)):
            yield order[i * self.batch_size : (i + 1) * self.batch_size]

    def block_order(self) -> BlockOrder:
        """Return how blocks of cells are mixed where the source is on disk."""
        head = self.source.read(slice(0, min(_HEAD, self.source.n_obs)))
        per_row = (head.data.itemsize + head.indices.itemsize) * head.nnz / max(head.shape[0], 1)
        return BlockOrder.choose(
            len(self.rows),
            batch_size=self.batch_size,
            row_bytes=per_row,
            buffer_bytes=self.buffer_bytes,
        )

    def _read(
        self, buffer: list[NDArray[np.int64]]
    ) -> tuple[list[NDArray[np.int64]], NDArray[np.int64], dict[str, Held]] | None:
        """Read the rows of several batches at once, in the order of the file."""
        if not buffer:
            return None
        rows = np.unique(np.concatenate(buffer))
        sources = {X_KEY: self.source, **self.others}
        return buffer, rows, {name: hold(source, rows) for name, source in sources.items()}

    def _mixed(
        self, buffer: list[NDArray[np.int64]], rows: NDArray[np.int64], held: dict[str, Held]
    ) -> Iterator[Batch]:
        for wanted in buffer:
            places = np.searchsorted(rows, wanted)
            blocks = {name: part.take(places, self._pool) for name, part in held.items()}
            yield self._batch_of(blocks, wanted)

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """Return the batch of the given rows of the source."""
        sources, wanted = {X_KEY: self.source, **self.others}, as_slice(rows)
        return self._batch_of({name: s.read(wanted) for name, s in sources.items()}, rows)

    def _batch_of(self, blocks: dict[str, sparse.csr_matrix], rows: NDArray[np.int64]) -> Batch:
        block = blocks[X_KEY]
        if self.kind.unlog:
            block = unlog(block)
        aligned = self.alignment.apply(block)
        batch: Batch = {X_KEY: aligned, INDICES_KEY: rows}
        if self.kind.normalise:
            batch[SIZE_FACTOR_KEY] = self._library(block, aligned)
        if self.labels is not None:
            batch[LABELS_KEY] = self.labels[rows]
        batch |= {name: blocks[name] for name in self.others}
        batch |= {name: values[rows] for name, values in self.columns.items()}
        return batch

    def _library(
        self, block: sparse.csr_matrix, aligned: sparse.csr_matrix
    ) -> NDArray[np.float64]:
        # A model of log1p values never saw the counts of its own genes alone: its scale was set by
        # whoever normalised, over all genes.
        all_genes = self.rule.size_factor == "all_genes" or self.rule.input_kind == "log1p"
        counted = block if all_genes else aligned
        return row_sums(counted.data, counted.indptr)


def as_slice(rows: NDArray[np.int64]) -> Rows:
    """Return consecutive rows as a slice, which every source reads faster."""
    consecutive = len(rows) > 0 and bool((np.diff(rows) == 1).all())
    return slice(int(rows[0]), int(rows[-1]) + 1) if consecutive else rows


def _chances(weights: NDArray[np.floating], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Chance of every row to be drawn, float64 (n_rows,), sums to one."""
    found = np.asarray(weights, dtype=np.float64)
    if found.shape != rows.shape or not np.isfinite(found).all() or (found < 0).any():
        wrong = f"of shape {found.shape}" if found.shape != rows.shape else "below 0 or not finite"
        raise UsageError(
            "E-U98",
            f"weights of cells are {wrong}",
            total=len(rows),
            fix="pass a finite number of 0 or more for every cell",
        )
    if not found.sum():
        raise UsageError("E-U98", "weights of all cells are zero", fix="leave some above zero")
    chances: NDArray[np.float64] = found / found.sum()
    return chances


def _require_rows(rows: NDArray[np.int64], source: CellSource) -> None:
    outside = (rows < 0) | (rows >= source.n_obs)
    if outside.any():
        raise UsageError(
            "E-U39",
            "row numbers that are no rows",
            where=source.where,
            count=int(outside.sum()),
            total=len(rows),
            examples=rows[outside][:3].tolist(),
            why=f"rows are counted from 0 to {source.n_obs - 1:,}",
            fix="pass row numbers of the cells that are given",
        )
