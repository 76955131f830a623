"""Scores of predicted labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import pandas as pd

from episome.errors import UsageError
from episome.metrics._counts import (
    SCORES,
    Counts,
    Pairs,
    corrected,
    paired,
    score_named,
)
from episome.ontology._cells import same_cells

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from episome.ontology import ClassHierarchy

ScoreFunction: TypeAlias = Callable[["NDArray[np.generic]", "NDArray[np.generic]"], float]


def accuracy(
    y_true: ArrayLike, y_pred: ArrayLike, *, hierarchy: ClassHierarchy | None = None
) -> float:
    """Share of cells whose label is right.

    Parameters
    ----------
    y_true, y_pred
        Labels, shape (n_cells,). Two series are aligned by the names of their cells, here and in
        all scores; anything else is taken by position.
    hierarchy
        A call that is a kind of the true class counts as the true class, and names of one type
        count as one; see :meth:`episome.ontology.ClassHierarchy.correct`.

    Raises
    ------
    LabelError
        Missing labels (E-L26), labels that the hierarchy does not have (E-L27, E-L28), or truth
        and calls of different types (E-L29).
    UsageError
        Different lengths (E-U41), no cells (E-U43), two series of different cells (E-U45), or a
        hierarchy that is none (E-U46).
    """
    return _score("accuracy", y_true, y_pred, hierarchy)


def balanced_accuracy(
    y_true: ArrayLike, y_pred: ArrayLike, *, hierarchy: ClassHierarchy | None = None
) -> float:
    """Mean recall over the classes that are present in ``y_true``.

    Parameters
    ----------
    y_true, y_pred
        Labels, shape (n_cells,).
    hierarchy
        See :func:`accuracy`.
    """
    return _score("balanced_accuracy", y_true, y_pred, hierarchy)


def macro_f1(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    hierarchy: ClassHierarchy | None = None,
    classes: Literal["true", "union"] = "true",
) -> float:
    """Mean F1 over classes.

    Parameters
    ----------
    y_true, y_pred
        Labels, shape (n_cells,).
    hierarchy
        See :func:`accuracy`. A call that becomes the truth no longer counts against the class
        that was called.
    classes
        ``"true"``: those present in ``y_true``. A class that is only called costs its cells' true
        classes, and has no F1 of its own. ``"union"``: also those only called (after the
        correction), with an F1 of 0; scikit-learn's macro average without `labels`. A word for no
        call, such as "unknown", is a class like any other there.
    """
    return _score(_over("f1_macro", classes), y_true, y_pred, hierarchy)


def weighted_f1(
    y_true: ArrayLike, y_pred: ArrayLike, *, hierarchy: ClassHierarchy | None = None
) -> float:
    """Mean F1 over classes, weighed by their number of true cells.

    Parameters
    ----------
    y_true, y_pred
        Labels, shape (n_cells,).
    hierarchy
        See :func:`accuracy`.
    """
    return _score("f1_weighted", y_true, y_pred, hierarchy)


def median_f1(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    hierarchy: ClassHierarchy | None = None,
    classes: Literal["true", "union"] = "true",
) -> float:
    """Median F1 over classes.

    Parameters
    ----------
    y_true, y_pred
        Labels, shape (n_cells,).
    hierarchy
        See :func:`accuracy`.
    classes
        See :func:`macro_f1`.
    """
    return _score(_over("f1_median", classes), y_true, y_pred, hierarchy)


def classification_scores(
    y_true: ArrayLike, y_pred: ArrayLike, *, hierarchy: ClassHierarchy | None = None
) -> dict[str, float]:
    """All scores of predicted labels at once.

    Parameters
    ----------
    y_true, y_pred
        Labels, shape (n_cells,).
    hierarchy
        See :func:`accuracy`. Adds every score after the correction.

    Returns
    -------
    The keys ``accuracy``, ``balanced_accuracy``, ``f1_macro``, ``f1_macro_union``,
    ``f1_weighted`` and ``f1_median``, and with a hierarchy each again with ``_ontology`` at its
    end.
    """
    pairs = paired(y_true, y_pred)
    found = {name: float(s(_total(pairs))) for name, s in SCORES.items()}
    if hierarchy is not None:
        total = _total(corrected(pairs, hierarchy, y_true, y_pred))
        found |= {f"{name}_ontology": float(s(total)) for name, s in SCORES.items()}
    return found


def class_table(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    hierarchy: ClassHierarchy | None = None,
    known: Iterable[object] | None = None,
) -> pd.DataFrame:
    """Return counts, precision, recall and F1 of every class.

    Parameters
    ----------
    y_true, y_pred
        Labels, shape (n_cells,).
    hierarchy
        See :func:`accuracy`. Adds the scores after the correction.
    known
        Classes that the model was trained on, such as ``model.labels.names``. Adds the column
        ``in_training``: a class without it can only be missed. Its F1 is 0, and
        :func:`macro_f1` counts it like any other true class, so a model pays for the types that
        it was never shown; a table without its rows says how the model does on what it knows.

    Returns
    -------
    One row per class that is true or called, sorted, with ``n_true``, ``n_predicted``,
    ``precision``, ``recall`` and ``f1``, and with a hierarchy the three again with ``_ontology``
    at their end. What has nothing to divide is NaN, not 0: the precision of a class never called
    (after the correction, for those columns), the recall of one never true, and the F1 of one
    that is neither. The F1 of a class that is only called is 0.
    """
    pairs = paired(y_true, y_pred)
    total = _total(pairs)
    columns = {"n_true": total.true.astype(int), "n_predicted": total.called.astype(int)}
    columns |= _rates(total, "")
    if hierarchy is not None:
        columns |= _rates(_total(corrected(pairs, hierarchy, y_true, y_pred)), "_ontology")
    table = pd.DataFrame(columns, index=pd.Index(pairs.classes, name="class"))
    if known is not None:
        table["in_training"] = table.index.isin(list(known))
    return table


def by_group(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: ArrayLike,
    score: str | ScoreFunction = "macro_f1",
    *,
    hierarchy: ClassHierarchy | None = None,
    min_cells: int = 1,
) -> pd.DataFrame:
    """Score of the cells of every group, such as a tissue or a donor.

    Means over classes are over those present in the truth of the group.

    Parameters
    ----------
    y_true, y_pred
        Labels, shape (n_cells,).
    groups
        Group of every cell. Cells with a missing one are left out.
    score
        Name of a score, as in :func:`bootstrap`, or ``score(y_true, y_pred)``.
    hierarchy
        See :func:`accuracy`; a function gets the corrected calls. Every group is corrected by
        itself.
    min_cells
        The value of a smaller group is NaN.

    Returns
    -------
    The columns group, n_cells and value, sorted by group.

    Raises
    ------
    UsageError
        There is no such score (E-U30); not one group per cell (E-U41); series of different cells
        (E-U45).
    """
    y_true, y_pred, groups = same_cells(y_true=y_true, y_pred=y_pred, groups=groups)
    pairs = paired(y_true, y_pred, hierarchy)
    units, names = grouped(groups, len(pairs.cell))
    n_cells = np.bincount(units[units >= 0], minlength=len(names))
    again = hierarchy if hierarchy is not None and _has_synonyms(pairs, hierarchy) else None
    if isinstance(score, str) and again is None:
        values = score_named(score)(pairs.counts(pairs.by_unit(units, len(names))))
    else:
        of_pairs, (truth, called) = _of_pairs(score), labels_of(pairs)
        parts = (paired(truth[r], called[r], again) for r in members(units))
        values = np.array([of_pairs(p) for p in parts], dtype=np.float64)
    values = np.where(n_cells >= min_cells, values, np.nan)
    return pd.DataFrame({"group": names, "n_cells": n_cells, "value": values})


def grouped(groups: ArrayLike, n_cells: int) -> tuple[NDArray[np.int64], NDArray[np.generic]]:
    """Return the position of every cell's group among the sorted ones, -1 for none, and those.

    Raises
    ------
    UsageError
        Not one group per cell (E-U41).
    """
    plain = groups if isinstance(groups, pd.Categorical) else np.asarray(groups)
    if plain.shape != (n_cells,):
        raise UsageError(
            "E-U41",
            f"groups have shape {plain.shape} for {n_cells:,} cells",
            fix="pass one group per cell",
        )
    units, names = pd.factorize(plain, sort=True)
    return units.astype(np.int64, copy=False), np.asarray(names)


def members(units: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the cells of every unit; a negative one is none."""
    order = np.argsort(units, kind="stable")
    order = order[np.searchsorted(units[order], 0) :]
    starts = np.flatnonzero(np.diff(units[order])) + 1
    return np.split(order, starts) if len(order) else []


def labels_of(pairs: Pairs) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Return truth and call of every cell."""
    return pairs.classes[pairs.true][pairs.cell], pairs.classes[pairs.called][pairs.cell]


def _total(pairs: Pairs) -> Counts:
    return pairs.counts(pairs.n_cells)


def _score(
    name: str, y_true: ArrayLike, y_pred: ArrayLike, hierarchy: ClassHierarchy | None
) -> float:
    return float(score_named(name)(_total(paired(y_true, y_pred, hierarchy))))


def _has_synonyms(pairs: Pairs, hierarchy: ClassHierarchy) -> bool:
    """Whether two labels are one type: only then does a call's name depend on other cells."""
    codes = hierarchy.codes(pairs.classes)
    children = hierarchy.children[np.ix_(codes[codes >= 0], codes[codes >= 0])]
    return bool((children & children.T).sum() > len(children))


def _of_pairs(score: str | ScoreFunction) -> Callable[[Pairs], float]:
    if isinstance(score, str):
        named = score_named(score)
        return lambda pairs: float(named(_total(pairs)))
    return lambda pairs: score(*labels_of(pairs))


def _over(name: str, classes: str) -> str:
    if classes not in ("true", "union"):
        raise UsageError(
            "E-U30", f"classes={classes!r} is unknown", fix='classes="true" or classes="union"'
        )
    return name if classes == "true" else f"{name}_union"


def _rates(counts: Counts, end: str) -> dict[str, NDArray[np.float64]]:
    return {
        f"precision{end}": counts.precision,
        f"recall{end}": counts.recall,
        f"f1{end}": counts.f1,
    }
