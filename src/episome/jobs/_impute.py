"""Write the expression that a model expects of the cells of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from episome.data import check_inputs
from episome.errors import Problem, warn
from episome.inference import ExpectedExpression, Predictor
from episome.io import (
    EXPRESSION_KINDS,
    check_output,
    frames_of,
    read_manifest,
    write_expression,
)
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
from episome.jobs._written import cells_table, listed_names, require_room

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data import FeatureSpace


@dataclass(frozen=True, slots=True)
class ImputeRequest(QueryRequest):
    """What ``episome impute`` is asked for: the fields of ``QueryRequest``, and these.

    ``output`` ends in ``.h5ad``, or for few genes in ``.csv``, ``.csv.gz``, ``.tsv``, ``.tsv.gz``
    or ``.parquet``.

    Parameters
    ----------
    genes
        Genes that are written: identifiers or symbols, or files (``.txt``, ``.csv``, ``.tsv``)
        with one a line; default all of the model.
    hide
        Genes, in the same form, that the model does not see in any cell: imputed from the others.
    library_size
        Molecules of a cell to which the result is scaled.
    log1p
        Write ``log1p`` of the values.
    """

    genes: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    library_size: float = 1e4
    log1p: bool = False


@dataclass(frozen=True, slots=True)
class ImputeResult:
    """What ``episome impute`` made, and the lines of the input report.

    ``expression`` is ``None`` where a file holds it. ``n_genes`` are written; of all genes of the
    model the query lacks ``n_missing``, and ``n_hidden`` were hidden. ``n_unknown`` of those
    written are NaN, as the model says nothing of them.
    """

    expression: pd.DataFrame | None
    n_obs: int
    n_vars: int
    n_genes: int
    n_missing: int
    n_hidden: int
    n_unknown: int
    notes: tuple[str, ...]
    output: Path | None


def impute(
    request: ImputeRequest, *, progress: Callable[[int, int], None] | None = None
) -> ImputeResult:
    """Write the expression that a model expects of every cell, in the order of the cells.

    The values are those of ``model.get_normalized_expression(library_size=, gene_list=, hide=)``.
    Genes that the query lacks are imputed in any case: they are zero on the way in. Memory is
    bounded: matrices on disk are read in blocks, and what is expected is written as it comes.

    Parameters
    ----------
    request
        What to do.
    progress
        Called with ``(cells done, cells)`` after every batch.

    Raises
    ------
    EpisomeError
        Of the family in ``episome.errors``; nothing is written then. E-U12: the model expects no
        expression; E-U61: unknown genes; E-U106: too few genes beside the hidden ones; E-U111:
        too many values for a table.
    """
    check_inputs(request.input)
    manifest = read_manifest(request.model)
    output = request.output
    if output is not None:
        check_output(
            output, overwrite=request.overwrite, kinds=EXPRESSION_KINDS, source=request.input
        )
    require_capability(manifest, "reconstruction", request.model)
    in_blocks = is_streamed(request.input)
    require_part(request)
    if not in_blocks:
        require_columns(request)
    wanted = listed_names(request.genes, "genes (--genes)")
    unseen = listed_names(request.hide, "hide (--hide)")
    predictor = Predictor.from_folder(request.model, device=request.device)
    features = predictor.features
    genes = _places(features, wanted, "genes (--genes)") if wanted else np.arange(len(features))
    hide = _places(features, unseen, "hide (--hide)")
    with opened_cells(request, whole=False, in_blocks=in_blocks, copies=lambda _: True) as (
        found,
        adata,
    ):
        rows = chosen_rows(request, found)
        source = chosen_cells(found, rows, predictor.rule.obsm_key)
        require_room(output, source.n_obs, len(genes))
        query = prepared_query(request, predictor, source)
        expected = ExpectedExpression(
            predictor,
            query,
            genes=genes,
            hide=hide,
            library_size=request.library_size,
            min_gene_overlap=request.min_gene_overlap,
        )
        made = _Made(expected, request, progress, query.source.n_obs)
        var = _genes_table(features, expected, hide)
        names = query.source.obs_names
        table = None
        if output is None:
            frames = frames_of(made.blocks(), names, lambda _: list(var.index))
            table = pd.concat(list(frames))
        else:
            write_expression(
                output,
                made.blocks(),
                cells_table(found, adata, rows, names, kept=output.suffix == ".h5ad"),
                var,
                provenance={
                    **provenance_of(manifest, query),
                    "library_size": float(request.library_size),
                    "log1p": request.log1p,
                    "n_hidden": len(hide),
                },
                overwrite=request.overwrite,
            )
    lacking = len(features) - len(np.unique(_matched(expected)))
    notes = [*query.notes, *_notes(len(features), lacking, hide, made)]
    n_unknown = _warn_unknown(made.unknown, var, shown_name(request.model))
    return ImputeResult(
        table,
        len(names),
        query.source.n_vars,
        len(genes),
        lacking,
        len(hide),
        n_unknown,
        tuple(notes),
        output,
    )


class _Made:
    """What is written, block by block, and what is counted on the way."""

    def __init__(
        self,
        expected: ExpectedExpression,
        request: ImputeRequest,
        progress: Callable[[int, int], None] | None,
        total: int,
    ) -> None:
        self._expected, self._request = expected, request
        self._progress, self._total = progress, total
        self.n_empty = 0
        self.unknown = np.zeros(len(expected.genes), dtype=bool)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        done = 0
        for values, empty in self._expected.blocks(batch_size=self._request.batch_size):
            self.n_empty += int(empty.sum())
            self.unknown |= np.isnan(values).any(axis=0)
            yield np.log1p(values) if self._request.log1p else values
            done += len(values)
            if self._progress is not None:
                self._progress(done, self._total)


def _places(features: FeatureSpace, names: Sequence[str], where: str) -> NDArray[np.int64]:
    """Return where genes are, each once, in the order in which they are named first."""
    places = features.places(names, where=where)
    return places[np.sort(np.unique(places, return_index=True)[1])]


def _matched(expected: ExpectedExpression) -> NDArray[np.int64]:
    """Positions in the model of the genes that the query has."""
    columns = expected.query.alignment.columns
    found: NDArray[np.int64] = columns[columns >= 0]
    return found


def _genes_table(
    features: FeatureSpace, expected: ExpectedExpression, hide: NDArray[np.int64]
) -> pd.DataFrame:
    """Names of the genes that are written, and what the model saw of them."""
    places = expected.genes
    ids = np.array(features.ids, dtype=object)[places]
    table = pd.DataFrame(index=pd.Index(ids))
    for column, names in features.other.items():
        table[column] = np.array(names, dtype=object)[places]
    table["in_query"] = np.isin(places, _matched(expected))
    table["hidden"] = np.isin(places, hide)
    return table


def _notes(n_model: int, lacking: int, hide: NDArray[np.int64], made: _Made) -> list[str]:
    notes = []
    if lacking:
        notes.append(
            f"{lacking:,} of the model's {n_model:,} genes are not in the query: they are imputed"
        )
    if len(hide):
        notes.append(f"genes hidden from the model, and imputed: {len(hide):,}")
    if made.n_empty:
        notes.append(
            f"{made.n_empty:,} cells have no counts of genes that the model sees: what it expects "
            "of them is the same for all"
        )
    return notes


def _warn_unknown(unknown: NDArray[np.bool_], var: pd.DataFrame, model: str) -> int:
    """Say of which genes the model says nothing."""
    n_unknown = int(unknown.sum())
    if n_unknown:
        warn(
            Problem(
                "E-D59",
                "genes that the model expects nothing of",
                where=model,
                count=n_unknown,
                total=len(var),
                examples=list(var.index[unknown][:3]),
                why="it was trained on others, and their values are NaN",
                fix="leave them out (--genes), or train with more genes",
            )
        )
    return n_unknown
