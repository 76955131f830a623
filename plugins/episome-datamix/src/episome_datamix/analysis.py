"""What the results of a plan say: matrices, tests, and what tells them beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from episome.benchmark import ResultStore, sign_flip_test, task_named
from episome.errors import UsageError
from episome_datamix.runner import AT, OF_ADVICE
from episome_datamix.tasks import FLOOR, PART

if TYPE_CHECKING:
    from pathlib import Path


#: Scores below this are no base of a ratio.
SMALLEST = 0.01


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
    name = plan_in(store, study)
    table = store.current()
    table = table[(table["study"] == name) & (table["status"] == "ok")]
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


def plan_in(store: ResultStore, study: str | None = None) -> str:
    """Return the name of the plan whose results a store holds.

    Parameters
    ----------
    store
        The results.
    study
        Its name; ``None``: the only one.

    Raises
    ------
    UsageError
        There are no results of it (E-B13), or those of several plans (E-B07).
    """
    table = store.current()
    names = sorted(set(table[table["task"].astype(str).str.startswith("mix-")]["study"]))
    if study is None:
        # Those of an advice are asked for by name.
        names = [n for n in names if not any(f" {w} of " in n for w in OF_ADVICE)] or names
    if study is None and len(names) > 1:
        raise UsageError(
            "E-B07",
            "the folder holds results of several plans",
            where=str(store.path),
            why=f"they are {', '.join(names)}",
            fix="name one: study = (--plan)",
        )
    if not names or (study is not None and study not in names):
        raise UsageError(
            "E-B13",
            "there are no results of " + (f"the plan {study!r}" if study else "any plan"),
            where=str(store.path),
            why=f"there are those of {', '.join(names)}" if names else "none was run into it",
            fix="episome mix run PLAN.toml -o FOLDER",
        )
    return study or str(names[0])


def metric_of(store: ResultStore, study: str) -> str:
    """Return the metric that a plan is about.

    Parameters
    ----------
    store, study
        The results, and the name of the plan.
    """
    table = store.current()
    return task_named(str(table[table["study"] == study]["task"].iloc[0])).main


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
    kept = largest(table[(table["metric"] == metric) & (table["part"] == part)])
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
    if metric not in (known := sorted(set(table["metric"]))):
        raise UsageError(
            "E-B13",
            f"there are no results of the metric {metric!r}",
            why=f"there are those of {', '.join(known) or 'none: see why runs failed'}",
            fix="name one of these: metric = (--metric)",
        )
    kept = largest(table[table["metric"] == metric])
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
            inner = [spearman(g[name], g[metric]) for _, g in pair.groupby(level="evaluation")]
            known = [v for v in inner if np.isfinite(v)]
            rows.append(
                {
                    "model": model,
                    "coverage": name,
                    "spearman": spearman(pair[name], pair[metric]),
                    "within": float(np.mean(known)) if known else np.nan,
                    "n_points": len(pair),
                }
            )
    return pd.DataFrame(rows, columns=["model", "coverage", "spearman", "within", "n_points"])


def spearman(x: pd.Series, y: pd.Series) -> float:
    """Return Spearman's correlation; NaN of fewer than three, or of what is the same everywhere.

    Parameters
    ----------
    x, y
        Of the same length.
    """
    if len(x) < 3 or x.nunique() < 2 or y.nunique() < 2:
        return float("nan")
    return float(stats.spearmanr(x, y).statistic)


def largest(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the largest size of a series.

    Parameters
    ----------
    table
        Of :func:`results`.
    """
    if table["n_cells"].notna().any():
        return table[table["n_cells"] == table["n_cells"].max()]
    return table
