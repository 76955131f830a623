"""Donor differences: from training donors only, thresholded, clipped, seeded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import sparse

from episome.data import _augment, donor_shifts
from episome.errors import UsageError


def cells(n_types=3, n_donors=4, per_group=10, n_genes=30, seed=0):
    """Log1p values of types and donors that differ by whole genes."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(n_types), n_donors * per_group)
    numbers = np.tile(np.repeat(np.arange(n_donors), per_group), n_types)
    effect = rng.choice([0.0, 0.5, 3.0], size=(n_types, n_donors, n_genes), p=[0.6, 0.3, 0.1])
    values = effect[codes, numbers] + rng.uniform(0, 0.02, (len(codes), n_genes))
    donors = np.array([f"d{i}" for i in numbers], dtype=object)
    return sparse.csr_matrix(values.astype(np.float32)), codes, donors


def shifts(matrix, codes, donors, rows=None, **kwargs):
    rows = np.arange(len(codes)) if rows is None else rows
    return donor_shifts(lambda r: matrix[r], rows, codes, donors, **kwargs)


def test_vectors_are_the_differences_of_donor_means_above_the_threshold():
    matrix, codes, donors = cells()
    dense = matrix.toarray()
    wanted = set()
    for c in range(3):
        means = [dense[(codes == c) & (donors == f"d{d}")].mean(axis=0) for d in range(4)]
        for i in range(4):
            for j in range(i):
                v = means[i] - means[j]
                v = np.clip(np.where(np.abs(v) > 0.25, v, 0), -1.5, 1.5)
                wanted.add(tuple(np.round(v, 4)))

    got = shifts(matrix, codes, donors)

    assert {tuple(np.round(v, 4)) for v in got.vectors.toarray()} == wanted
    assert (got.n_pairs, got.n_types, got.donors) == (18, 3, ("d0", "d1", "d2", "d3"))


def test_vectors_are_sparse_and_bounded():
    got = shifts(*cells()).vectors

    assert got.dtype == np.float32
    assert np.abs(got.data).min() > 0.25
    assert np.abs(got.data).max() <= 1.5


def test_only_given_rows_are_read():
    matrix, codes, donors = cells()
    rows = np.flatnonzero(np.isin(donors, ["d0", "d1"]))
    asked = []

    got = donor_shifts(lambda r: asked.append(r) or matrix[r], rows, codes, donors)

    assert set(np.concatenate(asked)) <= set(rows)
    assert got.donors == ("d0", "d1")
    assert got.n_pairs == 3


def test_two_donors_of_a_type_give_one_pair():
    # The published cap of n (n - 1) / 2 - 1 pairs would leave none.
    assert shifts(*cells(n_types=1, n_donors=2)).n_pairs == 1


def test_cells_without_label_or_donor_take_no_part():
    matrix, codes, donors = cells()
    codes, donors = codes.copy(), donors.copy()
    codes[codes == 2] = -1
    donors[donors == "d3"] = None

    got = shifts(matrix, codes, donors)

    assert got.donors == ("d0", "d1", "d2")
    assert got.n_pairs == 6


def test_donors_with_few_cells_of_a_type_are_not_compared():
    matrix, codes, donors = cells()
    rows = np.concatenate([np.flatnonzero(donors != "d0"), np.flatnonzero(donors == "d0")[:4]])

    assert shifts(matrix, codes, donors, rows).donors == ("d1", "d2", "d3")
    assert shifts(matrix, codes, donors, rows, min_cells=4).n_pairs == 9 + 3


def test_pairs_of_a_type_are_limited_and_seeded():
    data = cells(n_types=2, n_donors=9)

    one, same, other = (shifts(*data, max_pairs=5, seed=s) for s in (1, 1, 2))

    assert one.n_pairs == 10
    assert (one.vectors != same.vectors).nnz == 0
    assert (one.vectors != other.vectors).nnz > 0


@given(st.integers(2, 40), st.integers(1, 60), st.integers(0, 5))
def test_pairs_are_distinct_and_unordered(n, limit, seed):
    pairs = _augment._pairs(n, limit, np.random.default_rng(seed))

    assert len(pairs) == min(limit, n * (n - 1) // 2)
    assert len({tuple(p) for p in pairs}) == len(pairs)
    assert ((pairs[:, 1] >= 0) & (pairs[:, 1] < pairs[:, 0]) & (pairs[:, 0] < n)).all()


def test_number_of_vectors_is_limited():
    assert shifts(*cells(n_donors=6), n_vectors=7).vectors.shape[0] == 7


def test_rare_directions_of_a_large_pool_are_dropped():
    rng = np.random.default_rng(0)
    common = np.hstack([np.full((1200, 1), 1.0), rng.normal(0, 0.01, (1200, 45))])
    rare = np.repeat(np.hstack([np.zeros((45, 1)), 1.5 * np.eye(45)]), 3, axis=0)
    pool = sparse.csr_matrix(np.vstack([common, rare]).astype(np.float32))

    kept = _augment._common_directions(pool, np.random.default_rng(0)).toarray()

    assert 600 < len(kept) <= 1200
    assert (kept[:, 0] == 1).all()


def test_a_small_pool_is_kept_whole():
    pool = sparse.csr_matrix(np.eye(40, dtype=np.float32))

    assert _augment._common_directions(pool, np.random.default_rng(0)).shape == (40, 40)


@hypothesis_settings(max_examples=20)
@given(st.integers(0, 1000))
def test_large_sets_are_sampled_towards_rare_types(seed):
    codes = np.repeat([0, 1], [4000, 40])
    limit = _augment.MAX_CELLS
    try:
        _augment.MAX_CELLS = 200
        rows = _augment._sample(np.arange(4040), codes, np.random.default_rng(seed))
    finally:
        _augment.MAX_CELLS = limit

    assert len(set(rows)) == 200
    # In proportion there would be two.
    assert (codes[rows] == 1).sum() > 20


def test_one_donor_is_refused():
    matrix, codes, donors = cells(n_donors=1)

    with pytest.raises(UsageError, match=r"E-U35|two donors") as caught:
        shifts(matrix, codes, donors)

    assert caught.value.problems[0].code == "E-U35"


def test_equal_donors_are_refused():
    matrix, codes, donors = cells()
    flat = sparse.csr_matrix(np.ones(matrix.shape, np.float32))

    with pytest.raises(UsageError, match="differ by 0.25 nowhere"):
        shifts(flat, codes, donors)


def test_facts_say_what_the_table_is():
    facts = shifts(*cells()).facts

    assert facts["kind"] == "donor"
    assert facts["n_vectors"] == 18
    assert 0 < facts["density"] < 1
