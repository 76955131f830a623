"""Kernels of gated layers: ghost norm, gate and residual in one pass over the numbers.

A layer turns ``z`` (n, 2 H) into ``(h + a * sigmoid(b)) * half`` (n, H), where `a` and `b` are the
normalised halves of `z` and `h` is the layer's input (empty for the first layer: then just the
gate, without `half`). Work is split in units: one unit is a ghost batch and a range of columns.
"""

# Numba infers the types of kernels.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,assignment"

from __future__ import annotations

import numpy as np

from episome.nn._numba import SAFE_MATH, njit

__all__ = ["COLUMNS", "gate_backward", "gate_forward", "gate_rows"]

COLUMNS = 96


@njit(fastmath=SAFE_MATH)
def _sigmoid(x, exact, out):
    """Logistic function of a row; unless `exact`, by repeated squaring, good to float32."""
    if exact:
        for j in range(x.shape[0]):
            out[j] = 1.0 / (1.0 + np.exp(-x[j]))
    else:
        for j in range(x.shape[0]):
            y = -np.float64(x[j])
            if y > 85.0:
                y = 85.0
            if y < -85.0:
                y = -85.0
            y *= 1.0 / 1024.0
            e = 1.0 + y * (
                1.0 + y * (0.5 + y * (1.0 / 6.0 + y * (1.0 / 24.0 + y * (1.0 / 120.0))))
            )
            e *= e
            e *= e
            e *= e
            e *= e
            e *= e
            e *= e
            e *= e
            e *= e
            e *= e
            e *= e
            out[j] = 1.0 / (1.0 + e)


@njit(fastmath=SAFE_MATH)
def _add(total, row):
    for j in range(row.shape[0]):
        total[j] += row[j]


@njit(fastmath=SAFE_MATH)
def _add_squares(total, row, mean):
    for j in range(row.shape[0]):
        r = row[j] - mean[j]
        total[j] += r * r


@njit()
def _moments(z, first, last, c0, c1, mean, var):
    """Mean and biased variance of columns ``c0:c1`` over rows ``first:last`` into row vectors."""
    m, v = mean[c0:c1], var[c0:c1]
    m[:] = 0
    v[:] = 0
    for i in range(first, last):
        _add(m, z[i, c0:c1])
    m /= last - first
    for i in range(first, last):
        _add_squares(v, z[i, c0:c1], m)
    v /= last - first


@njit(fastmath=SAFE_MATH)
def _gate(a, s, out):
    for j in range(out.shape[0]):
        out[j] = a[j] * s[j]


@njit(fastmath=SAFE_MATH)
def _gate_residual(a, s, h, half, out):
    for j in range(out.shape[0]):
        out[j] = (h[j] + a[j] * s[j]) * half


@njit(fastmath=SAFE_MATH)
def _affine(row, mean, scale, bias, out):
    for j in range(row.shape[0]):
        out[j] = (row[j] - mean[j]) * scale[j] + bias[j]


@njit()
def gate_forward(start, stop, z, h, cuts, gain, bias, eps, half, exact, estimate, mean, var, out):
    """Run units; `mean`, `var` (pieces, 2 H) are estimated if `estimate`, else taken as given."""
    width = out.shape[1]
    n_ranges = (width + COLUMNS - 1) // COLUMNS
    a = np.empty(COLUMNS, z.dtype)
    b = np.empty(COLUMNS, z.dtype)
    s = np.empty(COLUMNS, z.dtype)
    scale = np.empty(2 * width, z.dtype)
    residual = h.shape[0] > 0
    for unit in range(start, stop):
        p, c0 = unit // n_ranges, (unit % n_ranges) * COLUMNS
        c1 = min(c0 + COLUMNS, width)
        d0, d1, n = c0 + width, c1 + width, c1 - c0
        m, v = mean[p], var[p]
        if estimate:
            _moments(z, cuts[p], cuts[p + 1], c0, c1, m, v)
            _moments(z, cuts[p], cuts[p + 1], d0, d1, m, v)
        for j in range(c0, c1):
            scale[j] = gain[j] / np.sqrt(v[j] + eps)
            scale[j + width] = gain[j + width] / np.sqrt(v[j + width] + eps)
        for i in range(cuts[p], cuts[p + 1]):
            _affine(z[i, c0:c1], m[c0:c1], scale[c0:c1], bias[c0:c1], a)
            _affine(z[i, d0:d1], m[d0:d1], scale[d0:d1], bias[d0:d1], b)
            _sigmoid(b[:n], exact, s)
            if residual:
                _gate_residual(a, s, h[i, c0:c1], half, out[i, c0:c1])
            else:
                _gate(a, s, out[i, c0:c1])


@njit(fastmath=SAFE_MATH)
def _gate_gradients(grad, factor, a, s, da, db):
    for j in range(grad.shape[0]):
        g = grad[j] * factor
        da[j] = g * s[j]
        db[j] = g * a[j] * s[j] * (1 - s[j])


@njit(fastmath=SAFE_MATH)
def _add_sums(d, row, mean, inv, total, weighted):
    for j in range(row.shape[0]):
        total[j] += d[j]
        weighted[j] += d[j] * (row[j] - mean[j]) * inv[j]


@njit(fastmath=SAFE_MATH)
def _norm_gradients(d, row, mean, inv, gain, total, weighted, share):
    """In place: from the gradient of the normalised numbers to that of the numbers."""
    for j in range(row.shape[0]):
        x = (row[j] - mean[j]) * inv[j]
        d[j] = gain[j] * inv[j] * (d[j] - share * (total[j] + x * weighted[j]))


@njit()
def gate_backward(
    start, stop, z, grad, cuts, gain, bias, eps, half, exact, estimate, mean, var, dz, dgain, dbias
):
    """Gradients of units: ``dz`` (n, 2 H); ``dgain``, ``dbias`` of each piece (pieces, 2 H)."""
    width = grad.shape[1]
    n_ranges = (width + COLUMNS - 1) // COLUMNS
    a = np.empty(COLUMNS, z.dtype)
    b = np.empty(COLUMNS, z.dtype)
    s = np.empty(COLUMNS, z.dtype)
    inv = np.empty(2 * width, z.dtype)
    scale = np.empty(2 * width, z.dtype)
    for unit in range(start, stop):
        p, c0 = unit // n_ranges, (unit % n_ranges) * COLUMNS
        c1 = min(c0 + COLUMNS, width)
        d0, d1, n = c0 + width, c1 + width, c1 - c0
        m, v, total, weighted = mean[p], var[p], dbias[p], dgain[p]
        for j0 in (0, width):
            for j in range(j0 + c0, j0 + c1):
                inv[j] = 1 / np.sqrt(v[j] + eps)
                scale[j] = gain[j] * inv[j]
                total[j] = 0
                weighted[j] = 0
        for i in range(cuts[p], cuts[p + 1]):
            za, zb = z[i, c0:c1], z[i, d0:d1]
            da, db = dz[i, c0:c1], dz[i, d0:d1]
            _affine(za, m[c0:c1], scale[c0:c1], bias[c0:c1], a)
            _affine(zb, m[d0:d1], scale[d0:d1], bias[d0:d1], b)
            _sigmoid(b[:n], exact, s)
            _gate_gradients(grad[i, c0:c1], half, a, s, da, db)
            _add_sums(da, za, m[c0:c1], inv[c0:c1], total[c0:c1], weighted[c0:c1])
            _add_sums(db, zb, m[d0:d1], inv[d0:d1], total[d0:d1], weighted[d0:d1])
        share = 1.0 / (cuts[p + 1] - cuts[p]) if estimate else 0.0
        for i in range(cuts[p], cuts[p + 1]):
            for e0, e1 in ((c0, c1), (d0, d1)):
                _norm_gradients(
                    dz[i, e0:e1],
                    z[i, e0:e1],
                    m[e0:e1],
                    inv[e0:e1],
                    gain[e0:e1],
                    total[e0:e1],
                    weighted[e0:e1],
                    share,
                )


@njit(fastmath=SAFE_MATH)
def _scale(row, gain, bias):
    for j in range(row.shape[0]):
        row[j] = row[j] * gain[j] + bias[j]


@njit()
def gate_rows(start, stop, z, gain, bias, half, exact, h):
    """Gate without statistics, in place: ``h = (h + a * sigmoid(b)) * half``.

    `a` and `b` are the halves of ``z * gain + bias``, or of `z` if `gain` is empty. With
    ``half == 0`` the first layer's form, ``h = a * sigmoid(b)``.
    """
    width = h.shape[1]
    s = np.empty(width, z.dtype)
    for i in range(start, stop):
        row = z[i]
        if gain.shape[0]:
            _scale(row, gain, bias)
        _sigmoid(row[width:], exact, s)
        if half == 0:
            _gate(row, s, h[i])
        else:
            _gate_residual(row, s, h[i], half, h[i])
