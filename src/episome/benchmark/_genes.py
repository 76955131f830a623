"""The task that asks what the genes of an explanation are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression as LinearModel
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import MaxAbsScaler

from episome.benchmark._case import Case, Outcome
from episome.benchmark._data import LABEL
from episome.benchmark._tasks import Task, called, predictions_of
from episome.metrics import class_table
from episome.models import normalized_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse


class GenePanelTask(Task):
    """Whether the genes that a model goes by tell rare types apart for a plain linear model.

    For every rare type (half of the types, those with the fewest training cells) a logistic
    regression is trained on the ``n_genes`` genes that count most for its training cells, and its
    average precision on the test cells is taken; beside it stand as many genes drawn at random.
    Conditions: ``easy rare types``, the half of them that the model itself finds better, and
    ``hard rare types``.
    """

    name = "gene-panel"
    capability = "explanation"
    metrics: ClassVar[dict[str, bool]] = {
        "auprc": True,
        "auprc_random_genes": True,
        "f1_of_model": True,
        "n_types": True,
    }
    main = "auprc"
    defaults: ClassVar[dict[str, Any]] = {"n_genes": 200}

    def run(self, case: Case) -> Outcome:
        """Train, take the genes of every rare type, and train a linear model on each."""
        model = case.fitted()
        calls, _ = called(case, model, case.test)
        truth = case.truth[LABEL].to_numpy(dtype=str)
        labels = case.train.obs[LABEL].to_numpy(dtype=str)
        counts = pd.Series(labels).value_counts()
        rare = counts.index[counts <= counts.median()].intersection(pd.Index(truth))
        n = min(int(case.options["n_genes"]), len(model.features))
        listed = model.top_genes(case.train, groupby=labels, k=n)
        queries = [model.prepare(part) for part in (case.train, case.test)]
        values = [normalized_rows(q, np.arange(q.source.n_obs)) for q in queries]
        place = pd.Index(model.features.ids)
        rng = case.rng("genes")
        f1 = class_table(truth, calls["label_raw"].to_numpy(dtype=str))["f1"]
        rows = []
        for name in sorted(rare):
            genes = place.get_indexer(pd.Index(listed.loc[listed["group"] == name, "gene"]))
            if not len(genes):
                continue
            drawn = rng.choice(len(place), len(genes), replace=False)
            both = [
                _precision(values[0], values[1], g, labels == name, truth == name)
                for g in (genes, drawn)
            ]
            rows.append((float(f1.get(name, 0.0)), *both))
        table = np.array(rows, dtype=float).reshape(-1, 3)
        # The better half of them; alike ones fall by name.
        order = np.argsort(-table[:, 0], kind="stable")
        easy = np.zeros(len(table), dtype=bool)
        easy[order[: -(-len(table) // 2)]] = True
        scores = {
            condition: _means(table[part])
            for condition, part in (("easy rare types", easy), ("hard rare types", ~easy))
            if part.any()
        }
        said = predictions_of(case, calls["label_raw"], calls["confidence"], "")
        return Outcome(scores, said)


def _means(part: NDArray[np.float64]) -> dict[str, float]:
    f1, found, drawn = part.mean(axis=0)
    return {
        "auprc": float(found),
        "auprc_random_genes": float(drawn),
        "f1_of_model": float(f1),
        "n_types": float(len(part)),
    }


def _precision(
    train: sparse.csr_matrix,
    test: sparse.csr_matrix,
    genes: NDArray[np.intp],
    is_type: NDArray[np.bool_],
    truly: NDArray[np.bool_],
) -> float:
    """Average precision of one type, by a linear model on some genes."""
    scaler = MaxAbsScaler().fit(train[:, genes])
    linear = LinearModel(class_weight="balanced", max_iter=1000)
    linear.fit(scaler.transform(train[:, genes]), is_type)
    score = linear.decision_function(scaler.transform(test[:, genes]))
    return float(average_precision_score(truly, score))
