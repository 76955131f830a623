"""Data sets of a study: which file, which columns, which cells, which parts."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd

from episome import settings
from episome.data import (
    AnnDataSource,
    cells_digest,
    cells_where,
    folds,
    names_bytes,
    split_cells,
)
from episome.errors import InputDataError, UsageError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

SplitFamily = Literal["random", "group", "kfold", "where", "query"]
#: Columns under which every task finds what it needs, whatever they are called in the file.
LABEL, DONOR, TERM = "episome_label", "episome_donor", "cell_type_ontology_term_id"
#: Column with the group that the label of every cell belongs to, the same for all of a label.
COARSE = "episome_coarse"
#: Key of the values and of the feature names of another modality.
TARGET = "episome_target"


@dataclass(frozen=True, slots=True)
class SplitEntry:
    """How cells are held out.

    Parameters
    ----------
    by
        ``"random"``: a share of every class; ``"group"``: whole groups of a column; ``"kfold"``:
        every cell once, by whole donors where that loses no class; ``"where"``: the cells that
        conditions hold for; ``"query"``: another file.
    column
        Of ``"group"`` and ``"kfold"``, default the donor.
    where
        Of ``"where"``: conditions ``COLUMN=VALUE``, ``COLUMN=VALUE|VALUE`` or ``COLUMN!=VALUE``,
        all of which hold for a test cell, as of ``episome corpus build --where``.
    test_size
        Share of the cells, of ``"random"`` and ``"group"``.
    n_folds
        Of ``"kfold"``.
    allow
        Kinds of leaks that are meant: ``"donor"``, ``"barcode"``, ``"cell"``.
    """

    by: SplitFamily = "random"
    column: str | None = None
    where: tuple[str, ...] = ()
    test_size: float = 0.3
    n_folds: int = 5
    allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.by not in get_args(SplitFamily):
            families = ", ".join(get_args(SplitFamily))
            raise UsageError("E-B04", f"split by {self.by!r}", fix=f"use one of {families}")
        if not 0.0 < self.test_size < 1.0:
            raise UsageError("E-B04", f"test_size={self.test_size!r}", fix="pass a share like 0.3")
        if self.n_folds < 2:
            raise UsageError("E-B04", f"n_folds={self.n_folds!r}", fix="pass 2 or more")
        if self.column is not None and self.by not in ("group", "kfold"):
            raise UsageError(
                "E-B04",
                f"split by {self.by!r} with a column",
                fix='column belongs to by = "group" and by = "kfold"',
            )
        if (self.by == "where") != bool(self.where):
            raise UsageError(
                "E-B04",
                f"split by {self.by!r} {'without' if self.by == 'where' else 'with'} `where`",
                fix='where = ["COLUMN=VALUE"] belongs to by = "where"',
            )

    @property
    def name(self) -> str:
        """Short name for reports."""
        # Two splits that differ have two names: results are joined by them.
        default = SplitEntry.__dataclass_fields__["test_size"].default
        share = "" if self.test_size == default else f", {100 * self.test_size:g} % of the cells"
        if self.by == "group":
            return f"unseen {self.column or 'donors'}{share}"
        if self.by == "where":
            return f"where {', '.join(self.where)}"
        if self.by == "kfold":
            return f"{self.n_folds} folds{f' by {self.column}' if self.column else ''}"
        return "other file" if self.by == "query" else f"random cells{share}"


@dataclass(frozen=True, slots=True)
class DataEntry:
    """One data set of a study.

    Parameters
    ----------
    name
        How reports call it.
    source
        A file or folder of cells, a corpus, an address such as ``census:...``, or the name of a
        registered data set; ``{data}`` in an address is the folder that paths are relative to,
        and ``{seed}`` the seed of the run, where that draws the cells. The cells that take part
        are read into memory.
    labels_key, donor_key, batch_key, layer, use_raw
        As in ``setup_anndata``. Without ``labels_key`` the doctor proposes all of them, of cells
        that are one object or file.
    coarse_key
        Column of coarser labels, such as lineages: calls are also scored by it. A label belongs to
        the coarse one that most of its cells have.
    keep
        Which cells take part: conditions as of :class:`SplitEntry`, all of which hold.
    query
        Another file, whose cells are the test part of the split family ``"query"``.
    keep_query
        Which of its cells take part.
    names
        Brings labels to common names; cells whose label is not in it take no part.
    genes
        Column of ``var`` with the names that both files share, for ``query``.
    min_cells
        Classes with fewer cells take no part.
    max_cells
        Of more, this many are drawn, the same for every seed.
    modality, target, target_names
        Of two modalities: that of the RNA in a file of several, and what is predicted from it,
        another modality of the file or ``obsm:KEY``; then ``target_names`` is the key of ``uns``
        with the names of its features, if it is no table.
    splits
        How its cells are held out, instead of the splits of the study.
    """

    name: str
    source: str
    labels_key: str | None = None
    donor_key: str | tuple[str, ...] | None = None
    batch_key: str | None = None
    coarse_key: str | None = None
    layer: str | None = None
    use_raw: bool = False
    keep: tuple[str, ...] = ()
    query: str | None = None
    keep_query: tuple[str, ...] = ()
    query_labels_key: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    genes: str | None = None
    min_cells: int = 2
    max_cells: int | None = None
    modality: str = "rna"
    target: str | None = None
    target_names: str | None = None
    splits: tuple[SplitEntry, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class TaskData:
    """Cells that take part, under the names that tasks know.

    ``X`` holds the values of the slot that the entry names. ``obs`` holds ``LABEL`` and, where
    there are donors, ``DONOR``, with ``coarse_key`` ``COARSE``; other columns stay. With
    ``target`` its values are in ``obsm[TARGET]``, the names of its features in ``uns[TARGET]``.
    ``query`` holds the test cells of another file, with the same genes; ``n_unseen`` further ones
    have a type that the first file lacks, and take no part.
    """

    entry: DataEntry
    cells: AnnData
    query: AnnData | None = None
    n_unseen: int = 0

    @property
    def donor_key(self) -> str | None:
        """Column of the donors, if there are some."""
        return DONOR if DONOR in self.cells.obs else None


def parts_of(
    data: TaskData, split: SplitEntry, seed: int
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the number of a fold and the rows of its training and test cells.

    Test cells of classes that training lacks are left out. With another file, rows of the test
    part are rows of ``data.query``.

    Parameters
    ----------
    data
        Of :func:`load_data`.
    split
        How cells are held out.
    seed
        Of the draw.
    """
    labels = data.cells.obs[LABEL].to_numpy(dtype=str)
    for fold, (train, test) in enumerate(_parts(data, split, labels, seed)):
        if data.query is None:
            test = test[np.isin(labels[test], labels[train])]
        if not len(train) or not len(test):
            raise InputDataError(
                "E-B06",
                f"fold {fold} of {split.name} has {len(train):,} training and {len(test):,} test "
                "cells",
                where=data.entry.name,
                fix="split by another column, or choose another share",
            )
        yield fold, train, test


def content_digest(data: TaskData, columns: Collection[str] = ()) -> str:
    """SHA-256 of the cells and of the columns that take part.

    Of the cells it is that of ``episome.data.cells_digest``: the same for CSR, CSC, dense and
    zarr, with genes in any order; not for cells in another order.

    Parameters
    ----------
    data
        Of :func:`load_data`.
    columns
        Columns of ``obs`` that a task looks at, beside labels, terms, donors and batches.
    """
    from anndata import AnnData

    found = hashlib.sha256()
    for part in (data.cells, data.query):
        if part is None:
            continue
        found.update(cells_digest(AnnDataSource(part)).encode())
        asked = (LABEL, COARSE, DONOR, TERM, str(data.entry.batch_key), *columns)
        for name in dict.fromkeys(c for c in asked if c in part.obs):
            found.update(names_bytes([name, *part.obs[name]]))
        if TARGET in part.uns:
            names, values = part.uns[TARGET], part.obsm[TARGET]
            target = AnnData(values, var=pd.DataFrame(index=list(map(str, names))))
            found.update(cells_digest(AnnDataSource(target)).encode())
    return found.hexdigest()


def inputs_digest(*arrays: object) -> str:
    """Short SHA-256 of arrays, such as the rows of both parts or a given embedding."""
    found = hashlib.sha256()
    for array in arrays:
        dense = np.ascontiguousarray(array)
        found.update(f"{dense.dtype} {dense.shape}".encode())
        found.update(dense.tobytes())
    return found.hexdigest()[:16]


def _parts(
    data: TaskData, split: SplitEntry, labels: NDArray[np.str_], seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    rows = np.arange(len(labels))
    if split.by == "query":
        if data.query is None:
            raise UsageError(
                "E-B04", 'split by "query" without a query', where=data.entry.name, fix="query ="
            )
        yield rows, np.arange(data.query.n_obs)
        return
    codes = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    stream = settings.stream_seed("split", seed)
    if split.by == "kfold":
        known = data.donor_key is not None or split.column is not None
        donors = _groups(data, split) if known else None
        yield from folds(codes, donors, seed=stream, n_folds=split.n_folds)
        return
    if split.by == "where":
        held = cells_where(AnnDataSource(data.cells, name=data.entry.name), split.where)
        yield rows[~held], rows[held]
        return
    groups = _groups(data, split) if split.by == "group" else None
    sizes = {"train_size": 1 - split.test_size, "validation_size": split.test_size}
    found = split_cells(codes, donors=groups, seed=seed, min_donors=2, **sizes)
    if groups is not None and found.by != "donor":
        raise InputDataError(
            "E-B06",
            f"{split.name} cannot be held out: there are fewer than two",
            where=data.entry.name,
            fix="split by another column",
        )
    yield found.train, found.validation


def _groups(data: TaskData, split: SplitEntry) -> NDArray[np.object_]:
    """Group of every cell, or ``None`` entries."""
    column = split.column or DONOR
    if column not in data.cells.obs:
        raise UsageError(
            "E-B05",
            f"column {split.column!r} is missing" if split.column else "no donors are known",
            where=data.entry.name,
            fix="name the column to hold out: column =, or donor_key = of the data",
        )
    groups = data.cells.obs[column].astype("object")
    found: NDArray[np.object_] = groups.where(groups.notna(), None).to_numpy(dtype=object)
    return np.array([None if g is None else str(g) for g in found], dtype=object)
