"""Row kernels of 1.5-entmax and sparsemax: find the threshold from the few candidates of a row.

Only scores within a fixed distance of the row maximum (2 for entmax-1.5, 1 for sparsemax) can get
a positive weight. One pass collects them; Newton's method then climbs to the threshold from the
left, where the function is convex and decreasing so that no step overshoots; the closed form on
the support it found removes the last rounding. Everything after the first pass is in float64.

Shifted scores are ``s = (z - max) * scale``, in ``(-1, 0]`` for candidates; weights are
``(s - tau)**2`` (entmax-1.5, scale 1/2) or ``s - tau`` (sparsemax, scale 1).
"""

# Numba infers the types of kernels.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np

from episome.nn._numba import SAFE_MATH, njit

__all__ = ["backward_dense", "emit_rows", "forward_dense", "jacobian_rows", "threshold_rows"]

_CHUNK = 32
_STEP = 1e-9


@njit()
def _collect(row, limit, s, cols):
    """Store position of entries not below ``limit``; returns how many there are."""
    d = row.shape[0]
    count = 0
    whole = d - d % _CHUNK
    for j0 in range(0, whole, _CHUNK):
        hits = 0
        for j in range(j0, j0 + _CHUNK):
            hits += row[j] >= limit
        if hits:
            for j in range(j0, j0 + _CHUNK):
                s[count] = row[j]
                cols[count] = j
                count += row[j] >= limit
    for j in range(whole, d):
        s[count] = row[j]
        cols[count] = j
        count += row[j] >= limit
    return count


@njit()
def _keep_above(s, n, t):
    count = 0
    for j in range(n):
        value = s[j]
        s[count] = value
        count += value > t
    return count


@njit(fastmath=SAFE_MATH)
def _sums_above(s, n, t):
    total = 0.0
    squares = 0.0
    for j in range(n):
        r = s[j] - t
        total += r
        squares += r * r
    return total, squares


@njit()
def _solve_entmax15(s, n):
    t = -1.0
    n = _keep_above(s, n, t)
    while True:
        total, squares = _sums_above(s, n, t)
        step = (squares - 1.0) / (2.0 * total)
        if not step > _STEP:
            break
        t += step
        n = _keep_above(s, n, t)
    while True:
        total, _ = _sums_above(s, n, 0.0)
        mean = total / n
        _, squares = _sums_above(s, n, mean)
        tau = mean - np.sqrt(max(1.0 - squares, 0.0) / n)
        left = _keep_above(s, n, tau)
        if left == n:
            return tau, n
        n = left


@njit()
def _solve_sparsemax(s, n):
    n = _keep_above(s, n, -1.0)
    while True:
        total, _ = _sums_above(s, n, 0.0)
        tau = (total - 1.0) / n
        left = _keep_above(s, n, tau)
        if left == n:
            return tau, n
        n = left


@njit()
def _row_threshold(row, top, square, s, cols):
    """Threshold, size of the support and number of candidates of one finite row."""
    scale = 0.5 if square else 1.0
    limit = row.dtype.type(top - row.dtype.type(1.0 / scale))
    found = _collect(row, limit, s, cols)
    shift = np.float64(top)
    for k in range(found):
        s[k] = (s[k] - shift) * scale
    if square:
        tau, size = _solve_entmax15(s, found)
    else:
        tau, size = _solve_sparsemax(s, found)
    return tau, size, found


@njit()
def forward_dense(start, stop, z, top, square, out):
    """Write the weights of rows of ``z`` (n, d), whose maxima are ``top`` (n,), into ``out``."""
    d = z.shape[1]
    s = np.empty(d + 1, np.float64)
    cols = np.empty(d + 1, np.int32)
    scale = 0.5 if square else 1.0
    for i in range(start, stop):
        if not np.isfinite(top[i]):
            out[i, :] = np.nan
            continue
        tau, _, found = _row_threshold(z[i], top[i], square, s, cols)
        out[i, :] = 0
        for k in range(found):
            j = cols[k]
            r = (np.float64(z[i, j]) - np.float64(top[i])) * scale - tau
            if r > 0:
                out[i, j] = r * r if square else r


@njit()
def threshold_rows(start, stop, z, top, square, tau, size):
    """Threshold (n,) and size of the support (n,) of rows; a non-finite row counts as full."""
    d = z.shape[1]
    s = np.empty(d + 1, np.float64)
    cols = np.empty(d + 1, np.int32)
    for i in range(start, stop):
        if np.isfinite(top[i]):
            tau[i], size[i], _ = _row_threshold(z[i], top[i], square, s, cols)
        else:
            tau[i], size[i] = np.nan, d


@njit()
def emit_rows(start, stop, z, top, square, tau, ptr, idx, val):
    """Write the support of rows as CSR parts; ``ptr`` (n + 1,) says where each row goes."""
    d = z.shape[1]
    s = np.empty(d + 1, np.float64)
    cols = np.empty(d + 1, np.int32)
    scale = 0.5 if square else 1.0
    for i in range(start, stop):
        k = ptr[i]
        if not np.isfinite(tau[i]):
            for j in range(d):
                idx[k + j] = j
                val[k + j] = np.nan
            continue
        shift = np.float64(top[i])
        found = _collect(z[i], z.dtype.type(shift + tau[i] / scale), s, cols)
        for c in range(found):
            r = (s[c] - shift) * scale - tau[i]
            if r > 0 and k < ptr[i + 1]:
                idx[k] = cols[c]
                val[k] = r * r if square else r
                k += 1


@njit()
def backward_dense(start, stop, y, grad, square, out):
    """Jacobian-vector product of rows; reads ``grad`` only where the weight ``y`` is positive."""
    d = y.shape[1]
    cols = np.empty(d + 1, np.int32)
    for i in range(start, stop):
        out[i, :] = 0
        if np.isnan(y[i, 0]):
            out[i, :] = np.nan
            continue
        count = _positive(y[i], cols)
        top, bottom = 0.0, 0.0
        for k in range(count):
            r = np.sqrt(np.float64(y[i, cols[k]])) if square else 1.0
            top += r * grad[i, cols[k]]
            bottom += r
        q = top / bottom
        for k in range(count):
            r = np.sqrt(np.float64(y[i, cols[k]])) if square else 1.0
            out[i, cols[k]] = r * (grad[i, cols[k]] - q)


@njit()
def _positive(row, cols):
    d = row.shape[0]
    count = 0
    whole = d - d % _CHUNK
    for j0 in range(0, whole, _CHUNK):
        hits = 0
        for j in range(j0, j0 + _CHUNK):
            hits += row[j] > 0
        if hits:
            for j in range(j0, j0 + _CHUNK):
                cols[count] = j
                count += row[j] > 0
    for j in range(whole, d):
        cols[count] = j
        count += row[j] > 0
    return count


@njit()
def jacobian_rows(start, stop, ptr, val, grad, square, out):
    """Jacobian-vector product for weights, gradient and result held as CSR values."""
    for i in range(start, stop):
        top, bottom = 0.0, 0.0
        for k in range(ptr[i], ptr[i + 1]):
            r = np.sqrt(np.float64(val[k])) if square else 1.0
            top += r * grad[k]
            bottom += r
        q = top / bottom
        for k in range(ptr[i], ptr[i + 1]):
            r = np.sqrt(np.float64(val[k])) if square else 1.0
            out[k] = r * (grad[k] - q)
