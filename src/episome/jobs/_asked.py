"""What the verbs that run a model over cells share: which cells, and what is said of them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from episome import plugins
from episome.data import (
    AnnDataSource,
    CellSource,
    ChosenCells,
    Condition,
    ObsmSource,
    cells_where,
    read_cells,
    read_modality,
    read_split,
    require_choice,
    split_columns,
)
from episome.errors import UsageError
from episome.io import is_ensemble
from episome.jobs._inputs import (
    kind_of_input,
    require_columns_of_file,
    shown_name,
    streamed_cells,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.data import Query
    from episome.inference import Predictor
    from episome.jobs._annotate import AnnotateRequest

    Asked: TypeAlias = "AnnotateRequest | QueryRequest"

#: Parts of a split.
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """Which cells a model is run over, and how they are read.

    Parameters
    ----------
    input
        Cells, never changed: a file; or a corpus, a folder of h5ad files or an address, which are
        read in blocks.
    model
        Model folder.
    output
        File that is written; ``None`` writes none, and the result is in memory.
    split, part
        File of ``episome corpus split`` of the same cells, and the part of it that is taken:
        ``"train"``, ``"validation"`` or ``"test"`` (default).
    where
        Only the cells for which all these conditions hold: ``COLUMN=VALUE``,
        ``COLUMN=VALUE|VALUE`` or ``COLUMN!=VALUE``.
    layer, use_raw, input_kind, min_gene_overlap, duplicates, gene_map, gene_case, \
allow_fractional, nan, batch_size, device, overwrite, max_memory, trust
        As for ``episome annotate``, see :class:`episome.jobs.AnnotateRequest`.
    """

    input: Path
    model: Path
    output: Path | None
    split: Path | None = None
    part: Literal["train", "validation", "test"] | None = None
    where: tuple[str, ...] = ()
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


def require_capability(manifest: Mapping[str, Any], capability: str, folder: Path) -> None:
    """Refuse a model that cannot do what is asked for, before its weights or cells are read.

    Raises
    ------
    UsageError
        It has no such capability (E-U12).
    PluginError
        The plugin that wrote it is not installed (E-P01).
    """
    from episome.inference import folder_spec

    spec = folder_spec(manifest["model"])
    several = is_ensemble(manifest)
    if capability in spec.capabilities and not several:
        return
    able = [n for n, s in plugins.models().items() if capability in s.capabilities]
    name = f"an ensemble of {spec.name}" if several else spec.name
    raise UsageError(
        "E-U12",
        f"{name} has not the capability {capability!r}",
        where=str(folder),
        why="an ensemble gives mean probabilities, each member has axes of its own"
        if several
        else f"its capabilities are {', '.join(spec.capabilities)}",
        fix="give the folder of one member (-m), in members"
        if several and capability in spec.capabilities
        else f"train one of {', '.join(sorted(able))}, and give its folder (-m)"
        if able
        else "install a plugin with such a model",
    )


def require_part(request: Asked) -> None:
    """Refuse a part of nothing, and words that name none."""
    if request.part is None:
        return
    require_choice("part (--part)", request.part, PARTS)
    if request.split is None:
        raise UsageError(
            "E-U34",
            f"part={request.part!r} (--part) is given without a split",
            why="it is a part of the file that `episome corpus split` wrote",
            fix="give split (--split) too, or leave it out to annotate all cells",
        )


def require_whole_file(request: Asked, *, in_blocks: bool, made: str, table: str) -> None:
    """Refuse a copy of what is no file of all the cells that are asked for.

    Parameters
    ----------
    request
        Of a verb.
    in_blocks
        The input is read where it is.
    made
        How messages call the copy, such as ``"an annotated h5ad"``.
    table
        Name of a table that could be written instead, without its ending.
    """
    if not in_blocks and request.split is None and not request.where:
        return
    part = "a part of a split" if request.split is not None else "some conditions"
    what = kind_of_input(request.input) if in_blocks else part
    raise UsageError(
        "E-U09",
        f"{made} is asked for, and the cells are those of {what}",
        where=shown_name(request.input),
        why=f"{made} is a copy of one file with all its cells",
        fix=f"take a table, such as -o {table}.csv or -o {table}.parquet",
    )


def require_columns(request: Asked, keys: Sequence[str] = ()) -> None:
    """Refuse columns that the file does not have, before it is read."""
    wanted = [*keys, *(Condition.parse(text).column for text in request.where)]
    if request.split is not None:
        wanted += split_columns(request.split)
    require_columns_of_file(
        request.input, wanted, max_memory=request.max_memory, trust=request.trust
    )


@contextlib.contextmanager
def opened_cells(
    request: Asked,
    *,
    whole: bool,
    in_blocks: bool,
    copies: Callable[[CellSource], bool],
    modality: str | None = None,
) -> Iterator[tuple[CellSource, AnnData | None]]:
    """Give all cells, and the object of the file where it is one.

    Parameters
    ----------
    request
        Of a verb.
    whole
        A copy of the file is made: it is read into memory where its bytes are not copied.
    in_blocks
        The input is read where it is.
    copies
        Whether the bytes of an h5ad with these cells are copied.
    modality
        Which of several that a file holds; default the RNA.
    """
    if in_blocks:
        found = streamed_cells(
            request.input,
            layer=request.layer,
            use_raw=request.use_raw,
            duplicates="sum" if request.duplicates == "sum" else "error",
            min_gene_overlap=request.min_gene_overlap,
        )
        assert found is not None
        yield found, None
        return
    options: dict[str, Any] = {"max_memory": request.max_memory, "trust": request.trust}
    name = shown_name(request.input)
    if modality is None:
        adata = read_cells(request.input, backed=True, **options)
    else:
        adata = read_modality(request.input, modality, backed=True, **options)
        name = f"{name}[{modality!r}]"
    source = _source_of(request, adata, name)
    copied = copies(source) and adata.isbacked
    if whole and not copied and (adata.isbacked or not source.in_memory):
        if adata.isbacked:
            adata.file.close()
        adata = read_cells(request.input, **options)
        source = _source_of(request, adata, name)
    try:
        yield source, adata
    finally:
        if adata.isbacked:
            adata.file.close()


def _source_of(request: Asked, adata: AnnData, name: str) -> AnnDataSource:
    return AnnDataSource(adata, layer=request.layer, use_raw=request.use_raw, name=name)


def chosen_rows(request: Asked, source: CellSource) -> NDArray[np.int64] | None:
    """Return the rows of the wanted part of a split that conditions hold for; ``None`` for all.

    Raises
    ------
    UsageError
        None are left (E-U103).
    """
    if request.split is None and not request.where:
        return None
    rows = np.arange(source.n_obs)
    if request.split is not None:
        rows = getattr(read_split(request.split, source), request.part or "test")
    if request.where:
        rows = rows[cells_where(source, request.where)[rows]]
        if not len(rows):
            raise UsageError(
                "E-U103",
                "no cells are left",
                where=shown_name(request.input),
                total=source.n_obs,
                count=0,
                why=f"of those for which {' and '.join(request.where)}",
                fix="correct the conditions (--where), or leave them out",
            )
    return rows


def chosen_cells(
    source: CellSource, rows: NDArray[np.int64] | None, obsm_key: str | None
) -> CellSource:
    """Return some cells of a source, or all of them.

    Parameters
    ----------
    source
        All cells.
    rows
        Of :func:`chosen_rows`.
    obsm_key
        Array of ``obsm`` that the model reads.
    """
    if rows is None:
        return source
    if obsm_key is not None and isinstance(source, AnnDataSource):
        return ObsmSource(source.adata[rows], obsm_key, name=source.name)
    return ChosenCells(source, rows)


def prepared_query(request: Asked, predictor: Predictor, source: CellSource) -> Query:
    """Check cells and align their genes, as a request says."""
    return predictor.prepare(
        source,
        input_kind=request.input_kind,
        min_gene_overlap=request.min_gene_overlap,
        duplicates=request.duplicates,
        gene_map=request.gene_map,
        gene_case=request.gene_case,
        allow_fractional=request.allow_fractional,
        nan=request.nan,
    )


def provenance_of(manifest: dict[str, Any], query: Query) -> dict[str, object]:
    model = manifest["model"]
    return {
        "model": str(model["class"]),
        "plugin": str(model["plugin"]),
        "model_sha256": weights_digest(manifest),
        "episome": str(manifest["provenance"]["versions"]["episome"]),
        "input_kind": query.values.form,
    }


def weights_digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of the weights; of an ensemble, of its members' manifests, which hold theirs."""
    if not is_ensemble(manifest):
        return str(manifest["files"]["weights.safetensors"]["sha256"])
    seals = "".join(str(m["manifest_sha256"]) for m in manifest["members"])
    return hashlib.sha256(seals.encode()).hexdigest()
