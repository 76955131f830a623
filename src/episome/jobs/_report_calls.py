"""Reports of calls and of scores: with what their verb has at hand, or from what it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome.data import AnnDataSource, ChosenCells, missing_column
from episome.errors import UsageError
from episome.inference import Predictor
from episome.io import read_manifest
from episome.jobs import _report_facts as facts_of
from episome.jobs._asked import weights_digest
from episome.jobs._inputs import shown_name
from episome.jobs._repeat import repeated
from episome.jobs._report_tables import CALLS, cells_of, frames_of_table, prefix_of

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.data import Query
    from episome.jobs._annotate import AnnotateRequest
    from episome.jobs._evaluate import EvaluateRequest, EvaluateResult
    from episome.jobs._report import ReportRequest
    from episome.report import CallSummary, Page


# -- of annotate and evaluate, with what they have at hand -----------------------------------


def annotation_report(
    request: AnnotateRequest,
    manifest: Mapping[str, Any],
    predictor: Predictor,
    query: Query,
    adata: AnnData | None,
    rows: NDArray[np.int64] | None,
    summary: CallSummary,
    *,
    seconds: float,
) -> Page:
    """Return the report of calls that were just made."""
    from episome.report import annotation_page

    own_names = (shown_name(request.input), request.model.name)
    names = dict(zip(("input", "model"), request.report_names or own_names, strict=True))
    if request.output is not None:
        names["output"] = request.output.name
    obs = None if adata is None else adata.obs if rows is None else adata.obs.iloc[rows]
    facts, pictures = of_query(
        names["input"], manifest, predictor, query, adata, rows, summary, obs=obs,
        layer=request.layer, plain=not request.use_raw, batch_size=request.batch_size,
    )  # fmt: skip
    # Lines of the input report name the file, which an upload calls otherwise than its user.
    notes = facts["input"]["notes"]
    facts["input"]["notes"] = [n.replace(own_names[0], names["input"]) for n in notes]
    own = {**identity(manifest), "input_kind": query.values.form}
    facts |= {
        "model": names["model"],
        "threshold": request.min_confidence,
        "provenance": facts_of.made_facts(
            own, predictor, seconds=seconds, inputs={"input_sha256": request.input}
        ),
        "repeat": repeated("annotate", request, names),
    }
    return annotation_page(facts, pictures=pictures)


def evaluation_report(
    request: EvaluateRequest,
    result: EvaluateResult,
    manifest: Mapping[str, Any],
    predictor: Predictor,
    query: Query,
    *,
    seconds: float,
) -> Page:
    """Return the report of scores that were just made."""
    from episome.report import evaluation_page

    names = {"input": shown_name(request.input), "model": request.model.name}
    if request.output is not None:
        names["output"] = request.output.name
    kept = facts_of.model_facts(manifest, predictor)
    facts = {
        "kind": "evaluation",
        **result.to_json(),
        "input": facts_of.input_facts(names["input"], result.n_obs, result.n_vars, query),
        "model": names["model"],
        "calibration_of_model": kept["calibration"],
        "genes": kept["genes"],
        "shift": facts_of.shift_facts(predictor, query, request.batch_size),
        "made": facts_of.made_facts(identity(manifest), predictor, seconds=seconds),
        "repeat": repeated("evaluate", request, names),
    }
    return evaluation_page(facts)


def of_query(
    name: str,
    manifest: Mapping[str, Any],
    predictor: Predictor,
    query: Query,
    adata: AnnData | None,
    rows: NDArray[np.int64] | None,
    summary: CallSummary,
    *,
    obs: pd.DataFrame | None,
    labels_key: str | None = None,
    layer: str | None,
    plain: bool,
    batch_size: int | None = None,
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return facts and pictures of calls with their model and cells."""
    facts: dict[str, Any] = {
        "kind": "annotation",
        "input": facts_of.input_facts(name, query.source.n_obs, query.source.n_vars, query),
        "calls": summary.facts(),
        **facts_of.model_facts(manifest, predictor),
        "shift": facts_of.shift_facts(predictor, query, batch_size),
    }
    pictures: dict[str, list[Any]] = {}
    if adata is not None and obs is not None:
        facts |= facts_of.obs_facts(obs, summary, labels_key)
        pictures |= facts_of.call_maps(adata, rows, summary)
        if plain and facts["genes"] and query.rule.obsm_key is None:
            dots = facts_of.gene_dots(
                adata, rows, predictor, query, summary, facts["genes"], layer
            )
            pictures["Genes behind the classes"] = dots
    return facts, pictures


def identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what identifies a model, from its manifest."""
    model = manifest["model"]
    return {
        "model": str(model.get("class", "")),
        "plugin": str(model.get("plugin", "")),
        "model_sha256": weights_digest(dict(manifest)),
        "ontology_release": (manifest.get("ontology") or {}).get("release"),
        "distributions": [d for d in (model.get("distribution"),) if d],
    }


# -- calls -----------------------------------------------------------------------------------


def page_of_calls(request: ReportRequest, prefix: str, made: Mapping[str, Any]) -> Page:
    """Return the report of a table of calls, of any size."""
    from episome.report import CallSummary, annotation_page

    cells = cells_of(request)
    summary, names = CallSummary(keep=cells is not None), []
    try:
        for frame in frames_of_table(request.run, prefix):
            summary.add(frame)
            if cells is not None:
                names.append(frame.index.astype(str))
        rows = None if cells is None else _rows_of(cells, names, request)
        own = _written_with(request, cells)
        name = request.input_name or shown_name(request.input or request.run)
        facts: dict[str, Any] = {
            "kind": "annotation",
            "input": facts_of.input_facts(
                name, summary.n_obs, None if cells is None else int(cells.n_vars)
            ),
            "calls": summary.facts(),
            "calibration": None,
        }
        pictures: dict[str, list[Any]] = {}
        if request.model is not None:
            found, pictures, own = _with_model(request, cells, rows, summary, name, own)
            facts |= found
        elif cells is not None:
            obs = _own_columns(request, cells, rows)
            facts |= facts_of.obs_facts(obs, summary, _checked_key(request, cells))
            pictures = facts_of.call_maps(cells, rows, summary)
        facts["provenance"] = {**facts_of.made_facts(own), **but_repeat(made)}
        facts["repeat"] = made.get("repeat")
        return annotation_page(facts, pictures=pictures)
    finally:
        if cells is not None and cells.isbacked:
            cells.file.close()


def but_repeat(made: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in made.items() if k != "repeat" and v not in (None, "", {})}


def _checked_key(request: ReportRequest, cells: AnnData) -> str | None:
    key = request.labels_key
    if key is not None and key not in cells.obs:
        where = f"{shown_name(request.input or request.run)}.obs"
        raise missing_column(key, list(map(str, cells.obs.columns)), where)
    return key


def _own_columns(
    request: ReportRequest, cells: AnnData, rows: NDArray[np.int64] | None
) -> pd.DataFrame:
    """Return the columns of the cells but those that hold the calls."""
    obs = cells.obs if rows is None else cells.obs.iloc[rows]
    prefix = prefix_of(list(map(str, obs.columns)), CALLS) if request.input is None else None
    return obs if not prefix else obs[[c for c in obs.columns if not str(c).startswith(prefix)]]


def _written_with(request: ReportRequest, cells: AnnData | None) -> dict[str, Any]:
    """Return what an annotated h5ad says of the model of its calls."""
    if cells is None or request.run.suffix != ".h5ad":
        return {}
    own = cells.uns.get("episome")
    kept = ("model", "plugin", "model_sha256", "input_kind")
    return {k: str(own[k]) for k in kept if k in own} if isinstance(own, Mapping) else {}


def _with_model(
    request: ReportRequest,
    cells: AnnData | None,
    rows: NDArray[np.int64] | None,
    summary: CallSummary,
    name: str,
    own: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, list[Any]], dict[str, Any]]:
    """Return what is known with the folder of the model, and with it and the cells."""
    assert request.model is not None
    manifest = read_manifest(request.model)
    known = identity(manifest)
    if own.get("model_sha256") not in (None, known["model_sha256"]):
        raise UsageError(
            "E-U132",
            "the calls are of another model",
            where=str(request.model),
            why=f"{request.run.name} names the digest {own['model_sha256'][:12]}..., the folder "
            f"has {known['model_sha256'][:12]}...",
            fix="pass the folder that the cells were annotated with (-m), or leave it out",
        )
    predictor = Predictor.from_folder(request.model, device="cpu")
    facts: dict[str, Any] = {"model": request.model_name or request.model.name}
    if cells is None:
        return {**facts, **facts_of.model_facts(manifest, predictor)}, {}, {**own, **known}
    source: Any = AnnDataSource(cells, layer=request.layer, use_raw=request.use_raw, name=name)
    query = predictor.prepare(source if rows is None else ChosenCells(source, rows))
    found, pictures = of_query(
        name, manifest, predictor, query, cells, rows, summary,
        obs=_own_columns(request, cells, rows), labels_key=_checked_key(request, cells),
        layer=request.layer, plain=not request.use_raw,
    )  # fmt: skip
    return {**facts, **found}, pictures, {**own, **known, "input_kind": query.values.form}


def _rows_of(
    cells: AnnData, names: list[pd.Index], request: ReportRequest
) -> NDArray[np.int64] | None:
    """Return the rows of the cells that were called; ``None`` for all in their order."""
    found = names[0].append(names[1:]) if names else pd.Index([], dtype=object)
    there = cells.obs_names.astype(str)
    if len(found) == len(there) and (found == there).all():
        return None
    rows = there.get_indexer(found) if there.is_unique else np.full(len(found), -1)
    if (rows < 0).any():
        raise UsageError(
            "E-U45",
            "the cells are not those of the calls",
            where=shown_name(request.input or request.run),
            count=int((rows < 0).sum()),
            total=len(found),
            fix="pass the file that was annotated (--input)",
        )
    return rows.astype(np.int64)
