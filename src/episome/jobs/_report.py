"""Reports of what verbs wrote: made beside their output, or later from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from episome.errors import InputFileError, Problem, UsageError, warn
from episome.inference import Predictor
from episome.io import (
    RECORD,
    ending,
    ensure_free,
    is_ensemble,
    read_manifest,
    record_beside,
    report_place,
)
from episome.jobs import _report_facts as facts_of
from episome.jobs._inputs import shown_name
from episome.jobs._report_calls import but_repeat, identity, page_of_calls
from episome.jobs._report_tables import (
    AUDIT,
    CALLS,
    cells_of,
    columns_of,
    frames_of_table,
    nothing,
    prefix_of,
)
from episome.log import get_logger

if TYPE_CHECKING:
    from episome.report import Page

logger = get_logger(__name__)

#: What reports are written as.
KINDS = (".html", ".md")
#: Bytes of a JSON file that is read.
MOST = 256 << 20


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """What ``episome report`` is asked for.

    Parameters
    ----------
    run
        What a verb wrote: a table or ``.h5ad`` of ``annotate`` or ``audit``, the ``.json`` of
        ``evaluate``, a model folder, a folder of results of ``benchmark run``, or the record of a
        run (``--run-folder``).
    output
        ``.html`` or ``.md``; default the name of ``run`` with ``.html``.
    input
        Cells that were annotated, for maps, composition, and how they differ from the training
        cells; default those that the record of the run names, or the ``.h5ad`` itself.
    model
        Folder of the model, for its calibration and genes; default that of the record.
    labels_key
        Column of the cells that calls are compared with; default the one that agrees most.
    layer, use_raw
        Where the values of ``input`` are.
    input_name, model_name
        How the report calls them; default their file names.
    study
        Of results of a benchmark.
    overwrite
        Replace an existing report.
    max_memory, trust
        Of ``episome.data.read_cells``.
    """

    run: Path
    output: Path | None = None
    input: Path | None = None
    model: Path | None = None
    labels_key: str | None = None
    layer: str | None = None
    use_raw: bool = False
    input_name: str = ""
    model_name: str = ""
    study: str | None = None
    overwrite: bool = False
    max_memory: int | None = None
    trust: bool = False


@dataclass(frozen=True, slots=True)
class ReportResult:
    """What ``episome report`` wrote.

    Parameters
    ----------
    output
        The report.
    kind
        Of what: ``"annotation"``, ``"evaluation"``, ``"audit"``, ``"training"`` or
        ``"benchmark"``.
    sections
        Headings of the report.
    """

    output: Path
    kind: str
    sections: tuple[str, ...]


def report(request: ReportRequest) -> ReportResult:
    """Write the report of what a verb wrote, as one file that needs nothing else.

    Parameters
    ----------
    request
        What to do.

    Raises
    ------
    InputFileError
        There is no such file (E-F07), no report can be made of it (E-F40), or the report exists
        (E-F26).
    UsageError
        The report has another ending (E-U08); the model is another than that of the calls
        (E-U132); there is no such column (E-U04).
    """
    if not request.run.exists():
        raise InputFileError(
            "E-F07",
            "there is no such file or folder",
            where=str(request.run),
            fix="pass what annotate, evaluate, audit, train or benchmark wrote",
        )
    output = request.output or report_place(request.run)
    check_report(output, overwrite=request.overwrite)
    kind, page = _page_of(request, {})
    page.write(output, overwrite=request.overwrite)
    return ReportResult(output, kind, tuple(page.sections))


def check_report(path: Path, *, overwrite: bool) -> None:
    """Check before any work that a report can be written.

    Raises
    ------
    UsageError
        It has another ending (E-U08).
    InputFileError
        It exists (E-F26).
    """
    if ending(path, KINDS) is None:
        raise UsageError(
            "E-U08",
            f"reports cannot be written as {path.suffix or 'a file without extension'}",
            where=str(path),
            fix=f"use one of {', '.join(KINDS)}",
        )
    ensure_free(path, overwrite=overwrite)


def written_or_told(
    make: Callable[[], Page], path: Path | None, *, overwrite: bool, result: Path | None
) -> Path | None:
    """Write a report beside a result that is there already; a failure is a warning.

    Parameters
    ----------
    make
        Returns the page.
    path
        Where; ``None`` writes none.
    overwrite
        Replace an existing one.
    result
        That the report is of.
    """
    if path is None:
        return None
    try:
        return make().write(path, overwrite=overwrite)
    except Exception as error:  # whatever a picture raises, the calls are there
        logger.debug("the report could not be made", exc_info=True)
        again = "" if result is None else f"; `episome report {result.name}` tries again"
        warn(
            Problem(
                "E-F41",
                "the report could not be made",
                where=str(path),
                why=f"{type(error).__name__}: {error}"[:300],
                fix=f"the result itself is complete: use it, or leave the report out "
                f"(--no-report){again}",
            )
        )
        return None


# -- of what is on disk ----------------------------------------------------------------------


def _page_of(request: ReportRequest, made: Mapping[str, Any]) -> tuple[str, Page]:
    """Return what a path holds, and the report of it; ``made`` is of the record of its run."""
    path = request.run
    kept = record_beside(path)
    if not made and kept.is_file() and _is_record(record := _json(kept)):
        return _page_of_record(request, record, path)
    if path.name.endswith(RECORD) and _is_record(record := _json(path)):
        return _page_of_record(request, record)
    if path.is_dir() or path.name == "manifest.json":
        return _page_of_folder(request, made)
    if path.suffix == ".json":
        return "evaluation", _page_of_scores(request, made)
    if path.suffix not in {".csv", ".tsv", ".parquet", ".h5ad"}:
        raise nothing(path, f"it ends in {path.suffix or 'nothing'}")
    columns = columns_of(request)
    if (prefix := prefix_of(columns, AUDIT)) is not None:
        return "audit", _page_of_audit(request, prefix, made)
    if (prefix := prefix_of(columns, CALLS)) is not None:
        return "annotation", page_of_calls(request, prefix, made)
    raise nothing(path, f"it has the columns {', '.join(columns[:6])}")


def _page_of_folder(request: ReportRequest, made: Mapping[str, Any]) -> tuple[str, Page]:
    folder = request.run if request.run.is_dir() else request.run.parent
    file = folder / "manifest.json"
    if not file.is_file():
        if not (folder / "runs").is_dir():
            raise nothing(folder, "it holds neither manifest.json nor runs")
        from episome.benchmark import report as benchmark_page
        from episome.jobs._benchmark import opened

        return "benchmark", benchmark_page(opened(folder), request.study)
    record = _json(file)
    if _is_record(record):
        return _page_of_record(request, record)
    return "training", _page_of_model(request, folder, made)


def _json(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        found = json.loads(path.read_text(encoding="utf-8")) if size < MOST else None
    except (OSError, ValueError) as error:
        raise nothing(path, f"it cannot be read: {error}"[:200]) from error
    if not isinstance(found, dict):
        raise nothing(path, "it is no object of JSON")
    return found


def _is_record(found: Mapping[str, Any]) -> bool:
    return isinstance(found.get("arguments"), list) and isinstance(found.get("config"), Mapping)


def _page_of_record(
    request: ReportRequest, record: Mapping[str, Any], written: Path | None = None
) -> tuple[str, Page]:
    """Return the report of the output of a run, with what its record knows.

    ``written`` is that output, where it is known: it may have been moved with its record.
    """
    outputs = [o for o in record.get("outputs") or () if isinstance(o, Mapping)]
    if not outputs:
        why = "the run failed" if record.get("error") else "the run wrote nothing"
        raise nothing(request.run, why)
    config = {k: v.get("value") for k, v in record["config"].items() if isinstance(v, Mapping)}
    place = written or Path(str(outputs[0]["path"])).expanduser()
    if not place.exists():
        raise InputFileError(
            "E-F07",
            "what the run wrote is not there",
            where=str(place),
            fix="put it back where it was, relative to the current folder",
        )
    timings = record.get("timings") or {}
    made = {
        "created": record.get("finished"),
        "python": record.get("python"),
        "platform": record.get("platform"),
        "versions": record.get("versions") or {},
        "seconds": timings.get("total"),
        "peak_memory": record.get("peak_memory"),
        "output_sha256": outputs[0].get("digest"),
        "repeat": _words(record["arguments"]),
    }
    of = replace(
        request,
        run=place,
        input=request.input or _there(config.get("input")),
        model=request.model or _there(config.get("model")),
    )
    return _page_of(of, made)


def _there(value: object) -> Path | None:
    path = Path(str(value)).expanduser() if isinstance(value, str) and value else None
    return path if path is not None and path.exists() else None


def _words(arguments: list[str]) -> dict[str, str]:
    """Return the command of a record; folders of absolute paths are not told."""
    import shlex

    shown = [Path(w).name if w.startswith(("/", "~")) else w for w in arguments if w != "--"]
    return {"command": shlex.join(["episome", *shown])}


# -- scores, models, audits ------------------------------------------------------------------


def _page_of_scores(request: ReportRequest, made: Mapping[str, Any]) -> Page:
    from episome.report import evaluation_page

    facts = _json(request.run)
    needed = {"scores", "intervals", "classes", "calibration", "novelty", "data", "provenance"}
    if missing := sorted(needed - set(facts)):
        raise nothing(request.run, f"it lacks {', '.join(missing)}")
    if request.model is not None:
        manifest = read_manifest(request.model)
        kept = facts_of.model_facts(manifest, Predictor.from_folder(request.model, device="cpu"))
        facts["calibration_of_model"], facts["genes"] = kept["calibration"], kept["genes"]
        facts["model"] = request.model_name or request.model.name
    return evaluation_page({**facts, "made": but_repeat(made), "repeat": made.get("repeat")})


def _page_of_model(request: ReportRequest, folder: Path, made: Mapping[str, Any]) -> Page:
    from episome.io import read_ensemble_folder, read_model_folder
    from episome.report import model_page

    manifest = read_manifest(folder)
    several = is_ensemble(manifest)
    one = read_ensemble_folder(folder).members[0] if several else read_model_folder(folder)
    annotates = bool(one.labels)
    predictor = Predictor.from_folder(folder, device="cpu") if annotates else None
    facts: dict[str, Any] = {
        "kind": "training",
        "name": request.model_name or folder.name,
        "method": str(manifest["model"].get("spec", "")),
        "fit": manifest.get("fit") or {},
        "classes": [] if predictor is None else list(predictor.require_labels().names),
        "n_genes": 0 if predictor is None else len(predictor.features),
        "provenance": {
            **(manifest.get("provenance") or {}), **identity(manifest), **but_repeat(made)
        },
        "repeat": made.get("repeat"),
    }  # fmt: skip
    facts["provenance"].pop("distributions", None)
    if predictor is not None:
        facts |= facts_of.model_facts(manifest, predictor)
    history = {k: [float(x) for x in v] for k, v in one.history.items()}
    return model_page(facts, history)


def _page_of_audit(request: ReportRequest, prefix: str, made: Mapping[str, Any]) -> Page:
    from episome import pl
    from episome.report import audit_page, figure

    table = pd.concat(list(frames_of_table(request.run, prefix)))
    cells, pictures = cells_of(request), []
    try:
        if cells is not None:
            try:
                points, basis = pl.map_of(cells)
            except UsageError:  # without a map there is none to draw
                points = None
            if points is not None and len(points) == len(table):
                pictures.append(
                    figure(
                        lambda ax: pl.audit_map(points, table, basis=basis, ax=ax),
                        f"Doubted cells by {basis}, coloured by what they look like",
                        width=7.6,
                        height=4.8,
                    )
                )
        name = request.input_name or shown_name(request.input or request.run)
        n_vars = None if cells is None else int(cells.n_vars)
    finally:
        if cells is not None and cells.isbacked:
            cells.file.close()
    facts = {
        "kind": "audit",
        "input": facts_of.input_facts(name, len(table), n_vars),
        "provenance": {**facts_of.made_facts({}), **but_repeat(made)},
        "repeat": made.get("repeat"),
    }
    return audit_page(facts, table, pictures=pictures)
