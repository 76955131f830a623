"""How sure a model is, and whether it is right to be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import entr

from episome.errors import UsageError
from episome.ontology._cells import same_cells

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

#: Rows that are brought to float64 at once.
BLOCK = 65_536
#: Rows add up to one within this.
SUM_TOLERANCE = 1e-3
#: Smallest probability that a likelihood is taken of.
SMALLEST = 1e-12


def uncertainty(
    probabilities: ArrayLike, kind: Literal["max", "entropy"] = "max"
) -> NDArray[np.float64]:
    """How unsure a model is of every cell.

    Parameters
    ----------
    probabilities
        (n_cells, n_classes); rows add up to one.
    kind
        ``"max"``: one minus the largest probability, from 0 to ``1 - 1 / n_classes``;
        ``"entropy"``: the entropy over its largest value, ``log(n_classes)``, from 0 to 1.

    Returns
    -------
    float64 (n_cells,).

    Raises
    ------
    UsageError
        Values that are no probabilities (E-U44); an unknown kind (E-U30).
    """
    values = _probabilities(probabilities, 2)
    if kind == "max":
        return _within_one(1.0 - values.max(axis=1).astype(np.float64))
    if kind == "entropy":
        found = np.empty(len(values))
        for rows in _blocks(len(values)):
            found[rows] = _entropy(values[rows])
        return found
    raise UsageError("E-U30", f"kind={kind!r} is unknown", fix='kind="max" or kind="entropy"')


def risk_coverage(
    confidence: ArrayLike, correct: ArrayLike, *, weights: ArrayLike | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the share of wrong calls among those that are kept, the surest first.

    Parameters
    ----------
    confidence
        Of every call, (n,).
    correct
        Whether it is right, or the share that is where one entry stands for several calls, (n,).
    weights
        Number of calls that an entry stands for, (n,); default 1.

    Returns
    -------
    Share of the calls that are kept (rising to 1), share of those that are wrong, and the lowest
    confidence among them, each float64 (n,).

    Examples
    --------
    >>> kept, wrong, at = risk_coverage([0.9, 0.5], [True, False])
    >>> kept.tolist(), wrong.tolist(), at.tolist()
    ([0.5, 1.0], [0.0, 0.5], [0.9, 0.5])
    """
    sure = np.asarray(confidence, dtype=np.float64)
    order = np.argsort(-sure, kind="stable")
    right = np.asarray(correct, dtype=np.float64)[order]
    n = np.ones(len(sure)) if weights is None else np.asarray(weights, dtype=np.float64)[order]
    kept = np.cumsum(n)
    wrong = np.cumsum(n * (1.0 - right)) / np.maximum(kept, SMALLEST)
    return kept / max(n.sum(), SMALLEST), wrong, sure[order]


def disagreement(member_probabilities: ArrayLike) -> NDArray[np.float64]:
    """How much the members of an ensemble differ on every cell.

    The entropy of the mean minus the mean entropy, over ``log(n_classes)``: the generalised
    Jensen-Shannon divergence, which is the mutual information of label and member.

    Parameters
    ----------
    member_probabilities
        (n_members, n_cells, n_classes); rows add up to one.

    Returns
    -------
    float64 (n_cells,) from 0, where all agree, to 1.

    Raises
    ------
    UsageError
        Values that are no probabilities (E-U44).
    """
    values = _probabilities(member_probabilities, 3)
    found = np.empty(values.shape[1])
    for rows in _blocks(values.shape[1]):
        part = values[:, rows].astype(np.float64)
        found[rows] = _entropy(part.mean(axis=0)) - _entropy(part).mean(axis=0)
    return _within_one(found)


def negative_log_likelihood(probabilities: ArrayLike, codes: ArrayLike) -> float:
    """Mean negative logarithm of the probability of the true class.

    Probabilities below 1e-12 count as 1e-12, so that one impossible cell leaves a finite number.

    Parameters
    ----------
    probabilities
        (n_cells, n_classes); rows add up to one.
    codes
        True class of every cell, (n_cells,).

    Raises
    ------
    UsageError
        Values that are no probabilities, codes outside the classes (E-U44); not one code per cell
        (E-U41); no cells (E-U43); a frame and a series of different cells (E-U45).
    """
    values, codes = _with_codes(probabilities, codes)
    of_truth = values[np.arange(len(codes)), codes].astype(np.float64)
    return float(-np.log(np.maximum(of_truth, SMALLEST)).mean())


def brier_score(probabilities: ArrayLike, codes: ArrayLike) -> float:
    """Mean squared distance of the probabilities from the true class, from 0 to 2.

    Parameters
    ----------
    probabilities
        (n_cells, n_classes); rows add up to one.
    codes
        True class of every cell, (n_cells,).

    Raises
    ------
    UsageError
        As :func:`negative_log_likelihood`.
    """
    values, codes = _with_codes(probabilities, codes)
    of_truth = values[np.arange(len(codes)), codes].astype(np.float64)
    squares = sum(
        float(np.square(values[rows].astype(np.float64)).sum()) for rows in _blocks(len(values))
    )
    return float(squares / len(codes) + (1.0 - 2.0 * of_truth).mean())


def expected_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, *, n_bins: int = 15
) -> float:
    """Mean distance of confidence from accuracy, over bins of equally many cells.

    Cells with the same confidence stay in one bin, that of their middle rank, so bins are of
    unequal size where there are ties and the order of the cells does not matter.

    Parameters
    ----------
    confidence
        (n_cells,), from 0 to 1.
    correct
        Whether the call of each cell is right, (n_cells,).
    n_bins
        Number of bins; fewer where there are fewer distinct values.

    Raises
    ------
    UsageError
        Values outside 0 and 1 (E-U44); different lengths (E-U41); no cells (E-U43); no bins
        (E-U22); two series of different cells (E-U45).
    """
    if n_bins < 1:
        raise UsageError("E-U22", f"n_bins={n_bins!r} is too small", fix="n_bins=15")
    confidence, correct = same_cells(confidence=confidence, correct=correct)
    sure, right = _one_axis(confidence, "confidence"), _right(correct)
    _same_length(len(sure), len(right), "confidences", "calls")
    if not (np.isfinite(sure).all() and sure.min() >= 0 and sure.max() <= 1):
        raise UsageError(
            "E-U44", "confidence holds values outside 0 and 1", fix="pass the largest probability"
        )
    _, value, n = np.unique(sure, return_inverse=True, return_counts=True)
    middle = np.cumsum(n) - n / 2
    bins = np.minimum((middle * n_bins / len(sure)).astype(np.int64), n_bins - 1)[value]
    gap = np.bincount(bins, sure - right, minlength=n_bins)
    return float(np.abs(gap).sum() / len(sure))


def error_auroc(uncertainty: ArrayLike, correct: ArrayLike) -> float:
    """Chance that a wrong call is less sure than a right one: the area under the ROC curve.

    Parameters
    ----------
    uncertainty
        How unsure each call is, (n_cells,).
    correct
        Whether it is right, (n_cells,).

    Returns
    -------
    From 0 to 1, 0.5 for an uncertainty that says nothing; NaN where all calls are right or all
    are wrong.

    Raises
    ------
    UsageError
        Uncertainties that are not finite, `correct` that is neither true nor false (E-U44);
        different lengths (E-U41); no cells (E-U43); two series of different cells (E-U45).
    """
    from sklearn.metrics import roc_auc_score

    uncertainty, correct = same_cells(uncertainty=uncertainty, correct=correct)
    unsure, right = _one_axis(uncertainty, "uncertainty"), _right(correct)
    _same_length(len(unsure), len(right), "uncertainties", "calls")
    if not np.isfinite(unsure).all():
        raise UsageError("E-U44", "uncertainty holds values that are not finite")
    if right.all() or not right.any():
        return float("nan")
    return float(roc_auc_score(~right, unsure))


def _blocks(n_rows: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, n_rows, BLOCK))


def _entropy(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Entropy along the last axis over its largest value; 0 where there is one class."""
    n_classes = values.shape[-1]
    found: NDArray[np.float64] = entr(np.maximum(values.astype(np.float64), 0.0)).sum(axis=-1)
    return _within_one(found / np.log(max(n_classes, 2)))


def _within_one(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values from 0 to 1 that rounding took a little beyond."""
    return np.minimum(np.maximum(values, 0.0), 1.0)


def _probabilities(values: ArrayLike, n_axes: int) -> NDArray[np.floating]:
    array = np.asarray(values)
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    if array.ndim != n_axes or not array.shape[-1] or (n_axes == 3 and not array.shape[0]):
        shape = "(n_cells, n_classes)" if n_axes == 2 else "(n_members, n_cells, n_classes)"
        raise UsageError(
            "E-U44", f"probabilities have shape {array.shape}", fix=f"pass an array {shape}"
        )
    if array.size:
        with np.errstate(invalid="ignore"):  # infinite values, refused below
            sums = array.sum(axis=-1, dtype=np.float64)
        off = ~(np.abs(sums - 1.0) <= SUM_TOLERANCE) | (array.min(axis=-1) < -SUM_TOLERANCE)
        if off.any():
            raise UsageError(
                "E-U44",
                "rows that are no probabilities",
                count=int(off.sum()),
                total=off.size,
                examples=[f"sum {sums[off][0]:.4g}"],
                why="they hold missing or negative values, or do not add up to 1",
                fix="pass probabilities, not logits",
            )
    return array


def _with_codes(
    probabilities: ArrayLike, codes: ArrayLike
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    probabilities, codes = same_cells(probabilities=probabilities, codes=codes)
    values, given = _probabilities(probabilities, 2), np.asarray(codes)
    _same_length(len(values), len(given), "rows of probabilities", "codes")
    n_classes = values.shape[1]
    if (
        given.ndim != 1
        or given.dtype.kind not in "iu"
        or (given < 0).any()
        or (given >= n_classes).any()
    ):
        raise UsageError(
            "E-U44",
            f"codes are not all whole numbers from 0 to {n_classes - 1}",
            fix="pass the column of the true class, and leave other cells out",
        )
    return values, given.astype(np.int64, copy=False)


def _one_axis(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise UsageError("E-U41", f"{name} has {array.ndim} axes", fix="pass one value per cell")
    return array


def _right(correct: ArrayLike) -> NDArray[np.bool_]:
    array = _one_axis(correct, "correct")
    if not np.isin(array, (0, 1)).all():
        raise UsageError("E-U44", "correct holds values that are neither true nor false")
    return array.astype(np.bool_)


def _same_length(n: int, other: int, what: str, others: str) -> None:
    if n != other:
        raise UsageError("E-U41", f"{n:,} {what} for {other:,} {others}", fix="pass one per cell")
    if not n:
        raise UsageError("E-U43", "there are no cells to score", fix="pass one cell or more")
