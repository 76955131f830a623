"""Cells with fewer genes or counts, and what of them is read from disk."""

from __future__ import annotations

import numpy as np
import pytest

from episome.data import AnnDataSource, FeatureSpace, InputRule, ReducedCells, simulate_cells
from episome.data._rule import QueryKind


class OnDisk(AnnDataSource):
    """A source that counts how often it is read."""

    in_memory = False
    n_reads = 0

    def read(self, rows):
        self.n_reads += 1
        return super().read(rows)


@pytest.fixture
def reduced():
    source = OnDisk(simulate_cells(50, 20))
    features = FeatureSpace.from_var(source.var)
    kind = QueryKind(unlog=False, normalise=True, note="")
    rule = InputRule(input_kind="counts")
    return ReducedCells(source, features.align(source.var), rule, kind)


def test_every_cell_lacks_the_genes_of_its_draw(reduced):
    rows, draws = np.array([7, 3, 7, 49]), np.array([0, 0, 1, 1])
    lost = np.zeros((2, 20), dtype=bool)
    lost[0, :5] = lost[1, 12:] = True
    whole = reduced.source.read(slice(0, 50)).toarray()
    before = reduced.source.n_reads

    found = reduced.sampled(rows, draws, lost).source.read(slice(0, 4)).toarray()

    assert np.array_equal(found, np.where(lost[draws], 0, whole[rows]))
    assert reduced.source.n_reads == before + 1


def test_genes_are_those_of_the_model_whatever_their_order_in_the_data(reduced):
    turned = reduced.source.adata[:, ::-1].copy()
    source = OnDisk(turned)
    alignment = FeatureSpace.from_var(reduced.source.var).align(source.var)
    cells = ReducedCells(source, alignment, reduced.rule, reduced.kind)
    lost = np.zeros((1, 20), dtype=bool)
    lost[0, 3] = True
    rows = np.arange(50)

    found = cells.sampled(rows, np.zeros(50, dtype=np.int64), lost)

    batch = next(iter(found.loader(rows, batch_size=50)))
    whole = reduced.source.read(slice(0, 50)).toarray()
    whole[:, 3] = 0
    assert np.array_equal(batch["X"].toarray(), whole)
    np.testing.assert_allclose(batch["size_factor"], whole.sum(axis=1))


def test_thinned_counts_are_part_of_the_counts(reduced):
    rows = np.arange(50)

    one = reduced.thinned(0.5, seed=1).source.read(rows)

    assert (one != reduced.thinned(0.5, seed=1).source.read(rows)).nnz == 0
    whole = reduced.source.read(rows)
    assert (one > whole).nnz == 0
    assert 0.4 < one.sum() / whole.sum() < 0.6
