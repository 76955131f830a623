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


def test_rows_that_are_near_are_read_once_and_keep_their_numbers(reduced):
    rows = np.array([3, 7, 20, 21, 49])
    whole = reduced.source.read(slice(0, 50)).toarray()
    before = reduced.source.n_reads

    near = reduced.near(rows)

    for wanted in (rows, np.array([21, 3, 3]), slice(20, 22)):
        assert np.array_equal(near.source.read(wanted).toarray(), whole[wanted])
    assert reduced.source.n_reads == before + 1


def test_thinned_counts_are_the_same_from_near_rows(reduced):
    rows = np.array([4, 11, 30])

    one = reduced.thinned(0.5, seed=1).source.read(rows)
    other = reduced.near(rows).thinned(0.5, seed=1).source.read(rows)

    assert (one != other).nnz == 0
    assert 0 < one.sum() < reduced.source.read(rows).sum()


def test_cells_in_memory_are_not_read_again(reduced, monkeypatch):
    monkeypatch.setattr(OnDisk, "in_memory", True)

    assert reduced.near(np.array([1])) is reduced
