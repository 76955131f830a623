"""`CorpusSource`: cells of a corpus, read from disk when they are needed."""

from __future__ import annotations

import os
import threading
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome.data._compiled import offsets_of
from episome.data._corpus_columns import read_array, read_column, read_columns, read_names
from episome.data._corpus_names import INPUT_COLUMN, unique_names
from episome.data._corpus_records import broken_record, decode
from episome.data._matrix import require_rows
from episome.data._panels import GenePanels
from episome.data._source import missing_column
from episome.errors import InputFileError
from episome.io._corpus import check_corpus_sizes, damaged, read_corpus_manifest
from episome.io._json import loads

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

    from episome.data._corpus_columns import Column
    from episome.data._matrix import Rows
    from episome.data._rows import ArrayPool

GENES, MEASURED = "genes.json", "measured.npy"


class CorpusSource:
    """Cells of a corpus that ``episome corpus build`` wrote, a ``CellSource``.

    Nothing but the place of every cell is kept in memory, 12 bytes each. Cells are read by
    position, in any order; neighbours on disk are read together. A corpus is shuffled when it is
    built, so consecutive rows are a random sample of it. Reading from several threads, and after a
    fork, is safe.

    Parameters
    ----------
    path
        Folder of the corpus; never written to. Its manifest is compared with its seal and the
        size of every file with the manifest; ``episome corpus verify`` compares every byte.

    Attributes
    ----------
    manifest
        What the manifest says: sizes, inputs, seed, checksums.
    labels_key, donor_keys
        Column with labels or ``None``, and columns that name the donor together.
    in_memory
        ``False``: every reading goes to the disk or its cache.
    notes
        Lines of the input report; none.
    dtype
        Type of the stored values, ``"uint32"``.

    Raises
    ------
    InputFileError
        It is no corpus (E-F30), files are damaged or cut (E-F31), or its format is newer (E-F32).

    Examples
    --------
    >>> source = CorpusSource("atlas.corpus")  # doctest: +SKIP
    >>> source.read(slice(0, 1024))  # doctest: +SKIP
    """

    in_memory = False
    notes: tuple[str, ...] = ()
    dtype = "uint32"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = read_corpus_manifest(self.path)
        check_corpus_sizes(self.path, self.manifest)
        sizes = [int(s["n_obs"]) for s in self.manifest["shards"]]
        self._shards = [_Shard(self.path, s) for s in self.manifest["shards"]]
        self._firsts = offsets_of(np.asarray(sizes, dtype=np.int64))
        self._n_vars = int(self.manifest["n_vars"])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    @property
    def n_obs(self) -> int:
        return int(self._firsts[-1])

    @property
    def n_vars(self) -> int:
        return self._n_vars

    @property
    def where(self) -> str:
        return self.path.name or str(self.path)

    @property
    def labels_key(self) -> str | None:
        """Column with labels."""
        key: str | None = self.manifest["labels_key"]
        return key

    @property
    def donor_keys(self) -> tuple[str, ...]:
        """Columns that name the donor together; none where the corpus was built without."""
        return tuple(self.manifest["donor_keys"])

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, which has those of all files: it stands for the content."""
        seal = (self.path / "manifest.sha256").read_text(encoding="utf-8")
        return seal.split()[0]

    @cached_property
    def obs_names(self) -> pd.Index:
        """Names of the cells, read on first use."""
        return read_names(self.path, self.n_obs)

    @cached_property
    def var(self) -> pd.DataFrame:
        """Table of genes; its index holds the identifiers."""
        try:
            columns = loads((self.path / GENES).read_bytes(), GENES)
            table = pd.DataFrame({k: v for k, v in columns.items() if k != "id"})
            table.index = pd.Index(columns["id"], dtype=object)
        except (ValueError, KeyError) as error:
            raise InputFileError(damaged(self.path / GENES, "it is no table of genes")) from error
        if len(table.index) != self._n_vars:
            raise InputFileError(damaged(self.path / GENES, f"it has {len(table.index):,} genes"))
        return table

    @cached_property
    def measured(self) -> NDArray[np.bool_]:
        """Which gene was measured in which input, bool of shape (n_inputs, n_vars)."""
        shape = (len(self.manifest["inputs"]), self._n_vars)
        return read_array(self.path / MEASURED, shape, np.dtype(bool)).astype(bool)

    @property
    def panels(self) -> GenePanels:
        """Which genes each input holds, and the input of every cell."""
        names = unique_names([str(i["name"]) for i in self.manifest["inputs"]])
        code = {name: i for i, name in enumerate(names)}
        column = self.obs_column(INPUT_COLUMN).cat
        by_category = np.array([code[c] for c in column.categories], dtype=np.int64)
        return GenePanels(self.measured, by_category[column.codes.to_numpy()])

    @cached_property
    def _columns(self) -> dict[str, Column]:
        return read_columns(self.path)

    @property
    def obs_columns(self) -> list[str]:
        """Names of the columns of the cell table."""
        return list(self._columns)

    def obs_column(self, key: str) -> pd.Series:
        """Return one column of the cell table; its index is the position of the cell.

        Parameters
        ----------
        key
            Name of the column.

        Returns
        -------
        Text as a categorical (categories sorted), numbers as float64 or int64, truths as
        booleans.

        Raises
        ------
        UsageError
            There is no such column (E-U04).
        """
        if key not in self._columns:
            known = list(self._columns)
            fix = "pass the name of an existing column, or build the corpus with --columns"
            raise missing_column(key, known, f"{self.where}.obs", fix=fix)
        return read_column(self.path, self._columns[key], self.n_obs)

    def read(self, rows: Rows) -> sparse.csr_matrix:
        """Return the counts of ``rows`` as CSR float32, in the order asked for.

        Parameters
        ----------
        rows
            A slice, or positions in any order, repeated ones too.

        Raises
        ------
        UsageError
            A position is none (E-U39).
        InputDataError
            A record is broken (E-D23).
        """
        rows = require_rows(rows, self.n_obs, self.where)
        places = np.arange(len(rows))
        if len(rows) > 1 and not (np.diff(rows) > 0).all():
            # On disk in order, each cell once; the wanted order is restored in memory.
            rows, places = np.unique(rows, return_inverse=True)
        return self.hold(rows).take(places)

    def hold(self, rows: NDArray[np.int64]) -> HeldRecords:
        """Read the records of cells; batches are unpacked from them.

        Parameters
        ----------
        rows
            Rising positions.
        """
        cuts = np.searchsorted(rows, self._firsts)
        parts = [
            self._shards[i].read(rows[cuts[i] : cuts[i + 1]] - self._firsts[i])
            for i in np.flatnonzero(np.diff(cuts))
        ]
        if len(parts) == 1:
            return HeldRecords(*parts[0], self._n_vars, self.where)
        records, offsets, stored = zip(*parts, strict=True) if parts else ((), (), ())
        sizes = [np.diff(each) for each in offsets]
        return HeldRecords(
            np.concatenate([np.empty(0, dtype=np.uint8), *records]),
            offsets_of(np.concatenate([np.empty(0, dtype=np.int64), *sizes])),
            np.concatenate([np.empty(0, dtype=np.int64), *stored]),
            self._n_vars,
            self.where,
        )


class HeldRecords:
    """Cells of a corpus in memory as they lie on disk, two bytes and a little per value.

    Parameters
    ----------
    records
        Bytes of the cells, uint8.
    offsets
        Where each record starts and ends, int64 (n_rows + 1,).
    stored
        Stored values of each cell, int64 (n_rows,).
    n_vars
        Number of genes.
    where
        How messages name the place.
    """

    def __init__(
        self,
        records: NDArray[np.uint8],
        offsets: NDArray[np.int64],
        stored: NDArray[np.int64],
        n_vars: int,
        where: str,
    ) -> None:
        self._records, self._offsets, self._stored = records, offsets, stored
        self._n_vars, self._where = n_vars, where

    def take(self, places: NDArray[np.int64], pool: ArrayPool | None = None) -> sparse.csr_matrix:
        """Return cells by their place among those that were read, CSR float32.

        Parameters
        ----------
        places
            In any order, repeated ones too.
        pool
            Where the memory of the values comes from; default new memory.

        Raises
        ------
        InputDataError
            A record is broken (E-D23).
        """
        return decode(
            self._records,
            self._offsets[places],
            self._offsets[places + 1],
            self._stored[places],
            self._n_vars,
            where=self._where,
            pool=pool,
        )


class _Shard:
    """One file of records and where each cell is in it."""

    def __init__(self, folder: Path, entry: dict[str, Any]) -> None:
        self.n_obs, self.n_stored = int(entry["n_obs"]), int(entry["n_stored"])
        self._records = folder / f"shards/{entry['name']}.records"
        self._places = folder / f"shards/{entry['name']}.places.npy"
        self._pointers = folder / f"shards/{entry['name']}.indptr.npy"
        self._lock = threading.Lock()
        self._open: int | None = None

    @cached_property
    def tables(self) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """Where each record starts and ends, and how many values each cell has."""
        shape, kind = (self.n_obs + 1,), np.dtype("<i8")
        places = read_array(self._places, shape, kind).astype(np.int64)
        indptr = read_array(self._pointers, shape, kind).astype(np.int64)
        size = self._records.stat().st_size
        self._check(places, size, self._places)
        self._check(indptr, self.n_stored, self._pointers)
        return places, np.diff(indptr).astype(np.uint32)

    @staticmethod
    def _check(pointers: NDArray[np.int64], last: int, file: Path) -> None:
        if pointers[0] != 0 or pointers[-1] != last or (np.diff(pointers) < 0).any():
            raise InputFileError(damaged(file, "it points outside the cells"))

    def read(
        self, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """Return the records of cells, their borders and numbers of values; ``rows`` rise."""
        places, counts = self.tables
        starts, stops = places[rows], places[rows + 1]
        targets = offsets_of(stops - starts)
        records = np.empty(int(targets[-1]), dtype=np.uint8)
        # Records that touch each other are one reading.
        heads = np.flatnonzero(np.concatenate([[True], starts[1:] != stops[:-1]]))
        tails = np.concatenate([heads[1:], [len(rows)]])
        room, file = records.data, self._descriptor()
        runs = zip(
            starts[heads].tolist(), targets[heads].tolist(), targets[tails].tolist(), strict=True
        )
        for place, first, last in runs:
            if _fill(file, room[first:last], place) != last - first:
                raise InputFileError(damaged(self._records, "it ends before its last cell"))
        stored = counts[rows].astype(np.int64)
        if int(stored.sum()) * 2 > len(records):
            raise broken_record(self._records.name, int(rows[0]))
        return records, targets, stored

    def _descriptor(self) -> int:
        # After a fork the number still names the same file; positions are given with every read.
        with self._lock:
            if self._open is None:
                self._open = os.open(self._records, os.O_RDONLY)
            return self._open

    def __del__(self) -> None:
        opened = getattr(self, "_open", None)
        if opened is not None:
            os.close(opened)


def _fill(file: int, room: memoryview, place: int) -> int:
    """Read until the room is full or the file ends; return how many bytes came."""
    done = 0
    while done < len(room):
        got = os.preadv(file, [room[done:]], place + done)
        if got == 0:
            break
        done += got
    return done
