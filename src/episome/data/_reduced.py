"""Cells as a query of fewer genes and fewer counts would hold them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from episome.data._loader import CellLoader
from episome.data._source import ChangedSource, ChosenCells

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data._alignment import Alignment
    from episome.data._matrix import Rows
    from episome.data._rule import InputRule, QueryKind
    from episome.data._source import CellSource


class SampledSource(ChosenCells):
    """Chosen cells of a source, each without the genes of one draw.

    Parameters
    ----------
    source
        What is read.
    rows, draws
        Row of the source and draw of every cell, int64 (n,).
    gone
        Genes of the source that each draw lacks, bool (n_draws, n_vars).
    """

    def __init__(
        self,
        source: CellSource,
        rows: NDArray[np.int64],
        draws: NDArray[np.int64],
        gone: NDArray[np.bool_],
    ) -> None:
        super().__init__(source, rows)
        self._draws, self._gone = draws, gone

    def read(self, rows: Rows) -> sparse.csr_matrix:
        """Return what is left of ``rows``, CSR float32."""
        block = self._source.read(self._rows[rows])
        of = np.repeat(self._draws[rows], np.diff(block.indptr))
        keep = ~self._gone[of, block.indices]
        kept = np.zeros(len(keep) + 1, dtype=np.int64)
        np.cumsum(keep, out=kept[1:])
        left = (block.data[keep], block.indices[keep], kept[block.indptr])
        return sparse.csr_matrix(left, shape=block.shape)


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

    def sampled(
        self,
        rows: NDArray[np.int64],
        draws: NDArray[np.int64],
        lost: NDArray[np.bool_],
    ) -> ReducedCells:
        """Take cells, each without the genes of one draw, as if its data had none of their names.

        Parameters
        ----------
        rows
            Rows of the source, int64 (n,); they may repeat. Rows of the result are 0 to n - 1.
        draws
            Which draw each lacks the genes of, int64 (n,).
        lost
            Genes of the model that are gone in each draw, bool (n_draws, n_features).
        """
        columns = self.alignment.columns
        gone = lost[:, np.maximum(columns, 0)] & (columns >= 0)
        return replace(self, source=SampledSource(self.source, rows, draws, gone))

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
