"""The report of a store: what was found, what leaked, what failed, what it cost."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome.benchmark._perform import task_named
from episome.benchmark._stats import (
    CELL,
    Comparison,
    class_scores,
    compare,
    ranks,
    sign_flip_test,
    summary,
    threshold_curve,
)
from episome.errors import UsageError
from episome.report import Figure, Page, Table, Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from episome.benchmark._store import ResultStore
    from episome.report import Part

#: Types below which a picture of their sizes says nothing.
_FEWEST_TYPES = 6
#: Models in that picture.
_SHOWN = 5
#: Largest p-value of a difference that is shown.
_LEVEL = 0.05
COSTS = ("pretrain_seconds", "train_seconds", "predict_seconds", "peak_mib", "device_peak_mib")


def report(
    store: ResultStore, study: str | Sequence[str] | None = None, *, title: str = ""
) -> Page:
    """Make the report of one study, of several, or of all of a store.

    Parameters
    ----------
    store
        Results.
    study
        Name of one, or names.
    title
        Default the names.

    Returns
    -------
    A :class:`episome.report.Page`.

    Raises
    ------
    UsageError
        The store has no such results (E-B13).
    """
    table = store.current()
    known = sorted(set(table["study"]))
    names = known if study is None else [study] if isinstance(study, str) else list(study)
    store.require(names, table)
    asked = store.studies()
    page = Page(
        f"Benchmark: {title or ', '.join(names)}",
        data={"studies": {n: asked.get(n, {}) for n in names}},
    )
    for name in names:
        part = table[table["study"] == name]
        _add_study(page, store, name, part, asked.get(name, {}))
    return page


def _add_study(
    page: Page,
    store: ResultStore,
    name: str,
    table: pd.DataFrame,
    asked: dict[str, Any],
) -> None:
    head = f"{name}: " if len(page.data["studies"]) > 1 else ""
    if asked.get("summary"):
        page.add(f"{head}What is asked", Text(str(asked["summary"])))
    scores = summary(store, name)
    if asked.get("contrasts"):
        page.add(f"{head}What is claimed", *_claims(store, name, asked["contrasts"], scores))
    page.add(f"{head}Leaks", *_leaks(table))
    page.add(f"{head}Cells", *_cells(table))
    for task in sorted(set(scores["task"])):
        of = scores[scores["task"] == task]
        main, directions = _metrics_of(task, of)
        wide = _wide(of, directions)
        for (data, split), part in wide.groupby(["data", "split"], sort=True):
            shown = part.drop(columns=["data", "split"]).dropna(axis=1, how="all")
            page.add(f"{head}{task}: {data}, {split}", Table(_best_first(shown, main)))
        page.add(
            f"{head}{task}: overview", *_overview(of, main, higher=directions.get(main, True))
        )
        for heading, parts in _own_sections(store, name, task).items():
            page.add(f"{head}{heading}", *parts)
    if len(sizes := _class_sizes(store, name)):
        page.add(f"{head}Frequent and rare types", *sizes)
    if len(curve := threshold_curve(store, study=name)):
        page.add(f"{head}Thresholds of novelty", _curve(curve))
    page.add(f"{head}Costs", _costs(table))
    page.add(f"{head}What did not work", *_failures(table, asked))
    if asked.get("published"):
        page.add(
            f"{head}Published, other protocol",
            Text(
                "These figures are from the paper. They were measured on other cells, splits or "
                "metrics, and are not comparable with those above."
            ),
            Table(pd.DataFrame(asked["published"])),
        )
    page.add(f"{head}How it was made", *_made(store, name, asked, table))


def _claims(
    store: ResultStore, name: str, contrasts: Sequence[Mapping[str, Any]], scores: pd.DataFrame
) -> list[Text | Table]:
    """Say what every claim came to: how often the first is shown better, worse, or neither."""
    if scores.empty:
        return [Text("No run left a score.")]
    main, directions = _metrics_of(str(scores["task"].iloc[0]), scores)
    parts: list[Text | Table] = []
    for contrast in contrasts:
        first, second = str(contrast["first"]), str(contrast["second"])
        metric = str(contrast.get("metric") or main)
        given = contrast.get("conditions") or ()
        claim = str(contrast.get("claim") or f"{first} is better than {second}")
        conditions = (str(given[0]), str(given[1])) if given else None
        try:
            found = compare(store, first, second, metric=metric, study=name, conditions=conditions)
        except UsageError:
            said = f"{claim}: not tested, as both have no {metric} of the same test cells."
            parts.append(Text(said, badge="bad"))
            continue
        parts.append(_verdict(claim, found, metric, higher=directions.get(metric, True)))
        parts.append(_compared(found, f"{first} less {second}, {metric}"))
    return parts


def _verdict(claim: str, found: list[Comparison], metric: str, *, higher: bool) -> Text:
    """Say how many comparisons show a difference, and what all say together.

    A difference is shown where its interval lies on one side of zero and the test of signs says
    so too: an interval of a few units that agree by chance is narrow.
    """
    sure = [c for c in found if c.p_value <= _LEVEL]
    better = sum((c.low > 0) if higher else (c.high < 0) for c in sure)
    worse = sum((c.high < 0) if higher else (c.low > 0) for c in sure)
    without = sum(not np.isfinite(c.low) for c in found)
    said = (
        f"{claim}: shown better on {better} of {len(found)} comparisons, worse on {worse}, not "
        f"told apart on {len(found) - better - worse - without} ({metric}; 95 % interval and p up "
        f"to {_LEVEL})"
    )
    if without:
        said += f"; {without} had fewer than three donors or runs, which give no interval"
    differences = np.array([c.difference for c in found])
    differences = differences[np.isfinite(differences)]
    if len(differences) > 1:
        p = sign_flip_test(differences)
        said += f". Over all of them {differences.mean():+.3f}, p = {p:.2g}"
    badge = "good" if better and not worse else "bad" if worse and not better else None
    return Text(f"{said}.") if badge is None else Text(f"{said}.", badge=badge)


def _compared(found: list[Comparison], caption: str) -> Table:
    rows = [
        {
            "data": c.data,
            "split": c.split,
            "condition": c.condition,
            "difference": c.difference,
            "95 %": f"{c.low:.3f} to {c.high:.3f}" if np.isfinite(c.low) else "",
            "p": c.p_value if np.isfinite(c.low) else np.nan,
            "over": f"{c.n_units} {c.units if c.n_units != 1 else c.units[:-1]}",
        }
        for c in found
    ]
    frame = pd.DataFrame(rows)
    frame = frame.sort_values(["data", "split", "condition"], key=_by_number, kind="stable")
    if (frame["condition"] == "").all():
        frame = frame.drop(columns="condition")
    return Table(frame, caption)


def _class_sizes(store: ResultStore, name: str) -> list[Text | Figure]:
    """F1 against the number of test cells, by type, and how they go together by model."""
    from scipy import stats

    found = class_scores(store, study=name)
    if len(found) < _FEWEST_TYPES:
        return []
    lines = []
    for model, part in found.groupby("model", sort=True):
        if part["n_cells"].nunique() > 1 and part["f1"].nunique() > 1:
            rho = stats.spearmanr(part["n_cells"], part["f1"]).statistic
            lines.append(f"{model} {rho:.2f}")
    if not lines:
        return []
    said = "Rank correlation of a type's F1 with its number of test cells: "
    return [Text(said + ", ".join(lines) + "."), _sizes_picture(found)]


def _sizes_picture(found: pd.DataFrame) -> Figure:
    from matplotlib.figure import Figure as Drawing

    by = found.groupby("model")["f1"].agg(["mean", "size"])
    by = by[by["size"] == by["size"].max()]  # the means of others are of other types
    order = by["mean"].sort_values(ascending=False).index[:_SHOWN]
    drawing = Drawing(figsize=(7.0, 3.6))
    axes = drawing.subplots()
    for model, mark in zip(order, "os^Dv", strict=False):
        part = found[found["model"] == model]
        axes.plot(part["n_cells"], part["f1"], mark, ms=4, alpha=0.7, label=model)
    axes.set_xscale("log")
    axes.set_xlabel("test cells of the type")
    axes.set_ylabel("F1 of the type")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(lw=0.4, alpha=0.5)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return Figure(
        drawing,
        f"Every type of every split; the {len(order)} best of the models that were run on all",
    )


def _curve(curve: pd.DataFrame) -> Figure:
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(7.0, 3.6))
    axes = drawing.subplots()
    for model, part in curve.groupby("model", sort=True):
        (line,) = axes.plot(part["threshold"], part["found"], lw=1.2, label=model)
        axes.plot(part["threshold"], part["lost"], lw=1.0, ls=":", color=line.get_color())
    axes.set_xlabel("novelty from which a cell is called new")
    axes.set_ylabel("share of cells called new")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(lw=0.4, alpha=0.5)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return Figure(
        drawing, "Cells of the type that training lacked (lines) and of all others (dots)"
    )


def _leaks(table: pd.DataFrame) -> list[Text]:
    runs = table.drop_duplicates("run")
    refused = table[table["status"] == "refused"]
    allowed = table[(table["leaks"].astype(str) != "") & (table["status"] == "ok")]
    parts = []
    unknown = sorted(set(table["data"][table["donors"] == "unknown"]))
    partly = runs.groupby("data")["n_no_donor"].max().dropna()
    partly = partly[partly > 0]
    if refused.empty and allowed.empty:
        sure = not unknown and partly.empty
        what = "donor, cell name or cell" if sure else "cell name or cell"
        parts.append(Text(f"No {what} is in both parts of any split.", badge="good"))
    if unknown:
        said = f"No donors are named for {', '.join(unknown)}: they may be in both parts."
        parts.append(Text(said, badge="bad"))
    for data, n in partly.items():
        said = f"{n:,} cells of {data} have no donor: their donors may be in both parts."
        parts.append(Text(said, badge="bad"))
    for text in sorted(set(refused["reason"])):
        parts.append(Text(f"Refused: {text}", badge="bad"))
    named = allowed[["data", "split", "leaks"]].drop_duplicates().itertuples(index=False)
    for data, split, leak in named:
        parts.append(Text(f"Allowed by the study ({data}, {split}): {leak}", badge="bad"))
    parts.append(
        Text("Models were given training cells only; whatever they fit, they fit on those.")
    )
    return parts


def _cells(table: pd.DataFrame) -> list[Table | Text]:
    """How many cells each split has, and how many it leaves out."""
    runs = table[table["status"] == "ok"].drop_duplicates("run")
    if runs.empty:
        return [Text("No run ended well.", badge="bad")]
    columns = ["n_train", "n_test", "n_unseen"]
    found = runs.groupby(["data", "split"])[columns].mean().astype("float64").round()
    shown = found.dropna(axis=1, how="all").rename(
        columns={"n_train": "training", "n_test": "test", "n_unseen": "test, left out"}
    )
    caption = "Cells, means over runs."
    if "test, left out" in shown:
        caption += " Left out: test cells of types that training lacks."
    return [Table(shown.reset_index(), caption, digits=0)]


def _own_sections(store: ResultStore, name: str, task: str) -> Mapping[str, Sequence[Part]]:
    """Return what the task says of its results beyond the tables."""
    try:
        found = task_named(task)
    except UsageError:  # results of a plugin that is not installed any more
        return {}
    return found.sections(store, name)


def _metrics_of(task: str, scores: pd.DataFrame) -> tuple[str, dict[str, bool]]:
    try:
        found = task_named(task)
    except UsageError:  # results of a plugin that is not installed any more
        names = sorted(set(scores["metric"]))
        return names[0], dict.fromkeys(names, True)
    return found.main or next(iter(found.metrics)), dict(found.metrics)


def _wide(scores: pd.DataFrame, directions: dict[str, bool]) -> pd.DataFrame:
    """One row per model and condition, a column per metric, intervals beside the main ones."""
    rows = []
    for key, part in scores.groupby([*CELL, "model"], sort=True):
        row: dict[str, Any] = dict(zip((*CELL, "model"), key, strict=True))
        del row["task"]
        by = part.set_index("metric")
        for metric in directions:
            if metric not in by.index:
                continue
            value = by.loc[metric]
            row[metric] = value["value"]
            if np.isfinite(value["low"]):
                row[f"{metric}, 95 %"] = (
                    f"{value['low']:.3f} to {value['high']:.3f} ({value['over']})"
                )
        row["runs"] = int(part["n_runs"].max())
        rows.append(row)
    return pd.DataFrame(rows)


def _best_first(frame: pd.DataFrame, main: str) -> pd.DataFrame:
    if "condition" in frame and (frame["condition"] == "").all():
        frame = frame.drop(columns="condition")
    order = ["condition"] if "condition" in frame else []
    ascending = [True] * len(order)
    if main in frame:
        order, ascending = [*order, main], [*ascending, False]
    return frame.sort_values(order, ascending=ascending, key=_by_number) if order else frame


def _by_number(column: pd.Series) -> pd.Series:
    """Return the values of a column as they are sorted: 50 % before 100 %."""
    if pd.api.types.is_numeric_dtype(column):
        return column
    return column.map(lambda v: re.sub(r"\d+", lambda found: found[0].zfill(12), str(v)))


def _overview(scores: pd.DataFrame, main: str, *, higher: bool) -> list[Text | Table | Figure]:
    part = scores[scores["metric"] == main]
    if part.empty:
        return [Text("No run left a score.")]
    parts: list[Text | Table | Figure] = [_picture(part, main)]
    ranked = ranks(scores, metric=main, higher_is_better=higher)
    if ranked is None:
        parts.append(Text("Ranks need three data sets that three models were all run on."))
        return parts
    parts.append(
        Table(
            ranked.table,
            f"Mean rank by {main} (1 is best), of means over the splits and conditions of "
            f"{ranked.table['n_data'].iloc[0]} data sets. Ranks that differ by less than "
            f"{ranked.critical_difference:.2f} are not told apart (Nemenyi, 5 %); all models "
            f"alike: p = {ranked.p_value:.2g} (Friedman).",
            digits=2,
        )
    )
    return parts


def _picture(part: pd.DataFrame, main: str) -> Figure:
    from matplotlib.figure import Figure as Drawing

    order = part.groupby("model")["value"].mean().sort_values().index
    drawing = Drawing(figsize=(7.0, 0.32 * len(order) + 1.0))
    axes = drawing.subplots()
    place = {m: i for i, m in enumerate(order)}
    groups = part.groupby(["data", "split"], sort=True)
    marks = "os^Dv<>Pp*Xhd"
    for i, ((data, _), of) in enumerate(groups):
        y = of["model"].map(place).to_numpy() + 0.25 * (i / max(len(groups) - 1, 1) - 0.5)
        low = (of["value"] - of["low"]).clip(lower=0).fillna(0)
        high = (of["high"] - of["value"]).clip(lower=0).fillna(0)
        axes.errorbar(
            of["value"], y, xerr=[low, high], fmt=marks[i % len(marks)], ms=4, lw=0.8, label=data
        )
    axes.set_yticks(range(len(order)), order)
    axes.set_xlabel(f"{main} (95 % interval)")
    axes.grid(axis="x", lw=0.4, alpha=0.5)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    best = order[-1]
    return Figure(
        drawing, f"{main} of {len(order)} models on {len(groups)} splits; {best} is best"
    )


def _costs(table: pd.DataFrame) -> Table:
    runs = table.drop_duplicates("run")
    found = runs[runs["status"] == "ok"].groupby("model")[list(COSTS)]
    frame = found.agg(["median", "max"])
    frame.columns = [f"{a}, {b}" for a, b in frame.columns]
    frame = frame.dropna(axis=1, how="all").reset_index()
    devices = ", ".join(sorted(set(runs["device"].astype(str)) - {""}))
    return Table(frame, f"Over runs; device: {devices or 'not recorded'}.", digits=1)


def _failures(table: pd.DataFrame, asked: dict[str, Any]) -> list[Text | Table]:
    runs = table.drop_duplicates("run")
    bad = runs[runs["status"] != "ok"]
    parts: list[Text | Table] = []
    if len(bad):
        columns = ["model", "data", "split", "condition", "seed", "status", "reason"]
        parts.append(Table(bad[columns]))
    for name, reason in dict(asked.get("missing", {})).items():
        parts.append(Text(f"{name} took no part: {reason}", badge="bad"))
    return parts or [Text("Every run ended well.", badge="good")]


def _made(
    store: ResultStore, name: str, asked: Mapping[str, Any], table: pd.DataFrame
) -> list[Text | Table]:
    runs = table.drop_duplicates("run")
    when = runs["started"][runs["started"].astype(str) != ""]
    first, last = (when.min(), when.max()) if len(when) else ("", "")
    data = runs[["data", "data_sha256"]].drop_duplicates().sort_values("data")
    everything = store.table()
    old = everything.loc[everything["study"] == name, "run"].nunique() - len(runs)
    earlier = f" {old} runs of earlier settings, cells or code are left out." if old else ""
    again = (
        f"Again: {asked['command']}; results that are there are not repeated."
        if asked.get("command")
        else "Made in Python, by episome.benchmark.run_study."
    )
    return [
        Text(f"{len(runs)} runs, the first begun {first}, the last {last}.{earlier}"),
        Text("Versions: " + " / ".join(sorted(set(runs["versions"].astype(str)) - {""}))),
        Table(data, "Digest of the cells that took part."),
        Table(
            runs[["model", "model_version"]].drop_duplicates().sort_values("model"),
            "Version and digest of the code of every model.",
        ),
        Text(again),
    ]
