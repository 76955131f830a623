"""What the verbs share that write what a model gives for every cell: names, room, cells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from episome.errors import InputFileError, UsageError
from episome.io import EXPRESSION_KINDS, ending, require_space

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.data import CellSource

#: Values that a table holds at most: of text about 200 MB, of parquet 400 MB.
MAX_TEXT, MAX_PARQUET = 20_000_000, 100_000_000
#: First lines of a list of names that are none.
_HEADS = frozenset(
    ("id", "gene", "genes", "gene_id", "gene_name", "symbol", "feature", "features")
    + ("feature_name", "feature_id", "protein", "proteins", "peak", "peaks", "name", "names")
)


def listed_names(words: Sequence[str], where: str, *, things: str = "genes") -> list[str]:
    """Return the names of a list of names and of files with one name a line.

    Parameters
    ----------
    words
        A word that ends in ``.txt``, ``.csv`` or ``.tsv``, or is a path of a file with a slash, is
        a file; of a table the first column is read.
    where
        How messages name the argument.
    things
        How messages call what is named.

    Raises
    ------
    InputFileError
        There is no such file (E-F07), it is empty (E-F04), or no text (E-F22).
    """
    found: list[str] = []
    for word in words:
        path = Path(word)
        is_file = path.suffix in {".txt", ".csv", ".tsv"} or ("/" in word and path.is_file())
        found += _names_in(path, where, things) if is_file else [word]
    return found


def _names_in(path: Path, where: str, things: str) -> list[str]:
    if not path.is_file():
        raise InputFileError(
            "E-F07",
            "there is no such file",
            where=str(path),
            why=f"{where} takes names of {things}, or files with one a line",
            fix=f"correct the path, or name {things}",
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(
            "E-F22",
            f"the file is no list of {things}",
            where=str(path),
            why=str(error)[:200],
            fix="write one name a line, as text",
        ) from error
    names = [re.split(r"[\t,;]", line)[0].strip().strip('"') for line in lines]
    names = [n for n in names if n and not n.startswith("#")]
    if names and names[0].casefold() in _HEADS:
        names = names[1:]
    if not names:
        raise InputFileError(
            "E-F04", f"the file names no {things}", where=str(path), fix="write one name a line"
        )
    return names


def require_room(
    output: Path | None,
    n_obs: int,
    n_things: int,
    *,
    arrays: int = 1,
    n_bytes: int | None = None,
    things: str = "genes",
    named: str = "imputed",
) -> None:
    """Refuse a table that is too large for one, and an h5ad that is for the disk.

    Parameters
    ----------
    output
        The file; ``None``: a table in memory.
    n_obs, n_things
        Cells, and genes or other features.
    arrays
        Numbers that there are of a cell and a gene.
    n_bytes
        Size of an h5ad; default that of dense arrays.
    things
        How messages call genes, which is the name of the option that chooses some.
    named
        Name of the h5ad that could be written instead of a table.

    Raises
    ------
    UsageError
        E-U111.
    ResourceError
        E-R02.
    """
    kind = ".csv" if output is None else ending(output, EXPRESSION_KINDS)
    n_values = n_obs * n_things * arrays
    if output is not None and kind == ".h5ad":
        needed = 4 * n_values if n_bytes is None else n_bytes
        require_space(output, needed, fewer=f"write fewer {things} (--{things})")
        return
    limit = MAX_PARQUET if kind == ".parquet" else MAX_TEXT
    if n_values > limit:
        raise UsageError(
            "E-U111",
            f"{n_obs:,} cells and {n_things:,} {things} are {n_values:,} values",
            where="the output" if output is None else str(output),
            why=f"a table of this kind holds at most {limit:,}",
            fix=f"write an h5ad (-o {named}.h5ad), or choose {things} (--{things})",
        )


def cells_table(
    source: CellSource,
    adata: AnnData | None,
    rows: NDArray[np.int64] | None,
    names: pd.Index,
    *,
    kept: bool,
) -> pd.DataFrame:
    """Return the table of the cells that are written.

    Parameters
    ----------
    source
        All cells of the input.
    adata
        The object of its file, where it is one.
    rows
        The cells that are taken; ``None``: all.
    names
        Their names.
    kept
        Whether the columns of the input are kept; else there are names alone.
    """
    if not kept:
        return pd.DataFrame(index=names)
    if adata is not None:
        obs = adata.obs if rows is None else adata.obs.iloc[rows]
    else:
        columns = {c: source.obs_column(c).array for c in getattr(source, "obs_columns", ())}
        obs = pd.DataFrame(columns, index=source.obs_names)
        obs = obs if rows is None else obs.iloc[rows]
    return obs.set_axis(names.astype(str), axis=0)
