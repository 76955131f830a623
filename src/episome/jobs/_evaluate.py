"""Score the calls of a model folder on labelled cells."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome.benchmark import kept_share
from episome.confidence import reliability
from episome.data import (
    check_inputs,
    class_terms,
    clean_labels,
    definite_donors,
    existing_columns,
    term_column,
)
from episome.errors import Problem, UsageError, warn
from episome.inference import Predictor
from episome.io import EVALUATION_KINDS, check_output, read_manifest, records, write_file
from episome.jobs._annotate import describe_input
from episome.jobs._asked import (
    QueryRequest,
    chosen_cells,
    chosen_rows,
    opened_cells,
    prepared_query,
    provenance_of,
    require_capability,
    require_columns,
    require_part,
)
from episome.jobs._inputs import is_streamed, shown_name
from episome.jobs._report import check_report, written_or_told
from episome.jobs._report_calls import evaluation_report
from episome.jobs._report_facts import curve_points
from episome.metrics import (
    MIN_DONORS,
    bootstrap,
    brier_score,
    by_group,
    class_intervals,
    class_table,
    classification_scores,
    error_auroc,
    expected_calibration_error,
    negative_log_likelihood,
)
from episome.models import known_share, shared_donors

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.data import CellSource, Labels, Query
    from episome.ontology import ClassHierarchy

#: Share of cells with names of training cells from which on they are taken for the same.
_KNOWN = 0.5
#: Scores that have an interval.
WITH_INTERVAL = ("f1_macro", "accuracy")
#: Pairs of truth and call that are listed.
N_CONFUSED = 20


@dataclass(frozen=True, slots=True)
class EvaluateRequest(QueryRequest):
    """What ``episome evaluate`` is asked for: the fields of ``QueryRequest``, and these.

    ``output`` ends in ``.csv`` or ``.tsv`` for the table of classes, or in ``.json`` for all that
    was found.

    Parameters
    ----------
    labels_key
        Column of ``obs`` with the labels. Cells without one are left out.
    donor_key
        Column of the donor: intervals are over donors, and there are scores of each.
    ontology_term_key
        Column of the Cell Ontology terms of the labels; default as in training. Other labels are
        looked up by name.
    error_rates
        Of the label sets whose coverage is measured, where the model is calibrated.
    n_draws, seed
        Of the intervals.
    report
        ``.html`` or ``.md``: the report of the scores, see ``episome.jobs.report``. A report that
        cannot be made is a warning.
    """

    labels_key: str = ""
    donor_key: str | None = None
    ontology_term_key: str | None = None
    error_rates: tuple[float, ...] = (0.05, 0.1)
    n_draws: int = 1000
    seed: int = 0
    report: Path | None = None


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """What ``episome evaluate`` found.

    Parameters
    ----------
    scores
        Of ``episome.metrics.classification_scores`` over all scored cells.
    intervals
        Ends of the interval of 95 % of ``f1_macro`` and ``accuracy``, plain and by the ontology.
    classes
        Of ``episome.metrics.class_table``, with ``f1_low`` and ``f1_high``.
    calibration
        ``ece``, ``reliability`` (bins), ``risk_coverage`` (points of the curve), ``kept`` (share
        of cells, the surest first, of which at most 5 % are wrong), ``auroc_wrong``; ``nll`` and
        ``brier`` over cells of known classes.
    coverage
        By error rate, ``overall`` and ``size`` of the label sets; empty without calibration.
    novelty
        ``n_unseen``, cells of labels that no class of the model is related to, and ``auroc``: how
        well novelty tells them from the others.
    donors
        Scores of every donor; ``None`` without donors.
    confused
        The commonest wrong pairs: ``label``, ``called``, ``n_cells``, ``share`` (of the label).
    pairs
        Cells of every pair of ``label`` and ``called``, ``n_cells``.
    terms
        Cell Ontology term of every label and class, empty where none is known.
    shared_donors
        Donors that the model was trained on too; ``None`` where that is not known.
    n_obs, n_scored
        Cells asked for, and those with a label.
    data
        ``name`` of the input, and ``sha256`` of a file or folder.
    """

    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    classes: pd.DataFrame
    calibration: dict[str, Any]
    coverage: dict[str, dict[str, float]]
    novelty: dict[str, Any]
    donors: pd.DataFrame | None
    confused: pd.DataFrame
    pairs: pd.DataFrame
    terms: Mapping[str, str]
    shared_donors: list[str] | None
    data: Mapping[str, object]
    n_obs: int
    n_scored: int
    n_vars: int
    notes: tuple[str, ...]
    ontology_release: str
    provenance: Mapping[str, object]
    output: Path | None
    report: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Return everything but the notes as plain data."""
        return {
            "scores": _finite(self.scores),
            "intervals": {
                k: _finite({"low": a, "high": b}) for k, (a, b) in self.intervals.items()
            },
            "classes": records(self.classes),
            "calibration": _finite(self.calibration),
            "coverage": self.coverage,
            "novelty": _finite(self.novelty),
            "donors": None if self.donors is None else records(self.donors),
            "confused": records(self.confused),
            "pairs": records(self.pairs),
            "terms": dict(self.terms),
            "shared_donors": self.shared_donors,
            "data": dict(self.data),
            "n_obs": self.n_obs,
            "n_scored": self.n_scored,
            "n_vars": self.n_vars,
            "ontology_release": self.ontology_release,
            "provenance": dict(self.provenance),
        }


@dataclass(slots=True)
class _Seen:
    """What is kept of the answers of every batch."""

    called: list[NDArray[np.int64]] = field(default_factory=list)
    sure: list[NDArray[np.float64]] = field(default_factory=list)
    novelty: list[NDArray[np.float64]] = field(default_factory=list)
    empty: list[NDArray[np.bool_]] = field(default_factory=list)
    held: dict[float, list[NDArray[np.bool_]]] = field(default_factory=dict)
    sizes: dict[float, list[NDArray[np.int64]]] = field(default_factory=dict)
    losses: list[tuple[int, float, float]] = field(default_factory=list)


def evaluate(
    request: EvaluateRequest, *, progress: Callable[[int, int], None] | None = None
) -> EvaluateResult:
    """Score the calls of a model on labelled cells.

    A call is the most probable class, whatever the limits of ``annotate``. Scores are plain, and
    where the model's classes have terms of the Cell Ontology also with calls of a kind of the true
    type counted as right. Memory is bounded: probabilities are never kept.

    Parameters
    ----------
    request
        What to do.
    progress
        Called with ``(cells done, cells)`` after every batch.

    Raises
    ------
    EpisomeError
        Of the family in ``episome.errors``; nothing is written then. E-U12: the model does not
        annotate. E-U04: there is no such column. E-U43: no cell has a label, or there are fewer
        than two donors.
    """
    check_inputs(request.input)
    manifest = read_manifest(request.model)
    if request.output is not None:
        check_output(
            request.output,
            overwrite=request.overwrite,
            kinds=EVALUATION_KINDS,
            source=request.input,
        )
    if request.report is not None:
        check_report(request.report, overwrite=request.overwrite)
    started = time.perf_counter()
    _require_annotation(manifest, request.model)
    in_blocks = is_streamed(request.input)
    require_part(request)
    keys = (request.labels_key, request.donor_key, request.ontology_term_key)
    if not in_blocks:
        require_columns(request, [k for k in keys if k is not None])
    predictor = Predictor.from_folder(request.model, device=request.device)
    with opened_cells(request, whole=False, in_blocks=in_blocks, copies=lambda _: True) as (
        found,
        adata,
    ):
        rows = chosen_rows(request, found)
        labels = predictor.require_labels()
        truth, terms = _truth(request, found, adata, rows, labels)
        scored = np.flatnonzero(truth != labels.unlabeled)
        if not len(scored):
            raise UsageError(
                "E-U43",
                "no cell has a label",
                where=f"{shown_name(request.input)}.obs[{request.labels_key!r}]",
                count=0,
                total=len(truth),
                why="there is nothing to compare the calls with",
                fix="pass labels_key= (--labels-key) with a column of cell types",
            )
        chosen = scored if rows is None else rows[scored]
        donors = _donors(request, found, chosen)
        part = None if len(chosen) == found.n_obs else chosen
        source = chosen_cells(found, part, predictor.rule.obsm_key)
        query = prepared_query(request, predictor, source)
        shared = _shared(manifest, donors)
        _warn_few(request, donors)
        _warn_known(request, manifest, query.source, shared)
        seen = _answers(predictor, query, labels.codes(truth[scored]), request, progress)
        result = _scored(request, truth[scored], terms, labels, seen, donors)
        done = EvaluateResult(
            **result,
            shared_donors=shared,
            data=_described(request),
            n_obs=len(truth),
            n_scored=len(scored),
            n_vars=query.source.n_vars,
            notes=query.notes,
            provenance=provenance_of(manifest, query),
            output=request.output,
        )
        if request.output is not None:
            _write(done, request.output, overwrite=request.overwrite)
        report = written_or_told(
            lambda: evaluation_report(
                request, done, manifest, predictor, query, seconds=time.perf_counter() - started
            ),
            request.report, overwrite=request.overwrite, result=request.output,
        )  # fmt: skip
        return replace(done, report=report)


def _require_annotation(manifest: Mapping[str, Any], folder: Path) -> None:
    if manifest.get("kind") != "ensemble":  # which always annotates
        require_capability(manifest, "annotation", folder)


def _truth(
    request: EvaluateRequest,
    source: CellSource,
    adata: AnnData | None,
    rows: NDArray[np.int64] | None,
    labels: Labels,
) -> tuple[NDArray[np.object_], dict[str, str]]:
    """Return the label of every chosen cell, and the terms that the data say of labels."""
    key = request.labels_key
    column = source.obs_column(key)
    usual = request.ontology_term_key or f"{key}_ontology_term_id"
    if adata is not None:
        terms = term_column(adata, key, request.ontology_term_key)
    else:
        terms = source.obs_column(usual) if existing_columns(source, [usual]) else None
    if rows is not None:
        column = column.iloc[rows]
        terms = None if terms is None else terms.iloc[rows]
    values = clean_labels(
        column,
        unlabeled_category=labels.unlabeled,
        unlabeled="keep",
        where=f"{shown_name(request.input)}.obs",
    )
    names = sorted(set(values))
    return values, dict(zip(names, class_terms(values, terms, names), strict=True))


def _donors(
    request: EvaluateRequest, source: CellSource, rows: NDArray[np.int64]
) -> NDArray[np.object_] | None:
    if request.donor_key is None:
        return None
    return definite_donors(source.obs_column(request.donor_key).iloc[rows])


def _shared(manifest: Mapping[str, Any], donors: NDArray[np.object_] | None) -> list[str] | None:
    """Return donors of training among the scored ones, where the folder knows its own."""
    digests = manifest.get("fit", {}).get("donor_digests")
    return None if donors is None or not digests else shared_donors(digests, donors)


def _warn_few(request: EvaluateRequest, donors: NDArray[np.object_] | None) -> None:
    """Warn of intervals over donors that are too few for one."""
    n = 0 if donors is None else len({d for d in donors if d is not None})
    if 2 <= n < MIN_DONORS:
        warn(
            Problem(
                "E-L49",
                "donors are too few for an interval",
                where=f"{shown_name(request.input)}.obs[{request.donor_key!r}]",
                count=n,
                why="drawn again and again they vary less than new donors would: the intervals "
                f"are much too narrow below {MIN_DONORS}",
                fix="score more donors, or read the scores of each donor beside each other",
            )
        )


def _warn_known(
    request: EvaluateRequest,
    manifest: Mapping[str, Any],
    source: CellSource,
    shared: list[str] | None,
) -> None:
    """Warn where the model was trained on what it is scored on: that says nothing of new cells."""
    where = f"{shown_name(request.input)}.obs[{request.donor_key!r}]"
    fix = "score cells of other donors: episome train --split, or a file that was not trained on"
    if shared:
        warn(
            Problem(
                "E-L48",
                "donors that are scored are those of the training",
                where=where,
                count=len(shared),
                examples=shared[:3],
                why="the model knows them, and the scores say too much of new donors",
                fix=fix,
            )
        )
        return
    sketch = manifest.get("fit", {}).get("cell_sketch", [])
    share = known_share(sketch, source.obs_names) if sketch else 0.0
    if share >= _KNOWN:
        warn(
            Problem(
                "E-L48",
                "cells that are scored have the names of training cells",
                where=shown_name(request.input),
                count=round(share * source.n_obs),
                total=source.n_obs,
                why="if they are the same cells the model knows the answers",
                fix=fix,
            )
        )


def _described(request: EvaluateRequest) -> dict[str, object]:
    facts = describe_input(request.input)
    facts["name"] = shown_name(request.input)
    del facts["path"]  # which is of this machine
    return facts


def _answers(
    predictor: Predictor,
    query: Query,
    codes: NDArray[np.int64],
    request: EvaluateRequest,
    progress: Callable[[int, int], None] | None,
) -> _Seen:
    """Run the model, and keep what scores need."""
    seen, n_classes, done = _Seen(), len(predictor.require_labels()), 0
    sets = predictor.confidence.scores
    for out in predictor.stream(query, batch_size=request.batch_size):
        shares, of = out["probabilities"], codes[out["ind_x"]]
        seen.called.append(shares.argmax(axis=1))
        seen.sure.append(np.minimum(shares.max(axis=1).astype(np.float64), 1.0))
        seen.empty.append(out["empty"])
        seen.novelty.append(np.asarray(out.get("novelty", np.full(len(of), np.nan)), np.float64))
        known = (of < n_classes) & ~out["empty"]
        if known.any():
            right = of[known]
            seen.losses.append(
                (
                    int(known.sum()),
                    negative_log_likelihood(shares[known], right),
                    brier_score(shares[known], right),
                )
            )
            for rate in request.error_rates:
                if sets is None:
                    break
                inside = sets.sets(shares[known], rate)
                seen.held.setdefault(rate, []).append(inside[np.arange(len(right)), right])
                seen.sizes.setdefault(rate, []).append(inside.sum(axis=1))
        done += len(of)
        if progress is not None:
            progress(done, len(codes))
    return seen


def _scored(
    request: EvaluateRequest,
    truth: NDArray[np.object_],
    terms: Mapping[str, str],
    labels: Labels,
    seen: _Seen,
    donors: NDArray[np.object_] | None,
) -> dict[str, Any]:
    called, empty = np.concatenate(seen.called), np.concatenate(seen.empty)
    calls = np.array(labels.names, dtype=object)[called]
    calls[empty] = labels.unlabeled
    names = sorted(set(truth))
    hierarchy = labels.hierarchy([*names, labels.unlabeled], term_ids=terms)
    unseen = _unseen(names, labels, hierarchy)
    _warn_other_names(request, truth, names, labels, unseen)
    how: dict[str, Any] = {"n_draws": request.n_draws, "seed": request.seed}
    spans, table = _intervals(truth, calls, donors, hierarchy, how)
    table = class_table(truth, calls, hierarchy=hierarchy, known=labels.names).join(table)
    right, sure = calls == truth, np.concatenate(seen.sure)
    return {
        "scores": classification_scores(truth, calls, hierarchy=hierarchy),
        "intervals": spans,
        "classes": table,
        "calibration": _calibration(seen, sure[~empty], right[~empty]),
        "coverage": {
            f"{rate:g}": {
                "overall": float(np.concatenate(parts).mean()),
                "size": float(np.concatenate(seen.sizes[rate]).mean()),
            }
            for rate, parts in seen.held.items()
        },
        "novelty": _novelty(truth, unseen, np.concatenate(seen.novelty)),
        "donors": _by_donor(truth, calls, donors, hierarchy),
        "confused": _confused(truth, calls),
        "pairs": _pairs(truth, calls),
        "terms": {**terms, **dict(zip(labels.names, labels.term_ids, strict=True))},
        "ontology_release": "" if hierarchy is None else hierarchy.release,
    }


def _intervals(
    truth: NDArray[np.object_],
    calls: NDArray[np.object_],
    donors: NDArray[np.object_] | None,
    hierarchy: ClassHierarchy | None,
    how: Mapping[str, Any],
) -> tuple[dict[str, tuple[float, float]], pd.DataFrame]:
    spans, ends = {}, []
    for suffix, of in (("", None), ("_ontology", hierarchy)):
        if suffix and of is None:
            continue
        for name in WITH_INTERVAL:
            found = bootstrap(name, truth, calls, groups=donors, hierarchy=of, **how)
            spans[f"{name}{suffix}"] = (found.low, found.high)
        table = class_intervals(truth, calls, groups=donors, hierarchy=of, **how)
        ends.append(table.rename(columns=lambda c, s=suffix: c.replace("f1", f"f1{s}")))
    return spans, pd.concat(ends, axis=1)


def _unseen(names: list[str], labels: Labels, hierarchy: ClassHierarchy | None) -> tuple[str, ...]:
    """Return the labels that no class of the model is, is a kind of, or is above."""
    others = [n for n in names if n not in set(labels.names)]
    if hierarchy is None or not others:
        return tuple(others)
    related = hierarchy.children | hierarchy.children.T
    at = hierarchy.codes(others)
    known = hierarchy.codes(list(labels.names))
    return tuple(n for n, i in zip(others, at, strict=True) if not related[i, known].any())


def _warn_other_names(
    request: EvaluateRequest,
    truth: NDArray[np.object_],
    names: list[str],
    labels: Labels,
    unseen: tuple[str, ...],
) -> None:
    """Say how many labels are no class of the model; refuse where none is known."""
    others = [n for n in names if n not in set(labels.names)]
    if not others:
        return
    where = f"{shown_name(request.input)}.obs[{request.labels_key!r}]"
    if len(unseen) == len(names):
        raise UsageError(
            "E-U88",
            "no label is a class of the model, or related to one",
            where=where,
            count=0,
            total=len(names),
            examples=others,
            why=f"the model's classes are {', '.join(labels.names[:3])}"
            + (", ..." if len(labels.names) > 3 else ""),
            fix="pass the column with the names of the model's classes (--labels-key), or one "
            "with Cell Ontology terms (--ontology-term-key)",
        )
    n_cells = int(np.isin(truth, others).sum())
    warn(
        Problem(
            "E-L47",
            "labels that are no class of the model",
            where=where,
            count=len(others),
            total=len(names),
            examples=others,
            why=f"plain scores count their {n_cells:,} cells as wrong; scores with the ontology "
            f"count calls of a kind of them as right, which {len(unseen)} of them have none of",
            fix="rename labels that mean a class of the model",
        )
    )


def _calibration(
    seen: _Seen, sure: NDArray[np.float64], right: NDArray[np.bool_]
) -> dict[str, Any]:
    """Return how far confidence is to be trusted, over the cells that have a call."""
    n_known = sum(n for n, _, _ in seen.losses)
    means = [
        sum(loss[0] * loss[i] for loss in seen.losses) / n_known if n_known else float("nan")
        for i in (1, 2)
    ]
    if not len(sure):
        return {"n_cells": 0}
    return {
        "n_cells": len(sure),
        "ece": expected_calibration_error(sure, right),
        "nll": means[0],
        "brier": means[1],
        "kept": kept_share(sure, right),
        "auroc_wrong": error_auroc(1 - sure, right),
        "reliability": reliability(sure, right),
        "risk_coverage": curve_points(sure, right),
    }


def _novelty(
    truth: NDArray[np.object_], unseen: tuple[str, ...], novelty: NDArray[np.float64]
) -> dict[str, Any]:
    known = np.isfinite(novelty)
    strange = np.isin(truth, list(unseen))
    told = error_auroc(novelty[known], ~strange[known]) if known.any() else float("nan")
    return {"n_unseen": int(strange.sum()), "labels": list(unseen), "auroc": told}


def _by_donor(
    truth: NDArray[np.object_],
    calls: NDArray[np.object_],
    donors: NDArray[np.object_] | None,
    hierarchy: ClassHierarchy | None,
) -> pd.DataFrame | None:
    if donors is None:
        return None
    table = by_group(truth, calls, donors).rename(columns={"group": "donor", "value": "f1_macro"})
    if hierarchy is not None:
        table["f1_macro_ontology"] = by_group(truth, calls, donors, hierarchy=hierarchy)["value"]
    return table


def _pairs(truth: NDArray[np.object_], calls: NDArray[np.object_]) -> pd.DataFrame:
    pairs = pd.DataFrame({"label": truth, "called": calls}).astype("str")
    return pairs.value_counts().rename("n_cells").reset_index()


def _confused(truth: NDArray[np.object_], calls: NDArray[np.object_]) -> pd.DataFrame:
    pairs = pd.DataFrame({"label": truth, "called": calls}).astype("str")
    wrong = pairs[pairs["label"] != pairs["called"]]
    table = wrong.value_counts(sort=False).rename("n_cells").reset_index()
    table = table.sort_values(["n_cells", "label", "called"], ascending=[False, True, True])
    table = table.head(N_CONFUSED).reset_index(drop=True)
    n_label = pairs["label"].value_counts()
    return table.assign(share=table["n_cells"] / table["label"].map(n_label).astype(float))


def _write(result: EvaluateResult, output: Path, *, overwrite: bool) -> None:
    if output.suffix == ".json":
        text = json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n"
    else:
        text = result.classes.to_csv(sep="," if output.suffix == ".csv" else "\t")
    write_file(output, text.encode(), overwrite=overwrite)


def _finite(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return numbers that JSON has; what is not known is null."""
    return {
        str(k): None if isinstance(v, float) and not np.isfinite(v) else v
        for k, v in facts.items()
    }
