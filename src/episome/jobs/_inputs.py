"""What jobs do with the path of their cells before any value is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from episome.data import (
    CellSource,
    ManyCells,
    cell_columns,
    cell_files,
    existing_columns,
    has_own_source,
    missing_column,
    own_source,
    split_columns,
)


def is_streamed(path: Path) -> bool:
    """Whether the cells of a path are read where they are: a corpus, several files, an address."""
    return bool(cell_files(path)) or has_own_source(path)


def streamed_cells(
    path: Path,
    *,
    layer: str | None = None,
    use_raw: bool | Literal["auto"] = False,
    duplicates: Literal["error", "sum"] = "error",
    min_gene_overlap: float = 0.5,
) -> CellSource | None:
    """Return the source of cells that are read where they are; ``None`` for any other file.

    Parameters
    ----------
    path
        File, folder or address.
    layer, use_raw
        Where the values are.
    duplicates, min_gene_overlap
        Of several files, see ``ManyCells``.
    """
    if files := cell_files(path):
        return ManyCells(
            files,
            layer=layer,
            use_raw=use_raw,
            duplicates=duplicates,
            min_gene_overlap=min_gene_overlap,
        )
    return own_source(path, layer=layer, use_raw=use_raw)


def shown_name(path: Path) -> str:
    """Return how messages name an input."""
    return path.name or str(path)


def kind_of_input(path: Path) -> str:
    """Return what a path is whose cells are read where they are, for messages."""
    if cell_files(path):
        return "several files"
    if not path.exists():
        return "an address"
    return "a corpus" if (path / "manifest.json").is_file() else "a store that is read in blocks"


def named_columns(
    setup: Mapping[str, object], train: Mapping[str, object] | None = None
) -> list[str]:
    """Return the columns that cells must have for a training.

    Parameters
    ----------
    setup
        Of ``setup_anndata``.
    train
        Of ``train``: how cells are drawn and split.

    Raises
    ------
    InputFileError
        The split is none (E-F33).
    """
    found: list[object] = []
    for name, value in setup.items():
        if name.endswith("_key") and name != "obsm_key" and value:
            found += value if isinstance(value, list | tuple) else [value]
    splitter: Any = (train or {}).get("datasplitter_kwargs") or {}
    sampling = splitter.get("sampling")
    if isinstance(sampling, str) and sampling != "balanced":
        found.append(sampling)
    if splitter.get("split") is not None:
        found += split_columns(splitter["split"])
    return list(dict.fromkeys(map(str, found)))


def require_columns_of_file(
    path: Path, keys: Sequence[str], *, max_memory: int | None = None, trust: bool = False
) -> None:
    """Refuse columns that a file does not have, before its cells are read.

    Parameters
    ----------
    path
        File of cells; where only reading it tells, nothing is said.
    keys
        Names of columns.
    max_memory, trust
        As for ``read_cells``.

    Raises
    ------
    UsageError
        E-U04.
    """
    if not keys:
        return
    columns = cell_columns(path, max_memory=max_memory, trust=trust)
    if columns is None:
        return
    for key in keys:
        if key not in columns:
            raise missing_column(key, columns, f"{shown_name(path)}.obs")


def require_columns_of_source(source: CellSource, keys: Sequence[str]) -> None:
    """Refuse columns that a source does not have, before its values are read.

    Parameters
    ----------
    source
        The cells.
    keys
        Names of columns.

    Raises
    ------
    UsageError
        E-U04.
    """
    there = existing_columns(source, keys)
    for key in keys:
        if key not in there:
            source.obs_column(key)  # says what is there
