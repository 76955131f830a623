"""Normalising and densifying on the host: compiled, plain and reused memory say the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from episome.nn import DenseBuffers, host_batch, normalized_batch


def batch_of(values):
    block = sparse.csr_matrix(np.asarray(values, dtype=np.float32))
    library = np.asarray(block.sum(axis=1), dtype=np.float64).ravel()
    return host_batch({"X": block, "size_factor": library})


def oracle(values):
    values = np.asarray(values, dtype=np.float64)
    library = values.sum(axis=1, keepdims=True)
    return np.log1p(values * 1e4 / np.where(library > 0, library, 1))


cells = st.integers(1, 6).flatmap(
    lambda width: st.lists(
        st.lists(st.integers(0, 50), min_size=width, max_size=width), min_size=1, max_size=7
    )
)


@given(cells)
def test_dense_values_are_those_of_the_formula(values):
    width = len(values[0])

    ready = normalized_batch(batch_of(values), target_sum=1e4, n_features=width)

    np.testing.assert_allclose(ready["X"].numpy(), oracle(values), rtol=1e-5, atol=1e-6)


@given(cells)
def test_without_kernels_it_is_the_same(values):
    width = len(values[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPISOME_NUMBA", "0")
        plain = normalized_batch(batch_of(values), target_sum=1e4, n_features=width)

    fast = normalized_batch(batch_of(values), target_sum=1e4, n_features=width)

    np.testing.assert_allclose(fast["X"].numpy(), plain["X"].numpy(), rtol=2e-6)


def test_a_buffer_is_written_anew_by_every_batch_also_a_smaller_one():
    buffers = DenseBuffers()
    for values in ([[1, 2, 3], [4, 5, 6]], [[0, 0, 7]], [[0, 1, 0], [0, 0, 0]]):
        ready = normalized_batch(batch_of(values), target_sum=1e4, n_features=3, buffers=buffers)
        np.testing.assert_allclose(ready["X"].numpy(), oracle(values), rtol=1e-5)
        assert buffers.holds(ready["X"].numpy())
    assert not buffers.holds(np.zeros(3))


def test_values_that_are_differentiated_stay_in_the_graph():
    batch = batch_of([[1, 2, 0], [0, 3, 4]])
    values = batch["X"].values.requires_grad_()
    batch["X"] = batch["X"]._replace(values=values)

    normalized_batch(batch, target_sum=1e4, n_features=3)["X"].sum().backward()

    assert values.grad is not None
    assert (values.grad > 0).all()
