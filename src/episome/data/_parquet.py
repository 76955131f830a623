"""`ParquetSource`: cells whose expression is one list of values in a column of parquet files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from episome.data._matrix import require_rows, to_csr_block
from episome.data._name_tables import read_gene_list
from episome.data._read_names import first_line, name_of, shown
from episome.data._source import missing_column
from episome.errors import InputFileError

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from episome.data._matrix import Rows
    from episome.data._name_tables import NameTable

#: Cells that are unpacked at once: their values are dense until they are CSR.
_CELLS = 512


class ParquetSource:
    """Cells of parquet files with a list of all genes' values in every row, a ``CellSource``.

    Such stores say nothing about their genes, so their names are given. Of a row group all cells
    are unpacked for any of them, and the last one is kept in memory as CSR: reading in order is
    fast, and blocks from everywhere are slow. Where they are wanted for many epochs, write the
    cells as h5ad first.

    Parameters
    ----------
    path
        File, or folder of ``*.parquet``, read in the order of the numbers in their names.
    genes
        Genes in the order of the values: names, a table, or a file of either.
    column
        Column of the lists, of fixed length or not.
    lookups
        Folder of tables ``<column>.parquet`` whose rows name the whole numbers of a column;
        default ``categorical_lookup`` in the folder or beside it.

    Attributes
    ----------
    in_memory
        ``False``: cells are read in blocks.

    Raises
    ------
    InputFileError
        There are no such files (E-F07), or one cannot be read or is another (E-F01).
    UsageError, ModelMismatchError
        The genes are not given, or are not as many as values.

    Examples
    --------
    >>> source = ParquetSource("store/train", genes="var.parquet")  # doctest: +SKIP
    """

    in_memory = False

    def __init__(
        self,
        path: str | Path,
        genes: NameTable,
        *,
        column: str = "X",
        lookups: str | Path | None = None,
    ) -> None:
        self.path, self._column = Path(path), column
        self._files = _files(self.path)
        self._lookups = _lookups(self.path) if lookups is None else Path(lookups)
        self._groups: list[tuple[Path, int]] = []
        sizes: list[int] = []
        for file in self._files:
            with self._open(file) as opened:
                n_groups = opened.metadata.num_row_groups
                sizes += [opened.metadata.row_group(i).num_rows for i in range(n_groups)]
                self._groups += [(file, i) for i in range(n_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._schema = self._common_schema()
        self._kept: tuple[int, sparse.csr_matrix] | None = None
        self._n_vars = self._length()
        self._features = read_gene_list(
            genes,
            self._n_vars,
            place="the files",
            why="a list of values has no names",
            fix="pass genes= with the names in the order of the values",
            misfit_fix="pass the list that belongs to these files",
        )

    def __repr__(self) -> str:
        return f"ParquetSource: {self.n_obs:,} cells, {self.n_vars:,} genes of {self.where}"

    @contextmanager
    def _open(self, file: Path) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(file) as opened:
                yield opened
        except (pa.ArrowException, OSError) as error:
            raise self._broken(file, first_line(error)) from error

    def _broken(self, file: Path, why: str) -> InputFileError:
        return InputFileError(
            "E-F01",
            "the file cannot be read as parquet of cells",
            where=name_of(file),
            why=why,
            fix="download or write it again, or pass column= with the name of the lists",
        )

    def _common_schema(self) -> pa.Schema:
        """Return the schema of the first file; refuse one of another."""
        import pyarrow as pa

        first: pa.Schema | None = None
        for file in self._files:
            with self._open(file) as opened:
                schema = opened.schema_arrow.remove_metadata()
            if self._column not in schema.names:
                why = f"it has no column {self._column!r}, but {', '.join(schema.names[:12])}"
                raise self._broken(file, why)
            kind = schema.field(self._column).type
            if not (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)):
                raise self._broken(file, f"its column {self._column!r} is {kind}, and no list")
            if first is not None and schema.names != first.names:
                raise self._broken(file, f"its columns are not those of {self._files[0].name}")
            first = first or schema
        return first

    def _length(self) -> int:
        """Return how many values a cell has."""
        kind = self._schema.field(self._column).type
        if hasattr(kind, "list_size"):
            return int(kind.list_size)
        with self._open(self._files[0]) as opened:
            for batch in opened.iter_batches(batch_size=1, columns=[self._column]):
                return len(batch.column(0)[0])
        raise self._broken(self._files[0], "there are no cells in it")

    # -- tables ----------------------------------------------------------------------------------

    @property
    def n_obs(self) -> int:
        return int(self._starts[-1])

    @property
    def n_vars(self) -> int:
        return self._n_vars

    @property
    def where(self) -> str:
        return f"{name_of(self.path)}, {self._column}"

    @property
    def dtype(self) -> str:
        """Type of the stored values."""
        kind = self._schema.field(self._column).type.value_type
        return str(np.dtype(kind.to_pandas_dtype()))

    @cached_property
    def obs_names(self) -> pd.Index:
        """Numbers of the cells: the files have no names."""
        return pd.RangeIndex(self.n_obs).astype(str)

    @cached_property
    def var(self) -> pd.DataFrame:
        """Table of genes; its index holds the identifiers."""
        other = {k: list(v) for k, v in self._features.other.items()}
        return pd.DataFrame(other, index=pd.Index(self._features.ids, dtype=object))

    @property
    def obs_columns(self) -> list[str]:
        """Names of the columns of the cell table."""
        import pyarrow as pa

        return [f.name for f in self._schema if not pa.types.is_nested(f.type)]

    def obs_column(self, key: str) -> pd.Series:
        """Return one column of the cells; whole numbers by their names where a lookup has them.

        Raises
        ------
        UsageError
            There is no such column (E-U04).
        InputFileError
            A lookup lacks a number (E-F01).
        """
        if key not in self.obs_columns:
            raise missing_column(key, self.obs_columns, self.where)
        parts = []
        for file in self._files:
            with self._open(file) as opened:
                parts.append(opened.read(columns=[key])[key].to_pandas())
        found = pd.concat(parts, ignore_index=True).rename(key)
        table = None if self._lookups is None else self._lookups / f"{key}.parquet"
        if table is None or not table.is_file() or found.dtype.kind not in "iu":
            return found
        with self._open(table) as opened:
            names = opened.read().to_pandas()
        texts = [c for c in names.columns if not pd.api.types.is_numeric_dtype(names[c])]
        column = "label" if "label" in texts else texts[0] if texts else None
        if column is None or len(found) and not 0 <= found.min() <= found.max() < len(names):
            raise self._broken(table, f"it does not name all numbers of {key!r}")
        values = pd.Categorical.from_codes(found.to_numpy(), pd.Index(names[column]))
        return pd.Series(values.remove_unused_categories(), name=key)

    # -- values ----------------------------------------------------------------------------------

    def read(self, rows: Rows) -> sparse.csr_matrix:
        """Return the expression of ``rows`` as CSR float32, in the order asked for.

        Raises
        ------
        UsageError
            A position is none (E-U39).
        InputFileError
            A file cannot be read, or a list has another length (E-F01).
        """
        rows = require_rows(rows, self.n_obs, self.where)
        order = None
        if len(rows) > 1 and not (np.diff(rows) > 0).all():
            rows, order = np.unique(rows, return_inverse=True)
        cuts = np.searchsorted(rows, self._starts)
        parts = [
            self._group(int(i))[rows[cuts[i] : cuts[i + 1]] - self._starts[i]]
            for i in np.flatnonzero(np.diff(cuts))
        ]
        if not parts:
            return sparse.csr_matrix((0, self.n_vars), dtype=np.float32)
        block = parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")
        return block if order is None else block[order]

    def _group(self, i: int) -> sparse.csr_matrix:
        """Return all cells of a row group."""
        kept = self._kept
        if kept is not None and kept[0] == i:
            return kept[1]
        file, group = self._groups[i]
        with self._open(file) as opened:
            batches = opened.iter_batches(
                batch_size=_CELLS, row_groups=[group], columns=[self._column]
            )
            parts = [to_csr_block(self._dense(b.column(0), file)) for b in batches]
        block = sparse.vstack(parts, format="csr")
        self._kept = i, block
        return block

    def _dense(self, lists: pa.Array, file: Path) -> NDArray[np.generic]:
        values = lists.flatten().to_numpy(zero_copy_only=False)
        lengths = np.asarray(lists.value_lengths().to_numpy(zero_copy_only=False))
        if lists.null_count or (lengths != self._n_vars).any():
            raise self._broken(file, f"not all cells have {self._n_vars:,} values")
        dense: NDArray[np.generic] = values.reshape(len(lists), self._n_vars)
        return dense


def _files(path: Path) -> list[Path]:
    """Return a file, or those of a folder by the numbers in their names."""
    found = [path] if path.is_file() else sorted(path.glob("*.parquet"), key=_by_number)
    if not found:
        raise InputFileError(
            "E-F07",
            "there are no parquet files" if path.is_dir() else "there is no such file or folder",
            where=shown(path),
            fix="pass a parquet file, or the folder of some",
        )
    return found


def _by_number(path: Path) -> list[tuple[int, str]]:
    return [(int(t) if t.isdigit() else -1, t) for t in re.split(r"(\d+)", path.name)]


def _lookups(path: Path) -> Path | None:
    folder = path if path.is_dir() else path.parent
    places = [folder / "categorical_lookup", folder.parent / "categorical_lookup"]
    return next((p for p in places if p.is_dir()), None)
