"""Cells counted by what they are and what they are called: all that a score needs of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
from scipy import sparse

from episome.errors import LabelError, UsageError
from episome.ontology import ClassHierarchy
from episome.ontology._cells import same_cells

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of cells per class.

    Parameters
    ----------
    right, true, called
        float64 (..., n_classes): cells of a class that are called so, cells of it, and cells
        called so. Leading axes are groups or draws.
    """

    right: NDArray[np.float64]
    true: NDArray[np.float64]
    called: NDArray[np.float64]

    @property
    def f1(self) -> NDArray[np.float64]:
        """F1 of every class; NaN where it is neither true nor called."""
        return ratio(2.0 * self.right, self.true + self.called)

    @property
    def recall(self) -> NDArray[np.float64]:
        """Share of the cells of a class that are called so; NaN without any."""
        return ratio(self.right, self.true)

    @property
    def precision(self) -> NDArray[np.float64]:
        """Share of the cells called so that are of the class; NaN without any."""
        return ratio(self.right, self.called)


def ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a quotient that is NaN where there is nothing to divide."""
    out: NDArray[np.float64] = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    np.divide(part, whole, out=out, where=whole > 0)
    return out


def _mean(values: NDArray[np.float64], where: NDArray[np.bool_]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = np.where(where, values, 0.0).sum(axis=-1)
    return ratio(total, where.sum(axis=-1).astype(np.float64))


def _accuracy(c: Counts) -> NDArray[np.float64]:
    return ratio(c.right.sum(axis=-1), c.true.sum(axis=-1))


def _balanced_accuracy(c: Counts) -> NDArray[np.float64]:
    return _mean(c.recall, c.true > 0)


def _f1_macro(c: Counts) -> NDArray[np.float64]:
    return _mean(c.f1, c.true > 0)


def _f1_macro_union(c: Counts) -> NDArray[np.float64]:
    return _mean(c.f1, c.true + c.called > 0)


def _f1_weighted(c: Counts) -> NDArray[np.float64]:
    weighed = np.where(c.true > 0, c.f1 * c.true, 0.0)
    return ratio(weighed.sum(axis=-1), c.true.sum(axis=-1))


def _median(values: NDArray[np.float64], where: NDArray[np.bool_]) -> NDArray[np.float64]:
    # Classes that do not count stand last, so the middle is where their number says.
    ordered = np.sort(np.where(where, values, np.inf), axis=-1)
    n = where.sum(axis=-1, keepdims=True)
    middle = np.concatenate([np.maximum(n - 1, 0) // 2, n // 2], axis=-1)
    ends = np.take_along_axis(ordered, np.minimum(middle, ordered.shape[-1] - 1), axis=-1)
    found: NDArray[np.float64] = ends.mean(axis=-1)
    return np.where(n[..., 0] > 0, found, np.nan)


def _f1_median(c: Counts) -> NDArray[np.float64]:
    return _median(c.f1, c.true > 0)


def _f1_median_union(c: Counts) -> NDArray[np.float64]:
    return _median(c.f1, c.true + c.called > 0)


Score: TypeAlias = Callable[[Counts], "NDArray[np.float64]"]

#: Scores that :func:`classification_scores` lists, by their keys.
SCORES: Mapping[str, Score] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "f1_macro": _f1_macro,
    "f1_macro_union": _f1_macro_union,
    "f1_weighted": _f1_weighted,
    "f1_median": _f1_median,
}

_BY_NAME: Mapping[str, Score] = {
    **SCORES,
    "f1_median_union": _f1_median_union,
    "macro_f1": _f1_macro,
    "median_f1": _f1_median,
    "weighted_f1": _f1_weighted,
}


def score_named(name: str) -> Score:
    """Return the score of a name: a key of the scores or the name of a function.

    Raises
    ------
    UsageError
        There is none (E-U30).
    """
    if name not in _BY_NAME:
        raise UsageError(
            "E-U30",
            f"there is no score {name!r}",
            fix=f"one of {', '.join(sorted(_BY_NAME))}, or a function of y_true and y_pred",
        )
    return _BY_NAME[name]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Cells by their pair of truth and call.

    Parameters
    ----------
    classes
        All labels that are true or called, sorted.
    true, called
        int64 (n_pairs,): positions in `classes`.
    cell
        int64 (n_cells,): pair of every cell.
    """

    classes: NDArray[np.generic]
    true: NDArray[np.int64]
    called: NDArray[np.int64]
    cell: NDArray[np.int64]

    @property
    def n_cells(self) -> NDArray[np.float64]:
        """Cells of every pair."""
        return np.bincount(self.cell, minlength=len(self.true)).astype(np.float64)

    def by_unit(self, units: NDArray[np.int64], n_units: int) -> sparse.csr_matrix:
        """Cells of every unit and pair; cells of a negative unit are left out."""
        kept = units >= 0
        ones = np.ones(int(kept.sum()))
        shape = (n_units, len(self.true))
        return sparse.csr_matrix((ones, (units[kept], self.cell[kept])), shape=shape)

    def counts(self, cells: NDArray[np.float64] | sparse.csr_matrix) -> Counts:
        """Count classes from the cells of every pair, (..., n_pairs)."""
        right = self.true == self.called
        return Counts(
            self._summed(cells, self.true, right.astype(np.float64)),
            self._summed(cells, self.true, np.ones(len(right))),
            self._summed(cells, self.called, np.ones(len(right))),
        )

    def _summed(
        self,
        cells: NDArray[np.float64] | sparse.csr_matrix,
        classes: NDArray[np.int64],
        weight: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        n = len(classes)
        to_class = sparse.csr_matrix(
            (weight, (np.arange(n), classes)), shape=(n, len(self.classes))
        )
        summed = cells @ to_class
        return summed.toarray() if sparse.issparse(summed) else np.asarray(summed)


def paired(y_true: ArrayLike, y_pred: ArrayLike, hierarchy: ClassHierarchy | None = None) -> Pairs:
    """Count cells by their pair of truth and call, corrected where there is a hierarchy.

    Raises
    ------
    LabelError
        Missing labels (E-L26), labels that the hierarchy does not have (E-L27, E-L28), or truth
        and calls of different types (E-L29).
    UsageError
        Different lengths (E-U41), no cells (E-U43), two series of different cells (E-U45), or a
        hierarchy that is none (E-U46).
    """
    y_true, y_pred = same_cells(y_true=y_true, y_pred=y_pred)
    true, true_names = _factorized(y_true, "y_true")
    called, called_names = _factorized(y_pred, "y_pred")
    if len(true) != len(called):
        raise UsageError(
            "E-U41",
            f"{len(true):,} true labels and {len(called):,} predicted ones",
            fix="pass one of each per cell",
        )
    if not len(true):
        raise UsageError("E-U43", "there are no cells to score", fix="pass one cell or more")
    classes = _all_classes(true_names, called_names)
    pairs = _distinct(
        classes,
        np.searchsorted(classes, true_names)[true],
        np.searchsorted(classes, called_names)[called],
    )
    return pairs if hierarchy is None else corrected(pairs, hierarchy, y_true, y_pred)


def corrected(
    pairs: Pairs, hierarchy: ClassHierarchy, y_true: ArrayLike, y_pred: ArrayLike
) -> Pairs:
    """Return the pairs with the calls that :meth:`ClassHierarchy.correct` gives."""
    if not isinstance(hierarchy, ClassHierarchy):
        raise UsageError(
            "E-U46",
            f"hierarchy is a {type(hierarchy).__name__} where a ClassHierarchy belongs",
            fix="hierarchy=ClassHierarchy.from_labels(names), or model.class_hierarchy()",
        )
    true, called = pairs.classes[pairs.true], pairs.classes[pairs.called]
    try:
        called = hierarchy.correct(true, called)
    except LabelError:
        hierarchy.correct(y_true, y_pred)  # says how many cells, not how many pairs
        raise
    return replace(pairs, called=np.searchsorted(pairs.classes, called.astype(true.dtype)))


def _all_classes(true: NDArray[np.generic], called: NDArray[np.generic]) -> NDArray[np.generic]:
    try:
        return np.unique(np.concatenate([true, called]))
    except TypeError:
        raise LabelError(
            "E-L29",
            "labels of different types",
            examples=[
                f"{v[:1].tolist()[0]!r} in {n}" for v, n in ((true, "y_true"), (called, "y_pred"))
            ],
            why="a number is never equal to a name",
            fix="pass names for both, or codes for both",
        ) from None


def _distinct(
    classes: NDArray[np.generic], true: NDArray[np.int64], called: NDArray[np.int64]
) -> Pairs:
    cell, keys = pd.factorize(true * len(classes) + called)
    return Pairs(
        classes, keys // len(classes), keys % len(classes), cell.astype(np.int64, copy=False)
    )


def _factorized(labels: ArrayLike, where: str) -> tuple[NDArray[np.int64], NDArray[np.generic]]:
    """Position of every label among the distinct ones, and those."""
    column = labels if isinstance(labels, pd.Series | pd.Categorical | pd.Index) else None
    values = column if column is not None else np.asarray(labels)
    if values.ndim != 1:
        raise UsageError("E-U41", f"{where} has {values.ndim} axes", fix="pass one label per cell")
    if values.dtype.kind == "U":
        values = values.astype(object)
    codes, names = pd.factorize(values)
    if (codes < 0).any():
        raise LabelError(
            "E-L26",
            "missing labels",
            where=where,
            count=int((codes < 0).sum()),
            total=len(codes),
            why="a cell without a label is neither right nor wrong",
            fix="leave these cells out, or name what they are called",
        )
    return codes.astype(np.int64, copy=False), np.asarray(names)
