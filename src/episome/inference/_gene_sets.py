"""Scores of gene sets beside the calls, cells in blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from episome import settings
from episome.data import FeatureSpace, row_sums, unlog
from episome.errors import GeneMatchError, Problem, UsageError, warn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from episome.data import Query

#: Cells that the means of genes are taken of, and cells that are read together.
_MEANS_OF, _BLOCK = 20_000, 4096
_SIZE = 1e4
N_BINS, N_CONTROLS = 25, 50


class GeneSetScores:
    """Mean expression of sets of genes less that of controls, as ``scanpy.tl.score_genes``.

    Values are log1p of 10,000 counts over all genes of the query; those that are logarithms
    already are taken as they are. Genes are ranked by their mean over cells (20,000 drawn of more)
    into 25 bins; the controls of a set are up to 50 genes of every bin that it has a gene in.

    Parameters
    ----------
    query
        Of ``Predictor.prepare``.
    sets
        Genes by the name of their set: symbols or identifiers, as genes of a query are matched.

    Raises
    ------
    GeneMatchError
        The query has no gene of a set (E-G27).

    Warns
    -----
    EpisomeWarning
        Some genes of a set are not there (E-G28).

    References
    ----------
    Tirosh et al. (2016), Dissecting the multicellular ecosystem of metastatic melanoma.
    """

    def __init__(self, query: Query, sets: Mapping[str, Sequence[str]]) -> None:
        self._query = query
        self.columns = tuple(f"score_{name}" for name in sets)
        genes = {name: _found(query, name, tuple(dict.fromkeys(of))) for name, of in sets.items()}
        bins = self._bins()
        rng = np.random.default_rng(settings.stream_seed("gene-sets"))
        self._weights = np.zeros((query.source.n_vars, len(sets)))
        for j, of in enumerate(genes.values()):
            self._weights[of, j] += 1 / len(of)
            controls = _controls(bins, of, rng)
            if len(controls):
                self._weights[controls, j] -= 1 / len(controls)

    def frame(self, start: int = 0, stop: int | None = None) -> pd.DataFrame:
        """Return the scores of cells in the order of the query.

        Parameters
        ----------
        start, stop
            Rows; default all.

        Returns
        -------
        One column per set, ``score_NAME``, float32, indexed by cell name.
        """
        stop = self._query.source.n_obs if stop is None else stop
        parts = [np.empty((0, len(self.columns)))]
        for first in range(start, stop, _BLOCK):
            values = self._values(slice(first, min(first + _BLOCK, stop)))
            parts.append(np.asarray(values @ self._weights))
        names = self._query.source.obs_names[start:stop]
        return pd.DataFrame(np.concatenate(parts), names, list(self.columns)).astype(np.float32)

    def _bins(self) -> NDArray[np.int64]:
        """Bin of every gene by its mean, -1 for genes without a value."""
        source = self._query.source
        rows = np.arange(source.n_obs)
        if len(rows) > _MEANS_OF:
            rng = np.random.default_rng(settings.stream_seed("gene-means"))
            rows = np.sort(rng.choice(rows, _MEANS_OF, replace=False))
        total = np.zeros(source.n_vars)
        for first in range(0, len(rows), _BLOCK):
            total += np.asarray(self._values(rows[first : first + _BLOCK]).sum(axis=0)).ravel()
        seen = total > 0
        bins = np.full(source.n_vars, -1, dtype=np.int64)
        rank = total[seen].argsort(kind="stable").argsort(kind="stable")
        bins[seen] = rank * N_BINS // max(int(seen.sum()), 1)
        return bins

    def _values(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        block = self._query.source.read(rows)
        if self._query.kind.unlog:
            block = unlog(block)
        if not self._query.kind.normalise:
            return block
        sizes = np.maximum(row_sums(block.data, block.indptr), 1e-12)
        data = np.log1p(block.data * np.repeat(_SIZE / sizes, np.diff(block.indptr)))
        return sparse.csr_matrix((data, block.indices, block.indptr), shape=block.shape)


def read_gene_sets(given: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return gene sets of texts ``NAME=GENE,GENE``.

    Parameters
    ----------
    given
        Texts.

    Raises
    ------
    UsageError
        A text is none, holds no gene, or a name comes twice (E-U104).
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in given:
        name, _, genes = text.partition("=")
        listed = tuple(g.strip() for g in genes.split(",") if g.strip())
        if not name.strip() or not listed or name.strip() in found:
            raise UsageError(
                "E-U104",
                f"{text!r} is no gene set"
                if name.strip() not in found
                else f"{name!r} comes twice",
                fix="write NAME=GENE,GENE with symbols or identifiers, each name once",
            )
        found[name.strip()] = listed
    return found


def _found(query: Query, name: str, genes: tuple[str, ...]) -> NDArray[np.int64]:
    """Columns of the query with genes of a set."""
    matched = FeatureSpace(genes).match(query.source.var, duplicates="first")
    columns = np.flatnonzero(matched.columns >= 0)
    there = set(matched.columns[columns].tolist())
    missing = [g for i, g in enumerate(genes) if i not in there]
    if not there:
        raise GeneMatchError(
            "E-G27",
            f"no gene of the set {name!r} is in the query",
            count=len(missing),
            total=len(genes),
            examples=missing[:3],
            fix="name genes as the data do, or by symbols that they hold too",
        )
    if missing:
        warn(
            Problem(
                "E-G28",
                f"genes of the set {name!r} are not in the query",
                count=len(missing),
                total=len(genes),
                examples=missing[:3],
                why="the score is that of the others",
            )
        )
    return columns


def _controls(
    bins: NDArray[np.int64], genes: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Genes as frequent as those of a set, without them."""
    drawn = []
    for number in np.unique(bins[genes]):
        others = np.setdiff1d(np.flatnonzero(bins == number), genes)
        if number >= 0 and len(others):
            drawn.append(rng.permutation(others)[:N_CONTROLS])
    return np.concatenate(drawn) if drawn else np.empty(0, dtype=np.int64)
