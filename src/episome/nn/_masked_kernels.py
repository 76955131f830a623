"""Kernels of masked autoencoders: random masks where they are used, errors of scored values."""

# Numba infers the types of kernels.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np

from episome.nn._csr_kernels import first_at_least
from episome.nn._numba import SAFE_MATH, njit

__all__ = ["hidden_at", "hidden_rows", "scored_errors"]

_LOW = np.uint64(0xFFFFFFFF)
_SPREAD = np.uint64(0x9E3779B1)
_MIX = np.uint64(0xC2B2AE35)
_16, _13 = np.uint64(16), np.uint64(13)


@njit()
def _draw(gene, add, times):
    """Return a number below 2**32 for a gene of a cell with two keys."""
    h = (np.uint64(gene) * _SPREAD + add) & _LOW
    h = ((h ^ (h >> _16)) * times) & _LOW
    h = ((h ^ (h >> _13)) * _MIX) & _LOW
    return h ^ (h >> _16)


@njit()
def hidden_rows(start, stop, bound, add, times, genes, out):
    """Write whether the draws of genes of cells are below a bound, (n, S) uint8."""
    limit = np.uint64(bound)
    for i in range(start, stop):
        a, t = np.uint64(add[i]), np.uint64(times[i])
        for j in range(len(genes)):
            out[i, j] = _draw(genes[j], a, t) < limit


@njit()
def hidden_at(start, stop, bound, add, times, ptr, idx, out):
    """Write whether the draws at the stored positions of CSR rows are below a bound, (nnz,)."""
    limit = np.uint64(bound)
    for i in range(start, stop):
        a, t = np.uint64(add[i]), np.uint64(times[i])
        for k in range(ptr[i], ptr[i + 1]):
            out[k] = _draw(idx[k], a, t) < limit


@njit(fastmath=SAFE_MATH)
def scored_errors(start, stop, ptr, idx, val, first, scored, x, error):
    """Add the squared errors of scored genes to ``error`` (n,), and write their derivative.

    `x` (n, S) holds what is expected of the genes ``first .. first + S - 1`` and becomes twice the
    difference from CSR rows where `scored` (n, S) is one, zero elsewhere.
    """
    last = first + x.shape[1]
    for i in range(start, stop):
        row, counts = x[i], scored[i]
        k, end = first_at_least(idx, ptr[i], ptr[i + 1], first), ptr[i + 1]
        while k < end and idx[k] < last:
            row[idx[k] - first] -= val[k]
            k += 1
        zero = np.zeros(1, x.dtype)[0]
        total = zero
        for j in range(len(row)):
            d = row[j] if counts[j] else zero
            total += d * d
            row[j] = d + d
        error[i] += total
