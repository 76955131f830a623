"""How a query differs from what a model was trained on, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome.data import SIZE_FACTOR_KEY
from episome.errors import UsageError
from episome.inference._calls import FALSE_ALARMS
from episome.io import records

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data import Query
    from episome.inference._predictor import Predictor

#: Rounds of the estimate of proportions, and the change that ends them.
_ROUNDS, _SETTLED = 200, 1e-6
#: Accuracy lost with genes and counts from which on the other parts cannot be told.
_MUCH = 0.02
#: Cells whose counts the median is of, about.
_MEDIAN_OF = 5000
#: Cells from which on proportions are told.
_FEW = 50
_NOT_TOLD = ", which missing genes and counts do by themselves"
#: Costs below this are none.
_NOTHING = 0.005


@dataclass(frozen=True, slots=True, eq=False)
class ShiftReport:
    """How a query differs from the training cells, with the accuracy that each part costs.

    Parameters
    ----------
    n_cells
        Cells of the query that were looked at.
    accuracy
        On calibration cells.
    expected
        Accuracy to expect of the query, all parts together.
    parts
        One row per part: ``part`` (``"genes"``, ``"depth"``, ``"composition"``, ``"novelty"``),
        ``found`` (what was measured, in words), ``value`` and ``cost`` (accuracy lost; NaN where
        the model kept nothing to tell it by).
    classes
        One row per class: ``class``, ``reference`` and ``query`` (shares of the cells; those of
        the query estimated from its probabilities), ``recall`` (on calibration cells), ``lost``
        (share of the weight of its genes that the query lacks).
    """

    n_cells: int
    accuracy: float
    expected: float
    parts: pd.DataFrame
    classes: pd.DataFrame

    @property
    def text(self) -> str:
        """The report in words, a line for each part."""
        lines = [
            f"accuracy on calibration cells {self.accuracy:.2f}, to expect of these "
            f"{self.n_cells:,} cells {self.expected:.2f}"
        ]
        for row in self.parts.itertuples(index=False):
            cost = "cost not known" if np.isnan(row.cost) else f"costs {row.cost:.2f}"
            lines.append(f"  {row.part}: {row.found}: {cost}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data; what is not known is ``None``."""
        parts, classes = records(self.parts), records(self.classes)
        numbers = {"accuracy": self.accuracy, "expected": self.expected}
        return {"n_cells": self.n_cells, **numbers, "parts": parts, "classes": classes}


def shift_report(
    predictor: Predictor,
    query: Query,
    *,
    rows: NDArray[np.int64] | None = None,
    batch_size: int | None = None,
) -> ShiftReport:
    """Compare a query with what a model was trained on; see :class:`ShiftReport`.

    What genes and counts that are missing cost is read from the grid that was measured after
    training: held-out cells were made to lack as much. What another composition costs follows
    from the recall of every class, with proportions by the expectation-maximisation of Saerens et
    al. (2002) on calibrated probabilities. Cells beyond the share that looks novel among cells of
    known types count as wrong; on public sets of other studies about half of them were. Where
    genes or counts cost much, proportions and novelty say nothing by themselves, and their costs
    are not told. What is expected takes genes and counts together and the others off.

    Parameters
    ----------
    predictor
        Of a calibrated annotator.
    query
        Of ``predictor.prepare``.
    rows
        Cells to look at; default all.
    batch_size
        Cells at a time.

    Raises
    ------
    UsageError
        The model has no classes (E-U13), was never calibrated (E-U66), or the query has no cells
        (E-U22).
    """
    labels, sure = predictor.require_labels(), predictor.confidence
    if sure.scores is None or "after" not in sure.facts:
        raise UsageError(
            "E-U66",
            "a shift report is wanted of a model that was never calibrated",
            why="what is lost is told from cells that did not train the model",
            fix="train it on labelled cells of your own; networks with calibration_size=0.1",
        )
    shares, novelty, sizes = _outputs(predictor, query, rows, batch_size)
    if not len(shares):
        raise UsageError(
            "E-U22", "the query has no cells with genes of the model", fix="pass some"
        )
    base = float(sure.facts["after"]["accuracy"])
    counts = np.bincount(sure.scores.codes, minlength=len(labels))
    reference = counts / counts.sum()
    now = proportions(shares, reference)
    recall = np.array([np.nan if r is None else r for r, _ in sure.facts.get("recall", [])])
    genes = _genes(predictor, query)
    depth = _depth(predictor, sizes, genes["removed"])
    together = _together(predictor, genes["removed"], depth["ratio"])
    told = together < _MUCH
    composition = _composition(reference, now, recall, told=told, few=len(shares) < _FEW)
    novel = _novel(predictor, novelty, base, told=told)
    parts = pd.DataFrame([genes, depth, composition, novel])[["part", "found", "value", "cost"]]
    others = float(np.nansum([composition["cost"], novel["cost"]]))
    lost = {} if predictor.importance is None else predictor.importance.lost(_present(query))
    classes = pd.DataFrame(
        {
            "class": list(labels.names),
            "reference": reference,
            "query": now,
            "recall": recall if len(recall) else np.nan,
            "lost": [lost.get(n, np.nan) for n in labels.names],
        }
    )
    expected = float(np.clip(base - together - others, 0.0, 1.0))
    return ShiftReport(len(shares), base, expected, parts, classes)


def proportions(shares: NDArray[np.floating], prior: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the shares of the classes among cells, from calibrated probabilities.

    Parameters
    ----------
    shares
        Probabilities of cells, calibrated on cells of the prior, (n_cells, n_classes).
    prior
        Shares of the classes among those, (n_classes,).

    Returns
    -------
    float64 (n_classes,), sums to one. A class without a calibration cell keeps the mean of its
    probabilities.

    References
    ----------
    Saerens, Latinne and Decaestecker (2002), Adjusting the outputs of a classifier to new a
    priori probabilities.
    """
    p = np.asarray(shares, dtype=np.float64)
    old = np.where(prior > 0, prior, 1.0 / len(prior))
    now: NDArray[np.float64] = p.mean(axis=0)
    for _ in range(_ROUNDS):
        weighted = p * (now / old)
        weighted /= weighted.sum(axis=1, keepdims=True)
        new = weighted.mean(axis=0)
        settled = np.abs(new - now).max() < _SETTLED
        now = new
        if settled:
            break
    return now


def _outputs(
    predictor: Predictor,
    query: Query,
    rows: NDArray[np.int64] | None,
    batch_size: int | None,
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """Probabilities and novelty of the cells that have genes of the model, and their counts."""
    out = predictor.collect(query, _wanted(predictor), rows=rows, batch_size=batch_size)
    full = ~out["empty"]
    # Values that were logarithms are scaled: they do not tell how deep the cells are.
    counted = np.empty(0)
    if query.kind.normalise and not query.kind.unlog:
        every = np.arange(query.source.n_obs) if rows is None else rows
        some = every[:: max(len(every) // _MEDIAN_OF, 1)]
        counted = np.concatenate([b[SIZE_FACTOR_KEY] for b in query.loader(some)] or [counted])
        counted = counted[counted > 0]
    novelty = out["novelty"][full] if "novelty" in out else np.empty(0)
    return out["probabilities"][full], novelty, counted


def _wanted(predictor: Predictor) -> list[str]:
    known = predictor.confidence.novelty is not None
    return ["probabilities", "novelty"] if known else ["probabilities"]


def _present(query: Query) -> NDArray[np.bool_]:
    """Which genes of the model the query has, bool (n_genes,)."""
    found = np.zeros(query.alignment.n_features, dtype=bool)
    columns = query.alignment.columns
    found[columns[columns >= 0]] = True
    return found


def _genes(predictor: Predictor, query: Query) -> dict[str, Any]:
    report, shift = query.alignment.report, predictor.confidence.shift
    weighed = report.weight is not None
    removed = 1.0 - float(report.overlap if report.weight is None else report.weight)
    missing = len(predictor.features) - int(_present(query).sum())
    found = f"{missing:,} of {len(predictor.features):,} genes are missing"
    if weighed:
        found += f", with {removed:.0%} of the weight"
    cost = np.nan if shift is None else shift.accuracy(0.0) - shift.accuracy(removed)
    return {"part": "genes", "found": found, "value": removed, "cost": cost, "removed": removed}


def _depth(predictor: Predictor, sizes: NDArray[np.floating], removed: float) -> dict[str, Any]:
    shift = predictor.confidence.shift
    usual = None if shift is None else shift.library(removed)
    if not len(sizes) or shift is None or usual is None:
        found = "the depth of training or query is not known"
        return {"part": "depth", "found": found, "value": np.nan, "cost": np.nan, "ratio": 1.0}
    here = float(np.median(sizes))
    ratio = here / usual if usual > 0 else 1.0
    found = f"{here:,.0f} counts a cell in genes of the model, {usual:,.0f} were usual"
    cost = shift.accuracy(0.0) - shift.accuracy(0.0, ratio)
    return {"part": "depth", "found": found, "value": ratio, "cost": cost, "ratio": ratio}


def _composition(
    reference: NDArray[np.floating],
    now: NDArray[np.floating],
    recall: NDArray[np.floating],
    *,
    told: bool,
    few: bool,
) -> dict[str, Any]:
    moved = 0.5 * float(np.abs(reference - now).sum())
    cost = float("nan")
    if told and not few and len(recall):
        known = np.isfinite(recall)
        mean = float(np.average(recall[known], weights=reference[known])) if known.any() else 0.0
        of = np.where(known, recall, mean)
        cost = float(reference @ of - now @ of)
    found = f"{moved:.0%} of the cells would have to be of other types"
    if not told:
        found += _NOT_TOLD
    elif few:
        found += ", which so few cells cannot tell"
    return {"part": "composition", "found": found, "value": moved, "cost": cost}


def _novel(
    predictor: Predictor, novelty: NDArray[np.floating], accuracy: float, *, told: bool
) -> dict[str, Any]:
    """Cells beyond the share that looks novel among cells of known types."""
    known = predictor.confidence.novelty
    if known is None or not len(novelty):
        found = "the model keeps nothing to tell it by"
        return {"part": "novelty", "found": found, "value": np.nan, "cost": np.nan}
    share = float((novelty > known.threshold(FALSE_ALARMS)).mean())
    found = f"{share:.1%} of the cells look like none of the types, {FALSE_ALARMS:.0%} is usual"
    cost = max(share - FALSE_ALARMS, 0.0) * accuracy
    if not told:
        found += _NOT_TOLD
    return {"part": "novelty", "found": found, "value": share, "cost": cost if told else np.nan}


def _together(predictor: Predictor, removed: float, ratio: float) -> float:
    """Accuracy that is lost with genes and counts that are missing at once."""
    shift = predictor.confidence.shift
    if shift is None:
        return 0.0
    lost = shift.accuracy(0.0) - shift.accuracy(removed, ratio)
    return lost if lost > _NOTHING else 0.0
