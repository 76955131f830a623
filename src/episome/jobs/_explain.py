"""The genes behind the calls of a model folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from episome.data import check_inputs
from episome.errors import UsageError
from episome.inference import pick_device
from episome.io import (
    TABLES,
    check_output,
    is_ensemble,
    read_manifest,
    write_file,
)
from episome.jobs._asked import (
    QueryRequest,
    chosen_cells,
    chosen_rows,
    opened_cells,
    require_capability,
    require_columns,
    require_part,
)
from episome.jobs._inputs import is_streamed, shown_name

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from episome.data import CellSource

#: Fields that are arguments of the model's own methods.
_PASSED_ON: tuple[str, ...] = ("of", "against", "method", "weight", "batch_size", "input_kind")
_PASSED_ON += (
    "min_gene_overlap",
    "duplicates",
    "gene_map",
    "gene_case",
    "allow_fractional",
    "nan",
)
#: What cells are grouped by where that is no column: their calls, all as one, each alone.
PREDICTION, ALL, CELLS = "prediction", "all", "cells"


@dataclass(frozen=True, slots=True)
class ExplainRequest(QueryRequest):
    """What ``episome explain`` is asked for: the fields of ``QueryRequest``, and these.

    ``output`` is a table: ``.csv``, ``.tsv`` or ``.parquet``.

    Parameters
    ----------
    by
        ``"prediction"`` (genes of every called class), ``"cells"`` (of every cell), ``"all"``, or
        a column of ``obs``.
    top
        Genes of every group or cell at most.
    cells
        Names of the only cells that are explained; default all.
    of, against, method, weight
        As for ``episome.models.ExplanationMixin.top_genes``.
    """

    by: str = PREDICTION
    top: int = 20
    cells: tuple[str, ...] = ()
    of: str | None = None
    against: str | None = None
    method: Literal["auto", "native", "gradient"] = "auto"
    weight: Literal["auto", "expression", "none"] = "auto"


@dataclass(frozen=True, slots=True)
class ExplainResult:
    """The table of genes, and of how many cells it is."""

    genes: pd.DataFrame
    n_obs: int
    output: Path | None


def explain(
    request: ExplainRequest, *, progress: Callable[[int, int], None] | None = None
) -> ExplainResult:
    """Write the genes that count most for the calls of a model.

    Parameters
    ----------
    request
        What to do.
    progress
        Called with ``(cells done, cells)`` after every batch; for ``by="cells"``.

    Raises
    ------
    EpisomeError
        Of the family in ``episome.errors``; nothing is written then. E-U12: the model gives no
        attributions.
    """
    check_inputs(request.input)
    manifest = read_manifest(request.model)
    if request.output is not None:
        check_output(
            request.output, overwrite=request.overwrite, kinds=TABLES, source=request.input
        )
    if not is_ensemble(manifest):  # whose members say what they give
        require_capability(manifest, "explanation", request.model)
    in_blocks = is_streamed(request.input)
    require_part(request)
    column = None if request.by in (PREDICTION, ALL, CELLS) else request.by
    if not in_blocks:
        require_columns(request, [] if column is None else [column])
    device = pick_device(request.device)

    from episome.models import load

    model: Any = load(request.model)
    model.module.to(device)
    how: dict[str, Any] = {name: getattr(request, name) for name in _PASSED_ON}
    with opened_cells(request, whole=False, in_blocks=in_blocks, copies=lambda _: True) as (
        found,
        _,
    ):
        source = chosen_cells(found, _rows(request, found), model.input_rule.obsm_key)
        if request.by == CELLS:
            table = model.cell_genes(source, request.top, progress=progress, **how)
        else:
            groupby = None if request.by == ALL else request.by
            table = model.top_genes(source, groupby, request.top, **how)
    if request.output is not None:
        _write(table, request.output, overwrite=request.overwrite)
    return ExplainResult(table, source.n_obs, request.output)


def _rows(request: ExplainRequest, source: CellSource) -> NDArray[np.int64] | None:
    """Return the rows of the cells that are explained; ``None`` for all.

    Raises
    ------
    UsageError
        A cell is not there (E-U103).
    """
    rows = chosen_rows(request, source)
    if not request.cells:
        return rows
    wanted = set(request.cells)
    named = np.flatnonzero(np.array([str(n) in wanted for n in source.obs_names], dtype=bool))
    found: NDArray[np.int64] = named if rows is None else np.intersect1d(named, rows)
    if len(found) < len(wanted):
        known = {str(source.obs_names[i]) for i in found}
        raise UsageError(
            "E-U103",
            "cells are not there",
            where=shown_name(request.input),
            count=len(wanted - known),
            total=len(wanted),
            examples=sorted(wanted - known)[:3],
            fix="correct the names (--cell)",
        )
    return found


def _write(table: pd.DataFrame, output: Path, *, overwrite: bool) -> None:
    if output.suffix == ".parquet":
        write_file(output, table.to_parquet, overwrite=overwrite)
        return
    text = table.to_csv(sep="," if output.suffix == ".csv" else "\t", index=False)
    write_file(output, text.encode(), overwrite=overwrite)
