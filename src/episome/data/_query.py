"""A query on its way to a model: opened, scanned, aligned, ready to be read in batches."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from episome.data._gene_match import clean_names, without_version
from episome.data._gene_names import transposed
from episome.data._loader import CellLoader
from episome.data._many import ManyCells
from episome.data._obsm import ObsmSource, align_dimensions, require_finite
from episome.data._organisms import foreign_cells
from episome.data._own_sources import own_source
from episome.data._prepared import ScannedSource
from episome.data._read import read_cells
from episome.data._read_kind import cell_files
from episome.data._read_modality import read_modality
from episome.data._rule import InputRule, QueryKind, query_kind
from episome.data._source import (
    AnnDataSource,
    CellSource,
    NanAsZero,
    WithoutGenes,
    repeated_names,
)
from episome.data._values import ValueReport, doubtful_values, inspect_values
from episome.errors import Collector, InputDataError, UsageError, warn
from episome.log import get_logger

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.data._features import Alignment, FeatureSpace
    from episome.data._gene_repairs import GeneMap
    from episome.data._importance import GeneImportance

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Query:
    """Cells that can be given to a model.

    ``notes`` are the lines of the input report: what was found, aligned and converted;
    ``columns`` numbers or flags of every cell that are in every batch, by name.
    """

    source: CellSource
    alignment: Alignment
    rule: InputRule
    kind: QueryKind
    values: ValueReport
    notes: tuple[str, ...]
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def loader(
        self, rows: NDArray[np.int64] | None = None, *, batch_size: int = 1024
    ) -> CellLoader:
        """Batches of the query in its own order."""
        return CellLoader(
            self.source,
            self.alignment,
            rule=self.rule,
            kind=self.kind,
            rows=rows,
            batch_size=batch_size,
            columns=self.columns,
        )

    def without_genes(self, places: NDArray[np.int64], *, min_gene_overlap: float = 0.5) -> Query:
        """Return the query with some genes left out of every cell, and of its size.

        Parameters
        ----------
        places
            Genes by their position in the model; what the query lacks is left out already.
        min_gene_overlap
            Smallest accepted share of the model's genes that are left.

        Raises
        ------
        UsageError
            Too few genes are left (E-U106).
        """
        found = self.alignment.columns
        hidden = (found >= 0) & np.isin(found, places)
        n_left, n_model = len(np.unique(found[(found >= 0) & ~hidden])), self.alignment.n_features
        if not n_left or n_left < min_gene_overlap * n_model:
            raise UsageError(
                "E-U106",
                "too few genes are left beside the hidden ones",
                where=self.source.where,
                count=n_left,
                total=n_model,
                why=f"the model has to see {min_gene_overlap:.0%} of its genes",
                fix="hide fewer genes (--hide), or lower min_gene_overlap (--min-gene-overlap)",
            )
        # Copies of a gene that were not taken would tell of it by the size of the cell.
        names = without_version(clean_names(self.source.var.index))
        hidden |= np.isin(names, names[hidden & (names != "")])
        return replace(self, source=WithoutGenes(self.source, np.flatnonzero(hidden)))


def require_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a word that an argument does not take.

    Raises
    ------
    UsageError
        E-U30, naming the words it takes.
    """
    if value not in choices:
        words = ", ".join(f'"{c}"' for c in choices)
        raise UsageError("E-U30", f"{name}={value!r}", fix=f"use one of {words}")


def open_source(
    data: AnnData | str | Path | CellSource | Sequence[AnnData | str | Path | CellSource],
    *,
    layer: str | None = None,
    use_raw: bool | Literal["auto"] = False,
    backed: bool = False,
    modality: str | None = None,
) -> CellSource:
    """Return a :class:`CellSource` for an object, a path, a source, or several as one.

    A folder of h5ad files and a list become :class:`ManyCells`, whose files stay on disk. With
    ``modality`` one of a MuData object or file is read, see :func:`read_modality`.

    Raises
    ------
    UsageError
        The data is of another type (E-U07), or has no such modality (E-U60).
    """
    name = None
    if modality is not None:
        part = read_modality(data, modality, backed=backed)
        name = Path(data).name if isinstance(data, str | Path) else "mdata"
        return AnnDataSource(part, layer=layer, use_raw=use_raw, name=f"{name}[{modality!r}]")
    if (several := listed(data)) is not None:
        return ManyCells(several, layer=layer, use_raw=use_raw)
    if isinstance(data, str | Path):
        if (own := own_source(data, layer=layer, use_raw=use_raw)) is not None:
            return own
        name = Path(data).name or str(data)
        data = read_cells(data, backed=backed)
    if modalities_of(data):
        raise not_cells(data)
    if hasattr(data, "n_obs") and hasattr(data, "layers"):
        return AnnDataSource(data, layer=layer, use_raw=use_raw, name=name)
    if isinstance(data, CellSource):
        return data
    raise not_cells(data)


def listed(data: object) -> list[AnnData | str | Path | CellSource] | None:
    """Return the members of a list or of a folder of h5ad files; ``None`` for anything else."""
    if isinstance(data, list | tuple):
        return list(data)
    if isinstance(data, str | Path) and (files := cell_files(data)):
        return list(files)
    return None


def modalities_of(data: object) -> list[str]:
    """Return the names of the modalities of MuData; none for anything else."""
    held = getattr(data, "mod", None)
    return list(held) if isinstance(held, Mapping) else []


def not_cells(data: object) -> UsageError:
    """Return the error for what is no object of cells, with the line that makes one of it."""
    modalities = modalities_of(data)
    rna = next((m for m in modalities if m.casefold() in {"rna", "gex"}), None)
    return UsageError(
        "E-U07",
        f"cells cannot be read from a {type(data).__name__}",
        why=f"its modalities are {', '.join(modalities)}, and this model reads one"
        if modalities
        else "an AnnData object, the path of a file of cells or a CellSource is expected",
        fix=f"mdata.mod[{rna or modalities[0]!r}]"
        if modalities
        else "pass adata, or anndata.AnnData(matrix, obs=..., var=...)",
    )


def prepare_query(
    data: AnnData | str | Path | CellSource,
    features: FeatureSpace,
    rule: InputRule,
    *,
    layer: str | None = None,
    use_raw: bool | Literal["auto"] = False,
    input_kind: Literal["auto", "counts", "log1p"] = "auto",
    min_gene_overlap: float = 0.5,
    duplicates: Literal["error", "sum", "first"] = "error",
    gene_map: GeneMap | None = None,
    gene_case: Literal["as is", "upper"] = "as is",
    allow_fractional: bool = False,
    nan: Literal["error", "zero"] = "error",
    backed: bool = False,
    importance: GeneImportance | None = None,
) -> Query:
    """Check a query, align its genes and decide how its values reach the model's scale.

    Parameters
    ----------
    data
        AnnData, path or source; never modified.
    features, rule
        Of the model.
    layer, use_raw
        Where the values are; ``use_raw="auto"`` takes ``raw`` where ``X`` holds no counts and
        ``raw`` does.
    input_kind
        What the values are; ``"auto"`` decides by a scan of all of them.
    min_gene_overlap
        Smallest accepted share of the model's genes, and of their ``importance``.
    duplicates
        ``"sum"`` adds up genes of one name, ``"first"`` takes the first.
    gene_map, gene_case
        See ``FeatureSpace.align``: a table of names, and symbols read in capitals. With a table
        cells of another organism than the model's are no reason to warn.
    allow_fractional
        Say nothing about counts that are not integers.
    nan
        ``"zero"`` reads NaN as zero, and says how many.
    backed
        Read a path from disk in blocks.
    importance
        How much the model's calls rest on every gene, where it says so.

    Returns
    -------
    A :class:`Query`. An empty query (0 cells) is fine.

    Raises
    ------
    InputDataError, GeneMatchError, UsageError, InputFileError
        See ``check_values``, ``FeatureSpace.align`` and ``open_source``; what is wrong with genes
        and with values is said at once.
    """
    if rule.obsm_key is not None:
        return _embedded(data, features, rule, layer=layer, use_raw=use_raw, backed=backed)
    require_choice("input_kind", input_kind, ("auto", "counts", "log1p"))
    require_choice("duplicates", duplicates, ("error", "sum", "first"))
    require_choice("gene_case", gene_case, ("as is", "upper"))
    require_choice("nan", nan, ("error", "zero"))
    source = open_source(data, layer=layer, use_raw=use_raw, backed=backed)
    if turned := transposed(source.obs_names, source.var.index, source.where):
        raise InputDataError(turned)
    chosen = getattr(source, "notes", ())
    found = Collector()
    with found.collecting():
        alignment = features.align(
            source.var,
            min_gene_overlap=min_gene_overlap,
            duplicates=duplicates,
            gene_map=gene_map,
            gene_case=gene_case,
            importance=importance,
            where=source.where,
        )
    source, report, zeroed = scan_values(source, nan)
    with found.collecting():
        kind = _kind_of(rule, report, input_kind)
    found.raise_all()
    for problem in doubtful_values(report, allow_fractional=allow_fractional):
        warn(problem)
    if gene_map is None and (foreign := foreign_cells(rule.organisms, source)):
        warn(foreign)
    notes = [alignment.report.text, *chosen, *zeroed, f"{source.where}: {kind.note}"]
    if repeated := repeated_names(source.obs_names, source.where):
        warn(repeated)
    if report.n_empty_cells:
        notes.append(f"{report.n_empty_cells:,} of {report.n_obs:,} cells have no counts at all")
    usual = alignment.is_identity and not kind.unlog and report.n_empty_cells == 0
    plain = usual and not chosen and not zeroed
    for note in notes:
        logger.log(logging.DEBUG if plain else logging.INFO, "%s", note)
    return Query(source, alignment, rule, kind, report, tuple(notes))


def _embedded(
    data: AnnData | str | Path | CellSource,
    features: FeatureSpace,
    rule: InputRule,
    *,
    layer: str | None,
    use_raw: bool | Literal["auto"],
    backed: bool,
) -> Query:
    """Check a query of a model that reads an array of ``obsm``; nothing of its genes matters."""
    refuse_matrix(rule.obsm_key, layer=layer, use_raw=use_raw)
    source = obsm_source(data, str(rule.obsm_key), backed=backed)
    alignment = align_dimensions(source, features)
    require_finite(source)
    report = inspect_values(source)
    kind = query_kind(rule, report)
    note = f"{source.where}: {source.n_vars:,} dimensions; {kind.note}"
    logger.debug("%s", note)
    return Query(source, alignment, rule, kind, report, (note,))


def obsm_source(
    data: AnnData | str | Path | CellSource, key: str, *, backed: bool = False
) -> ObsmSource:
    """Return the source of one array of ``obsm``.

    Raises
    ------
    UsageError
        The data is of another type (E-U07).
    InputDataError
        It has no such array (E-D47).
    """
    name = None
    if isinstance(data, str | Path):
        name = Path(data).name or str(data)
        data = read_cells(data, backed=backed)
    if isinstance(data, ObsmSource):
        return data
    if isinstance(data, AnnDataSource) or (hasattr(data, "n_obs") and hasattr(data, "obsm")):
        return ObsmSource(data, key, name=name)
    if isinstance(data, CellSource):
        raise UsageError(
            "E-U07",
            f"vectors cannot be read from {data.where}",
            why=f"the model reads obsm[{key!r}] of one file or object, and these cells have genes "
            "alone",
            fix="annotate the files one by one, each with its vectors",
        )
    raise not_cells(data)


def refuse_matrix(
    obsm_key: str | None, *, layer: str | None, use_raw: bool | Literal["auto"]
) -> None:
    """Refuse two places of the values.

    Raises
    ------
    UsageError
        E-U27.
    """
    if obsm_key is not None and (layer is not None or use_raw is True):
        raise UsageError(
            "E-U27",
            f"both `obsm_key` and `{'layer' if layer is not None else 'use_raw'}` are given",
            why=f"the values are those of obsm[{obsm_key!r}]",
            fix="pass only one of them",
        )


def _kind_of(
    rule: InputRule, report: ValueReport, input_kind: Literal["auto", "counts", "log1p"]
) -> QueryKind:
    if report.n_obs == 0:
        counted = rule.input_kind == "counts"
        return QueryKind(unlog=False, normalise=counted, note="there are no cells")
    return query_kind(rule, report, input_kind)


def scan_values(
    source: CellSource, nan: Literal["error", "zero"]
) -> tuple[CellSource, ValueReport, tuple[str, ...]]:
    """Read all values once, and say how many NaN are read as zero where that is asked for.

    Returns
    -------
    What to read from, what it holds, and the lines of the input report.
    """
    report = source.values() if isinstance(source, ScannedSource) else inspect_values(source)
    if nan == "error" or not report.n_nan:
        return source, report, ()
    note = f"{source.where}: {report.n_nan:,} NaN are read as zero"
    return NanAsZero(source), report.with_nan_as_zero, (note,)
