from __future__ import annotations

import pytest
import torch

from episome.nn import _csr


@pytest.fixture(params=[0.0, 0.05, 0.6])
def matrix(request):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(70, 333, generator=rng, dtype=torch.float64)
    x = x * (torch.rand(x.shape, generator=rng) < request.param)
    x[4] = 0
    return x


@pytest.fixture
def thin():
    rng = torch.Generator().manual_seed(1)
    return (
        torch.randn(333, 24, generator=rng, dtype=torch.float64),
        torch.randn(70, 24, generator=rng, dtype=torch.float64),
    )


def test_from_dense_round_trips(matrix):
    fast, plain = _csr.csr_from_dense(matrix), _csr.CSRParts.from_dense(matrix)

    for a, b in zip(fast, plain, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(fast.to_dense(333), matrix)


def test_from_dense_too_dense_is_none():
    assert _csr.csr_from_dense(torch.ones(3, 4), max_density=0.5) is None


@pytest.mark.parametrize("block_bytes", [512, 512 * 1024])
def test_products_equal_dense(matrix, thin, block_bytes, monkeypatch):
    monkeypatch.setattr(_csr, "_BLOCK_BYTES", block_bytes)
    w, g = thin
    a = _csr.csr_from_dense(matrix)
    bias = w[0]

    torch.testing.assert_close(_csr.csr_times(a, w), matrix @ w)
    torch.testing.assert_close(_csr.csr_times(a, w, bias), matrix @ w + bias)
    torch.testing.assert_close(_csr.csr_transpose_times(a, g, 333), matrix.T @ g)
    dots = (g @ w.T)[a.rows(), a.indices.long()]
    torch.testing.assert_close(_csr.sampled_dots(a, g, w), dots)


def test_values_at_positions_equal_dense(matrix):
    rng = torch.Generator().manual_seed(2)
    where = _csr.csr_from_dense((torch.rand(70, 333, generator=rng) < 0.1).double())
    a = _csr.csr_from_dense(matrix)
    expected = matrix[where.rows(), where.indices.long()]

    assert torch.equal(_csr.csr_values_from_dense(matrix, where), expected)
    assert torch.equal(_csr.csr_values_at(a, where), expected)
