"""Cells as a query of fewer genes and fewer counts would hold them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from episome.data._loader import CellLoader
from episome.data._prepared import in_memory
from episome.data._source import ChangedSource

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data._alignment import Alignment
    from episome.data._matrix import Rows
    from episome.data._rule import InputRule, QueryKind
    from episome.data._source import CellSource


class ThinnedSource(ChangedSource):
    """A source of counts of which every molecule is kept with one chance.

    Parameters
    ----------
    source
        Counts.
    share
        Chance of a molecule to stay, from 0 to 1.
    seed
        Of the draw; the same rows asked for at once give the same counts.
    """

    def __init__(self, source: CellSource, share: float, seed: int) -> None:
        super().__init__(source)
        self._share, self._seed = share, seed

    def read(self, rows: Rows) -> sparse.csr_matrix:
        """Return the counts that are kept of ``rows``, CSR float32."""
        block = self._source.read(rows)
        first = rows.start if isinstance(rows, slice) else int(rows[0]) if len(rows) else 0
        rng = np.random.default_rng([self._seed, first or 0])
        counts = np.maximum(np.rint(block.data), 0).astype(np.int64)
        kept = rng.binomial(counts, self._share).astype(np.float32)
        thinned = sparse.csr_matrix((kept, block.indices.copy(), block.indptr.copy()), block.shape)
        thinned.eliminate_zeros()
        return thinned


class NearRows(ChangedSource):
    """A source of which some rows were read into memory, under their own numbers.

    Parameters
    ----------
    source
        Where they are read from, once.
    rows
        Their numbers, rising; no others can be asked for.
    """

    def __init__(self, source: CellSource, rows: NDArray[np.int64]) -> None:
        super().__init__(source)
        self._rows, self._block = rows, source.read(rows)

    @property
    def in_memory(self) -> bool:
        return True

    def read(self, rows: Rows) -> sparse.csr_matrix:
        """Return the expression of ``rows`` as CSR float32, in the order asked for."""
        wanted = np.arange(*rows.indices(self.n_obs)) if isinstance(rows, slice) else rows
        places = np.searchsorted(self._rows, wanted)
        return self._block[places]


@dataclass(frozen=True, slots=True)
class ReducedCells:
    """What a :class:`CellLoader` reads, with fewer genes or counts.

    Parameters
    ----------
    source, alignment, rule, kind
        Of a query.
    """

    source: CellSource
    alignment: Alignment
    rule: InputRule
    kind: QueryKind

    def without(self, genes: NDArray[np.bool_]) -> ReducedCells:
        """Leave genes of the model out, as if the data had none of their names.

        Parameters
        ----------
        genes
            Of the model, bool (n_features,).
        """
        columns = self.alignment.columns.copy()
        known = columns >= 0
        columns[known] = np.where(genes[columns[known]], -1, columns[known])
        return replace(self, alignment=replace(self.alignment, columns=columns))

    def near(self, rows: NDArray[np.int64]) -> ReducedCells:
        """Read some rows, whose numbers rise, into memory, unless all cells are there.

        Parameters
        ----------
        rows
            The only ones that are asked for from now on.
        """
        if in_memory(self.source):
            return self
        return replace(self, source=NearRows(self.source, rows))

    def thinned(self, share: float, *, seed: int) -> ReducedCells:
        """Keep a share of the counts."""
        return replace(self, source=ThinnedSource(self.source, share, seed))

    def loader(
        self, rows: NDArray[np.int64] | None = None, *, batch_size: int = 1024
    ) -> CellLoader:
        """Batches in the order of the rows."""
        return CellLoader(
            self.source,
            self.alignment,
            rule=self.rule,
            kind=self.kind,
            rows=rows,
            batch_size=batch_size,
        )
