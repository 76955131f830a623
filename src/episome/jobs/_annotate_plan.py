"""What an annotation would do: all is checked, a few cells are called, nothing is written."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from episome.data import check_inputs
from episome.inference import Predictor, completed_calls, read_gene_sets
from episome.io import check_columns, check_output, read_manifest
from episome.jobs._annotate import AnnotateRequest, limits_of
from episome.jobs._asked import (
    chosen_cells,
    chosen_rows,
    opened_cells,
    prepared_query,
    require_columns,
    require_part,
    require_whole_file,
)
from episome.jobs._inputs import is_streamed, shown_name

#: Cells that are called to see how long it takes.
SAMPLE = 512


@dataclass(frozen=True, slots=True)
class AnnotatePlan:
    """What ``annotate`` would do.

    Parameters
    ----------
    n_obs, n_vars
        Cells that would be called, and genes of the input.
    columns
        Of the calls.
    seconds, n_bytes
        Estimates of the time and of the size of the output, from the calls of a few cells; 0
        where there are none, or there is no file.
    notes
        Lines of the input report.
    """

    n_obs: int
    n_vars: int
    columns: tuple[str, ...]
    seconds: float
    n_bytes: int
    notes: tuple[str, ...]


def annotate_plan(request: AnnotateRequest) -> AnnotatePlan:
    """Check everything that ``annotate`` would, and say what it would do; nothing is written.

    Parameters
    ----------
    request
        Of ``annotate``.

    Raises
    ------
    EpisomeError
        As ``annotate``.
    """
    check_inputs(request.input)
    read_manifest(request.model)
    output = request.output
    if output is not None:
        check_output(output, overwrite=request.overwrite, source=request.input)
    in_blocks = is_streamed(request.input)
    require_part(request)
    whole = output is not None and output.suffix == ".h5ad"
    if whole:
        require_whole_file(request, in_blocks=in_blocks, made="an annotated h5ad", table="calls")
    if not in_blocks:
        require_columns(request, [] if request.cluster_key is None else [request.cluster_key])
    sets = read_gene_sets(request.scores)
    predictor = Predictor.from_folder(request.model, device=request.device)
    limits = limits_of(request)
    with opened_cells(request, whole=False, in_blocks=in_blocks, copies=lambda _: True) as (
        found,
        adata,
    ):
        source = chosen_cells(found, chosen_rows(request, found), predictor.rule.obsm_key)
        query = prepared_query(request, predictor, source)
        rows = np.arange(min(SAMPLE, source.n_obs))
        start = time.perf_counter()
        calls = predictor.annotate(query, rows=rows, batch_size=request.batch_size, limits=limits)
        seconds = time.perf_counter() - start
        calls = completed_calls(calls, predictor.require_labels(), cellxgene=request.cellxgene)
        names = [*calls.columns, *(f"score_{name}" for name in sets)]
        if whole and adata is not None:
            check_columns(
                adata,
                names,
                prefix=request.prefix,
                overwrite=request.overwrite,
                overwrite_columns=request.overwrite_columns,
                name=shown_name(request.input),
            )
        share = source.n_obs / len(rows) if len(rows) else 0.0
        n_bytes = 0 if output is None else int(len(calls.to_csv().encode()) * share)
        if whole:
            n_bytes += request.input.stat().st_size
        return AnnotatePlan(
            source.n_obs, source.n_vars, tuple(names), seconds * share, n_bytes, query.notes
        )
