"""Rightly called against mis-called cells of a type: which genes tell them apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from episome.data import clean_labels
from episome.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data import FeatureSpace

COLUMNS = (
    "type",
    "called",
    "n_right",
    "n_wrong",
    "rank",
    "gene",
    "gene_name",
    "right",
    "wrong",
    "difference",
    "expression_right",
    "expression_wrong",
)


def error_table(
    truth: pd.Series,
    calls: pd.Series,
    *,
    names: tuple[str, ...],
    only: int | None,
    k: int,
    features: FeatureSpace,
    means: Callable[[int, int, NDArray[np.int64]], NDArray[np.float64]],
    column: str,
) -> pd.DataFrame:
    """Return the table of ``ExplanationMixin.explain_errors``.

    Parameters
    ----------
    truth, calls
        Of the cells that take part.
    names
        Of the classes.
    only
        Code of one type; ``None`` for all.
    k
        Genes of every pair.
    features
        Genes of the model.
    means
        From the type, the wrong class and positions of cells to means of attributions and
        values, (2, n_genes).
    column
        Name of the column of the truth.

    Raises
    ------
    UsageError
        No cell has a label of the classes (E-U88).
    """
    text = clean_labels(truth, unlabeled="keep")
    places = pd.Index(names)
    codes, called = (
        places.get_indexer(pd.Index(np.asarray(v, dtype=object))) for v in (text, calls)
    )
    if len(codes) and not (codes >= 0).any():
        raise UsageError(
            "E-U88",
            f"no cell has a label that is one of the model's {len(names)} classes",
            where=f"obs[{column!r}]",
            examples=sorted({str(t) for t in text})[:3],
            why=f"the classes are {', '.join(names[:5])}" + (" ..." if len(names) > 5 else ""),
            fix="map the labels to the names of the classes first",
        )
    parts = [
        _pair(codes, called, i, j, names=names, k=k, features=features, means=means)
        for i in (range(len(names)) if only is None else (only,))
        for j in _wrong_classes(codes, called, i)
    ]
    if not parts:
        return pd.DataFrame({c: [] for c in COLUMNS})
    return pd.concat(parts, ignore_index=True)


def _wrong_classes(codes: NDArray[np.int64], called: NDArray[np.int64], i: int) -> list[int]:
    """Return what cells of a type are mis-called, most cells first; none without right calls."""
    of_type = called[codes == i]
    if not (of_type == i).any():
        return []
    wrong, counts = np.unique(of_type[(of_type >= 0) & (of_type != i)], return_counts=True)
    return [int(j) for j in wrong[np.argsort(-counts, kind="stable")]]


def _pair(
    codes: NDArray[np.int64],
    called: NDArray[np.int64],
    i: int,
    j: int,
    *,
    names: tuple[str, ...],
    k: int,
    features: FeatureSpace,
    means: Callable[[int, int, NDArray[np.int64]], NDArray[np.float64]],
) -> pd.DataFrame:
    right, wrong = (np.flatnonzero((codes == i) & (called == c)) for c in (i, j))
    of_right, of_wrong = means(i, j, right), means(i, j, wrong)
    difference = of_right[0] - of_wrong[0]
    best = np.argsort(-difference, kind="stable")[:k]
    best = best[difference[best] > 0]
    return pd.DataFrame(
        {
            "type": names[i],
            "called": names[j],
            "n_right": len(right),
            "n_wrong": len(wrong),
            "rank": np.arange(1, len(best) + 1),
            "gene": np.array(features.ids, dtype=object)[best],
            "gene_name": np.array(features.symbols, dtype=object)[best],
            "right": of_right[0][best],
            "wrong": of_wrong[0][best],
            "difference": difference[best],
            "expression_right": of_right[1][best],
            "expression_wrong": of_wrong[1][best],
        },
        columns=list(COLUMNS),
    )
