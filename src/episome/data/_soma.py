"""`SomaSource`: cells of a TileDB-SOMA experiment, read from it when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from episome.data._matrix import require_rows, to_csr_block
from episome.data._read_names import first_line
from episome.data._soma_open import open_experiment, require_tiledbsoma
from episome.data._source import missing_column
from episome.errors import InputDataError, InputFileError, UsageError
from episome.log import get_logger

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray
    from tiledbsoma import Experiment
    from tiledbsoma.options import SOMATileDBContext

    from episome.data._matrix import Rows

logger = get_logger(__name__)

JOIN, PRIMARY = "soma_joinid", "is_primary_data"
#: Columns that may hold names of cells and identifiers of genes; the first that exists wins.
_CELL_NAMES, _GENE_NAMES = ("obs_id",), ("feature_id", "var_id")
#: Rows that are turned into CSR at once: what bounds the coordinates in memory.
_ROWS = 2048


class SomaSource:
    """Cells of a TileDB-SOMA experiment, a ``CellSource``.

    Of every cell its number is kept in memory, 8 bytes. The matrix, names and columns are read
    when they are asked for: cells that are neighbours as one range, others by their numbers.
    TileDB unpacks about 100,000 values for any of them, so a few cells from everywhere take nearly
    as long as all cells; where they are read for many epochs, build a corpus first.

    Parameters
    ----------
    experiment
        Folder or address of the experiment, or an open ``tiledbsoma.Experiment``, whose owner
        closes it. Never written to.
    measurement_name
        Measurement that is read.
    layer
        Its matrix in ``X``, sparse or dense.
    obs_filter, var_filter
        Which cells and genes are read, as SOMA value filters:
        ``"tissue_general == 'lung' and disease == 'normal'"``.
    is_primary_data
        Leave out cells that are copies of cells of other data sets, where the column of this name
        says so; how many is said. A filter that names the column decides by itself.
    context
        Of ``tiledbsoma``, for what is opened by its address.

    Attributes
    ----------
    in_memory
        ``False``: cells are read in blocks.
    notes
        Lines of the input report: how many cells are left out.

    Raises
    ------
    MissingDependencyError
        ``tiledbsoma`` is not installed (E-P02).
    InputFileError
        There is no experiment (E-F06, E-F07), or it cannot be read (E-F01).
    InputDataError
        It has no such measurement (E-D58) or layer (E-D28), or no cell meets the filter (E-D57).
    UsageError
        A filter cannot be read (E-U93).

    Examples
    --------
    >>> source = SomaSource("lungs.soma", obs_filter="disease == 'normal'")  # doctest: +SKIP
    >>> source.read(slice(0, 1024))  # doctest: +SKIP
    """

    in_memory = False

    def __init__(
        self,
        experiment: str | Path | Experiment,
        *,
        measurement_name: str = "RNA",
        layer: str = "raw",
        obs_filter: str | None = None,
        var_filter: str | None = None,
        is_primary_data: bool = True,
        context: SOMATileDBContext | None = None,
    ) -> None:
        require_tiledbsoma()
        self._again: Callable[[], SomaSource] = partial(
            SomaSource,
            experiment,
            measurement_name=measurement_name,
            layer=layer,
            obs_filter=obs_filter,
            var_filter=var_filter,
            is_primary_data=is_primary_data,
            context=context,
        )
        self.soma_layer, self.measurement_name = layer, measurement_name
        self._experiment, self._name = open_experiment(experiment, context)
        self._filter, self._var_filter = obs_filter, var_filter
        with self._reading():
            self._columns: list[str] = list(self._experiment.obs.schema.names)
            self._matrix = self._find_matrix()
        self._is_sparse = self._matrix.soma_type == "SOMASparseNDArray"
        self._ids, left_out = self._find_cells(chooses=is_primary_data)
        self.notes: tuple[str, ...] = ()
        if left_out:
            self.notes = (
                f"{self._name}: {left_out:,} of {left_out + self.n_obs:,} cells are copies of "
                f"cells of other data sets ({PRIMARY} is False) and left out",
            )
            logger.info("%s", self.notes[0])
        if not self.n_obs:
            raise InputDataError(
                "E-D57",
                "no cell meets the filter",
                where=self._name,
                count=0,
                total=int(self._experiment.obs.count),
                why=f"the filter is {obs_filter!r}"
                + (f", and all cells that meet it are copies ({PRIMARY})" if left_out else ""),
                fix="look at the values of its columns, or leave the filter out",
            )

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process opens the experiment anew; one that was handed over open cannot follow.
        return self._again, ()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}: {self.n_obs:,} cells, {self.n_vars:,} genes of {self.where}"
        )

    # -- what there is ---------------------------------------------------------------------------

    def _find_matrix(self) -> Any:
        measurements = list(self._experiment.ms) if "ms" in self._experiment else []
        if self.measurement_name not in measurements:
            raise InputDataError(
                "E-D58",
                f"the experiment has no measurement {self.measurement_name!r}",
                where=self._name,
                why=f"it has {', '.join(measurements[:10])}" if measurements else "it has none",
                fix="pass measurement_name= with one of them",
            )
        measurement = self._experiment.ms[self.measurement_name]
        self._var = measurement.var
        layers = list(measurement.X) if "X" in measurement else []
        if self.soma_layer not in layers:
            raise InputDataError(
                "E-D28",
                f"layer {self.soma_layer!r} is missing",
                where=f"{self._name}, {self.measurement_name}",
                why=f"the layers are {layers}" if layers else "there are no layers",
                fix="pass layer= (--layer) with one of them",
            )
        return measurement.X[self.soma_layer]

    def _find_cells(self, *, chooses: bool) -> tuple[NDArray[np.int64], int]:
        """Return the numbers of the cells, rising, and how many copies were left out."""
        chooses = chooses and PRIMARY in self._columns and PRIMARY not in (self._filter or "")
        kept, n_left_out = [np.empty(0, dtype=np.int64)], 0
        columns = [JOIN, PRIMARY] if chooses else [JOIN]
        for table in self._table(self._experiment.obs, columns, self._filter):
            ids = table[JOIN].to_numpy()
            if chooses:
                primary = table[PRIMARY].to_numpy().astype(bool)
                n_left_out += int((~primary).sum())
                ids = ids[primary]
            kept.append(ids)
        if chooses:
            own = f"{PRIMARY} == True"
            self._filter = own if self._filter is None else f"({self._filter}) and {own}"
        return np.sort(np.concatenate(kept)), n_left_out

    @cached_property
    def var(self) -> pd.DataFrame:
        """Table of genes; its index holds the identifiers."""
        frame = self._genes.drop(columns=[JOIN])
        names = next((n for n in _GENE_NAMES if n in frame.columns), None)
        index = self._genes[JOIN] if names is None else frame[names]
        return frame.set_index(pd.Index(index.astype(str).to_numpy(dtype=object), dtype=object))

    @cached_property
    def _genes(self) -> pd.DataFrame:
        import pyarrow as pa

        columns = list(self._var.schema.names)
        tables = list(self._table(self._var, columns, self._var_filter))
        table = pa.concat_tables(tables) if tables else self._var.schema.empty_table()
        with self._reading():
            frame = table.to_pandas().sort_values(JOIN, ignore_index=True)
        if not len(frame):
            raise InputDataError(
                "E-D33",
                "there are no genes",
                where=f"{self._name}, {self.measurement_name}",
                why=None if self._var_filter is None else f"the filter is {self._var_filter!r}",
                fix="leave var_filter out, or pass another",
            )
        return frame

    @cached_property
    def _gene_ids(self) -> NDArray[np.int64]:
        ids: NDArray[np.int64] = self._genes[JOIN].to_numpy(dtype=np.int64)
        return ids

    @property
    def n_obs(self) -> int:
        return len(self._ids)

    @property
    def n_vars(self) -> int:
        return len(self._gene_ids)

    @property
    def where(self) -> str:
        return f"{self._name}, {self.measurement_name}/X/{self.soma_layer}"

    @property
    def dtype(self) -> str:
        """Type of the stored values."""
        return str(np.dtype(self._matrix.schema.field("soma_data").type.to_pandas_dtype()))

    @property
    def obs_columns(self) -> list[str]:
        """Names of the columns of the cell table."""
        return [c for c in self._columns if c != JOIN]

    @cached_property
    def obs_names(self) -> pd.Index:
        """Names of the cells, read on first use; their numbers where there are none."""
        names = next((n for n in _CELL_NAMES if n in self._columns), None)
        if names is None:
            return pd.Index(self._ids.astype(str).astype(object), dtype=object)
        return pd.Index(self.obs_column(names).to_numpy(dtype=object), dtype=object)

    def obs_column(self, key: str) -> pd.Series:
        """Return one column of the cell table; its index is the position of the cell.

        Parameters
        ----------
        key
            Name of the column.

        Raises
        ------
        UsageError
            There is no such column (E-U04).
        """
        if key not in self._columns:
            raise missing_column(key, self.obs_columns, f"{self._name}.obs")
        import pyarrow as pa

        tables = self._table(self._experiment.obs, list({JOIN: 0, key: 0}), self._filter)
        with self._reading():
            table = pa.concat_tables(list(tables)).unify_dictionaries().combine_chunks()
            found: pd.Series = table[key].to_pandas()
        if isinstance(found.dtype, pd.CategoricalDtype):
            # Those of the whole experiment, of which a filter leaves few.
            found = found.cat.remove_unused_categories()
        order = np.argsort(table[JOIN].to_numpy(), kind="stable")
        return found.iloc[order].reset_index(drop=True).rename(key)

    # -- values ----------------------------------------------------------------------------------

    def read(self, rows: Rows) -> sparse.csr_matrix:
        """Return the expression of ``rows`` as CSR float32, in the order asked for.

        Parameters
        ----------
        rows
            A slice, or positions in any order, repeated ones too.

        Raises
        ------
        UsageError
            A position is none (E-U39).
        InputFileError
            The experiment cannot be read (E-F01).
        """
        rows = require_rows(rows, self.n_obs, self.where)
        order = None
        if len(rows) > 1 and not (np.diff(rows) > 0).all():
            rows, order = np.unique(rows, return_inverse=True)
        ids = self._ids[rows]
        with self._reading():
            parts = [self._block(ids[i : i + _ROWS]) for i in range(0, len(ids), _ROWS)]
        if not parts:
            return sparse.csr_matrix((0, self.n_vars), dtype=np.float32)
        block = parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")
        return block if order is None else block[order]

    def _block(self, ids: NDArray[np.int64]) -> sparse.csr_matrix:
        """Return cells by their numbers, which rise."""
        if not self._is_sparse:
            return self._dense_block(ids)
        # A range costs a tenth of as many numbers, so a few cells too many are read with it.
        near = ids[-1] - ids[0] < 2 * len(ids)
        coordinates: list[Any] = [slice(int(ids[0]), int(ids[-1])) if near else ids]
        if self._var_filter is not None:
            coordinates.append(self._gene_ids)
        values, places, columns = [], [], []
        for table in self._matrix.read(tuple(coordinates)).tables():
            place, cell = _places(ids, table["soma_dim_0"].to_numpy())
            column, gene = _places(self._gene_ids, table["soma_dim_1"].to_numpy())
            kept = cell & gene
            data = table["soma_data"].to_numpy()
            all_kept = bool(kept.all())
            places.append(place if all_kept else place[kept])
            columns.append(column if all_kept else column[kept])
            values.append((data if all_kept else data[kept]).astype(np.float32, copy=False))
        shape = (len(ids), self.n_vars)
        if not values:
            return sparse.csr_matrix(shape, dtype=np.float32)
        pairs = (np.concatenate(places), np.concatenate(columns))
        return to_csr_block(sparse.csr_matrix((np.concatenate(values), pairs), shape=shape))

    def _dense_block(self, ids: NDArray[np.int64]) -> sparse.csr_matrix:
        parts = [
            self._matrix.read((slice(int(run[0]), int(run[-1])),)).to_numpy()[:, self._gene_ids]
            for run in np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1)
        ]
        return to_csr_block(np.concatenate(parts))

    # -- tables ----------------------------------------------------------------------------------

    def _table(self, frame: Any, columns: list[str], chosen: str | None) -> Iterator[pa.Table]:
        """Yield the columns of a table, of the rows that meet a filter."""
        if chosen is None:
            with self._reading():
                yield from frame.read(column_names=columns)
            return
        import tiledbsoma

        try:
            found = frame.read(column_names=columns, value_filter=chosen)
        # What its parser and the syntax tree of Python that it walks raise.
        except (tiledbsoma.SOMAError, SyntaxError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                "E-U93",
                f"the filter {chosen!r} cannot be read",
                where=self._name,
                why=first_line(error),
                fix="compare columns with values, as in \"tissue == 'lung' and n_genes > 500\"",
            ) from error
        with self._reading():
            yield from found

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn what tiledbsoma and arrow raise into one error that says where."""
        import pyarrow as pa
        import tiledbsoma

        try:
            yield
        except (tiledbsoma.SOMAError, pa.ArrowException) as error:
            raise InputFileError(
                "E-F01",
                "the experiment cannot be read as SOMA",
                where=self._name,
                why=first_line(error),
                fix="download or write it again; an open experiment must not be closed before",
            ) from error


def _places(
    ids: NDArray[np.int64], wanted: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the places of numbers among rising ones, and which of them are there."""
    if ids[-1] - ids[0] == len(ids) - 1:  # without a gap
        place = wanted - ids[0]
        return place, (place >= 0) & (place < len(ids))
    place = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return place, ids[place] == wanted
