"""`ArrayModel`: models that are fitted at once and kept as arrays."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from episome import plugins, settings
from episome.data import given_split, read_split
from episome.errors import UsageError, with_option
from episome.models._arguments import row_numbers
from episome.models._base import EpisomeModel
from episome.models._seen import known_again
from episome.models._training import normalized_rows, require_one_split
from episome.train import CellDataModule, balanced_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

    from episome.data import Query, Split
    from episome.inference import ArrayCore


@dataclass(frozen=True, slots=True)
class TrainingCells:
    """What a fit sees: training cells only.

    Parameters
    ----------
    values
        Normalised log1p values, CSR float32 (n_cells, n_genes).
    codes
        Class codes, int64 (n_cells,); zeros for a model without classes.
    donors
        Donor of each cell or ``None`` entries; ``None`` without a donor column.
    n_classes
        Number of classes; 0 for a model without.
    seed
        Seed of everything random, below 2**32 as scikit-learn wants it.
    """

    values: sparse.csr_matrix
    codes: NDArray[np.int64]
    donors: NDArray[np.object_] | None
    n_classes: int
    seed: int

    def balanced_weights(self) -> NDArray[np.float32]:
        """Weight of every class, scikit-learn's "balanced"."""
        return balanced_weights(self.codes, self.n_classes)


#: What ``train`` takes, and its ``datasplitter_kwargs``.
_TRAIN = frozenset({"accelerator", "devices", "progress", "datasplitter_kwargs"})
_SPLITTER = frozenset({"external_indexing", "split"})


class ArrayModel(EpisomeModel):
    """Base of models without epochs: subclasses implement :meth:`_fit_core`."""

    reads_sources = True
    _core_cls: ClassVar[type[ArrayCore]]
    _cells_read: Query | None = None

    def _build_core(self, **config: object) -> ArrayCore:
        classes = {} if self.labels is None else {"n_classes": len(self.labels)}
        return self._core_cls.from_config({"n_features": len(self.features), **classes, **config})

    @abstractmethod
    def _fit_core(self, cells: TrainingCells) -> dict[str, object]:
        """Fill ``self.module`` from training cells; return what the manifest should record."""

    def train(
        self,
        *,
        datasplitter_kwargs: Mapping[str, Any] | None = None,
        **kwargs: object,
    ) -> None:
        """Fit the model on all training cells that take part.

        Parameters
        ----------
        datasplitter_kwargs
            ``external_indexing=[train]`` restricts the fit to given rows; ``split``, a file of
            ``episome corpus split``, to its training and validation cells: nothing is chosen by
            the latter, and the test cells are not looked at.
        **kwargs
            ``accelerator``, ``devices``, ``progress`` are accepted, so that every model is
            trained by the same call, and mean nothing here; anything else is refused.

        Raises
        ------
        UsageError
            Unknown arguments (E-U16), or a split given twice (E-U27).
        InputDataError
            The split is of other cells (E-L38).
        """
        splitter = dict(datasplitter_kwargs or {})
        self.check_train_arguments({**kwargs, "datasplitter_kwargs": splitter})
        split = None
        if splitter.get("split") is not None:
            split = read_split(splitter["split"], self.training_source())
        try:
            self._train_on(splitter.get("external_indexing"), split)
        finally:
            self._cells_read = None
        plugins.after_train(model=self, run={"seed": settings.seed})

    @classmethod
    def check_train_arguments(cls, arguments: Mapping[str, Any]) -> None:
        """Refuse arguments that ``train`` does not take; see the base class."""
        splitter = arguments.get("datasplitter_kwargs") or {}
        unknown = sorted(set(arguments) - _TRAIN) + sorted(set(splitter) - _SPLITTER)
        if unknown:
            raise UsageError(
                "E-U16",
                f"train() of {cls.__name__} does not know {', '.join(map(with_option, unknown))}",
                why="it is fitted at once, without epochs, batches or draws",
                fix="leave it out; settings of the method are arguments of the model (--set)",
            )
        require_one_split(splitter)

    def _train_on(self, given: Sequence[Sequence[int]] | None, split: Split | None) -> None:
        wanted = None if given is None else row_numbers(given[0])
        if split is not None:
            wanted = np.sort(np.concatenate([split.train, split.validation]))
        cells, rows = self._training_cells(wanted)
        plugins.before_train(model=self, run={"seed": settings.seed})
        started = time.monotonic()
        self._before_fit(cells, rows)
        facts = self._fit_core(cells)
        self.fit_ = {
            "n_train": len(rows),
            "n_cells": len(rows),
            "seconds": round(time.monotonic() - started, 2),
            **known_again(self.training_query().source, rows, cells.donors),
            **facts,
        }
        self.fit_["seed"] = settings.seed
        self.train_indices_ = rows
        self.validation_indices_ = self.test_indices_ = np.empty(0, dtype=np.int64)
        if split is not None:
            self.test_indices_ = split.test[self.training_codes()[split.test] >= 0]
            self.fit_ |= {"split_by": "given", "split_sha256": split.digest}
        self.is_trained_ = True
        self.history_ = {}
        self._after_fit(cells, rows)

    def training_query(self) -> Query:
        """Training cells, aligned and ready to be read; during a training they are read once."""
        return super().training_query() if self._cells_read is None else self._cells_read

    def _before_fit(self, cells: TrainingCells, rows: NDArray[np.int64]) -> None:
        """Do what has to come before the fit on these rows; nothing here."""

    def _after_fit(self, cells: TrainingCells, rows: NDArray[np.int64]) -> None:
        """Do what follows from a fit on these rows; nothing here."""

    def _training_cells(
        self, wanted: NDArray[np.int64] | None
    ) -> tuple[TrainingCells, NDArray[np.int64]]:
        codes, donors = self.training_codes(), self.training_donors()
        rows = np.arange(len(codes)) if wanted is None else wanted
        rows = rows[codes[rows] >= 0]
        self._check_rows(rows, codes)
        query = self._cells_read = super().training_query()
        split = given_split([rows], len(codes), settings.seed)
        data = CellDataModule(
            query.source,
            query.alignment,
            rule=query.rule,
            kind=query.kind,
            labels=codes,
            split=split,
        )
        cells = TrainingCells(
            values=normalized_rows(data, rows),
            codes=codes[rows],
            donors=None if donors is None else donors[rows],
            n_classes=0 if self.labels is None else len(self.labels),
            seed=settings.seed % (1 << 32),
        )
        return cells, rows

    def _check_rows(self, rows: NDArray[np.int64], codes: NDArray[np.int64]) -> None:
        """Refuse rows that cannot be learned from."""
        if len(rows) < 2:
            raise UsageError(
                "E-U19",
                "fewer than two cells are left for training",
                count=len(rows),
                total=len(codes),
                fix="pass more rows",
            )
