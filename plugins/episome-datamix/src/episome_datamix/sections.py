"""What a report of a plan says: heat maps, tests, coverage, curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing

from episome import pl
from episome.errors import UsageError
from episome.report import Figure, Page, Table, Text
from episome_datamix.analysis import (
    compare_mixes,
    coverage_table,
    largest,
    matrix,
    results,
)
from episome_datamix.runner import AT, reasons_of
from episome_datamix.sizes import size_curves
from episome_datamix.tasks import FLOOR

if TYPE_CHECKING:
    from pathlib import Path

    from episome.benchmark import ResultStore
    from episome.report import Part
    from episome_datamix.advisor import Advice, AdviceCheck

#: Cell types that a heat map shows.
_TYPES = 30


def mix_sections(
    store: ResultStore, study: str, metric: str, baseline: str = ""
) -> dict[str, list[Part]]:
    """Return the sections of a plan's results.

    Parameters
    ----------
    store, study
        The results, and the name of the plan.
    metric
        What is shown.
    baseline
        Mix that others are compared with; default that of the plan.
    """
    table = results(store, study)
    if table.empty:
        return {}
    asked = store.studies().get(study, {}).get("data", [])
    baseline = baseline or _first_mix(asked) or str(table["mix"].iloc[0])
    found: dict[str, list[Part]] = {"Mixes": _mixes(table, metric, baseline)}
    if len(types := _by_type(table, metric)):
        found["Cell types"] = types
    if len(donors := _by_donor(table, metric, baseline)):
        found["Donors"] = donors
    if len(told := coverage_table(table, metric=metric)):
        found["Coverage"] = [
            Text(
                "How well each measure of what training covers of an evaluation set tells its "
                "score beforehand: Spearman's correlation over all mixes and "
                "evaluation sets, and within sets."
            ),
            Table(told),
        ]
    if table["n_cells"].nunique() > 2:
        found["Numbers of cells"] = _sizes(table, metric)
    return found


def mix_report(store: ResultStore, study: str, metric: str, baseline: str = "") -> Page:
    """Return the report of a plan alone.

    Parameters
    ----------
    store, study, metric, baseline
        As in :func:`mix_sections`.
    """
    page = Page(f"Mixes: {study}", data=dict(store.studies().get(study, {})))
    if reasons := reasons_of(store, study):
        page.add("What did not work", *(Text(why, badge="bad") for why in reasons))
    for heading, parts in mix_sections(store, study, metric, baseline).items():
        page.add(heading, *parts)
    return page


def _first_mix(asked: list[dict[str, object]]) -> str:
    return str(asked[0]["name"]).rsplit(AT, 1)[0] if asked else ""


def _mixes(table: pd.DataFrame, metric: str, baseline: str) -> list[Part]:
    try:
        found = matrix(table, baseline, metric=metric)
    except UsageError as error:  # its runs failed, and those of others did not
        return [Text(str(error), badge="bad"), Table(_means(table, metric))]
    parts: list[Part] = [
        Text(
            f"Mean of {metric} over seeds, and its log2 fold change to {baseline}. Intervals are "
            "95 % over seeds; no test over cells is made, as those of a donor are no repetitions. "
            f"What the mean of the training cells alone reaches is called {FLOOR!r}."
        )
    ]
    order = list(dict.fromkeys(table["mix"]))
    for model, of in found.groupby("model", sort=True):
        wide = of.pivot_table(index="mix", columns="evaluation", values="value").reindex(order)
        parts.append(
            Figure(
                _drawn(wide, f"{metric}, {model}"),
                f"Heat map of {metric} of {model}: a row per mix, a column per evaluation set.",
            )
        )
        if model == FLOOR:
            continue
        change = of.pivot_table(index="mix", columns="evaluation", values="log2_fold_change")
        change = change.reindex([m for m in order if m != baseline]).dropna(how="all")
        if len(change):
            parts.append(
                Figure(
                    _drawn(change, f"log2 fold change to {baseline}, {model}", center=0.0),
                    f"Heat map of log2 fold changes of {model} against {baseline}.",
                )
            )
    parts.append(Table(found))
    return parts


def _means(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return what there is of a metric where nothing can be compared."""
    kept = table[(table["metric"] == metric) & (table["part"] == "")]
    return kept.groupby(["model", "mix", "evaluation"], as_index=False)["value"].mean()


def _drawn(table: pd.DataFrame, title: str, *, center: float | None = None) -> Drawing:
    figure = Drawing(
        figsize=(
            float(np.clip(0.7 * table.shape[1] + 3.5, 4.5, 18)),
            float(np.clip(0.42 * table.shape[0] + 1.8, 2.5, 18)),
        ),
        layout="constrained",
    )
    pl.heatmap(table, center=center, ax=figure.subplots(), title=title)
    return figure


def _by_type(table: pd.DataFrame, metric: str) -> list[Part]:
    of = largest(table[table["part"].str.startswith("type: ") & (table["metric"] == metric)])
    parts: list[Part] = []
    for model, rows in of.groupby("model", sort=True):
        names = rows["evaluation"] + ", " + rows["part"].str.removeprefix("type: ")
        wide = rows.assign(type=names).pivot_table(index="type", columns="mix", values="value")
        wide = wide[[m for m in dict.fromkeys(rows["mix"]) if m in wide]]
        if (more := len(wide) - _TYPES) > 0:
            parts.append(Text(f"The first {_TYPES} of {len(wide)}; {more} more are in the table."))
        parts.append(
            Figure(
                _drawn(wide.iloc[:_TYPES], f"{metric} by cell type, {model}"),
                f"Heat map of {metric} of {model}: a row per cell type, a column per mix.",
            )
        )
    return parts


def _by_donor(table: pd.DataFrame, metric: str, baseline: str) -> list[Part]:
    kept = table[table["part"].str.startswith("donor: ") & (table["metric"] == metric)]
    others = [m for m in dict.fromkeys(kept["mix"]) if m != baseline]
    if baseline not in set(kept["mix"]) or not others:
        return []
    rows = [
        compare_mixes(kept, m, baseline, metric=metric, over="donors").assign(mix=m)
        for m in others
    ]
    found = pd.concat(rows)
    found = found[found["n_units"] > 1]
    if found.empty:
        return []
    columns = ["model", "mix", "evaluation", "difference", "low", "high", "p_value", "n_units"]
    text = f"Differences to {baseline} over donors of the evaluation sets, means over seeds."
    return [Text(text), Table(found[columns])]


def _sizes(table: pd.DataFrame, metric: str) -> list[Part]:
    curves = size_curves(table, metric=metric)
    kept = table[(table["metric"] == metric) & (table["part"] == "") & (table["model"] != FLOOR)]
    parts: list[Part] = []
    for (model, evaluation), of in kept.groupby(["model", "evaluation"], sort=True):
        figure = Drawing(figsize=(6.4, 4.0), layout="constrained")
        fits = {c.mix: c for c in curves if c.model == model and c.evaluation == evaluation}
        pl.scaling_curves(
            of.rename(columns={"mix": "name"}),
            fits=fits,
            label=metric,
            ax=figure.subplots(),
            title=f"{evaluation}, {model}",
        )
        words = f"{metric} of {model} on {evaluation} against training cells, a line per mix."
        parts.append(Figure(figure, words))
    largest_run = float(kept["n_cells"].max())
    rows = [
        {
            "model": c.model,
            "mix": c.mix,
            "evaluation": c.evaluation,
            "tends to": c.top,
            "cells for 95 % of the way": _told(c.saturation, largest_run),
            "low": _told(c.low, largest_run),
            "high": _told(c.high, largest_run),
        }
        for c in curves
    ]
    return [*parts, Table(pd.DataFrame(rows))]


def _told(n_cells: float, largest_run: float) -> str:
    """Return a number of cells; beyond the sizes that were run it is a guess, and not told."""
    if np.isnan(n_cells):
        return ""
    return f"{n_cells:,.0f}" if n_cells <= largest_run else f"beyond {largest_run:,.0f}"


# --- advice -----------------------------------------------------------------------------------


def advice_report(advice: Advice, check: AdviceCheck | None = None) -> Page:
    """Return the report of an advice, and of its check where there is one.

    Parameters
    ----------
    advice
        Of :func:`episome_datamix.advise`.
    check
        Of :func:`episome_datamix.check_advice`.
    """
    page = Page(f"Advice: {advice.target} of {advice.plan.name}", advice.text)
    shown = advice.candidates.head(20)
    page.add(
        "Mixes, best first",
        Text(
            "Shares of the next cells, what they gain over equal shares by the regression on "
            "small runs (90 %: where another set of such runs would lie), and how like the "
            "target's mean profile that of the mix is."
        ),
        Table(shown),
    )
    figure = Drawing(figsize=(4.6, 4.2), layout="constrained")
    ax = figure.subplots()
    ax.scatter(advice.proxies["said"], advice.proxies["value"], color="#0072b2")
    ends = [*ax.get_xlim(), *ax.get_ylim()]
    ax.plot([min(ends), max(ends)], [min(ends), max(ends)], color="0.6", linewidth=0.8)
    ax.set_xlabel(f"{advice.metric} said without the mix")
    ax.set_ylabel(f"{advice.metric} of the small run")
    page.add(
        "Small runs",
        Text(
            f"{len(advice.proxies)} mixes of {advice.proxy_cells:,} cells; Spearman's correlation "
            f"of their scores with what the others say of them: {advice.rank_r:.2f}."
        ),
        Figure(figure, "Scores of small runs against what the others say of them."),
        Table(advice.proxies.reset_index()),
    )
    if check is not None:
        page.add(
            "Full runs",
            Text(check.text),
            Table(check.ranks.rename_axis("ranking").reset_index()),
            Table(check.mixes.reset_index()),
        )
    return page


def write_advice(advice: Advice, check: AdviceCheck | None, folder: Path) -> list[Path]:
    """Write the report and the tables of an advice, and return the files.

    Parameters
    ----------
    advice, check
        As in :func:`advice_report`.
    folder
        Where to; files of an earlier advice are replaced.
    """
    page = advice_report(advice, check)
    name = f"advice {advice.target}"
    return [page.write(folder / f"{name}{end}", overwrite=True) for end in (".html", ".md")]
