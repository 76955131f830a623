"""Plans against plans: whether what mixes gain is the same elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from episome.errors import UsageError
from episome_datamix.analysis import matrix
from episome_datamix.tasks import FLOOR


@dataclass(frozen=True, slots=True)
class PlanComparison:
    """Whether what mixes gain is the same in another plan: another model, or another baseline.

    Parameters
    ----------
    points
        ``mix``, ``evaluation``, and the log2 fold changes ``first`` and ``second``.
    slope, low, high
        Of the second on the first, with its 95 % interval.
    p_zero, p_one
        That the slope is 0, and that it is 1.
    r, rank_r
        Pearson's and Spearman's correlation of fold changes.
    survives
        Of every evaluation set and mix with a gain in the first plan, whether it is one in the
        second: above 0 in both.
    """

    points: pd.DataFrame
    slope: float
    low: float
    high: float
    p_zero: float
    p_one: float
    r: float
    rank_r: float
    survives: pd.DataFrame


def compare_plans(
    first: pd.DataFrame,
    second: pd.DataFrame,
    *,
    baselines: tuple[str, str],
    metrics: tuple[str, str] = ("r2", "r2"),
    models: tuple[str | None, str | None] = (None, None),
) -> PlanComparison:
    """Regress what mixes gain in one plan on what they gain in another.

    Parameters
    ----------
    first, second
        Of :func:`results`: another architecture, another baseline corpus, or both.
    baselines
        Mix that each is compared with.
    metrics
        Of each; models of ranks have ``"rank_r"``.
    models
        Of each, where there are several.

    Raises
    ------
    UsageError
        They have fewer than three points in common (E-B13), or several models (E-B07).
    """
    sides = []
    for table, baseline, metric, model in zip(
        (first, second), baselines, metrics, models, strict=True
    ):
        kept = table[table["model"] != FLOOR]
        kept = kept if model is None else kept[kept["model"] == model]
        if kept["model"].nunique() > 1:
            raise UsageError(
                "E-B07",
                f"a plan has the models {', '.join(sorted(set(kept['model'])))}",
                fix="name one of each: models=(..., ...)",
            )
        found = matrix(kept, baseline, metric=metric)
        sides.append(found[found["mix"] != baseline].set_index(["mix", "evaluation"]))
    points = pd.concat(
        {name: s["log2_fold_change"] for name, s in zip(("first", "second"), sides, strict=True)},
        axis=1,
        join="inner",
    ).dropna()
    if len(points) < 3:
        raise UsageError(
            "E-B13",
            f"the plans have {len(points)} mixes and evaluation sets in common",
            why="a slope needs three, with scores of 0.01 and more",
            fix="give mixes and evaluation sets the same names in both",
        )
    x, y = points["first"].to_numpy(), points["second"].to_numpy()
    fit = stats.linregress(x, y)
    free = len(points) - 2
    half = stats.t.ppf(0.975, free) * fit.stderr
    apart = abs(fit.slope - 1) / fit.stderr if fit.stderr > 0 else np.inf
    gains = points[points["first"] > 0].assign(survives=lambda t: t["second"] > 0)
    return PlanComparison(
        points.reset_index(),
        float(fit.slope),
        float(fit.slope - half),
        float(fit.slope + half),
        float(fit.pvalue),
        float(2 * stats.t.sf(apart, free)),
        float(fit.rvalue),
        float(stats.spearmanr(x, y).statistic),
        gains.reset_index(),
    )
