"""The report of a store: what was found, what leaked, what failed, what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome.benchmark._perform import task_named
from episome.benchmark._stats import CELL, ranks, summary
from episome.errors import UsageError
from episome.report import Figure, Page, Table, Text

if TYPE_CHECKING:
    from episome.benchmark._store import ResultStore

COSTS = ("train_seconds", "predict_seconds", "peak_mib", "device_peak_mib")


def report(store: ResultStore, study: str | None = None) -> Page:
    """Make the report of a study, or of all of a store.

    Parameters
    ----------
    store
        Results.
    study
        Name of one.

    Returns
    -------
    A :class:`episome.report.Page`.

    Raises
    ------
    UsageError
        The store has no such results (E-B13).
    """
    table = store.table()
    known = sorted(set(table["study"]))
    names = known if study is None else [study]
    if not known or study not in (None, *known):
        raise UsageError(
            "E-B13",
            "there are no results" if not known else f"there are no results of {study!r}",
            where=str(store.path),
            why=f"the studies are {', '.join(known)}" if known else None,
            fix="run one: episome benchmark run STUDY -o FOLDER",
        )
    asked = store.studies()
    title = ", ".join(names)
    page = Page(f"Benchmark: {title}", data={"studies": {n: asked.get(n, {}) for n in names}})
    for name in names:
        part = table[table["study"] == name]
        _add_study(page, store, name, part, asked.get(name, {}))
    return page


def _add_study(
    page: Page, store: ResultStore, name: str, table: pd.DataFrame, asked: dict[str, Any]
) -> None:
    head = f"{name}: " if len(page.data["studies"]) > 1 else ""
    if asked.get("summary"):
        page.add(f"{head}What is asked", Text(str(asked["summary"])))
    page.add(f"{head}Leaks", *_leaks(table))
    scores = summary(store, name)
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
    page.add(f"{head}How it was made", *_made(store, name, table, asked))


def _leaks(table: pd.DataFrame) -> list[Text]:
    refused = table[table["status"] == "refused"]
    allowed = table[(table["leaks"].astype(str) != "") & (table["status"] == "ok")]
    parts = []
    unknown = sorted(set(table["data"][table["donors"] == "unknown"]))
    if refused.empty and allowed.empty:
        what = "cell name or cell" if unknown else "donor, cell name or cell"
        parts.append(Text(f"No {what} is in both parts of any split.", badge="good"))
    if unknown:
        said = f"No donors are named for {', '.join(unknown)}: they may be in both parts."
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
                row[f"{metric}, 95 %"] = f"{value['low']:.3f} to {value['high']:.3f}"
        row["runs"] = int(part["n_runs"].max())
        rows.append(row)
    return pd.DataFrame(rows)


def _best_first(frame: pd.DataFrame, main: str) -> pd.DataFrame:
    if "condition" in frame and (frame["condition"] == "").all():
        frame = frame.drop(columns="condition")
    order = ["condition"] if "condition" in frame else []
    if main in frame:
        ascending = [True] * len(order) + [False]
        return frame.sort_values([*order, main], ascending=ascending)
    return frame


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
            f"Mean rank by {main} (1 is best). Ranks that differ by less than "
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
    store: ResultStore, name: str, table: pd.DataFrame, asked: dict[str, Any]
) -> list[Text | Table]:
    runs = table.drop_duplicates("run")
    when = runs["started"][runs["started"].astype(str) != ""]
    first, last = (when.min(), when.max()) if len(when) else ("", "")
    data = runs[["data", "data_sha256"]].drop_duplicates().sort_values("data")
    return [
        Text(f"{len(runs)} runs, the first begun {first}, the last {last}."),
        Text("Versions: " + " / ".join(sorted(set(runs["versions"].astype(str)) - {""}))),
        Table(data, "Digest of the cells that took part."),
        Table(
            runs[["model", "model_version"]].drop_duplicates().sort_values("model"),
            "Version and digest of the code of every model.",
        ),
        Text(
            f"Again: episome benchmark run {name} -o {store.path.name}; results that are there "
            "are not repeated."
        ),
    ]
