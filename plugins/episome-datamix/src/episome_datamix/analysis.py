"""What the results of plans say: matrices, tests, curves, comparisons of plans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import optimize, stats

from episome import settings
from episome.benchmark import ResultStore, sign_flip_test
from episome.errors import UsageError
from episome_datamix.runner import AT
from episome_datamix.tasks import FLOOR, PART

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

#: Scores below this are no base of a ratio.
SMALLEST = 0.01
_DRAWS = 1000


def results(
    store: ResultStore | str | Path, study: str | None = None, *, model: str | None = None
) -> pd.DataFrame:
    """Return the scores of mixes, a row per mix, size, seed, model, evaluation set and metric.

    Parameters
    ----------
    store
        Results, or their folder.
    study
        Name of the plan; needed where the folder holds several.
    model
        Only this one.

    Returns
    -------
    Columns ``mix``, ``n_cells`` (NaN without a series of sizes), ``seed``, ``model``,
    ``evaluation``, ``part`` (``"type: ..."``, ``"donor: ..."``, or empty), ``metric``, ``value``;
    the mean of training is the model ``"mean of training"``.

    Raises
    ------
    UsageError
        There are no such results (E-B13), or those of several plans (E-B07).
    """
    store = store if isinstance(store, ResultStore) else ResultStore(store)
    table = store.current()
    table = table[table["task"].astype(str).str.startswith("mix-")]
    names = sorted(set(table["study"]))
    if study is None and len(names) > 1:
        raise UsageError(
            "E-B07",
            "the folder holds results of several plans",
            where=str(store.path),
            why=f"they are {', '.join(names)}",
            fix="name one: study =",
        )
    if not names or (study is not None and study not in names):
        raise UsageError(
            "E-B13",
            "there are no results of " + (f"the plan {study!r}" if study else "any plan"),
            where=str(store.path),
            why=f"there are those of {', '.join(names)}" if names else "none was run into it",
            fix="episome mix run PLAN.toml -o FOLDER",
        )
    table = table[(table["study"] == (study or names[0])) & (table["status"] == "ok")]
    table = table[table["metric"] != ""]
    split = table["data"].astype(str).str.rsplit(AT, n=1)
    condition = table["condition"].astype(str).str.split(PART, n=1, regex=False)
    floor = condition.str[0] == FLOOR
    found = pd.DataFrame(
        {
            "mix": split.str[0],
            "n_cells": pd.to_numeric(split.str[1], errors="coerce"),
            "seed": table["seed"].astype(int),
            "model": np.where(floor, FLOOR, table["model"].astype(str)),
            "evaluation": np.where(floor, condition.str[1], condition.str[0]),
            "part": np.where(floor, "", condition.str[1].fillna("")),
            "metric": table["metric"].astype(str),
            "value": table["value"].astype(float),
        }
    )
    # The floor is the same for all models of a mix.
    found = found.drop_duplicates([c for c in found.columns if c != "value"])
    if model is not None:
        if model not in set(found["model"]):
            raise UsageError(
                "E-B13",
                f"there are no results of {model!r}",
                why=f"there are those of {', '.join(sorted(set(found['model'])))}",
                fix="name one of these",
            )
        found = found[found["model"] == model]
    return found.reset_index(drop=True)


def matrix(
    table: pd.DataFrame, baseline: str, *, metric: str = "r2", part: str = ""
) -> pd.DataFrame:
    """Return the mean of every mix on every evaluation set, over seeds, and what a mix gains.

    Parameters
    ----------
    table
        Of :func:`results`, all of one size; the largest is taken of several.
    baseline
        Mix that others are compared with.
    metric
        What is shown.
    part
        Only of this part of evaluation sets, such as ``"type: B cell"``.

    Returns
    -------
    A row per model, mix and evaluation set: ``value``, ``low`` and ``high`` (95 % of the mean over
    seeds by Student's t; NaN of one seed), ``n_seeds``, ``log2_fold_change`` against the baseline
    (of means; NaN where either is below 0.01), ``difference``, ``difference_low`` and ``_high``
    (paired by seed) and ``p_value`` of flipped signs over seeds.
    """
    kept = _largest(table[(table["metric"] == metric) & (table["part"] == part)])
    rows = []
    for (model, evaluation), of in kept.groupby(["model", "evaluation"], sort=True):
        wide = of.pivot_table(index="seed", columns="mix", values="value")
        if baseline not in wide:
            raise UsageError(
                "E-B13",
                f"the baseline {baseline!r} has no results",
                where=f"{model}, {evaluation}",
                why=f"there are those of {', '.join(wide.columns)}",
                fix="name one of these",
            )
        for mix in wide:
            values = wide[mix].dropna()
            low, high = t_interval(values)
            base = float(wide[baseline].mean())
            pairs = (wide[mix] - wide[baseline]).dropna()
            d_low, d_high = t_interval(pairs)
            mean = float(values.mean())
            good = min(mean, base) >= SMALLEST
            rows.append(
                {
                    "model": model,
                    "mix": mix,
                    "evaluation": evaluation,
                    "value": mean,
                    "low": low,
                    "high": high,
                    "n_seeds": len(values),
                    "log2_fold_change": float(np.log2(mean / base)) if good else np.nan,
                    "difference": float(pairs.mean()),
                    "difference_low": d_low,
                    "difference_high": d_high,
                    "p_value": np.nan
                    if mix == baseline or len(pairs) < 2
                    else sign_flip_test(pairs.to_numpy()),
                }
            )
    return pd.DataFrame(rows)


def compare_mixes(
    table: pd.DataFrame, first: str, second: str, *, metric: str = "r2", over: str = "seeds"
) -> pd.DataFrame:
    """Compare two mixes on every evaluation set, over seeds or over donors.

    Cells are never the units: tests over thousands of cells of a few donors call everything
    significant.

    Parameters
    ----------
    table
        Of :func:`results`.
    first, second
        The mixes.
    metric
        What is compared.
    over
        ``"seeds"``, or ``"donors"`` of the evaluation sets (means over seeds).

    Returns
    -------
    A row per model and evaluation set: ``difference`` (first less second), ``low``, ``high``,
    ``p_value``, ``n_units``. With fewer than five units no p-value can be below 0.05.

    Raises
    ------
    UsageError
        Another unit (E-U22), or a mix has no results (E-B13).
    """
    if over not in ("seeds", "donors"):
        raise UsageError("E-U22", f"over={over!r}", fix='use "seeds" or "donors"')
    kept = _largest(table[table["metric"] == metric])
    donors = kept["part"].str.startswith("donor: ")
    kept = kept[donors] if over == "donors" else kept[kept["part"] == ""]
    unit = "part" if over == "donors" else "seed"
    for name in (first, second):
        if name not in set(kept["mix"]):
            raise UsageError(
                "E-B13",
                f"the mix {name!r} has no results over {over}",
                why=f"there are those of {', '.join(sorted(set(kept['mix']))) or 'none'}",
                fix="name one of these, or donor_key = of the evaluation sets",
            )
    rows = []
    for (model, evaluation), of in kept.groupby(["model", "evaluation"], sort=True):
        wide = of.pivot_table(index=unit, columns="mix", values="value")
        if first not in wide or second not in wide:
            continue
        pairs = (wide[first] - wide[second]).dropna()
        low, high = t_interval(pairs)
        rows.append(
            {
                "model": model,
                "evaluation": evaluation,
                "difference": float(pairs.mean()),
                "low": low,
                "high": high,
                "p_value": sign_flip_test(pairs.to_numpy()) if len(pairs) > 1 else np.nan,
                "n_units": len(pairs),
                "over": over,
            }
        )
    return pd.DataFrame(rows)


def t_interval(values: Any, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of a mean by Student's t; NaN of fewer than two values.

    Parameters
    ----------
    values
        One per seed or donor.
    level
        Of the interval.
    """
    found = np.asarray(values, dtype=float)
    if len(found) < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf(0.5 + level / 2, len(found) - 1) * stats.sem(found)
    return float(found.mean() - half), float(found.mean() + half)


# --- sizes ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SizeCurve:
    """How a score grows with the number of cells: ``top - drop * n ** -rate``.

    Parameters
    ----------
    mix, evaluation, model
        Of what.
    top, drop, rate
        Of the curve; ``top`` is what it tends to.
    saturation
        Cells of each corpus at which 95 % of the way from the smallest size to ``top`` is gone.
    low, high
        95 % of ``saturation``, over seeds drawn anew.
    beyond
        Whether that lies beyond the sizes that were run, where the curve is a guess.
    """

    mix: str
    evaluation: str
    model: str
    top: float
    drop: float
    rate: float
    saturation: float
    low: float
    high: float
    beyond: bool

    def __call__(self, n: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the curve at numbers of cells."""
        found: NDArray[np.floating] = self.top - self.drop * np.asarray(n, float) ** -self.rate
        return found


def size_curves(
    table: pd.DataFrame, *, metric: str = "r2", n_draws: int = 200
) -> tuple[SizeCurve, ...]:
    """Fit a curve of the number of cells to every mix, model and evaluation set.

    Parameters
    ----------
    table
        Of :func:`results`, of a plan with a series of three sizes and more.
    metric
        What grows.
    n_draws
        Draws of seeds for the interval.

    Raises
    ------
    UsageError
        There are fewer than three sizes (E-B13).
    """
    kept = table[(table["metric"] == metric) & (table["part"] == "")]
    kept = kept[kept["n_cells"].notna() & (kept["model"] != FLOOR)]
    if kept["n_cells"].nunique() < 3:
        raise UsageError(
            "E-B13",
            f"{kept['n_cells'].nunique()} sizes were run, and a curve needs three",
            fix="sizes = [250, 500, 1000, 2000] in the plan",
        )
    rng = np.random.default_rng(settings.stream_seed("bootstrap"))
    curves = []
    for (mix, evaluation, model), of in kept.groupby(["mix", "evaluation", "model"], sort=True):
        wide = of.pivot_table(index="seed", columns="n_cells", values="value").dropna()
        if wide.shape[1] < 3 or wide.empty:
            continue
        sizes = wide.columns.to_numpy(float)
        top, drop, rate = _fitted(sizes, wide.mean().to_numpy())
        points = []
        for _ in range(n_draws if len(wide) > 1 else 0):
            drawn = wide.to_numpy()[rng.integers(0, len(wide), len(wide))].mean(axis=0)
            points.append(_saturation(sizes, *_fitted(sizes, drawn)))
        at = _saturation(sizes, top, drop, rate)
        low, high = np.percentile(points, [2.5, 97.5]) if points else (np.nan, np.nan)
        curves.append(
            SizeCurve(
                str(mix),
                str(evaluation),
                str(model),
                top,
                drop,
                rate,
                at,
                float(low),
                float(high),
                bool(at > sizes.max()),
            )
        )
    return tuple(curves)


def _fitted(
    sizes: NDArray[np.floating], values: NDArray[np.floating]
) -> tuple[float, float, float]:
    """Least squares; for a rate, the rest of the curve is a line."""

    def error(log_rate: float) -> tuple[float, NDArray[np.floating]]:
        x = np.stack([np.ones_like(sizes), -(sizes ** -np.exp(log_rate))], axis=1)
        # Scores do not fall with more cells: a drop below zero is none.
        found, _ = optimize.nnls(np.column_stack([x[:, 0], -x[:, 0], x[:, 1]]), values)
        line = np.array([found[0] - found[1], found[2]])
        return float(((x @ line - values) ** 2).sum()), line

    grid = np.linspace(np.log(0.05), np.log(3.0), 40)
    best = min(grid, key=lambda r: error(r)[0])
    step = grid[1] - grid[0]
    tuned = optimize.minimize_scalar(
        lambda r: error(r)[0], bounds=(best - step, best + step), method="bounded"
    ).x
    top, drop = error(float(tuned))[1]
    return float(top), float(drop), float(np.exp(tuned))


def _saturation(sizes: NDArray[np.floating], top: float, drop: float, rate: float) -> float:
    if drop <= 0:
        return float(sizes.min())
    return float(sizes.min() * 0.05 ** (-1 / rate))


# --- plans against plans --------------------------------------------------------------------


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


def coverage_table(table: pd.DataFrame, *, metric: str = "r2") -> pd.DataFrame:
    """Return how well each measure of coverage tells the scores of mixes beforehand.

    Parameters
    ----------
    table
        Of :func:`results`.
    metric
        What is told.

    Returns
    -------
    A row per model and measure: ``spearman`` over all mixes and evaluation sets (means over
    seeds), ``within``: the mean over evaluation sets of that over mixes, and ``n_points``.
    """
    kept = table[(table["part"] == "") & (table["model"] != FLOOR)]
    means = kept.pivot_table(
        index=["model", "mix", "n_cells", "evaluation"],
        columns="metric",
        values="value",
        dropna=False,
    ).dropna(how="all")
    rows = []
    for model, of in means.groupby(level="model"):
        for name in [c for c in of if str(c).startswith("coverage_")]:
            pair = of[[name, metric]].dropna()
            if len(pair) < 3:
                continue
            inner = [_spearman(g[name], g[metric]) for _, g in pair.groupby(level="evaluation")]
            known = [v for v in inner if np.isfinite(v)]
            rows.append(
                {
                    "model": model,
                    "coverage": name,
                    "spearman": _spearman(pair[name], pair[metric]),
                    "within": float(np.mean(known)) if known else np.nan,
                    "n_points": len(pair),
                }
            )
    return pd.DataFrame(rows, columns=["model", "coverage", "spearman", "within", "n_points"])


def _spearman(x: pd.Series, y: pd.Series) -> float:
    if len(x) < 3 or x.nunique() < 2 or y.nunique() < 2:
        return float("nan")
    return float(stats.spearmanr(x, y).statistic)


def _largest(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the largest size of a series."""
    if table["n_cells"].notna().any():
        return table[table["n_cells"] == table["n_cells"].max()]
    return table
