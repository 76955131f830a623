"""`CellSource`: where cells come from; a model never knows which kind it reads."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from scipy import sparse

from episome.data._dask_rows import DaskRows, is_dask
from episome.data._disk_rows import DiskRows, is_on_disk
from episome.data._keys import FILE_KEY
from episome.data._matrix import Matrix, Rows, check_structure, to_csr_block
from episome.data._read_guard import reading
from episome.data._rows import ArrayPool, take_rows
from episome.data._values import inspect_values
from episome.errors import InputDataError, Problem, UsageError, did_you_mean
from episome.log import get_logger

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

logger = get_logger(__name__)


@runtime_checkable
class CellSource(Protocol):
    """What the host needs of any store of cells.

    Attributes
    ----------
    n_obs, n_vars
        Number of cells and genes.
    obs_names, var
        Cell names and the table of genes (its index holds the identifiers).
    where
        How messages name this source, e.g. ``"query.h5ad, adata.raw.X"``.

    A source may also say ``in_memory: bool``, whether single rows in any order cost no more than
    rows in a block; one that does not say counts as in memory. ``obs_columns``, a list of names,
    spares looking for columns one by one.
    """

    @property
    def n_obs(self) -> int: ...
    @property
    def n_vars(self) -> int: ...
    @property
    def obs_names(self) -> pd.Index: ...
    @property
    def var(self) -> pd.DataFrame: ...
    @property
    def where(self) -> str: ...

    def obs_column(self, key: str) -> pd.Series:
        """Return one column of the cell table."""
        ...

    def read(self, rows: Rows) -> sparse.csr_matrix:
        """Return the expression of ``rows`` as CSR float32, in the order asked for."""
        ...


class AnnDataSource:
    """Cells of an AnnData object: CSR, CSC, dense, sparse or dask arrays, views, backed files.

    Parameters
    ----------
    adata
        The object; never written to.
    layer
        Layer to read instead of ``X``.
    use_raw
        Read ``adata.raw`` (its own genes) instead of ``X``; ``"auto"`` does so where ``X`` holds
        no counts and ``raw`` does, by a scan of both, unless a layer is given.
    name
        How messages name the object; default ``"adata"`` or the file it is backed by.

    Attributes
    ----------
    layer
        Layer that is read, or ``None``.
    use_raw
        Whether ``raw`` is read.
    notes
        Lines of the input report: what was chosen.

    Raises
    ------
    UsageError
        Both ``layer`` and ``use_raw`` are given (E-U27), or ``use_raw`` is another word (E-U30).
    InputDataError
        The layer (E-D28), ``raw`` (E-D30) or ``X`` (E-D27) does not exist.
    """

    def __init__(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        use_raw: bool | Literal["auto"] = False,
        name: str | None = None,
    ) -> None:
        if not isinstance(use_raw, bool | np.bool_) and use_raw != "auto":
            raise UsageError("E-U30", f"use_raw={use_raw!r}", fix='use True, False or "auto"')
        self.notes: tuple[str, ...] = ()
        if use_raw == "auto":
            why = _why_raw(adata) if layer is None else ""
            use_raw = bool(why)
            if why:
                self.notes = (why,)
        if layer is not None and use_raw:
            raise UsageError(
                "E-U27", "both `layer` and `use_raw` are given", fix="pass only one of them"
            )
        self._adata, self.layer, self.use_raw = adata, layer, bool(use_raw)
        self._name = name or cells_name(adata)
        self._slot = "raw.X" if use_raw else ("X" if layer is None else f"layers[{layer!r}]")
        self._var = adata.raw.var if use_raw and adata.raw is not None else adata.var
        self._matrix = self._find_matrix(layer, use_raw=use_raw)
        self._pool = ArrayPool()

    def _find_matrix(self, layer: str | None, *, use_raw: bool) -> Matrix:
        adata, layers = self._adata, [k for k in self._adata.layers if k is not None]
        if use_raw:
            if adata.raw is None:
                raise InputDataError(
                    "E-D30",
                    "`raw` is asked for and missing",
                    where=self._name,
                    fix="leave out use_raw=True (--use-raw)",
                )
            matrix = adata.raw.X
        elif layer is not None:
            if layer not in layers:
                raise InputDataError(
                    "E-D28",
                    f"layer {layer!r} is missing",
                    where=f"{self._name}.layers",
                    why=f"the layers are {layers}" if layers else "there are no layers",
                    fix="pass layer= (--layer) with one of them, or leave it out to use X",
                )
            matrix = adata.layers[layer]
        else:
            matrix = _x_of(adata)
        if matrix is None:
            raise InputDataError(
                "E-D27",
                "X is None",
                where=self._name,
                why=f"the layers are {layers}" if layers else "and there are no layers",
                fix="pass layer= (--layer) or use_raw=True (--use-raw)",
            )
        self._check_shape(matrix)
        return self._row_access(matrix)

    def _check_shape(self, matrix: Matrix) -> None:
        """Refuse a matrix that is not of these cells and genes: rows and columns mean them."""
        shape = tuple(getattr(matrix, "shape", ()))
        wanted = (int(self._adata.n_obs), len(self._var))
        if shape and shape != wanted:
            raise InputDataError(
                "E-D23",
                f"the matrix is {shape[0]:,} x {shape[1]:,}, and there are {wanted[0]:,} cells "
                f"and {wanted[1]:,} genes",
                where=f"{self._name}.{self._slot}",
                why="its rows and columns could be anybody's",
                fix="write the file again from the original data",
            )

    def _row_access(self, matrix: Matrix) -> Matrix:
        """Column-major stores are turned once: row slices of them cost a full scan each."""
        self._dtype = str(getattr(matrix, "dtype", "float32"))
        if sparse.issparse(matrix) and self._dtype == "float16":
            check_structure(matrix)
            matrix = _as_bits(matrix)
        if is_dask(matrix):
            return DaskRows(matrix)
        if is_on_disk(matrix):
            return DiskRows(matrix, self.where)
        if getattr(matrix, "format", None) != "csc":
            return matrix
        if hasattr(matrix, "to_memory"):
            logger.info("%s is stored by genes (CSC): reading it once into memory", self.where)
            with reading(self.where, "a matrix"):
                matrix = matrix.to_memory()
        check_structure(matrix)
        turned: Matrix = sparse.csr_matrix(matrix)
        return turned

    @property
    def adata(self) -> AnnData:
        """The object itself."""
        return self._adata

    @property
    def name(self) -> str:
        """How messages name the object."""
        return self._name

    @property
    def n_obs(self) -> int:
        return int(self._adata.n_obs)

    @property
    def n_vars(self) -> int:
        return len(self._var)

    @property
    def in_memory(self) -> bool:
        """Whether the matrix is in memory, not in a file."""
        return _in_memory(self._matrix)

    @property
    def dtype(self) -> str:
        """Type of the stored values."""
        return self._dtype

    @property
    def obs_names(self) -> pd.Index:
        return self._adata.obs_names

    @property
    def var(self) -> pd.DataFrame:
        return self._var

    @property
    def where(self) -> str:
        return f"{self._name}.{self._slot}"

    @property
    def obs_columns(self) -> list[str]:
        """Names of the columns of the cell table."""
        return [str(c) for c in self._adata.obs.columns]

    def obs_column(self, key: str) -> pd.Series:
        """Return one column of ``adata.obs``; E-U04 when it is missing."""
        return obs_column(self._adata, key, name=self._name)

    def read(self, rows: Rows) -> sparse.csr_matrix:
        """Return the expression of ``rows`` as CSR float32, in the order asked for."""
        if not isinstance(rows, slice):
            rows = np.asarray(rows, dtype=np.int64)
        if _in_memory(self._matrix):
            if (found := self._taken(rows)) is not None:
                return found
            return to_csr_block(self._in_memory_rows(rows))
        if isinstance(rows, slice) and (rows.step or 1) < 0:
            rows = np.arange(*rows.indices(self.n_obs), dtype=np.int64)
        if isinstance(rows, slice) or len(rows) < 2:
            return to_csr_block(self._from_disk(rows))
        if (np.diff(rows) > 0).all():
            return to_csr_block(self._from_disk(rows))
        # Stores on disk want increasing unique rows; the wanted order is restored in memory.
        unique, inverse = np.unique(rows, return_inverse=True)
        return to_csr_block(self._from_disk(unique))[inverse]

    def counts_elsewhere(self) -> str:
        """Return the keyword of another slot whose first rows look like counts, else nothing."""
        adata = self._adata
        slots: dict[str, dict[str, Any]] = {
            f'layer="{k}" (--layer {shlex.quote(str(k))})': {"layer": k}
            for k in adata.layers
            if k is not None
        }
        if adata.raw is not None:
            slots["use_raw=True (--use-raw)"] = {"use_raw": True}
        for keyword, slot in slots.items():
            other = AnnDataSource(adata, name=self._name, **slot)
            if other._slot != self._slot and other._starts_with_counts():
                return f"{keyword}, which holds counts"
        return ""

    def _starts_with_counts(self) -> bool:
        try:
            values = self.read(slice(0, min(self.n_obs, 64))).data
        except InputDataError:
            return False
        return bool(values.size and values.min() >= 0 and (values == np.rint(values)).all())

    def _taken(self, rows: Rows) -> sparse.csr_matrix | None:
        """Single rows of a sound CSR matrix, which is what batches of shuffled cells are."""
        plain = sparse.issparse(self._matrix) and getattr(self._matrix, "format", None) == "csr"
        if isinstance(rows, slice) or not plain or self._dtype == "float16":
            return None
        return take_rows(self._matrix, rows, self._pool)

    def _in_memory_rows(self, rows: Rows) -> object:
        block = self._matrix[rows]
        if self._dtype != "float16" or not sparse.issparse(block):
            return block
        values = block.data.view(np.float16).astype(np.float32)
        return sparse.csr_matrix((values, block.indices, block.indptr), shape=block.shape)

    def _from_disk(self, rows: Rows) -> object:
        """Rows of a matrix in a file, which may turn out to be broken only now."""
        with reading(self.where, "a matrix"):
            return self._matrix[rows]


def _x_of(adata: AnnData) -> Matrix | None:
    """Return ``X``; a file without one says so by an error of its own library."""
    try:
        found: Matrix | None = adata.X
    except KeyError:
        return None
    return found


class ChangedSource:
    """Another source whose values are read differently; subclasses say how in ``read``.

    Parameters
    ----------
    source
        What is read; it stays as it is.
    """

    def __init__(self, source: CellSource) -> None:
        self._source = source

    @property
    def in_memory(self) -> bool:
        return bool(getattr(self._source, "in_memory", True))

    @property
    def n_obs(self) -> int:
        return self._source.n_obs

    @property
    def n_vars(self) -> int:
        return self._source.n_vars

    @property
    def obs_names(self) -> pd.Index:
        return self._source.obs_names

    @property
    def var(self) -> pd.DataFrame:
        return self._source.var

    @property
    def where(self) -> str:
        return self._source.where

    def obs_column(self, key: str) -> pd.Series:
        """Return one column of the cell table."""
        return self._source.obs_column(key)


class ChosenCells(ChangedSource):
    """Some cells of another source, in an order of their own; nothing is copied.

    Parameters
    ----------
    source
        What is read.
    rows
        Its rows, int64 (n_obs,).
    """

    def __init__(self, source: CellSource, rows: NDArray[np.int64]) -> None:
        super().__init__(source)
        self._rows = rows

    @property
    def n_obs(self) -> int:
        return len(self._rows)

    @property
    def obs_names(self) -> pd.Index:
        return self._source.obs_names[self._rows]

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines of the input report."""
        return tuple(getattr(self._source, "notes", ()))

    def obs_column(self, key: str) -> pd.Series:
        """Return one column of the chosen cells."""
        return self._source.obs_column(key).iloc[self._rows]

    def read(self, rows: Rows) -> sparse.csr_matrix:
        """Return the expression of ``rows`` as CSR float32, in the order asked for."""
        return self._source.read(self._rows[rows])


class NanAsZero(ChangedSource):
    """Another source, with zero in the place of NaN."""

    def read(self, rows: Rows) -> sparse.csr_matrix:
        """Return the expression of ``rows`` as CSR float32, in the order asked for."""
        block = self._source.read(rows)
        missing = np.isnan(block.data)
        if not missing.any():
            return block
        # The block may share the caller's memory.
        block = block.copy()
        block.data[missing] = 0
        block.eliminate_zeros()
        return block


class WithoutGenes(ChangedSource):
    """Another source, with zero for every value of some genes.

    Parameters
    ----------
    source
        What is read.
    columns
        Its columns, int64.
    """

    def __init__(self, source: CellSource, columns: NDArray[np.int64]) -> None:
        super().__init__(source)
        self._kept = np.ones(source.n_vars, dtype=bool)
        self._kept[columns] = False

    def read(self, rows: Rows) -> sparse.csr_matrix:
        """Return the expression of ``rows`` as CSR float32, in the order asked for."""
        block = self._source.read(rows)
        kept = self._kept[block.indices]
        if kept.all():
            return block
        # The block may share the caller's memory.
        ends = np.concatenate([[0], np.cumsum(kept)])[block.indptr]
        parts = (block.data[kept], block.indices[kept], ends)
        return sparse.csr_matrix(parts, shape=block.shape)


def _why_raw(adata: AnnData) -> str:
    """Return why ``raw`` is to be read instead of ``X``; empty where it is not.

    It holds counts and ``X`` none, or log1p values and ``X`` what no model reads.
    """
    if adata.raw is None or adata.n_obs == 0:
        return ""
    slots = [AnnDataSource(adata, use_raw=True)]
    if adata.X is not None:
        slots.append(AnnDataSource(adata))
    raw, *x = (inspect_values(source).kind for source in slots)
    if raw == "counts" and "counts" not in x:
        return "X holds no counts: those of raw are used, with its genes"
    if raw == "log1p" and (not x or x[0] == "scaled"):
        held = "scaled values" if x else "nothing"
        return f"X holds {held}: the log1p values of raw are used, with its genes"
    return ""


def _in_memory(matrix: Matrix) -> bool:
    return isinstance(matrix, np.ndarray) or sparse.issparse(matrix) or hasattr(matrix, "to_numpy")


def repeated_names(names: pd.Index, where: str) -> Problem | None:
    """Return the problem of cells of one name, if there are some."""
    # An index would keep a table of all names for good; its values do not.
    repeated = names[pd.Series(names.array, copy=False).duplicated().to_numpy()]
    if not len(repeated):
        return None
    return Problem(
        "E-L15",
        "duplicated cell names",
        where=where,
        count=len(repeated),
        total=len(names),
        examples=list(repeated[:3]),
        why="calls keep the order of the cells, but cannot be joined by name",
        fix="make the names unique",
    )


def cells_name(adata: AnnData) -> str:
    """Return how messages name an object: by its file where that is known, else ``"adata"``."""
    file = adata.uns.get(FILE_KEY)
    if file is None and adata.isbacked:
        file = Path(adata.filename).name
    return "adata" if file is None else str(file)


def name_cells(adata: AnnData, name: str) -> None:
    """Let messages name an object by the file it was read from.

    Parameters
    ----------
    adata
        The object; the name is left in its ``uns``, so it has to be nobody else's.
    name
        Of the file.
    """
    adata.uns[FILE_KEY] = name


def obs_column(adata: AnnData, key: str, *, name: str | None = None) -> pd.Series:
    """Return ``adata.obs[key]``.

    Raises
    ------
    UsageError
        E-U04, naming the columns that exist, when there is no such column.
    """
    if key not in adata.obs.columns:
        columns = [str(c) for c in adata.obs.columns if not str(c).startswith("_scvi")]
        raise missing_column(key, columns, f"{name or cells_name(adata)}.obs")
    return adata.obs[key]


def missing_column(
    key: str,
    columns: Sequence[str],
    where: str,
    *,
    fix: str = "pass the name of an existing column",
) -> UsageError:
    """Return the error for a column that there is not, with those that are spelled like it.

    Parameters
    ----------
    key
        Its name.
    columns
        Names of those that there are.
    where
        The cell table.
    fix
        What to do where no name is near.
    """
    shown = f"the columns are {list(columns)[:12]}" if columns else "it has no columns"
    return UsageError(
        "E-U04",
        f"column {key!r} is missing",
        where=where,
        why=shown,
        fix=did_you_mean(key, columns) or fix,
    )


def columns_of(source: CellSource) -> list[str]:
    """Return the names of the columns of a source's cell table, none where it does not say."""
    return list(getattr(source, "obs_columns", ()))


def existing_columns(source: CellSource, keys: Sequence[str]) -> list[str]:
    """Return those of some names that are columns of a source's cell table."""
    names = getattr(source, "obs_columns", None)
    if names is not None:
        return [k for k in dict.fromkeys(keys) if k in names]
    found = []
    for key in dict.fromkeys(keys):
        with contextlib.suppress(UsageError, KeyError):  # how a source says that it has none
            source.obs_column(key)
            found.append(key)
    return found


def combined_column(
    adata: AnnData, keys: str | Sequence[str], *, name: str | None = None
) -> pd.Series:
    """Join one or several obs columns into one of strings, ``a_b``; missing stays missing."""
    keys = [keys] if isinstance(keys, str) else list(keys)
    parts = [obs_column(adata, k, name=name) for k in keys]
    missing = np.logical_or.reduce([p.isna().to_numpy() for p in parts])
    joined = parts[0].astype(str)
    for part in parts[1:]:
        joined = joined + "_" + part.astype(str)
    return joined.where(~missing, other=pd.NA)


def _as_bits(matrix: Any) -> Matrix:
    """Return sparse float16 as what scipy can slice: its bits, of another type, without a copy."""
    bits = (matrix.data.view(np.uint16), matrix.indices, matrix.indptr)
    turned: Matrix = type(matrix)(bits, shape=matrix.shape)
    return turned
