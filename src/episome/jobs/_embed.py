"""Embed the cells of a file with a model folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from episome.data import check_inputs
from episome.errors import UsageError
from episome.inference import Predictor
from episome.io import (
    EMBEDDING_KINDS,
    check_obsm,
    check_output,
    frames_of,
    latent_columns,
    read_manifest,
    write_embedding,
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
    require_whole_file,
)
from episome.jobs._inputs import is_streamed, shown_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data import Query


@dataclass(frozen=True, slots=True)
class EmbedRequest(QueryRequest):
    """What ``episome embed`` is asked for: the fields of ``QueryRequest``, and these.

    ``output`` ends in ``.csv``, ``.csv.gz``, ``.tsv``, ``.tsv.gz`` or ``.parquet`` for a table,
    ``.npy`` for the array alone, or ``.h5ad`` for a copy of the input with the array in ``obsm``.

    Parameters
    ----------
    key_added
        Of ``obsm`` in an ``.h5ad``; default ``X_`` and the name of the model.
    overwrite_columns
        Replace an array of ``obsm`` that exists already.
    """

    key_added: str | None = None
    overwrite_columns: bool = False


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """What ``episome embed`` made, and the lines of the input report.

    ``embedding`` is ``None`` where a file holds it. ``key`` is that of ``obsm`` in an ``.h5ad``.
    """

    embedding: pd.DataFrame | None
    n_obs: int
    n_vars: int
    n_latent: int
    key: str
    notes: tuple[str, ...]
    output: Path | None


def embed(
    request: EmbedRequest, *, progress: Callable[[int, int], None] | None = None
) -> EmbedResult:
    """Write the vector that a model gives every cell, in the order of the cells.

    Memory is bounded: matrices on disk are read in blocks, and vectors are written as they come.
    An h5ad is copied byte by byte for an ``.h5ad``; its matrix is not read into memory.

    Parameters
    ----------
    request
        What to do.
    progress
        Called with ``(cells done, cells)`` after every batch.

    Raises
    ------
    EpisomeError
        Of the family in ``episome.errors``; nothing is written then. E-U12: the model gives no
        embedding.
    """
    check_inputs(request.input)
    manifest = read_manifest(request.model)
    output = request.output
    if output is not None:
        check_output(
            output, overwrite=request.overwrite, kinds=EMBEDDING_KINDS, source=request.input
        )
    require_capability(manifest, "embedding", request.model)
    in_blocks = is_streamed(request.input)
    require_part(request)
    whole = output is not None and output.suffix == ".h5ad"
    if whole:
        made = "an h5ad with the embedding"
        require_whole_file(request, in_blocks=in_blocks, made=made, table="embedding")
    if not in_blocks:
        require_columns(request)
    key = f"X_{manifest['model']['spec']}" if request.key_added is None else request.key_added
    predictor = Predictor.from_folder(request.model, device=request.device)
    with opened_cells(request, whole=whole, in_blocks=in_blocks, copies=lambda _: True) as (
        found,
        adata,
    ):
        source = chosen_cells(found, chosen_rows(request, found), predictor.rule.obsm_key)
        if whole and adata is not None:
            check_obsm(
                adata,
                key,
                overwrite_columns=request.overwrite_columns,
                name=shown_name(request.input),
            )
        query = prepared_query(request, predictor, source)
        names, widths = query.source.obs_names, [0]
        blocks = _blocks(predictor, query, request.batch_size, progress, widths)
        table = None
        if output is None:
            table = pd.concat(list(frames_of(blocks, names, latent_columns)))
        else:
            write_embedding(
                output,
                blocks,
                names,
                key=key,
                adata=adata if whole else None,
                file=request.input if adata is not None and adata.isbacked else None,
                provenance=provenance_of(manifest, query),
                overwrite=request.overwrite,
            )
    return EmbedResult(table, len(names), query.source.n_vars, widths[0], key, query.notes, output)


def _blocks(
    predictor: Predictor,
    query: Query,
    batch_size: int | None,
    progress: Callable[[int, int], None] | None,
    widths: list[int],
) -> Iterator[NDArray[np.float32]]:
    """Yield the vectors of every batch, and say how many dimensions they have."""
    done, total = 0, query.source.n_obs
    for out in predictor.stream(query, batch_size=batch_size, outputs=["latent"]):
        if "latent" not in out:
            raise UsageError(
                "E-U12", "the model gives no 'latent'", fix="use a model that embeds cells"
            )
        latent = out["latent"].astype(np.float32, copy=False)
        widths[0] = latent.shape[1]
        yield latent
        done += len(latent)
        if progress is not None:
            progress(done, total)
