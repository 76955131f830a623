"""Tasks of models that say what expression, or what of another modality, they expect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from episome.benchmark._case import Case, Outcome, class_of, needs_labels
from episome.benchmark._data import TARGET
from episome.benchmark._scores import separation
from episome.benchmark._tasks import Task
from episome.models import normalized_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIZE = 1e4


class ReconstructionTask(Task):
    """Expression of unseen cells, as a model expects it, and what it fills in where it sees none.

    Conditions: ``seen`` (the model is shown the cells), ``hidden`` (a ``hidden`` share of the
    measured genes of every cell is taken away, and only those are scored), and for both the mean
    of the training cells, which a model has to beat: ``mean of training, seen`` and ``mean of
    training, hidden``. All on log1p of 10,000 molecules a cell. ``r2`` is over all entries that
    are scored, around the mean of every gene in training; ``r2_genes`` and ``r_genes`` (Pearson)
    are means over the genes that vary.
    """

    name = "reconstruction"
    capability = "reconstruction"
    metrics: ClassVar[dict[str, bool]] = {
        "r2": True,
        "r2_genes": True,
        "r_genes": True,
        "mse": False,
        "saw_labels": False,
    }
    main = "r2"
    needs_labels = False
    defaults: ClassVar[dict[str, Any]] = {"hidden": 0.1, "labels": False}

    def run(self, case: Case) -> Outcome:
        """Train, and compare what is expected with what was measured."""
        labels = bool(case.options["labels"])
        model = case.fitted(labels=labels)
        query = model.prepare(case.test)
        rows = np.arange(query.source.n_obs)
        seen = _log(normalized_rows(query, rows), model)
        trained = model.prepare(case.train)
        mean = _log(normalized_rows(trained, np.arange(trained.source.n_obs)), model).mean(axis=0)
        measured = seen > 0
        hidden = measured & (case.rng("hidden").random(seen.shape) < float(case.options["hidden"]))
        everything = np.ones_like(measured)
        told = {"saw_labels": float(labels or needs_labels(class_of(case)))}
        scores = {}
        for condition, mask, where in (("seen", None, everything), ("hidden", hidden, hidden)):
            with case.timed("predict"):
                expected = model.get_normalized_expression(
                    case.test, library_size=_SIZE, mask=mask, return_numpy=True
                )
            scores[condition] = reconstruction_scores(np.log1p(expected), seen, mean, where) | told
            level = np.broadcast_to(mean, seen.shape)
            scores[f"mean of training, {condition}"] = reconstruction_scores(
                level, seen, mean, where
            )
        return Outcome(scores)


class CrossModalityTask(Task):
    """Another modality of unseen cells, predicted from their RNA.

    ``target`` of the data set says which. Scores are means over the features that vary among the
    test cells, and depend on ranks or straight lines only, so that models may predict on any
    scale: ``spearman``, ``pearson`` (with the log1p of what was measured), and ``auroc`` (measured
    at all or not, of features that are zero in some cells).
    """

    name = "cross-modality"
    capability = "translation"
    metrics: ClassVar[dict[str, bool]] = {
        "spearman": True,
        "pearson": True,
        "auroc": True,
        "n_features": True,
    }
    main = "spearman"
    needs_labels = False

    def run(self, case: Case) -> Outcome:
        """Train on both modalities, and predict the one from the other."""
        model = case.fitted()
        with case.timed("predict"):
            found = model.predict_modality(case.test)
        place = pd.Index(found.var_names).get_indexer(pd.Index(case.train.uns[TARGET].astype(str)))
        known = np.flatnonzero(place >= 0)
        expected = np.asarray(found.X, dtype=np.float64)[:, place[known]]
        measured = np.asarray(case.measured[:, known].todense(), dtype=np.float64)
        return Outcome({case.condition: modality_scores(expected, measured)})


def modality_scores(
    expected: NDArray[np.float64], measured: NDArray[np.float64]
) -> dict[str, float]:
    """Return how well predicted features follow measured ones, means over those that vary.

    Parameters
    ----------
    expected, measured
        (n_cells, n_features); scales may differ.
    """
    ranks, lines, areas = [], [], []
    for j in range(measured.shape[1]):
        true, said = measured[:, j], expected[:, j]
        if np.ptp(true) == 0:
            continue
        told = np.ptp(said) > 0  # one value for all cells follows nothing
        ranks.append(float(spearmanr(said, true).statistic) if told else 0.0)
        lines.append(float(np.corrcoef(said, np.log1p(true))[0, 1]) if told else 0.0)
        areas.append(separation(said, true > 0))
    return {
        "spearman": float(np.mean(ranks)) if ranks else float("nan"),
        "pearson": float(np.mean(lines)) if lines else float("nan"),
        "auroc": float(np.nanmean(areas)) if np.isfinite(areas).any() else float("nan"),
        "n_features": float(len(ranks)),
    }


def reconstruction_scores(
    expected: NDArray[np.floating],
    measured: NDArray[np.floating],
    mean: NDArray[np.floating],
    where: NDArray[np.bool_],
) -> dict[str, float]:
    """Return how well expected values fit measured ones.

    Parameters
    ----------
    expected, measured
        (n_cells, n_genes), on one scale.
    mean
        Of every gene in training, what nothing but the gene tells, (n_genes,).
    where
        Entries that are scored, (n_cells, n_genes).

    Returns
    -------
    ``r2``: one less the squared error over that of the mean of training, over all entries;
    ``mse``; ``r2_genes`` and ``r_genes``: means over the genes that have three scored entries that
    differ, around the mean of the scored entries.
    """
    error = np.where(where, expected - measured, 0.0).astype(np.float64)
    spread = np.where(where, measured - mean, 0.0).astype(np.float64)
    n = where.sum()
    total = (spread**2).sum()
    per_gene, correlated = [], []
    for j in range(measured.shape[1]):
        of = where[:, j]
        true, said = measured[of, j].astype(np.float64), expected[of, j].astype(np.float64)
        if len(true) < 3 or np.ptp(true) == 0:
            continue
        per_gene.append(1 - ((said - true) ** 2).sum() / ((true - true.mean()) ** 2).sum())
        # A value that is the same for all cells says nothing about the gene.
        correlated.append(np.corrcoef(true, said)[0, 1] if np.ptp(said) > 0 else 0.0)
    return {
        "r2": float(1 - (error**2).sum() / total) if total > 0 else float("nan"),
        "r2_genes": float(np.mean(per_gene)) if per_gene else float("nan"),
        "r_genes": float(np.mean(correlated)) if correlated else float("nan"),
        "mse": float((error**2).sum() / n) if n else float("nan"),
    }


def _log(values: Any, model: Any) -> NDArray[np.float64]:
    """Dense log1p of ``_SIZE`` molecules, of values that are scaled as the model wants them."""
    dense = np.asarray(values.todense(), dtype=np.float64)
    target = float(model.input_rule.target_sum)
    return np.log1p(np.expm1(dense) * (_SIZE / target))
