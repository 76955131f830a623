"""Scores of calls, from predictions that a store keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from episome.metrics import (
    brier_score,
    classification_scores,
    expected_calibration_error,
    negative_log_likelihood,
    risk_coverage,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from episome.ontology import ClassHierarchy

#: Share of wrong calls that is accepted where cells may be left without a call.
WRONG = 0.05


def call_scores(
    shares: pd.DataFrame,
    truth: NDArray[np.str_],
    hierarchy: ClassHierarchy | None = None,
    coarse: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Return the scores of calibrated probabilities.

    Parameters
    ----------
    shares
        Probability of every class, one row per cell.
    truth
        Label of every cell.
    hierarchy
        For the scores that count a call of a descendant as right.
    coarse
        Coarser label of every label.

    Returns
    -------
    Those of :func:`episome.metrics.classification_scores`, with ``_ontology`` besides where there
    is a hierarchy; ``ece`` (15 bins of equally many cells), ``nll`` and
    ``brier`` (NaN where the truth is no class of the model), ``kept``: the largest share of
    cells, the surest first, of which at most 5 % are wrong, and ``auroc_wrong``: how well one less
    the confidence tells wrong calls from right ones. With coarser labels those of
    :func:`coarse_scores` besides.
    """
    values = shares.to_numpy(dtype=np.float64)
    values = values / values.sum(axis=1, keepdims=True)
    classes = shares.columns.to_numpy(dtype=str)
    calls, sure = classes[values.argmax(axis=1)], values.max(axis=1)
    right = calls == truth
    place = pd.Index(classes).get_indexer(pd.Index(truth))
    known = bool((place >= 0).all())
    return {
        **classification_scores(truth, calls, hierarchy=hierarchy),
        "ece": expected_calibration_error(np.minimum(sure, 1.0), right),
        "nll": negative_log_likelihood(values, place) if known else float("nan"),
        "brier": brier_score(values, place) if known else float("nan"),
        "kept": kept_share(sure, right),
        "auroc_wrong": separation(1 - sure, ~right),
        **({} if coarse is None else coarse_scores(truth, calls, coarse)),
    }


def coarse_scores(
    truth: NDArray[np.str_], calls: NDArray[np.str_], coarse: Mapping[str, str]
) -> dict[str, float]:
    """Return how well the coarser label is found, and the finer one where the coarser is right.

    Parameters
    ----------
    truth, calls
        Labels, (n_cells,).
    coarse
        Coarser label of every label.

    Returns
    -------
    ``f1_macro_coarse`` and ``accuracy_coarse`` of the coarser labels, and ``f1_macro_within``: the
    mean over coarser labels with two and more finer ones of the macro F1 among the cells whose
    coarser label is called rightly (NaN where there are none).
    """
    of = np.vectorize(lambda name: coarse.get(name, name), otypes=[object])
    true, called = of(truth).astype(str), of(calls).astype(str)
    found = classification_scores(true, called)
    within = []
    for name in np.unique(true):
        here = (true == name) & (called == name)
        if len(np.unique(truth[true == name])) > 1 and here.any():
            within.append(classification_scores(truth[here], calls[here])["f1_macro"])
    return {
        "f1_macro_coarse": found["f1_macro"],
        "accuracy_coarse": found["accuracy"],
        "f1_macro_within": float(np.mean(within)) if within else float("nan"),
    }


def separation(score: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve; NaN where all cells are of one kind.

    Parameters
    ----------
    score
        Higher for positives, (n_cells,).
    positive
        Bool, (n_cells,).
    """
    if not len(positive) or positive.all() or not positive.any():
        return float("nan")
    return float(roc_auc_score(positive, score))


def kept_share(
    sure: NDArray[np.floating], right: NDArray[np.bool_], wrong: float = WRONG
) -> float:
    """Return the largest share of cells, the surest first, of which few enough are wrong.

    Parameters
    ----------
    sure, right
        Confidence of every cell, and whether its call is right, (n_cells,).
    wrong
        Share of wrong calls among those kept.
    """
    errors = risk_coverage(sure, right)[1]
    good = np.flatnonzero(errors <= wrong)
    return float((good[-1] + 1) / len(right)) if len(good) else 0.0


def strict_accuracy(truth: NDArray[np.bool_], called: NDArray[np.bool_]) -> float:
    """Return the share of cells that are both of those that are either: truly or called novel.

    As papers on new types count them: cells that are rightly called new, over the union of the
    cells that are new and those that are called so.

    Parameters
    ----------
    truth, called
        Whether a cell is of a type that training lacked, and whether it is said to be, (n_cells,).
    """
    either = truth | called
    return float((truth & called).sum() / either.sum()) if either.any() else float("nan")
