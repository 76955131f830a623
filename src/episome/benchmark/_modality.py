"""The task of models that predict another modality from RNA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from scipy import sparse

from episome.benchmark._case import Case, Outcome
from episome.benchmark._data import TARGET
from episome.benchmark._tasks import Task
from episome.errors import UsageError
from episome.metrics import modality_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.benchmark._data import TaskData

#: Scales that the task can compare on.
SCALES = ("log1p", "none", "binary")
#: What a model may say of a prediction on the scale of its training values.
AS_TRAINED = ("none", "counts")
#: Key of ``uns`` under which a prediction says its scale.
SCALE = "scale"
MEAN = "mean of training"


class CrossModalityTask(Task):
    """Another modality of unseen cells, predicted from their RNA.

    ``target`` of the data set says which. Option ``scale``: what was measured is compared as

    - ``"log1p"``: log1p of counts; values that are no counts are compared as they are;
    - ``"none"``: as it is;
    - ``"binary"``: there or not.

    The prediction is brought to that scale where that can be done. ``uns["scale"]`` of what
    ``predict_modality`` returns says on which it is: ``"log1p"``, ``"binary"``, or nothing
    (``"none"``, ``"counts"``) for that of the training values, of which log1p is taken as of what
    was measured, with 0 for values below. On any other scale, and on one that differs, the
    prediction is left as it is and squared errors are NaN: ranks do not need one scale, and a
    Pearson correlation allows a straight line between two.

    Scores are those of :func:`episome.metrics.modality_scores`, by feature, by cell and over all
    entries. In the condition ``mean of training`` they are those of the mean of every feature in
    the training cells, on the same scale: 0 by feature, and high by cell and over all entries
    wherever features differ in abundance. Features that a model does not predict are left out, of
    both; ``n_features`` counts the others.
    """

    name = "cross-modality"
    capability = "translation"
    metrics: ClassVar[dict[str, bool]] = {
        "pearson_features": True,
        "spearman_features": True,
        "mse_features": False,
        "pearson_cells": True,
        "spearman_cells": True,
        "mse_cells": False,
        "pearson_flat": True,
        "spearman_flat": True,
        "mse_flat": False,
        "auroc": True,
        "n_features": True,
        "n_constant_features": False,
        "n_constant_cells": False,
        "n_not_measured": False,
        "n_not_predicted": False,
    }
    main = "pearson_features"
    needs_labels = False
    defaults: ClassVar[dict[str, Any]] = {"scale": "log1p"}

    def conditions(self, data: TaskData, options: dict[str, Any]) -> Sequence[str]:
        """One.

        Raises
        ------
        UsageError
            There is no such scale (E-B09).
        """
        if options["scale"] not in SCALES:
            raise UsageError(
                "E-B09",
                f"scale is {options['scale']!r}",
                where=self.name,
                fix=f"use one of {', '.join(SCALES)}",
            )
        return ("",)

    def run(self, case: Case) -> Outcome:
        """Train on both modalities, and predict the one from the other."""
        model = case.fitted()
        with case.timed("predict"):
            found = model.predict_modality(case.test)
        place = pd.Index(found.var_names).get_indexer(pd.Index(case.train.uns[TARGET].astype(str)))
        known = np.flatnonzero(place >= 0)
        learned = sparse.csr_matrix(case.train.obsm[TARGET])[:, known]
        scale = compared_on(str(case.options["scale"]), learned)
        measured = on_scale(sparse.csr_matrix(case.measured)[:, known], scale)
        said = np.asarray(found.X)
        if not np.array_equal(place[known], np.arange(said.shape[1])):
            said = said[:, place[known]]
        expected, same = brought_to(said, scale, found.uns.get(SCALE))
        scores = modality_scores(expected, measured)
        if not same:
            scores |= {k: float("nan") for k in scores if k.startswith("mse_")}
        mean = feature_means(on_scale(learned, scale))
        plain = modality_scores(np.broadcast_to(mean, measured.shape), measured)
        return Outcome({case.condition: self._named(scores), MEAN: self._named(plain)})

    def _named(self, scores: dict[str, float]) -> dict[str, float]:
        return {k: scores[k] for k in self.metrics}


def compared_on(asked: str, learned: sparse.csr_matrix) -> str:
    """Return the scale of a comparison: log1p is of counts alone.

    Parameters
    ----------
    asked
        The option of the task.
    learned
        Values of the training cells.
    """
    values = learned.data[~np.isnan(learned.data)]
    counts = bool((values >= 0).all() and (values == np.rint(values)).all())
    return "none" if asked == "log1p" and not counts else asked


def on_scale(values: sparse.csr_matrix, scale: str) -> sparse.csr_matrix:
    """Return measured values on a scale; NaN stays, and so does zero.

    Parameters
    ----------
    values
        As they were measured.
    scale
        One of ``SCALES``.
    """
    found = values.astype(np.float64)
    if scale == "log1p":
        # Single cells of a test part may hold what no count is; the training cells decided.
        np.log1p(np.maximum(found.data, 0.0), out=found.data)
    elif scale == "binary":
        found.data = np.where(np.isnan(found.data), np.nan, found.data > 0)
    return found


def brought_to(
    expected: NDArray[np.floating], scale: str, said: object
) -> tuple[NDArray[np.floating], bool]:
    """Return a prediction on a scale, and whether that could be done.

    Parameters
    ----------
    expected
        The prediction.
    scale
        One of ``SCALES``.
    said
        On which scale it is; ``None``: on that of the training values.
    """
    as_trained = said is None or said in AS_TRAINED
    if scale == "log1p" and as_trained:
        return np.log1p(np.maximum(expected, 0.0)), True
    return expected, said == scale or (scale == "none" and as_trained)


def feature_means(values: sparse.csr_matrix) -> NDArray[np.float64]:
    """Return the mean of every feature over the cells in which it was measured; 0 without any.

    Parameters
    ----------
    values
        Of the training cells, (n_cells, n_features).
    """
    missing = np.isnan(values.data)
    n, width = values.shape
    counted = n - np.bincount(values.indices[missing], minlength=width)
    kept = np.where(missing, 0.0, values.data)
    total = np.bincount(values.indices, weights=kept, minlength=width)
    found: NDArray[np.float64] = total / np.maximum(counted, 1)
    return found
