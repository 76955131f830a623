"""Scores of calls, from predictions that a store keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from episome.metrics import (
    brier_score,
    classification_scores,
    expected_calibration_error,
    negative_log_likelihood,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.ontology import ClassHierarchy

#: Share of wrong calls that is accepted where cells may be left without a call.
WRONG = 0.05


def call_scores(
    shares: pd.DataFrame, truth: NDArray[np.str_], hierarchy: ClassHierarchy | None = None
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

    Returns
    -------
    Those of :func:`episome.metrics.classification_scores`, with ``_ontology`` besides where there
    is a hierarchy; ``ece`` (15 bins of equally many cells), ``nll`` and
    ``brier`` (NaN where the truth is no class of the model), and ``kept``: the largest share of
    cells, the surest first, of which at most 5 % are wrong.
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
    }


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
    order = np.argsort(-sure, kind="stable")
    errors = np.cumsum(~right[order]) / np.arange(1, len(right) + 1)
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
