"""Rows taken out of a matrix into memory that was used before."""

from __future__ import annotations

import copy
import pickle

import anndata
import numpy as np
import pytest
from scipy import sparse

from episome.data import AnnDataSource
from episome.data._rows import FEW_VALUES, ArrayPool, HeldBlock, hold, take_rows
from episome.errors import InputDataError

DTYPES = ("float32", "float64", "int32", "uint16")


@pytest.fixture(scope="module")
def counts() -> sparse.csr_matrix:
    """400 x 900 counts, every other one zero: enough for the kernel."""
    drawn = np.random.default_rng(0).integers(0, 2, (400, 900)).astype(np.float32)
    return sparse.csr_matrix(drawn * 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csr_array])
def test_rows_are_those_of_scipy(counts: sparse.csr_matrix, dtype: str, form: type) -> None:
    rows = np.random.default_rng(1).integers(0, 400, 300)
    assert counts[rows].nnz > FEW_VALUES
    taken = take_rows(form(counts.astype(dtype)), rows, ArrayPool())
    assert taken is not None
    assert taken.dtype == np.float32
    assert taken.indices.dtype == np.int32
    assert (taken != counts[rows]).nnz == 0


def test_a_batch_that_is_kept_keeps_its_values(counts: sparse.csr_matrix) -> None:
    pool, rng = ArrayPool(), np.random.default_rng(2)
    asked = [rng.permutation(400)[:300] for _ in range(12)]
    kept = [take_rows(counts, rows, pool) for rows in asked]
    for rows, block in zip(asked, kept, strict=True):
        assert block is not None
        assert (block != counts[rows]).nnz == 0


def test_memory_that_nobody_holds_is_used_again() -> None:
    pool = ArrayPool()
    first = pool.take(1000, "float32")
    place = first.ctypes.data
    assert pool.take(1000, "float32").ctypes.data != place
    view = first[10:20]
    del first
    assert pool.take(1000, "float32").ctypes.data != place, "a view still needs it"
    del view
    assert pool.take(900, "float32").ctypes.data == place


def test_a_pool_travels_empty_and_a_source_with_it(counts: sparse.csr_matrix) -> None:
    source = AnnDataSource(anndata.AnnData(counts))
    rows = np.arange(399, -1, -1)
    source.read(rows)
    for twin in (copy.deepcopy(source), pickle.loads(pickle.dumps(source))):
        assert (twin.read(rows) != counts[rows]).nnz == 0


@pytest.mark.parametrize("where", ["unsorted", "repeated"])
def test_columns_that_do_not_rise_are_put_right(counts: sparse.csr_matrix, where: str) -> None:
    odd = counts.copy()
    if where == "unsorted":
        odd.indices[:2], odd.data[:2] = odd.indices[1::-1][:2].copy(), (1, 2)
    else:
        odd.indices[1] = odd.indices[0]
    odd.has_canonical_format = odd.has_sorted_indices = False
    rows = np.arange(400)[::-1]
    assert take_rows(odd, rows, ArrayPool()) is None
    read = AnnDataSource(anndata.AnnData(odd)).read(rows)
    assert read.has_canonical_format
    assert (read.toarray() == odd.toarray()[rows]).all()


@pytest.mark.parametrize("n_rows", [5, 400])
@pytest.mark.parametrize("broken", ["column", "pointer"])
def test_a_broken_matrix_is_refused(counts: sparse.csr_matrix, broken: str, n_rows: int) -> None:
    odd = counts.copy()
    source = AnnDataSource(anndata.AnnData(odd))
    if broken == "column":
        source._matrix.indices[odd.indptr[4] - 1] = 900
    else:
        source._matrix.indptr[3] = -4
    with pytest.raises(InputDataError) as error:
        source.read(np.arange(n_rows)[::-1])
    assert error.value.code == "E-D23"


def test_rows_that_are_none_are_left_to_the_caller(counts: sparse.csr_matrix) -> None:
    assert take_rows(counts, np.array([400] * 300), ArrayPool()) is None
    assert take_rows(counts, np.arange(-300, 0), ArrayPool()) is None


def test_a_source_without_a_form_of_its_own_is_held_as_a_block(counts: sparse.csr_matrix) -> None:
    held = hold(AnnDataSource(anndata.AnnData(counts)), np.arange(400))
    assert isinstance(held, HeldBlock)
    places = np.random.default_rng(3).integers(0, 400, 350)
    assert (held.take(places, ArrayPool()) != counts[places]).nnz == 0
