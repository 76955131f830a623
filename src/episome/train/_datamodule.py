"""`CellDataModule`: the one Lightning data module, over any cell source."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np

from episome.data import CellLoader, InputRule, QueryKind, Split
from episome.nn import host_batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data import Alignment, CellSource


class Batches:
    """A loader as Lightning wants it: sized, iterable again, tensors."""

    def __init__(self, loader: CellLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, object]]:
        for batch in self.loader:
            yield host_batch(batch)


class CellDataModule(pl.LightningDataModule):
    """Training and validation batches of one split.

    Parameters
    ----------
    source, alignment, rule, kind
        Where cells come from and how they reach the model's scale.
    labels
        Class code of every cell of the source, int64; negative: unlabelled.
    split
        Which rows are for what.
    batch_size
        Cells per batch.
    drop_last
        Leave out a smaller last training batch; batch norms need more than one cell.
    seed
        Of the order of cells.
    donors
        Donor (or ``None``) of every cell of the source, where donors are known.
    others
        The same cells in other modalities, by name; their values are in every batch under it.
    columns
        A number or flag of every cell of the source, by name; they are in every batch under it.
    weights
        How often every cell of the source is drawn in training, relative to the others; an epoch
        has as many draws as training cells.
    """

    def __init__(
        self,
        source: CellSource,
        alignment: Alignment,
        *,
        rule: InputRule,
        kind: QueryKind,
        labels: NDArray[np.int64],
        split: Split,
        batch_size: int = 256,
        drop_last: bool = True,
        seed: int | None = None,
        donors: NDArray[np.object_] | None = None,
        others: Mapping[str, CellSource] | None = None,
        columns: Mapping[str, NDArray[Any]] | None = None,
        weights: NDArray[np.floating] | None = None,
    ) -> None:
        super().__init__()
        self.source, self.alignment, self.rule, self.kind = source, alignment, rule, kind
        self.labels, self.split, self.donors = labels, split, donors
        self.batch_size, self.drop_last, self.seed = batch_size, drop_last, seed
        self.others, self.columns = dict(others or {}), dict(columns or {})
        self.weights = weights
        #: Into how many a batch is split for want of memory.
        self.parts = 1
        self._start: tuple[int, int] | None = None

    def start_at(self, epoch: int, batches: int) -> None:
        """Leave out the first batches of an epoch, which a run did before it was interrupted.

        Parameters
        ----------
        epoch
            The epoch.
        batches
            Batches of it that are done; they are not read again.
        """
        self._start = (epoch, batches)

    def on_training_and_validation(self) -> CellDataModule:
        """Return a data module that trains on both parts and validates on nothing."""
        split = self.split
        nothing = np.empty(0, dtype=np.int64)
        both = np.union1d(split.train, split.validation)
        found = CellDataModule(
            self.source,
            self.alignment,
            rule=self.rule,
            kind=self.kind,
            labels=self.labels,
            split=dataclasses.replace(split, train=both, validation=nothing),
            batch_size=self.batch_size,
            drop_last=self.drop_last,
            seed=self.seed,
            donors=self.donors,
            others=self.others,
            columns=self.columns,
            weights=self.weights,
        )
        found.parts = self.parts
        return found

    def loader(
        self,
        rows: NDArray[np.int64],
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        batch_size: int | None = None,
        weights: NDArray[np.floating] | None = None,
    ) -> CellLoader:
        """Batches of chosen rows."""
        return CellLoader(
            self.source,
            self.alignment,
            rule=self.rule,
            kind=self.kind,
            rows=rows,
            labels=self.labels,
            batch_size=batch_size or self.batch_size // self.parts,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=self.seed,
            others=self.others,
            columns=self.columns,
            weights=weights,
        )

    def train_dataloader(self) -> Batches:
        """Shuffled training batches; the order follows the seed and the epoch."""
        rows = self.split.train
        weights = None if self.weights is None else self.weights[rows]
        loader = self.loader(rows, shuffle=True, drop_last=self.drop_last, weights=weights)
        rank, world = self._rank
        if world > 1:
            loader = _Share(loader, rank, world)
        if self.trainer is not None:
            loader.set_epoch(self.trainer.current_epoch)
        if self._start is not None and self._start[0] == loader.epoch:
            loader.load_state_dict({"epoch": self._start[0], "batches": self._start[1]})
        self._start = None
        return Batches(loader)

    def val_dataloader(self) -> Batches | list[object]:
        """Return validation batches in order; an empty list without validation cells."""
        rank, world = self._rank
        rows = self.split.validation
        if len(rows) == 0:
            return []
        # Equal parts: Lightning's means over processes hold for nothing else.
        rows = rows[: len(rows) // world * world][rank::world]
        return Batches(self.loader(rows, batch_size=max(self.batch_size, 1024)))

    @property
    def _rank(self) -> tuple[int, int]:
        """Number of this process, and of how many: Lightning shards loaders of torch only."""
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size


class _Share(CellLoader):
    """The part of one process in the batches that a single process would see.

    Parameters
    ----------
    loader
        Of the whole batches.
    rank, world
        Number of the process, and how many there are.
    """

    def __init__(self, loader: CellLoader, rank: int, world: int) -> None:
        vars(self).update(vars(loader))
        self._rank, self._world = rank, world

    def _batches(self, order: NDArray[np.int64], done: int = 0) -> Iterator[NDArray[np.int64]]:
        for rows in super()._batches(order, done):
            # Processes wait for each other, so their parts are of one size.
            yield rows[: len(rows) // self._world * self._world][self._rank :: self._world]

    def __len__(self) -> int:
        whole = super().__len__()
        last = len(self.rows) - (whole - 1) * self.batch_size
        return whole - (last < self._world)
