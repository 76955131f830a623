"""Tasks of annotation: plain, with few cells, few of some types, missing genes, unseen types."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from episome.benchmark._case import Case, Outcome
from episome.benchmark._data import DONOR, LABEL
from episome.benchmark._scores import call_scores, separation, strict_accuracy
from episome.data import AnnDataSource, ThinnedSource
from episome.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.benchmark._data import TaskData
    from episome.benchmark._store import ResultStore
    from episome.report import Part

#: Ends of the names of conditions.
_OF_CELLS, _OF_DONORS, _OF_TYPE = "% of the training cells", "% of the donors", "cells a type"
_IN_ALL = "cells in all"


class Task:
    """What is asked of a model.

    Subclasses set ``name``, ``capability``, ``metrics`` (name -> whether more is better) and
    ``defaults`` (options), and define :meth:`run`. Names of conditions are stable: they are part
    of what names a row.
    """

    name: ClassVar[str]
    capability: ClassVar[str] = "annotation"
    metrics: ClassVar[dict[str, bool]]
    defaults: ClassVar[dict[str, Any]] = {}
    main: ClassVar[str] = ""
    #: Whether cells without labels are of no use.
    needs_labels: ClassVar[bool] = True

    @classmethod
    def options(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Return the options with defaults.

        Raises
        ------
        UsageError
            The task has no such option (E-B09).
        """
        if unknown := sorted(set(given) - set(cls.defaults)):
            known = ", ".join(cls.defaults) or "none"
            raise UsageError(
                "E-B09",
                f"the task {cls.name!r} has no option {', '.join(unknown)}",
                why=f"its options: {known}",
                fix="correct the name, or leave it out",
            )
        found = {**cls.defaults, **given}
        for name, default in cls.defaults.items():
            found[name] = _like(default, found[name], f"{cls.name}: {name}")
        return found

    def conditions(self, data: TaskData, options: dict[str, Any]) -> Sequence[str]:
        """Return what each model is trained for separately; by default once."""
        return ("",)

    def columns(self, options: dict[str, Any]) -> Sequence[str]:
        """Return columns of ``obs`` that the task looks at; models see them in no test cell."""
        return ()

    def run(self, case: Case) -> Outcome:
        """Train, predict and score one case."""
        raise NotImplementedError

    def sections(self, store: ResultStore, study: str) -> Mapping[str, Sequence[Part]]:
        """Return what a report of a study says beyond its tables, by heading; by default nothing.

        Parameters
        ----------
        store, study
            The results, and the name of the study, all of whose runs are of this task.
        """
        return {}


def called(case: Case, model: Any, cells: AnnData, **limits: Any) -> tuple[pd.DataFrame, Any]:
    """Return calls and probabilities of cells, and add the time that one of them took.

    Parameters
    ----------
    case
        Whose clock it is.
    model
        A trained annotator.
    cells
        Without labels.
    **limits
        Of ``annotate``.
    """
    with case.timed("predict"):
        calls = model.annotate(cells, **limits)
    return calls, model.predict_proba(cells)


def predictions_of(
    case: Case,
    call: Any,
    confidence: Any,
    condition: str,
    *,
    rows: NDArray[np.int64] | None = None,
    **more: Any,
) -> pd.DataFrame:
    """Return what a store keeps of calls: the truth and the donor beside them.

    Parameters
    ----------
    case
        Whose test cells are called.
    call, confidence
        Of every test cell.
    condition
        Of the calls.
    rows
        Which test cells they are of; default all.
    **more
        Further columns.
    """
    truth = case.truth if rows is None else case.truth.iloc[rows]
    donors: Any = ""
    if DONOR in truth:
        given = truth[DONOR].astype("object")
        donors = given.where(given.notna(), "").astype(str).to_numpy()
    return pd.DataFrame(
        {
            "cell": truth.index.astype(str),
            "truth": truth[LABEL].to_numpy(dtype=str),
            "call": np.asarray(call, dtype=str),
            "confidence": np.asarray(confidence, dtype=np.float32),
            "condition": condition,
            "donor": donors,
            **more,
        }
    )


def _kept(case: Case, calls: pd.DataFrame, condition: str) -> pd.DataFrame:
    return predictions_of(
        case,
        calls["label_raw"],
        calls["confidence"],
        condition,
        novelty=calls["novelty"].to_numpy(dtype=np.float32),
        status=calls["status"].to_numpy(dtype=str),
    )


class AnnotationTask(Task):
    """Types of unseen cells."""

    name = "annotation"
    metrics: ClassVar[dict[str, bool]] = {
        "f1_macro": True,
        "f1_macro_ontology": True,
        "accuracy": True,
        "balanced_accuracy": True,
        "ece": False,
        "nll": False,
        "brier": False,
        "kept": True,
        "auroc_wrong": True,
        "f1_macro_coarse": True,
        "accuracy_coarse": True,
        "f1_macro_within": True,
    }
    main = "f1_macro"

    def run(self, case: Case) -> Outcome:
        """Train on the training cells, call the test cells."""
        return self.of(case, case.train, case.condition)

    def of(self, case: Case, train: AnnData, condition: str) -> Outcome:
        """Train on some cells, call the test cells."""
        model = case.fitted(train)
        calls, shares = called(case, model, case.test)
        scores = self.scored(case, model, shares, case.truth[LABEL].to_numpy(dtype=str))
        return Outcome({condition: scores}, _kept(case, calls, condition))

    @staticmethod
    def scored(
        case: Case, model: Any, shares: pd.DataFrame, truth: NDArray[np.str_]
    ) -> dict[str, float]:
        """Return the scores of probabilities."""
        return call_scores(shares, truth, model.class_hierarchy(sorted(set(truth))), case.coarse)


class LabelEfficiencyTask(AnnotationTask):
    """Types of unseen cells, learned from few labelled ones.

    Options: ``fractions`` of the training cells, ``cells`` in all, ``cells_per_class``, and
    ``donor_fractions``: for each of them a model is trained on all cells of this share of the
    training donors, and one on as many cells of all donors. Subsets are nested: a smaller one is
    part of every larger one. The number of labelled cells is in the column ``n_labelled``.
    """

    name = "label-efficiency"
    metrics: ClassVar[dict[str, bool]] = {**AnnotationTask.metrics, "n_labelled": False}
    defaults: ClassVar[dict[str, Any]] = {
        "fractions": (0.01, 0.07, 0.2, 0.5, 1.0),
        "cells": (),
        "cells_per_class": (5, 20, 50),
        "donor_fractions": (),
    }

    def conditions(self, data: TaskData, options: dict[str, Any]) -> Sequence[str]:
        """One per size, two per share of the donors.

        Raises
        ------
        UsageError
            Shares of donors are asked for, and no donors are known (E-B05).
        """
        for name in ("fractions", "donor_fractions"):
            if wrong := [f for f in options[name] if not 0 < _number(f) <= 1]:
                raise UsageError(
                    "E-B09",
                    f"{name} holds {wrong[0]!r}",
                    where=self.name,
                    fix="pass shares above 0 and up to 1",
                )
        shares = [f"{100 * f:g} {_OF_CELLS}" for f in options["fractions"]]
        by_donor = [f"{100 * f:g} {_OF_DONORS}" for f in options["donor_fractions"]]
        if by_donor and data.donor_key is None:
            raise UsageError(
                "E-B05",
                "no donors are known",
                where=data.entry.name,
                fix="donor_key = of the data",
            )
        paired = [f"as many cells as {d}" for d in by_donor if not d.startswith("100 ")]
        for name in ("cells", "cells_per_class"):
            if wrong := [n for n in options[name] if not _number(n) >= 1]:
                raise UsageError(
                    "E-B09", f"{name} holds {wrong[0]!r}", where=self.name, fix="pass 1 or more"
                )
        sizes = [f"{n} {_IN_ALL}" for n in options["cells"]]
        sizes += [f"{n} {_OF_TYPE}" for n in options["cells_per_class"]]
        return (*shares, *sizes, *by_donor, *paired)

    def run(self, case: Case) -> Outcome:
        """Train on a part of the training cells."""
        rows = np.sort(self._rows(case))
        found = self.of(case, case.train[rows].copy(), case.condition)
        found.scores[case.condition]["n_labelled"] = float(len(rows))
        return found

    @staticmethod
    def _rows(case: Case) -> NDArray[np.int64]:
        """Training cells of the condition."""
        labels = case.train.obs[LABEL].to_numpy(dtype=str)
        order = case.rng("subset").permutation(len(labels))
        amount = float(next(w for w in case.condition.split() if w[0].isdigit()))
        if case.condition.endswith(_OF_DONORS):
            donors = case.train.obs[DONOR].astype("object").to_numpy()
            names = case.rng("donors").permutation(sorted(set(donors[pd.notna(donors)])))
            kept = names[: max(round(amount / 100 * len(names)), 1)]
            rows = np.flatnonzero(np.isin(donors, kept))
            if case.condition.startswith("as many"):
                rows = order[: len(rows)]
            # One cell of a type can be trained on by no model that validates itself.
            counts = pd.Series(labels[rows]).map(pd.Series(labels[rows]).value_counts())
            kept_rows: NDArray[np.int64] = rows[counts.to_numpy() > 1]
            return kept_rows
        per_type = case.condition.endswith(_OF_TYPE)
        if case.condition.endswith(_IN_ALL):
            amount = 100 * min(amount / len(labels), 1.0)
        parts = []
        for name in np.unique(labels):
            members = order[labels[order] == name]
            # Two of every type, or a classifier could not be validated.
            n = round(amount) if per_type else round(amount / 100 * len(members))
            parts.append(members[: max(n, min(2, len(members)))])
        return np.concatenate(parts)


class ImbalanceTask(AnnotationTask):
    """Types of unseen cells, where training has far fewer cells of some types.

    Option ``ratios``: cells of the most frequent type over those of the rarest. Types take part in
    the order of their names, so that rare types are not those that are rare in the file.
    """

    name = "imbalance"
    metrics: ClassVar[dict[str, bool]] = {**AnnotationTask.metrics, "recall_rare": True}
    defaults: ClassVar[dict[str, Any]] = {"ratios": (1, 10, 100)}

    def conditions(self, data: TaskData, options: dict[str, Any]) -> Sequence[str]:
        """One per ratio."""
        return tuple(f"ratio {r:g}" for r in options["ratios"])

    def run(self, case: Case) -> Outcome:
        """Train on types of unequal size; the total is the same for all ratios that allow it."""
        labels = case.train.obs[LABEL].to_numpy(dtype=str)
        names, counts = np.unique(labels, return_counts=True)
        ratio = float(case.condition.split()[1])
        steps = case.rng("imbalance").permutation(len(names)) / max(len(names) - 1, 1)
        wanted = ratio**-steps
        wanted = wanted * (counts / wanted).min()
        kept = []
        for name, n in zip(names, wanted, strict=True):
            members = case.rng("subset").permutation(np.flatnonzero(labels == name))
            kept.append(members[: max(round(n), 2)])
        found = self.of(case, case.train[np.sort(np.concatenate(kept))].copy(), case.condition)
        rare = names[wanted <= np.median(wanted)]
        table = found.predictions
        if table is not None:
            of = table[table["truth"].isin(rare)]
            right = (of["truth"] == of["call"]).groupby(of["truth"]).mean()
            found.scores[case.condition]["recall_rare"] = float(right.mean())
        return found


class RobustnessTask(AnnotationTask):
    """Types of cells that lack genes or counts which the training cells had.

    Options: ``genes_dropped`` and ``depths`` (shares), and ``n_draws`` of genes. One training
    serves all conditions.
    """

    name = "robustness"
    defaults: ClassVar[dict[str, Any]] = {
        "genes_dropped": (0.2, 0.4, 0.6),
        "depths": (0.5, 0.2),
        "n_draws": 3,
    }

    def run(self, case: Case) -> Outcome:
        """Train once, and call the test cells in every condition."""
        model = case.fitted()
        truth = case.truth[LABEL].to_numpy(dtype=str)
        calls, shares = called(case, model, case.test)
        scores = {"complete": self.scored(case, model, shares, truth)}
        for share in case.options["genes_dropped"]:
            found = []
            for draw in range(int(case.options["n_draws"])):
                rng = case.rng(f"genes-{share:g}-{draw}")
                n = round((1 - share) * case.test.n_vars)
                kept = np.sort(rng.permutation(case.test.n_vars)[:n])
                less = case.test[:, kept].copy()
                part = model.predict_proba(less, min_gene_overlap=0.0)
                found.append(self.scored(case, model, part, truth))
            scores[f"without {share:.0%} of the genes"] = _mean(found)
        for depth in case.options["depths"]:
            part = model.predict_proba(ThinnedSource(AnnDataSource(case.test), depth, case.seed))
            scores[f"{depth:.0%} of the counts"] = self.scored(case, model, part, truth)
        return Outcome(scores, _kept(case, calls, "complete"))


class NoveltyTask(Task):
    """Whether cells of a type that training lacked are told from the others.

    Every type of at least ``min_cells`` test cells is left out of training in turn, or those of
    ``types``; test cells of all types are asked about.
    """

    name = "novelty"
    metrics: ClassVar[dict[str, bool]] = {
        "auroc": True,
        "auroc_confidence": True,
        "found": True,
        "false_alarms": False,
        "strict_accuracy": True,
    }
    main = "auroc"
    defaults: ClassVar[dict[str, Any]] = {"types": (), "min_cells": 20, "false_alarms": 0.05}

    def conditions(self, data: TaskData, options: dict[str, Any]) -> Sequence[str]:
        """One per type that is left out."""
        counts = data.cells.obs[LABEL].value_counts()
        known = sorted(counts.index[counts >= options["min_cells"]].astype(str))
        require_types(data, options["types"], "types")
        return tuple(f"without {t}" for t in options["types"] or known)

    def run(self, case: Case) -> Outcome:
        """Train without a type, and score how novel its cells look."""
        left_out = case.condition.removeprefix("without ")
        labels = case.train.obs[LABEL].to_numpy(dtype=str)
        model = case.fitted(case.train[labels != left_out].copy())
        rate = float(case.options["false_alarms"])
        calibrated = model.confidence_.novelty is not None
        limits = {"false_alarms": rate} if calibrated else {}
        calls, _ = called(case, model, case.test, **limits)
        new = case.truth[LABEL].to_numpy(dtype=str) == left_out
        said = (calls["status"] == "novel").to_numpy()
        sure = calls["confidence"].fillna(0.0).to_numpy()
        scores = {
            "auroc": separation(calls["novelty"].to_numpy(), new) if calibrated else np.nan,
            "auroc_confidence": separation(1 - sure, new),
            "found": float(said[new].mean()) if new.any() else np.nan,
            "false_alarms": float(said[~new].mean()) if (~new).any() else np.nan,
            "strict_accuracy": strict_accuracy(new, said),
        }
        return Outcome(
            {case.condition: {k: float(v) for k, v in scores.items()}},
            _kept(case, calls, case.condition),
        )


def require_types(data: TaskData, types: Collection[object], option: str) -> None:
    """Refuse names of types that a data set lacks.

    Raises
    ------
    UsageError
        There are no such types (E-B09).
    """
    known = sorted(set(data.cells.obs[LABEL].astype(str)))
    if wrong := [str(t) for t in types if str(t) not in known]:
        raise UsageError(
            "E-B09",
            f"{option} holds {wrong[0]!r}, which no cell is",
            where=data.entry.name,
            why=f"the types are {', '.join(known[:12])}",
            fix=did_you_mean(wrong[0], known) or "name some of them",
        )


def _number(value: object) -> float:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if numeric else np.nan  # type: ignore[arg-type]  # it is a number here


def _like(default: Any, value: Any, name: str) -> Any:
    """Return an option of the kind of its default; one value may stand for a list of it.

    Raises
    ------
    UsageError
        It is of another kind (E-B09).
    """
    if isinstance(default, tuple):
        listed = tuple(value) if isinstance(value, list | tuple) else (value,)
        kinds = {float if isinstance(d, int | float) else type(d) for d in default}
        right = all(not np.isnan(_number(v)) for v in listed) if kinds == {float} else True
        found: Any = listed
    elif isinstance(default, bool):
        right, found = isinstance(value, bool), value
    elif isinstance(default, int | float):
        right, found = not np.isnan(_number(value)), value
    else:
        right, found = isinstance(value, type(default)), value
    if not right:
        raise UsageError(
            "E-B09",
            f"{name} holds {value!r}",
            why=f"its default is {list(default) if isinstance(default, tuple) else default!r}",
            fix="pass a value of that kind",
        )
    return found


def _mean(found: list[dict[str, float]]) -> dict[str, float]:
    return {k: float(np.mean([f[k] for f in found])) for k in found[0]}
