"""What results say, with intervals: means, paired tests, ranks, differences by class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from episome import settings
from episome.errors import UsageError
from episome.metrics import MIN_DONORS, bootstrap, class_table, macro_f1

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.benchmark._store import ResultStore

#: What a comparison is between, besides the model.
CELL = ("task", "data", "split", "condition")
#: Largest number of units whose sign flips are all tried.
_EXACT = 14
N_DRAWS = 1000
#: What predictions of calls have; other tasks may keep others.
_CALLED = {"truth", "call", "donor", "condition"}


def summary(store: ResultStore, study: str | None = None, *, n_draws: int = 300) -> pd.DataFrame:
    """Return the mean of every metric over seeds and folds, with an interval where one is known.

    Parameters
    ----------
    store
        Results.
    study
        Only this one.
    n_draws
        Of the bootstrap.

    Returns
    -------
    One row per task, data set, split, condition, model and metric: ``value`` (mean), ``spread``
    (standard deviation over seeds and folds), ``n_runs``, and for ``f1_macro`` and ``accuracy``
    ``low``, ``high`` (95 %, of test donors drawn anew, of cells where there are fewer than five)
    and ``over`` (``"donors"`` or ``"cells"``).
    """
    table = _good(store, study)
    by = ["study", *CELL, "model", "metric"]
    found = table.groupby(by, sort=True, dropna=False)["value"].agg(["mean", "std", "size"])
    found = found.rename(columns={"mean": "value", "std": "spread", "size": "n_runs"})
    out = found.reset_index()
    each = table.drop_duplicates(["run", "condition"])
    runs = each.groupby(["study", *CELL, "model"])["run"].apply(list)
    intervals = {
        key: _intervals(store, names, str(key[4]), n_draws) for key, names in runs.items()
    }
    empty: dict[str, tuple[float, float, str]] = {}
    rows = [
        intervals.get(tuple(r[:6]), empty).get(str(r[6]), (np.nan, np.nan, ""))
        for r in out[by].itertuples(index=False)
    ]
    out[["low", "high", "over"]] = pd.DataFrame(rows, columns=["low", "high", "over"])
    return out


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same test cells.

    Parameters
    ----------
    difference
        Mean of first less second, over units.
    low, high
        95 % of the mean of units drawn anew.
    p_value
        Two-sided, of the signs of the differences flipped at random; all flips of up to 14 units.
    units, n_units
        What was compared: ``"donors"`` or ``"runs"`` (seeds and folds); never cells, which are
        not independent.
    """

    task: str
    data: str
    split: str
    condition: str
    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    units: str
    n_units: int


def compare(
    store: ResultStore,
    first: str,
    second: str,
    *,
    metric: str = "f1_macro",
    study: str | None = None,
    conditions: tuple[str, str] | None = None,
) -> list[Comparison]:
    """Compare two models on every data set, split and condition that both were run on.

    With ``conditions`` the first model in one condition is compared with the second, or the same
    one, in another.

    ``f1_macro`` and ``accuracy`` are compared over test donors where there are at least five, all
    metrics otherwise over runs with the same seed and fold.

    Parameters
    ----------
    store
        Results.
    first, second
        Names of models.
    metric
        Of the table.
    study
        Only this one.
    conditions
        Of the first and of the second.

    Raises
    ------
    UsageError
        They share no run (E-B12).
    """
    table = _good(store, study)
    table = table[table["metric"] == metric]
    one, two = table[table["model"] == first], table[table["model"] == second]
    if conditions is not None:
        # One condition of both is no contrast of conditions.
        shown = " against ".join(dict.fromkeys(conditions))
        one, two = (
            t[t["condition"] == c].assign(condition=shown, at=c)
            for t, c in zip((one, two), conditions, strict=True)
        )
    else:
        one, two = (t.assign(at=t["condition"]) for t in (one, two))
    both = one.merge(
        two, on=["study", *CELL, "fold", "seed", "metric"], suffixes=("_first", "_second")
    )
    if both.empty:
        raise UsageError(
            "E-B12",
            f"{first} and {second} have no {metric} of the same test cells",
            where=str(store.path),
            why=f"the models are {', '.join(sorted(set(_good(store, study)['model'])))}",
            fix="name two of them, or run both",
        )
    found = []
    for key, part in both.groupby(["study", *CELL], sort=True):
        differences, units = None, "runs"
        if metric in {"f1_macro", "accuracy"}:
            differences = _over_donors(store, part, metric)
        if differences is not None:
            units = "donors"
        else:
            differences = (part["value_first"] - part["value_second"]).to_numpy()
        differences = differences[np.isfinite(differences)]
        low, high = _interval_of_mean(differences)
        found.append(
            Comparison(
                **dict(zip(CELL, map(str, key[1:]), strict=True)),
                metric=metric,
                difference=float(differences.mean()) if len(differences) else np.nan,
                low=low,
                high=high,
                p_value=sign_flip_test(differences),
                units=units,
                n_units=len(differences),
            )
        )
    return found


def sign_flip_test(differences: NDArray[np.floating], *, seed: int | None = None) -> float:
    """Return the two-sided p-value of paired differences under random signs.

    Parameters
    ----------
    differences
        One per unit, (n,).
    seed
        Of the draws where there are more than 14 units.
    """
    n = len(differences)
    if n == 0:
        return float("nan")
    seen = abs(differences.sum())
    if n <= _EXACT:
        signs = 1 - 2 * ((np.arange(1 << n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ differences) >= seen - 1e-12).mean())
    rng = np.random.default_rng(settings.stream_seed("bootstrap", seed))
    signs = rng.choice([-1, 1], (20_000, n))
    hits = int((np.abs(signs @ differences) >= seen - 1e-12).sum())
    return (hits + 1) / 20_001


@dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """Mean ranks of models over data sets.

    Parameters
    ----------
    table
        One row per model: ``model``, ``rank`` (1 is best), ``n_data``.
    critical_difference
        Ranks closer than this are not told apart (Nemenyi, 5 %).
    p_value
        Of all models being alike (Friedman).
    """

    table: pd.DataFrame
    critical_difference: float
    p_value: float


def ranks(
    scores: pd.DataFrame, *, metric: str = "f1_macro", higher_is_better: bool = True
) -> Ranks | None:
    """Rank models over data sets; only those that were run on all of them.

    Parameters
    ----------
    scores
        Of :func:`summary`.
    metric
        By which.
    higher_is_better
        Its direction.

    Returns
    -------
    ``None`` for fewer than three data sets or models.

    References
    ----------
    Demšar (2006), Statistical comparisons of classifiers over multiple data sets.
    """
    part = scores[scores["metric"] == metric]
    wide = part.pivot_table(index=list(CELL), columns="model", values="value", aggfunc="mean")
    # Splits and conditions of one data set are of the same cells: only data sets are independent.
    wide = wide.dropna(axis=1).groupby(level="data").mean()
    n, k = wide.shape
    if n < 3 or k < 3:
        return None
    ranked = wide.rank(axis=1, ascending=not higher_is_better)
    mean = ranked.mean().sort_values()
    q = stats.studentized_range.ppf(0.95, k, np.inf) / np.sqrt(2)
    friedman = stats.friedmanchisquare(*(wide[c] for c in wide.columns))
    table = pd.DataFrame({"model": mean.index, "rank": mean.to_numpy(), "n_data": n})
    return Ranks(table, float(q * np.sqrt(k * (k + 1) / (6 * n))), float(friedman.pvalue))


def class_differences(
    store: ResultStore, first: str, second: str, *, study: str | None = None
) -> pd.DataFrame:
    """Return by class how the F1 of two models differs, beside how frequent the class is.

    Parameters
    ----------
    store
        Results with predictions.
    first, second
        Names of models.
    study
        Only this one.

    Returns
    -------
    ``data``, ``split``, ``class``, ``n_cells`` (test), ``first``, ``second``, ``difference``,
    ``low`` and ``high`` (95 %, over runs).

    Raises
    ------
    UsageError
        They share no run (E-B12).
    """
    table = _good(store, study).drop_duplicates(["run", "condition"])
    keys = ["study", *CELL, "fold", "seed"]
    both = table[table["model"] == first].merge(
        table[table["model"] == second], on=keys, suffixes=("_first", "_second")
    )
    rows = []
    for _, pair in both.iterrows():
        tables = []
        for side in ("first", "second"):
            said = _calls(store, str(pair[f"run_{side}"]))
            if said is None:
                break
            said = said[said["condition"] == pair["condition"]]
            if said.empty:
                break
            tables.append(class_table(said["truth"], said["call"]))
        if len(tables) < 2:
            continue
        one, two = tables
        for name in one.index.intersection(two.index):
            rows.append(
                {
                    "data": pair["data"],
                    "split": pair["split"],
                    "class": name,
                    "n_cells": one.loc[name, "n_true"],
                    "first": one.loc[name, "f1"],
                    "second": two.loc[name, "f1"],
                }
            )
    if not rows:
        raise UsageError(
            "E-B12",
            f"{first} and {second} have no predictions for the same test cells",
            where=str(store.path),
            fix="name two models that were run on the same data",
        )
    frame = pd.DataFrame(rows)
    frame["difference"] = frame["first"] - frame["second"]
    out = []
    for key, part in frame.groupby(["data", "split", "class"], sort=True):
        low, high = _interval_of_mean(part["difference"].to_numpy())
        means = part[["n_cells", "first", "second", "difference"]].mean()
        out.append(
            {**dict(zip(("data", "split", "class"), key, strict=True)), **means}
            | {"low": low, "high": high}
        )
    return pd.DataFrame(out).sort_values(["data", "n_cells"]).reset_index(drop=True)


def class_scores(store: ResultStore, *, study: str | None = None) -> pd.DataFrame:
    """Return the F1 of every class by model, beside how frequent the class is in the test cells.

    Parameters
    ----------
    store
        Results with predictions.
    study
        Only this one.

    Returns
    -------
    ``data``, ``split``, ``condition``, ``model``, ``class``, ``n_cells`` and ``f1``, means over
    runs; no rows where no calls were kept.
    """
    table = _good(store, study).drop_duplicates("run")
    rows = []
    for run in table.itertuples(index=False):
        said = _calls(store, str(run.run))
        if said is None:
            continue
        for condition, part in said.groupby("condition", sort=True):
            found = class_table(part["truth"], part["call"])
            found = found[found["n_true"] > 0]
            rows += [
                (run.data, run.split, condition, run.model, name, n, f1)
                for name, n, f1 in zip(found.index, found["n_true"], found["f1"], strict=True)
            ]
    by = ["data", "split", "condition", "model", "class"]
    frame = pd.DataFrame(rows, columns=[*by, "n_cells", "f1"])
    return frame.groupby(by, sort=True)[["n_cells", "f1"]].mean().reset_index()


def threshold_curve(
    store: ResultStore, *, study: str | None = None, score: str = "novelty", n: int = 101
) -> pd.DataFrame:
    """Return how many cells of unseen types are found, and how many others are lost, by threshold.

    Parameters
    ----------
    store
        Results of the task ``novelty``.
    study
        Only this one.
    score
        ``"novelty"``, or ``"confidence"``, of which one less is taken.
    n
        Number of thresholds, evenly from 0 to 1.

    Returns
    -------
    ``model``, ``threshold``, ``found`` (share of the cells of unseen types at or above it),
    ``lost`` (of the others), means over runs; no rows without such results.
    """
    table = _good(store, study)
    table = table[table["task"] == "novelty"].drop_duplicates("run")
    rows = []
    for run in table.itertuples(index=False):
        said = store.predictions(str(run.run))
        if said is None or score not in said:
            continue
        left_out = str(run.condition).removeprefix("without ")
        new = (said["truth"] == left_out).to_numpy()
        values = said[score].to_numpy(dtype=float)
        values = np.nan_to_num(1 - values if score == "confidence" else values, nan=1.0)
        if not new.any() or new.all():
            continue
        for level in np.linspace(0, 1, n):
            at = values >= level
            rows.append((run.model, level, at[new].mean(), at[~new].mean()))
    frame = pd.DataFrame(rows, columns=["model", "threshold", "found", "lost"])
    return frame.groupby(["model", "threshold"], sort=True).mean().reset_index()


def _calls(store: ResultStore, run: str) -> pd.DataFrame | None:
    """Return the calls of a run, without cells whose type nobody could call; or ``None``."""
    said = store.predictions(run)
    if said is None or not set(said.columns) >= _CALLED:
        return None
    return said[~said["new"].to_numpy(dtype=bool)] if "new" in said else said


def _good(store: ResultStore, study: str | None) -> pd.DataFrame:
    table = store.current()
    table = table[(table["status"] == "ok") & (table["metric"] != "")]
    return table if study is None else table[table["study"] == study]


def _intervals(
    store: ResultStore, runs: list[str], condition: str, n_draws: int
) -> dict[str, tuple[float, float, str]]:
    """Intervals of the mean over runs, by metric; none where no predictions were kept."""
    low: dict[str, list[float]] = {}
    over = "donors"
    for run in runs:
        said = _calls(store, run)
        if said is None:
            return {}
        said = said[said["condition"] == condition]
        if said.empty:
            return {}
        donors = said["donor"].replace("", None)
        # Of fewer donors cells are drawn, and that is said.
        several = donors.nunique() >= MIN_DONORS
        over = over if several else "cells"
        for metric, score in (("f1_macro", "macro_f1"), ("accuracy", "accuracy")):
            found = bootstrap(
                score,
                said["truth"],
                said["call"],
                groups=donors if several else None,
                n_draws=n_draws,
            )
            low.setdefault(metric, []).append(found.value - found.low)
            low.setdefault(f"{metric} up", []).append(found.high - found.value)
            low.setdefault(f"{metric} at", []).append(found.value)
    return {
        m: (
            float(np.mean(low[f"{m} at"]) - np.mean(low[m])),
            float(np.mean(low[f"{m} at"]) + np.mean(low[f"{m} up"])),
            over,
        )
        for m in ("f1_macro", "accuracy")
    }


def _over_donors(
    store: ResultStore, pairs: pd.DataFrame, metric: str
) -> NDArray[np.float64] | None:
    """Differences by test donor, mean over runs; ``None`` for fewer than five donors."""
    found: dict[str, list[float]] = {}
    for _, pair in pairs.iterrows():
        sides = [_calls(store, str(pair[f"run_{s}"])) for s in ("first", "second")]
        if any(s is None for s in sides):
            return None
        one, two = (
            s[s["condition"] == pair[f"at_{side}"]]
            for s, side in zip(sides, ("first", "second"), strict=True)
            if s is not None
        )
        for donor in sorted(set(one["donor"]) & set(two["donor"]) - {""}):
            values = [_score(s[s["donor"] == donor], metric) for s in (one, two)]
            found.setdefault(donor, []).append(values[0] - values[1])
    if len(found) < MIN_DONORS:
        return None
    return np.array([np.mean(v) for v in found.values()])


def _score(said: pd.DataFrame, metric: str) -> float:
    if metric == "accuracy":
        return float((said["truth"] == said["call"]).mean())
    return float(macro_f1(said["truth"], said["call"]))


def _interval_of_mean(values: NDArray[np.floating]) -> tuple[float, float]:
    """95 % of the mean of values drawn anew; NaN for fewer than three."""
    if len(values) < 3:
        return float("nan"), float("nan")
    rng = np.random.default_rng(settings.stream_seed("bootstrap"))
    means = values[rng.integers(0, len(values), (N_DRAWS, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
