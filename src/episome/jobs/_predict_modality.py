"""Write another modality of the cells of a file, as a model predicts it from their RNA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome.data import check_inputs, file_modalities, rna_among
from episome.errors import Problem, UsageError, warn
from episome.inference import (
    BATCH_KEY,
    PredictedModality,
    Predictor,
    TargetFacts,
    folder_target,
    without_small,
)
from episome.io import (
    EXPRESSION_KINDS,
    check_output,
    decode,
    frames_of,
    read_manifest,
    read_model_folder,
    with_layers,
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
from episome.jobs._inputs import is_streamed, kind_of_input, shown_name
from episome.jobs._written import cells_table, listed_names, require_room

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

#: Layers of the ends of intervals.
ENDS = ("lower", "upper")
#: How well a feature is predicted, where the prediction says nothing of a cell.
_NO_USE = ("not predictable", "constant")


@dataclass(frozen=True, slots=True)
class PredictModalityRequest(QueryRequest):
    """What ``episome predict-modality`` is asked for: the fields of ``QueryRequest``, and these.

    ``input`` may be a file of MuData too, of which the RNA is read. ``output`` ends in ``.h5ad``,
    or for few features in ``.csv``, ``.csv.gz``, ``.tsv``, ``.tsv.gz`` or ``.parquet``.

    Parameters
    ----------
    features
        Features that are written: names, or files (``.txt``, ``.csv``, ``.tsv``) with one a line;
        default all that the model predicts.
    interval
        Share of cells, such as 0.9, whose measured value is to lie between ``lower`` and
        ``upper``, which are written too.
    transform_batch
        Predict all cells as if they were of this batch; default their own where the model knows
        it, else none of them.
    sparse_below
        Leave out smaller predictions: ``X`` of an ``.h5ad`` is then CSR.
    modality
        Name of the RNA in a file of several modalities; default the one that it had in training,
        else the one that looks like RNA.
    """

    features: tuple[str, ...] = ()
    interval: float | None = None
    transform_batch: str | None = None
    sparse_below: float | None = None
    modality: str | None = None


@dataclass(frozen=True, slots=True)
class PredictModalityResult:
    """What ``episome predict-modality`` made, and the lines of the input report.

    ``predicted`` is ``None`` where a file holds it. ``kind`` is what the features are, ``unit``
    what the values are. ``status`` counts the features by how well they were predicted in cells
    that were held out of training; empty where that is not known. ``n_empty`` cells are NaN.
    """

    predicted: pd.DataFrame | None
    n_obs: int
    n_vars: int
    n_features: int
    n_empty: int
    kind: str
    unit: str
    notes: tuple[str, ...]
    output: Path | None
    status: Mapping[str, int] = field(default_factory=dict)


def predict_modality(
    request: PredictModalityRequest, *, progress: Callable[[int, int], None] | None = None
) -> PredictModalityResult:
    """Write what a model predicts of another modality for every cell, in the order of the cells.

    The values are those of ``model.predict_modality(features=, interval=, transform_batch=,
    sparse_below=)``. Memory is bounded: matrices on disk are read in blocks, and what is predicted
    is written as it comes, dense or sparse.

    Parameters
    ----------
    request
        What to do.
    progress
        Called with ``(cells done, cells)`` after every batch.

    Raises
    ------
    EpisomeError
        Of the family in ``episome.errors``; nothing is written then. E-U12: the model predicts no
        other modality; E-U60: there is no such modality in the file; E-U61: unknown features;
        E-U110: an unknown batch; E-U111: too many values for a table; E-U114: no intervals.
    """
    check_inputs(request.input)
    manifest = read_manifest(request.model)
    output = request.output
    if output is not None:
        check_output(
            output, overwrite=request.overwrite, kinds=EXPRESSION_KINDS, source=request.input
        )
    require_capability(manifest, "translation", request.model)
    in_blocks = is_streamed(request.input)
    require_part(request)
    if not in_blocks:
        require_columns(request)
    wanted = listed_names(request.features, "features (--features)", things="features") or None
    folder = read_model_folder(request.model)
    facts = folder_target(folder)
    chosen = [facts.names[i] for i in facts.places(wanted)]
    _require_possible(request, facts, chosen)
    modality = _modality_read(request, manifest, in_blocks=in_blocks)
    predictor = Predictor.from_folder(folder, device=request.device)
    with opened_cells(
        request, whole=False, in_blocks=in_blocks, copies=lambda _: True, modality=modality
    ) as (found, adata):
        rows = chosen_rows(request, found)
        source = chosen_cells(found, rows, predictor.rule.obsm_key)
        _require_room(request, source.n_obs, len(chosen))
        query = prepared_query(request, predictor, source)
        predicted = PredictedModality(
            predictor,
            query,
            facts,
            features=wanted,
            interval=request.interval,
            transform_batch=request.transform_batch,
        )
        made = _Made(predicted, request, progress)
        names = query.source.obs_names
        table = None
        if output is None:
            blocks, columns = with_layers(made.blocks(), predicted.names, made.layers)
            table = pd.concat(list(frames_of(blocks, names, lambda _: columns)))
        else:
            write_expression(
                output,
                made.blocks(),
                cells_table(found, adata, rows, names, kept=made.in_h5ad),
                predicted.var.copy(),
                layers=made.layers,
                sparse=made.sparse,
                uns=_scale_of(facts),
                provenance={**provenance_of(manifest, query), **_asked(request, facts)},
                overwrite=request.overwrite,
            )
    status = _status(predicted)
    _warn_of_no_use(predicted, shown_name(request.model), chosen=wanted is not None)
    return PredictModalityResult(
        table,
        len(names),
        query.source.n_vars,
        len(chosen),
        made.n_empty,
        facts.kind,
        facts.unit,
        (*query.notes, *_notes(predicted, request, made.n_empty)),
        output,
        status,
    )


class _Made:
    """What is written, block by block, and what is counted on the way."""

    def __init__(
        self,
        predicted: PredictedModality,
        request: PredictModalityRequest,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._predicted, self._request, self._progress = predicted, request, progress
        self.in_h5ad = _in_h5ad(request)
        self.sparse = self.in_h5ad and request.sparse_below is not None
        self.layers = () if request.interval is None else ENDS
        self.n_empty = 0

    def blocks(self) -> Iterator[tuple[NDArray[np.float32] | sparse.csr_matrix, ...]]:
        done, total = 0, self._predicted.query.source.n_obs
        for block in self._predicted.blocks(batch_size=self._request.batch_size):
            self.n_empty += int(block.empty.sum())
            ends = (end for end in (block.lower, block.upper) if end is not None)
            yield (self._values(block.values), *ends)
            done += len(block.values)
            if self._progress is not None:
                self._progress(done, total)

    def _values(self, values: NDArray[np.float32]) -> NDArray[np.float32] | sparse.csr_matrix:
        limit = self._request.sparse_below
        if limit is None:
            return values
        kept = without_small(values, limit)
        return kept if self.sparse else kept.toarray()


def _in_h5ad(request: PredictModalityRequest) -> bool:
    return request.output is not None and request.output.suffix == ".h5ad"


# -- what is refused before any cell is read ------------------------------------------------------


def _require_possible(
    request: PredictModalityRequest, facts: TargetFacts, names: Sequence[str]
) -> None:
    """Refuse what the model cannot give, and a table cannot hold.

    Raises
    ------
    UsageError
        E-U22, E-U110, E-U114, E-U115.
    """
    limit = request.sparse_below
    if limit is not None and not np.isfinite(limit):
        raise UsageError(
            "E-U22",
            f"sparse_below={limit!r} (--sparse-below)",
            why="it is the smallest prediction that is written",
            fix="pass a number such as 0.05, on the scale of the predictions",
        )
    if request.interval is not None:
        facts.require_interval(request.interval)
        if not _in_h5ad(request):
            with_layers((), names, ENDS)
    if request.transform_batch is not None:
        facts.batch_code(request.transform_batch)


def _modality_read(
    request: PredictModalityRequest, manifest: Mapping[str, Any], *, in_blocks: bool
) -> str | None:
    """Return which modality of the file is read; ``None``: the RNA, or there is one alone.

    Raises
    ------
    UsageError
        One is named, and the cells have none (E-U60).
    """
    if in_blocks:
        if request.modality is not None:
            raise UsageError(
                "E-U60",
                f"modality {request.modality!r} is asked of {kind_of_input(request.input)}",
                where=shown_name(request.input),
                why="its cells have one modality",
                fix="leave modality (--modality) out",
            )
        return None
    if request.modality is not None:
        return request.modality
    held = file_modalities(request.input, max_memory=request.max_memory, trust=request.trust)
    usual = str(decode(manifest["registry"])["setup_args"].get("rna_modality", "rna"))
    return (rna_among(held, usual) or usual) if held else None


def _require_room(request: PredictModalityRequest, n_obs: int, n_features: int) -> None:
    """Refuse what a table or the disk cannot hold; of sparse values it is not known before."""
    arrays = 1 if request.interval is None else 3
    sparse_x = request.sparse_below is not None
    require_room(
        request.output,
        n_obs,
        n_features,
        arrays=arrays,
        n_bytes=4 * n_obs * n_features * (arrays - sparse_x),
        things="features",
        named="predicted",
    )


# -- what is said beside the values ---------------------------------------------------------------


def _scale_of(facts: TargetFacts) -> dict[str, object]:
    return {} if facts.scale is None else {"scale": facts.scale.name, "unit": facts.unit}


def _asked(request: PredictModalityRequest, facts: TargetFacts) -> dict[str, object]:
    """Return what of the request made the values what they are."""
    given = {
        "interval": request.interval,
        "transform_batch": request.transform_batch,
        "sparse_below": request.sparse_below,
    }
    return {"kind": facts.kind, **{k: v for k, v in given.items() if v is not None}}


def _status(predicted: PredictedModality) -> dict[str, int]:
    """Count the features by how well they are predicted."""
    counts = predicted.var["status"].value_counts().drop("unknown", errors="ignore")
    return {str(k): int(n) for k, n in counts.items()}


def _notes(
    predicted: PredictedModality, request: PredictModalityRequest, n_empty: int
) -> Iterator[str]:
    if n_empty:
        yield f"{n_empty:,} cells have no counts of the model's genes: they are NaN"
    if predicted.n_lacking and request.interval is not None:
        yield (
            f"{predicted.n_lacking:,} of the model's {predicted.query.alignment.n_features:,} "
            "genes are not in the query: intervals were made of cells with all of them, and may "
            "be too narrow"
        )
    codes = predicted.query.columns.get(BATCH_KEY)
    if request.transform_batch is not None:
        yield f"all cells are predicted as of the batch {request.transform_batch!r}"
    elif codes is not None and (unknown := int((codes < 0).sum())):
        yield (
            f"{unknown:,} of {len(codes):,} cells are of no batch that the model knows "
            f"(column {predicted.facts.batch_key}): they are predicted as of none"
        )


def _warn_of_no_use(predicted: PredictedModality, model: str, *, chosen: bool) -> None:
    """Say which features are not worth reading: those asked for, else where they are most."""
    var = predicted.var
    bad = var.index[var["status"].isin(_NO_USE)]
    if not len(bad) or not (chosen or 2 * len(bad) > len(var)):
        return
    warn(
        Problem(
            "E-D64",
            "features that the model does not predict better than by their mean",
            where=model,
            count=len(bad),
            total=len(var),
            examples=list(bad[:3]),
            why="in cells that were held out of its training, predictions did not go with what "
            "was measured, or that never varied",
            fix="leave them out (--features), or train on more cells; `status` in var tells them",
        )
    )
