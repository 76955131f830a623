"""Annotate a file with a model folder."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd

from episome.data import CellSource, check_inputs
from episome.inference import (
    CallLimits,
    GeneSetScores,
    Predictor,
    completed_calls,
    read_gene_sets,
    warn_unless_clusters,
)
from episome.io import (
    check_columns,
    check_output,
    read_manifest,
    write_calls,
    write_calls_in_parts,
)
from episome.jobs import _streamed
from episome.jobs._asked import (
    chosen_cells,
    chosen_rows,
    opened_cells,
    prepared_query,
    provenance_of,
    require_columns,
    require_part,
    require_whole_file,
)
from episome.jobs._inputs import is_streamed, shown_name
from episome.jobs._report import check_report, written_or_told
from episome.jobs._report_calls import annotation_report
from episome.jobs._runs import Run

if TYPE_CHECKING:
    from anndata import AnnData

    from episome.data import Query
    from episome.report import CallSummary


@dataclass(frozen=True, slots=True)
class AnnotateRequest:
    """What ``episome annotate`` is asked for.

    Parameters
    ----------
    input
        Cells to annotate, never changed: a file; or a corpus, a folder of h5ad files or an
        address, which are read in blocks and give a table.
    model
        Model folder.
    output
        ``.csv``, ``.tsv``, ``.parquet`` or ``.h5ad``; ``None`` writes no file.
    layer, use_raw, input_kind
        Where the values are and what they are; ``use_raw="auto"`` takes raw where X holds no
        counts and raw does.
    min_gene_overlap
        Smallest accepted share of the model's genes.
    duplicates
        ``"sum"`` adds up genes of one name, ``"first"`` takes the first.
    gene_map
        Table of gene names: the name in the data, the name to use.
    gene_case
        ``"upper"`` reads symbols in capitals.
    allow_fractional
        Say nothing about counts that are not integers.
    nan
        ``"zero"`` reads NaN as zero.
    batch_size
        Cells at a time.
    device
        Where to run.
    overwrite
        Replace an existing file.
    error_rate, false_alarms, min_confidence, roll_up, restrict_to
        Which calls are kept, see ``episome.inference.CallLimits``.
    cluster_key
        Column of clusters that vote, see ``episome.inference.cluster_votes``.
    cellxgene
        Add the columns of the CELLxGENE schema.
    prefix
        Of the columns that are written; default ``"episome_"`` in an ``.h5ad``, else none.
    overwrite_columns
        Replace columns of the ``.h5ad`` that exist already.
    max_memory, trust
        Of ``episome.data.read_cells``.
    where
        Only the cells for which all these conditions hold: ``COLUMN=VALUE``,
        ``COLUMN=VALUE|VALUE`` or ``COLUMN!=VALUE``.
    scores
        Gene sets whose score is added, ``NAME=GENE,GENE``, see
        ``episome.inference.GeneSetScores``.
    report
        ``.html`` or ``.md``: the report of the calls, see ``episome.jobs.report``. It is made
        when the calls are written; a report that cannot be made is a warning.
    report_names
        How the report calls the cells and the model; default the names of file and folder.
    split, part
        File of ``episome corpus split`` of the same cells, and the part of it that is annotated:
        ``"train"``, ``"validation"`` or ``"test"`` (default).
    """

    input: Path
    model: Path
    output: Path | None
    report: Path | None = None
    report_names: tuple[str, str] | None = None
    split: Path | None = None
    part: Literal["train", "validation", "test"] | None = None
    where: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    error_rate: float | None = None
    false_alarms: float | None = None
    min_confidence: float | None = None
    roll_up: float | None = None
    restrict_to: tuple[str, ...] = ()
    cluster_key: str | None = None
    cellxgene: bool = False
    prefix: str | None = None
    overwrite_columns: bool = False
    layer: str | None = None
    use_raw: bool | Literal["auto"] = False
    input_kind: Literal["auto", "counts", "log1p"] = "auto"
    min_gene_overlap: float = 0.5
    duplicates: Literal["error", "sum", "first"] = "error"
    gene_map: Path | None = None
    gene_case: Literal["as is", "upper"] = "as is"
    allow_fractional: bool = False
    nan: Literal["error", "zero"] = "error"
    batch_size: int | None = None
    device: str = "auto"
    overwrite: bool = False
    max_memory: int | None = None
    trust: bool = False


@dataclass(frozen=True, slots=True)
class AnnotateResult:
    """What ``episome annotate`` found: the calls and the lines of the input report.

    ``calls`` is ``None`` where there are more cells than are kept at once, and a file holds them;
    its columns have no prefix, whatever the file has. ``labels`` and ``status`` count the cells of
    each, the commonest first. ``report`` is the report that was written, if one was.
    """

    calls: pd.DataFrame | None
    labels: dict[str, int]
    status: dict[str, int]
    notes: tuple[str, ...]
    n_obs: int
    n_vars: int
    output: Path | None
    report: Path | None = None


def annotate(
    request: AnnotateRequest, *, progress: Callable[[int, int], None] | None = None
) -> AnnotateResult:
    """Annotate the cells of a file.

    Memory is bounded: matrices on disk are read in blocks, and where there are more than 50,000
    cells their calls go to disk in parts, in a folder ``<output>.parts``. The same request goes on
    from there after it was stopped. A large ``.h5ad`` is copied, not read. Calls are in the order
    of the cells, also where only a part of a split is annotated.

    Parameters
    ----------
    request
        What to do.
    progress
        Called with ``(cells done, cells)`` after every batch.

    Raises
    ------
    EpisomeError
        Of the family in ``episome.errors``; nothing is written then.
    """
    check_inputs(request.input)
    manifest = read_manifest(request.model)
    if request.output is not None:
        check_output(request.output, overwrite=request.overwrite, source=request.input)
    if request.report is not None:
        check_report(request.report, overwrite=request.overwrite)
    started = time.perf_counter()
    in_blocks = is_streamed(request.input)
    require_part(request)
    whole = request.output is not None and request.output.suffix == ".h5ad"
    if whole:
        require_whole_file(request, in_blocks=in_blocks, made="an annotated h5ad", table="calls")
    if not in_blocks:
        require_columns(request, [] if request.cluster_key is None else [request.cluster_key])
    sets = read_gene_sets(request.scores)
    predictor = Predictor.from_folder(request.model, device=request.device)
    key = _key(request)
    with opened_cells(
        request, whole=whole, in_blocks=in_blocks, copies=lambda cells: _is_large(request, cells)
    ) as (found, adata):
        rows = chosen_rows(request, found)
        source = chosen_cells(found, rows, predictor.rule.obsm_key)
        limits = limits_of(request)
        complete = _completion(request, predictor, source)
        nothing = complete(predictor.no_calls(limits=limits), slice(0))
        if whole and adata is not None:
            check_columns(
                adata,
                [*nothing.columns, *(f"score_{name}" for name in sets)],
                prefix=request.prefix,
                overwrite=request.overwrite,
                overwrite_columns=request.overwrite_columns,
                name=shown_name(request.input),
            )
        query = prepared_query(request, predictor, source)
        scores = GeneSetScores(query, sets) if sets else None
        provenance = provenance_of(manifest, query)

        def reported(summary: CallSummary) -> Path | None:
            return written_or_told(
                lambda: annotation_report(
                    request, manifest, predictor, query, adata, rows, summary,
                    seconds=time.perf_counter() - started,
                ),
                request.report, overwrite=request.overwrite, result=request.output,
            )  # fmt: skip

        copied = adata is not None and adata.isbacked
        if _is_large(request, source) and (copied or not whole):
            return _in_parts(
                request, predictor, query, adata, key, limits, complete, scores, provenance,
                reported, progress,
            )  # fmt: skip
        # Clusters are spread over all batches: they vote when the last is there.
        calls = complete(
            _calls(predictor, query, request.batch_size, limits, progress), slice(None)
        )
        if scores is not None:
            calls = pd.concat([calls, scores.frame().set_axis(calls.index)], axis=1)
        if request.output is not None:
            write_calls(
                request.output,
                calls,
                adata=adata if whole else None,
                provenance=provenance,
                prefix=request.prefix,
                overwrite=request.overwrite,
                overwrite_columns=request.overwrite_columns,
            )
        report = None if request.report is None else reported(_summary([calls], adata))
    return AnnotateResult(
        calls,
        _plain(calls["label"].value_counts()),
        _plain(calls["status"].value_counts()),
        query.notes,
        len(calls),
        query.source.n_vars,
        request.output,
        report,
    )


def _summary(frames: Iterable[pd.DataFrame], adata: AnnData | None) -> CallSummary:
    """Count calls for their report; with the object of the cells there may be a map of them."""
    from episome.report import CallSummary

    found = CallSummary(keep=adata is not None)
    for frame in frames:
        found.add(frame)
    return found


def limits_of(request: AnnotateRequest) -> CallLimits:
    """Return which calls a request keeps."""
    return CallLimits(
        request.error_rate,
        request.false_alarms,
        request.min_confidence,
        request.roll_up,
        request.restrict_to,
    )


def _is_large(request: AnnotateRequest, source: CellSource) -> bool:
    return request.output is not None and source.n_obs > _streamed.PART


def _plain(counts: pd.Series) -> dict[str, int]:
    return {str(k): int(v) for k, v in counts.items()}


def _key(request: AnnotateRequest) -> str:
    """Digest of what decides the calls; where they go and how they are named does not."""
    read = ("input", "model", "gene_map", "split")
    other = (
        "output",
        "report",
        "report_names",
        "prefix",
        "overwrite",
        "overwrite_columns",
        "cellxgene",
    )
    facts = {k: v for k, v in asdict(request).items() if k not in (*read, *other)}
    output = request.output or Path()
    return Run("annotate", output, facts, [getattr(request, name) for name in read]).key


def _in_parts(
    request: AnnotateRequest,
    predictor: Predictor,
    query: Query,
    adata: AnnData | None,
    key: str,
    limits: CallLimits,
    complete: Callable[[pd.DataFrame, slice], pd.DataFrame],
    scores: GeneSetScores | None,
    provenance: dict[str, object],
    reported: Callable[[CallSummary], Path | None],
    progress: Callable[[int, int], None] | None,
) -> AnnotateResult:
    """Call the cells part by part, then put the parts together."""
    output = Path(str(request.output))
    parts = _streamed.CallParts(output, key, query.source.n_obs)
    parts.make(predictor, query, limits=limits, batch_size=request.batch_size, progress=progress)
    beside = None
    if request.cluster_key is not None or request.cellxgene:
        narrow = ["label", "label_ontology_term_id"]
        calls = pd.concat(parts.frames(narrow), ignore_index=True)
        beside = complete(calls, slice(None)).drop(columns=narrow)

    def frames() -> Iterator[pd.DataFrame]:
        done = 0
        for frame in parts.frames():
            stop = done + len(frame)
            columns = [frame]
            if beside is not None:
                columns.append(beside.iloc[done:stop].set_axis(frame.index))
            if scores is not None:
                columns.append(scores.frame(done, stop).set_axis(frame.index))
            yield pd.concat(columns, axis=1)
            done = stop

    write_calls_in_parts(
        output,
        frames,
        file=request.input if output.suffix == ".h5ad" else None,
        obs=None if adata is None else adata.obs,
        provenance=provenance,
        prefix=request.prefix,
        overwrite=request.overwrite,
    )
    labels, status = parts.counts("label"), parts.counts("status")
    # The parts go first: a report may take a while, and what is written needs them no more.
    summary = None if request.report is None else _summary(parts.frames(), adata)
    parts.remove()
    report = None if summary is None else reported(summary)
    return AnnotateResult(
        None,
        _plain(labels),
        _plain(status),
        query.notes,
        query.source.n_obs,
        query.source.n_vars,
        output,
        report,
    )


def _completion(
    request: AnnotateRequest, predictor: Predictor, source: CellSource
) -> Callable[[pd.DataFrame, slice], pd.DataFrame]:
    """Return what adds the wanted columns to the calls of some cells."""
    labels = predictor.require_labels()
    clusters = None if request.cluster_key is None else source.obs_column(request.cluster_key)
    if clusters is not None:
        warn_unless_clusters(clusters)

    def complete(calls: pd.DataFrame, rows: slice) -> pd.DataFrame:
        return completed_calls(
            calls,
            labels,
            clusters=None if clusters is None else clusters.iloc[rows],
            cellxgene=request.cellxgene,
        )

    return complete


def _calls(
    predictor: Predictor,
    query: Query,
    batch_size: int | None,
    limits: CallLimits,
    progress: Callable[[int, int], None] | None,
) -> pd.DataFrame:
    total, parts, done = query.source.n_obs, [], 0
    for part in predictor.calls(query, batch_size=batch_size, limits=limits):
        parts.append(part)
        done += len(part)
        if progress is not None:
            progress(done, total)
    return pd.concat(parts) if parts else predictor.no_calls(limits=limits)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in blocks; of a folder, of the names and digests of its files."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        lines = [f"{p.relative_to(path).as_posix()} {file_digest(p)}\n" for p in files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def describe_input(path: Path, adata: AnnData | None = None) -> dict[str, object]:
    """Path, digest and size of an input, for the JSON answer."""
    facts: dict[str, object] = {"path": str(path)}
    if path.exists():  # else an address
        facts["sha256"] = file_digest(path)
    if adata is not None:
        facts |= {"n_obs": int(adata.n_obs), "n_vars": int(adata.n_vars)}
    return facts
