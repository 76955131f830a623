"""Kernels over matrices in compressed sparse rows: products with thin dense matrices.

`ptr` (n + 1,) int64, `idx` (nnz,) int32 ascending within a row, `val` (nnz,). Dense operands are
C-contiguous with the gene on the first axis, so that the weights of one gene lie together.
"""

# Numba infers the types of kernels.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np

from episome.nn._numba import SAFE_MATH, njit

__all__ = [
    "column_moments",
    "count_nonzero",
    "first_at_least",
    "fold_gradients",
    "gather_dense",
    "lookup_sorted",
    "prior_product",
    "prior_rows",
    "row_dots",
    "shift_rows",
    "shifted_counts",
    "rows_times",
    "scale_rows",
    "scatter_rows",
    "take_nonzero",
    "transpose_times",
    "variance_diagonal",
]

_CHUNK = 32


@njit(fastmath=SAFE_MATH)
def _add4(out, a, va, b, vb, c, vc, d, vd):
    for h in range(out.shape[0]):
        out[h] += va * a[h] + vb * b[h] + vc * c[h] + vd * d[h]


@njit(fastmath=SAFE_MATH)
def _add1(out, a, va):
    for h in range(out.shape[0]):
        out[h] += va * a[h]


@njit()
def rows_times(start, stop, ptr, idx, val, w, block, out):
    """Add CSR rows times `w` (G, H) to ``out`` (n, H), `block` genes at a time."""
    at = ptr[start:stop].copy()
    for first in range(0, w.shape[0], block):
        last = first + block
        for i in range(start, stop):
            k, end = at[i - start], ptr[i + 1]
            row = out[i]
            while k + 3 < end and idx[k + 3] < last:
                _add4(
                    row,
                    w[idx[k]],
                    val[k],
                    w[idx[k + 1]],
                    val[k + 1],
                    w[idx[k + 2]],
                    val[k + 2],
                    w[idx[k + 3]],
                    val[k + 3],
                )
                k += 4
            while k < end and idx[k] < last:
                _add1(row, w[idx[k]], val[k])
                k += 1
            at[i - start] = k


@njit()
def first_at_least(idx, low, high, column):
    """Return the first place from ``low`` to ``high`` whose column is not below `column`."""
    while low < high:
        mid = (low + high) // 2
        if idx[mid] < column:
            low = mid + 1
        else:
            high = mid
    return low


@njit()
def transpose_times(start, stop, ptr, idx, val, g, block, out):
    """Add genes ``start:stop`` of the transposed CSR times `g` (n, H) to ``out`` (G, H)."""
    n = ptr.shape[0] - 1
    at = np.empty(n, np.int64)
    for i in range(n):
        at[i] = first_at_least(idx, ptr[i], ptr[i + 1], start)
    for first in range(start, stop, block):
        last = min(first + block, stop)
        for i in range(n):
            k, end = at[i], ptr[i + 1]
            row = g[i]
            while k < end and idx[k] < last:
                _add1(out[idx[k]], row, val[k])
                k += 1
            at[i] = k


@njit(fastmath=SAFE_MATH)
def _dot(a, b):
    total = a.dtype.type(0)
    for h in range(a.shape[0]):
        total += a[h] * b[h]
    return total


@njit()
def row_dots(start, stop, ptr, idx, a, w, out):
    """``out[k] = a[row] . w[idx[k]]`` for every stored entry of the rows."""
    for i in range(start, stop):
        for k in range(ptr[i], ptr[i + 1]):
            out[k] = _dot(a[i], w[idx[k]])


@njit(fastmath=SAFE_MATH)
def variance_diagonal(start, stop, w, wc, out):
    """``out[j] = w[j] . wc[j]``, the variances of ``a @ w.T`` when ``wc = w @ cov(a)``."""
    for j in range(start, stop):
        total = w.dtype.type(0)
        for h in range(w.shape[1]):
            total += w[j, h] * wc[j, h]
        out[j] = total


@njit()
def count_nonzero(start, stop, x, out):
    """Count the non-zero entries (NaN included) of every row."""
    for i in range(start, stop):
        count = 0
        for j in range(x.shape[1]):
            count += x[i, j] != 0
        out[i] = count


@njit()
def take_nonzero(start, stop, x, ptr, idx, val):
    """Copy the non-zero entries of dense rows to CSR parts."""
    d = x.shape[1]
    cols = np.empty(d + 1, np.int32)
    whole = d - d % _CHUNK
    for i in range(start, stop):
        row = x[i]
        count = 0
        for j0 in range(0, whole, _CHUNK):
            hits = 0
            for j in range(j0, j0 + _CHUNK):
                hits += row[j] != 0
            if hits:
                for j in range(j0, j0 + _CHUNK):
                    cols[count] = j
                    count += row[j] != 0
        for j in range(whole, d):
            cols[count] = j
            count += row[j] != 0
        first = ptr[i]
        for k in range(count):
            idx[first + k] = cols[k]
            val[first + k] = row[cols[k]]


@njit()
def gather_dense(start, stop, x, ptr, idx, out):
    """Entries of dense `x` at the stored positions of CSR rows."""
    for i in range(start, stop):
        for k in range(ptr[i], ptr[i + 1]):
            out[k] = x[i, idx[k]]


@njit()
def scale_rows(start, stop, ptr, val, factor, out):
    """Multiply the stored entries of CSR rows by the factor of their row."""
    for i in range(start, stop):
        for k in range(ptr[i], ptr[i + 1]):
            out[k] = val[k] * factor[i]


@njit()
def scatter_rows(start, stop, ptr, idx, val, out):
    """Write CSR rows to dense `out` (n, G), zeros included; a row is in the cache for both."""
    for i in range(start, stop):
        out[i, :] = 0
        for k in range(ptr[i], ptr[i + 1]):
            out[i, idx[k]] = val[k]


@njit()
def lookup_sorted(start, stop, xptr, xidx, xval, ptr, idx, out):
    """Look up CSR `x`, columns ascending, at stored positions; missing entries are zero."""
    for i in range(start, stop):
        end = xptr[i + 1]
        for k in range(ptr[i], ptr[i + 1]):
            at = first_at_least(xidx, xptr[i], end, idx[k])
            out[k] = xval[at] if at < end and xidx[at] == idx[k] else 0


@njit()
def shifted_counts(start, stop, xptr, xidx, xval, vptr, vidx, vval, index, sign, out):
    """Count what is above zero in the sum of CSR rows and signed rows of another matrix."""
    for i in range(start, stop):
        k, end = xptr[i], xptr[i + 1]
        m, last = vptr[index[i]], vptr[index[i] + 1]
        count = 0
        while k < end or m < last:
            if m == last or (k < end and xidx[k] < vidx[m]):
                count += xval[k] > 0
                k += 1
            elif k == end or vidx[m] < xidx[k]:
                count += sign[i] * vval[m] > 0
                m += 1
            else:
                count += xval[k] + sign[i] * vval[m] > 0
                k += 1
                m += 1
        out[i] = count


@njit()
def shift_rows(start, stop, xptr, xidx, xval, vptr, vidx, vval, index, sign, high, ptr, idx, val):
    """Write what is above zero in the sum of CSR rows and signed rows of another, below `high`."""
    for i in range(start, stop):
        k, end = xptr[i], xptr[i + 1]
        m, last = vptr[index[i]], vptr[index[i] + 1]
        at = ptr[i]
        while k < end or m < last:
            if m == last or (k < end and xidx[k] < vidx[m]):
                column, value = xidx[k], xval[k]
                k += 1
            elif k == end or vidx[m] < xidx[k]:
                column, value = vidx[m], sign[i] * vval[m]
                m += 1
            else:
                column, value = xidx[k], xval[k] + sign[i] * vval[m]
                k += 1
                m += 1
            if value > 0:
                idx[at] = column
                val[at] = min(value, high)
                at += 1


@njit()
def prior_rows(start, stop, z, first, steps_ptr, steps_idx, steps_val, gamma):
    """Multiply rows of `z` (n, d) in place by ``first * prod_s (gamma - M_s)``.

    `first` is the starting prior, (n, d) or empty for one. Mask s of the earlier steps is rows
    ``steps_ptr[s]`` (offsets into the joined `steps_idx` and `steps_val`).
    """
    d = z.shape[1]
    prior = np.empty(d, z.dtype)
    saved = np.empty(d, z.dtype)
    relax = z.dtype.type(gamma)
    for i in range(start, stop):
        if first.shape[0]:
            prior[:] = first[i]
        else:
            prior[:] = 1
        for s in range(steps_ptr.shape[0]):
            a, b = steps_ptr[s, i], steps_ptr[s, i + 1]
            for k in range(a, b):
                saved[k - a] = prior[steps_idx[k]]
            for j in range(d):
                prior[j] *= relax
            for k in range(a, b):
                prior[steps_idx[k]] = (relax - steps_val[k]) * saved[k - a]
        for j in range(d):
            z[i, j] *= prior[j]


@njit()
def prior_product(
    start, stop, ptr, idx, first, steps_ptr, steps_idx, steps_val, gamma, out, where
):
    """Prior at stored positions, ``out`` (nnz,), and where each earlier mask stores it.

    ``where[s, k]`` is the entry of mask s with the column of entry k, or -1.
    """
    for i in range(start, stop):
        for k in range(ptr[i], ptr[i + 1]):
            product = first[i, idx[k]] if first.shape[0] else out.dtype.type(1)
            for s in range(steps_ptr.shape[0]):
                end = steps_ptr[s, i + 1]
                at = first_at_least(steps_idx, steps_ptr[s, i], end, idx[k])
                if at < end and steps_idx[at] == idx[k]:
                    where[s, k] = at
                    product *= gamma - steps_val[at]
                else:
                    where[s, k] = -1
                    product *= gamma
            out[k] = product


@njit()
def column_moments(start, stop, ptr, idx, val, mean, var):
    """Mean and biased variance of genes ``start:stop`` over all rows, zeros included (float64)."""
    n = ptr.shape[0] - 1
    seen = np.zeros(stop - start, np.int64)
    for j in range(start, stop):
        mean[j] = 0.0
        var[j] = 0.0
    for i in range(n):
        k = first_at_least(idx, ptr[i], ptr[i + 1], start)
        while k < ptr[i + 1] and idx[k] < stop:
            mean[idx[k]] += val[k]
            seen[idx[k] - start] += 1
            k += 1
    for j in range(start, stop):
        mean[j] /= n
    for i in range(n):
        k = first_at_least(idx, ptr[i], ptr[i + 1], start)
        while k < ptr[i + 1] and idx[k] < stop:
            r = val[k] - mean[idx[k]]
            var[idx[k]] += r * r
            k += 1
    for j in range(start, stop):
        var[j] = (var[j] + (n - seen[j - start]) * mean[j] * mean[j]) / n


@njit(fastmath=SAFE_MATH)
def fold_gradients(start, stop, raw, w, scale, shift, total, dscale, dshift):
    """Gradients of ``x @ (scale * w) + shift @ w`` from ``raw = x.T @ g``, in place in `raw`.

    Afterwards ``raw`` (G, H) holds the gradient of `w`; `total` (H,) is the column sum of g.
    """
    for j in range(start, stop):
        by_scale = w.dtype.type(0)
        by_shift = w.dtype.type(0)
        for h in range(w.shape[1]):
            by_scale += raw[j, h] * w[j, h]
            by_shift += total[h] * w[j, h]
            raw[j, h] = raw[j, h] * scale[j] + shift[j] * total[h]
        dscale[j] = by_scale
        dshift[j] = by_shift
