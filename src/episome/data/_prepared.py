"""Training cells that stay where they are, set up for a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from episome.data._rows import hold
from episome.data._values import ValueReport, inspect_values

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from scipy import sparse

    from episome.data._features import FeatureSpace
    from episome.data._matrix import Rows
    from episome.data._panels import GenePanels
    from episome.data._rows import Held
    from episome.data._rule import InputRule
    from episome.data._source import CellSource


class ScannedSource:
    """A source on disk that remembers what the scan of its values found.

    A scan reads all values, and set-up, training and calibration each want to know. Cells in
    memory are scanned anew every time: their owner may have changed them.

    Parameters
    ----------
    source
        Where cells are read from.
    """

    def __init__(self, source: CellSource) -> None:
        self._source = source
        self._found: ValueReport | None = None

    def values(self) -> ValueReport:
        """Return what the values are; all of them are read on the first call only."""
        if self._found is None:
            self._found = inspect_values(self._source)
        return self._found

    @property
    def n_obs(self) -> int:
        return self._source.n_obs

    @property
    def n_vars(self) -> int:
        return self._source.n_vars

    @property
    def obs_names(self) -> pd.Index:
        return self._source.obs_names

    @property
    def var(self) -> pd.DataFrame:
        return self._source.var

    @property
    def where(self) -> str:
        return self._source.where

    @property
    def in_memory(self) -> bool:
        return in_memory(self._source)

    @property
    def obs_columns(self) -> list[str]:
        """Names of the columns of the cell table."""
        names: list[str] = self._source.obs_columns  # type: ignore[attr-defined]  # may be absent
        return names

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines of the input report."""
        return tuple(getattr(self._source, "notes", ()))

    @property
    def use_raw(self) -> bool:
        """Whether ``raw`` is read."""
        return bool(getattr(self._source, "use_raw", False))

    @property
    def panels(self) -> GenePanels | None:
        """Which genes were measured in which cells, where the source says so."""
        found: GenePanels | None = getattr(self._source, "panels", None)
        return found

    def obs_column(self, key: str) -> pd.Series:
        """Return one column of the cell table."""
        return self._source.obs_column(key)

    def read(self, rows: Rows) -> sparse.csr_matrix:
        """Return the expression of ``rows`` as CSR float32, in the order asked for."""
        return self._source.read(rows)

    def hold(self, rows: NDArray[np.int64]) -> Held:
        """Read cells that are to be handed out in batches."""
        return hold(self._source, rows)


def in_memory(source: CellSource) -> bool:
    """Whether single rows of a source are cheap, wherever they are; true where it does not say."""
    return bool(getattr(source, "in_memory", True))


@dataclass(frozen=True, slots=True, eq=False)
class PreparedCells:
    """Training cells after ``Model.setup_source``: what a model is made from instead of AnnData.

    Parameters
    ----------
    source
        Where the cells are read from, in blocks.
    features
        Genes of the model.
    rule
        What its values are.
    codes
        Class code of every cell, int64 (n_obs,); -1: takes no part; zeros without labels.
    donors
        Donor (or ``None``) of every cell, object (n_obs,); ``None`` without a donor column.
    model
        Name of the model class that it was set up for.
    registry
        What ``setup_anndata`` would have left, under scvi-tools' keys.
    others
        The same cells in other modalities, by name.
    present
        Which cells have these, bool (n_obs,); ``None``: all.
    """

    source: CellSource
    features: FeatureSpace
    rule: InputRule
    codes: NDArray[np.int64]
    donors: NDArray[np.object_] | None
    model: str
    registry: Mapping[str, Any]
    others: Mapping[str, CellSource] = field(default_factory=dict)
    present: NDArray[np.bool_] | None = None

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return self.source.n_obs

    @property
    def where(self) -> str:
        """How messages name the cells."""
        return self.source.where

    def __repr__(self) -> str:
        return (
            f"PreparedCells for {self.model}: {self.n_obs:,} cells of {self.where}, "
            f"{len(self.features):,} genes"
        )
