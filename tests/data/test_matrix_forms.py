"""Blocks of rows from everything that can be a matrix."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from episome.data._matrix import block_rows_for, iter_blocks, to_csr_block
from episome.data._values import row_sums
from episome.errors import InputDataError

VALUES = np.array([[0, 1, 2], [3, 0, 0]], dtype=np.float64)


@pytest.mark.parametrize(
    "make",
    [
        np.asmatrix,
        pd.DataFrame,
        np.ma.masked_array,
        sparse.coo_matrix,
        sparse.csr_array,
        sparse.csc_array,
        lambda v: v.astype(bool).astype(np.float16) * v,
    ],
)
def test_everything_becomes_csr_float32(make):
    got = to_csr_block(make(VALUES))

    assert isinstance(got, sparse.csr_matrix)
    assert got.dtype == np.float32
    assert np.array_equal(got.toarray(), VALUES)


def test_masked_entries_are_nan():
    got = to_csr_block(np.ma.masked_array(VALUES, mask=VALUES == 2))

    assert np.isnan(got.toarray()[0, 2])


def test_csr_of_float32_is_shared_not_copied():
    matrix = sparse.csr_matrix(VALUES.astype(np.float32))

    assert np.shares_memory(to_csr_block(matrix).data, matrix.data)


@pytest.mark.parametrize("part", ["indptr", "indices"])
def test_broken_pointers_are_refused_before_use(part):
    matrix = sparse.csr_matrix(VALUES)
    getattr(matrix, part)[-1] = 99

    with pytest.raises(InputDataError, match="E-D23"):
        to_csr_block(matrix)


def test_blocks_cover_all_rows_once():
    rows = np.concatenate([np.arange(10)[s] for s in iter_blocks(10, 4)])

    assert rows.tolist() == list(range(10))
    assert block_rows_for(60_000) < block_rows_for(1000) <= 16_384


def test_row_sums_of_empty_rows_are_zero():
    matrix = sparse.csr_matrix(np.array([[0, 0.1], [0, 0], [0.2, 0.3], [0, 0]]))

    assert row_sums(matrix.data, matrix.indptr)[[1, 3]].tolist() == [0, 0]
    np.testing.assert_allclose(row_sums(matrix.data, matrix.indptr), [0.1, 0, 0.5, 0])


@pytest.mark.parametrize("dtype", [np.float16, object])
def test_types_that_scipy_does_not_hold_become_float32(dtype):
    dense = np.array([[0, 2.5], [1, 0]])

    got = to_csr_block(dense.astype(dtype))

    assert got.dtype == np.float32
    assert np.array_equal(got.toarray(), dense)


@pytest.mark.parametrize("values", [[["a", "b"]], [[1 + 2j, 0]]])
def test_values_that_are_no_numbers_are_refused(values):
    with pytest.raises(InputDataError, match="not numbers.*E-D41"):
        to_csr_block(np.array(values))
