"""Tasks about parts: organs or assays trained on apart, and members of ensembles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from episome import settings
from episome.benchmark._case import Case, Outcome
from episome.benchmark._data import LABEL
from episome.benchmark._scores import call_scores, separation
from episome.benchmark._tasks import AnnotationTask, Task, called, predictions_of, require_types
from episome.errors import UsageError
from episome.metrics import classification_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.benchmark._data import TaskData

_ALL = "trained on all"


class GroupsTask(AnnotationTask):
    """Types of unseen cells by group, such as organ or assay: trained on all, or on the group.

    Option ``column`` names the groups. With ``alone`` a model is also trained on every group by
    itself, and both are scored on the same test cells; groups with fewer than ``min_cells``
    cells or two types are left out.
    """

    name = "groups"
    defaults: ClassVar[dict[str, Any]] = {"column": "", "alone": True, "min_cells": 50}

    def columns(self, options: dict[str, Any]) -> Sequence[str]:
        """Return the column of the groups."""
        return (str(options["column"]),)

    def conditions(self, data: TaskData, options: dict[str, Any]) -> Sequence[str]:
        """One for all cells, and one per group that is trained on alone.

        Raises
        ------
        UsageError
            The column is not named, or missing (E-B05).
        """
        column = str(options["column"])
        if column not in data.cells.obs:
            raise UsageError(
                "E-B05",
                f"column {column!r} is missing" if column else "no column of groups is named",
                where=data.entry.name,
                why=f"the columns are {list(data.cells.obs.columns)[:12]}",
                fix="options = {column = ...}",
            )
        if not options["alone"]:
            return (_ALL,)
        groups = _groups(data.cells.obs[column], data.cells.obs[LABEL], int(options["min_cells"]))
        return (_ALL, *(f"trained on {g}" for g in groups))

    def run(self, case: Case) -> Outcome:
        """Train on all cells or those of one group, and score every group by itself."""
        column = str(case.options["column"])
        of = case.train.obs[column].astype(str).to_numpy()
        here = case.truth[column].astype(str).to_numpy()
        own = case.condition.removeprefix("trained on ")
        alone = case.condition != _ALL
        train = case.train[of == own].copy() if alone else case.train
        model = case.fitted(train)
        test = case.test[here == own].copy() if alone else case.test
        calls, shares = called(case, model, test)
        least = int(case.options["min_cells"])
        groups = [own] if alone else _groups(case.train.obs[column], case.train.obs[LABEL], least)
        scores, said = {}, []
        truth = case.truth[LABEL].to_numpy(dtype=str)
        tested = np.flatnonzero(here == own) if alone else np.arange(len(here))
        for group in groups:
            rows = np.flatnonzero(here[tested] == group)
            if not len(rows):
                continue
            condition = f"{group}, {case.condition if not alone else 'trained on it alone'}"
            part = truth[tested[rows]]
            hierarchy = model.class_hierarchy(sorted(set(part)))
            scores[condition] = call_scores(shares.iloc[rows], part, hierarchy, case.coarse)
            kept = calls.iloc[rows]
            table = predictions_of(
                case,
                kept["label_raw"],
                kept["confidence"],
                condition,
                rows=tested[rows],
            )
            said.append(table)
        return Outcome(scores, pd.concat(said, ignore_index=True) if said else None)


class EnsembleTask(Task):
    """How scores and uncertainty change with the number of members of an ensemble.

    The members differ by their seed. Options: ``sizes``, and ``unseen``: types that are left out
    of training, whose test cells nobody can call rightly. Uncertainty is one less the largest
    mean probability, before calibration, as published.
    """

    name = "ensemble"
    metrics: ClassVar[dict[str, bool]] = {
        "f1_macro": True,
        "accuracy": True,
        "auroc_wrong": True,
        "auroc_unseen": True,
    }
    main = "f1_macro"
    defaults: ClassVar[dict[str, Any]] = {"sizes": (1, 2, 3, 4, 5), "unseen": ()}

    def conditions(self, data: TaskData, options: dict[str, Any]) -> Sequence[str]:
        """One; refused where no cell is of an unseen type."""
        require_types(data, options["unseen"], "unseen")
        return ("",)

    def run(self, case: Case) -> Outcome:
        """Train the largest ensemble, and score the first members of it."""
        unseen = {str(t) for t in case.options["unseen"]}
        labels = case.train.obs[LABEL].to_numpy(dtype=str)
        train = case.train[~np.isin(labels, sorted(unseen))].copy() if unseen else case.train
        sizes = sorted({int(n) for n in case.options["sizes"]})
        members = []
        for i in range(sizes[-1]):
            with settings.using_seed(settings.member_seed(i, case.seed)):
                members.append(case.fitted(train))
        with case.timed("predict"):
            each = [m.predict_proba(case.test, calibrated=False) for m in members]
        truth = case.truth[LABEL].to_numpy(dtype=str)
        new = np.isin(truth, sorted(unseen))
        scores, said = {}, []
        for n in sizes:
            condition = f"{n} member{'s' if n > 1 else ''}"
            shares = sum(each[1:n], each[0]) / n
            call = shares.columns.to_numpy(dtype=str)[shares.to_numpy().argmax(axis=1)]
            sure = shares.to_numpy().max(axis=1)
            scores[condition] = _uncertainty(call, truth, 1 - sure, new)
            said.append(predictions_of(case, call, sure, condition, new=new))
        return Outcome(scores, pd.concat(said, ignore_index=True))


def _uncertainty(
    call: NDArray[np.str_],
    truth: NDArray[np.str_],
    doubt: NDArray[np.floating],
    new: NDArray[np.bool_],
) -> dict[str, float]:
    """Scores of cells of known types, and how doubt tells right calls from the others."""
    right = (call == truth) & ~new
    known = ~new
    found = classification_scores(truth[known], call[known])
    either = right | new
    return {
        "f1_macro": found["f1_macro"],
        "accuracy": found["accuracy"],
        "auroc_wrong": separation(doubt[known], ~right[known]),
        "auroc_unseen": separation(doubt[either], new[either]),
    }


def _groups(column: pd.Series, labels: pd.Series, min_cells: int) -> list[str]:
    """Return the groups with enough cells and two types."""
    groups = column.astype("object").where(column.notna(), None)
    table = pd.DataFrame({"group": groups.to_numpy(), "label": labels.to_numpy()}).dropna()
    by = table.groupby("group", sort=True)["label"].agg(["size", "nunique"])
    return [str(g) for g in by.index[(by["size"] >= min_cells) & (by["nunique"] > 1)]]
