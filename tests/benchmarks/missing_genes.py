"""How far confidence is from accuracy in queries that lack genes.

Genes that carry 20, 40 and 60 % of the weight of the calls are taken away: at random (``--draws``
draws of 200 query cells), and from the weightiest gene on. Printed are accuracy, the mean
confidence as it is given out and without the correction for missing genes, and their difference.
The limit below which a query is refused is lowered.

    EPISOME_TEST_DATA=FOLDER python tests/benchmarks/missing_genes.py [--draws 120]
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _common import write_json
from _splits import LABEL, TASKS, parts

from episome import plugins

if TYPE_CHECKING:
    from anndata import AnnData

LEVELS = (0.2, 0.4, 0.6)
N_CELLS = 200


SPLITS = ("facs", "kang-donors")


def without(model: Any, query: AnnData, order: np.ndarray, level: float) -> Any:
    """Return the query without the first genes of an order, up to a share of the weight."""
    weight = model.gene_importance.weights.mean(axis=0)
    gone = order[np.cumsum(weight[order]) <= level * weight.sum()]
    names = np.array(model.features.ids)[gone]
    return query[:, ~query.var_names.isin(names)]


def said(model: Any, query: AnnData, truth: np.ndarray) -> tuple[float, float, float]:
    """Accuracy, mean confidence, and mean confidence without any correction."""
    given = model.predict_proba(query, min_gene_overlap=0.0)
    plain = model.predict_proba(query, min_gene_overlap=0.0, calibrated=False).to_numpy()
    alone = model.confidence_.map.probabilities(np.log(np.maximum(plain, 1e-12)))
    right = given.columns.to_numpy()[given.to_numpy().argmax(axis=1)] == truth
    return float(right.mean()), float(given.max(axis=1).mean()), float(alone.max(axis=1).mean())


def measure(name: str, kind: str, n_draws: int) -> list[dict[str, object]]:
    """Train once, and take genes away."""
    reference, query = parts(TASKS[name])
    cls = plugins.load_class(plugins.get_spec(kind))
    cls.setup_anndata(reference, labels_key=LABEL, donor_key=TASKS[name].donor_key)
    model = cls(reference)
    model.train()
    truth = query.obs[LABEL].astype(str).to_numpy()
    weight = model.gene_importance.weights.mean(axis=0)
    rows = []
    for level in LEVELS:
        found = []
        for seed in range(n_draws):
            rng = np.random.default_rng(seed)
            some = rng.permutation(query.n_obs)[:N_CELLS]
            order = rng.permutation(len(weight))
            found.append(said(model, without(model, query[some], order, level), truth[some]))
        worst = said(model, without(model, query, np.argsort(-weight), level), truth)
        for which, value in (("at random", np.mean(found, axis=0)), ("weightiest", worst)):
            accuracy, given, alone = map(float, value)
            rows.append(
                {
                    "set": name,
                    "model": kind,
                    "removed": level,
                    "genes": which,
                    "accuracy": accuracy,
                    "confidence": given,
                    "uncorrected": alone,
                    "gap": given - accuracy,
                }
            )
            sys.stdout.write(
                f"{name:12s} {kind:8s} {level:.0%} {which:10s} accuracy {accuracy:.3f}, "
                f"confidence {given:.3f} ({alone:.3f} uncorrected), gap {given - accuracy:+.3f}\n"
            )
            sys.stdout.flush()
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=120)
    parser.add_argument("--models", nargs="+", default=["logreg"])
    parser.add_argument("--splits", nargs="+", choices=list(TASKS), default=list(SPLITS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows = [
        row
        for name in options.splits
        for kind in options.models
        for row in measure(name, kind, options.draws)
    ]
    write_json(options.json, rows)


if __name__ == "__main__":
    main()
