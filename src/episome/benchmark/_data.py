"""Data sets of a study: which file, which columns, which cells, which parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd

from episome import plugins, settings
from episome.data import folds, inspect, read_cells
from episome.errors import InputDataError, UsageError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

SplitFamily = Literal["random", "group", "kfold", "where", "query"]
#: Columns under which every task finds what it needs, whatever they are called in the file.
LABEL, DONOR, TERM = "episome_label", "episome_donor", "cell_type_ontology_term_id"


@dataclass(frozen=True, slots=True)
class SplitEntry:
    """How cells are held out.

    Parameters
    ----------
    by
        ``"random"``: a share of every class; ``"group"``: whole groups of a column; ``"kfold"``:
        every cell once, by whole donors where that loses no class; ``"where"``: the cells of an
        expression over ``obs``; ``"query"``: another file.
    column
        Of ``"group"``, default the donor.
    where
        Of ``"where"``.
    test_size
        Share of the cells, of ``"random"`` and ``"group"``.
    n_folds
        Of ``"kfold"``.
    allow
        Kinds of leaks that are meant: ``"donor"``, ``"barcode"``, ``"cell"``.
    """

    by: SplitFamily = "random"
    column: str | None = None
    where: str | None = None
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
        if (self.by == "where") != (self.where is not None):
            raise UsageError(
                "E-B04",
                f"split by {self.by!r} {'without' if self.by == 'where' else 'with'} `where`",
                fix='where = "an expression over obs" belongs to by = "where"',
            )

    @property
    def name(self) -> str:
        """Short name for reports."""
        if self.by == "group":
            return f"unseen {self.column or 'donors'}"
        if self.by == "where":
            return f"where {self.where}"
        return {"random": "random cells", "kfold": f"{self.n_folds} folds", "query": "other file"}[
            self.by
        ]

    @property
    def folds(self) -> range:
        """Numbers of the folds."""
        return range(self.n_folds if self.by == "kfold" else 1)


@dataclass(frozen=True, slots=True)
class DataEntry:
    """One data set of a study.

    Parameters
    ----------
    name
        How reports call it.
    source
        A file or folder that :func:`episome.data.read_cells` reads, or the name of a registered
        data set.
    labels_key, donor_key, batch_key, layer, use_raw
        As in ``setup_anndata``. Without ``labels_key`` the doctor proposes all of them.
    keep
        Which cells take part, an expression over ``obs`` (:meth:`pandas.DataFrame.query`).
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
    splits
        How its cells are held out, instead of the splits of the study.
    """

    name: str
    source: str
    labels_key: str | None = None
    donor_key: str | None = None
    batch_key: str | None = None
    layer: str | None = None
    use_raw: bool = False
    keep: str | None = None
    query: str | None = None
    keep_query: str | None = None
    query_labels_key: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    genes: str | None = None
    min_cells: int = 2
    splits: tuple[SplitEntry, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class TaskData:
    """Cells that take part, under the names that tasks know.

    ``obs`` holds ``LABEL`` and, where there are donors, ``DONOR``; other columns stay. ``query``
    holds the test cells of another file, with the same genes.
    """

    entry: DataEntry
    cells: AnnData
    query: AnnData | None = None

    @property
    def donor_key(self) -> str | None:
        """Column of the donors, if there are some."""
        return DONOR if DONOR in self.cells.obs else None


def load_data(entry: DataEntry, base: Path | None = None) -> TaskData:
    """Read a data set, keep the cells that take part, and bring labels to common names.

    Parameters
    ----------
    entry
        Which one.
    base
        Folder that paths are relative to.

    Raises
    ------
    UsageError
        A column or expression is none (E-B05).
    InputDataError
        No cells are left (E-B06).
    """
    cells = _prepared(entry, _read(entry.source, base), entry.labels_key, entry.keep)
    if entry.query is None:
        return TaskData(entry, cells)
    other = _prepared(
        entry,
        _read(entry.query, base),
        entry.query_labels_key or entry.labels_key,
        entry.keep_query,
    )
    if entry.genes is not None:
        cells, other = (_renamed(part, entry.genes) for part in (cells, other))
    shared = cells.var_names.intersection(other.var_names)
    if not len(shared):
        raise InputDataError(
            "E-B06",
            "the two files share no gene",
            where=entry.name,
            fix="name a column of var that both have: genes =",
        )
    other = other[other.obs[LABEL].isin(set(cells.obs[LABEL])).to_numpy()]
    return TaskData(entry, cells[:, shared].copy(), other[:, shared].copy())


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


def content_digest(data: TaskData) -> str:
    """SHA-256 of the values, genes, cell names and labels that take part.

    The same for the same cells in CSR, CSC or dense form; not for cells in another order.
    """
    from episome.data import AnnDataSource

    found = hashlib.sha256()
    for part in (data.cells, data.query):
        if part is None:
            continue
        source = AnnDataSource(part, layer=data.entry.layer, use_raw=data.entry.use_raw)
        for names in (part.obs_names, source.var.index, part.obs[LABEL]):
            found.update("\n".join(map(str, names)).encode())
        for start in range(0, source.n_obs, 4096):
            block = source.read(slice(start, min(start + 4096, source.n_obs))).copy()
            block.eliminate_zeros()
            for array in (np.diff(block.indptr), block.indices, block.data):
                found.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
    return found.hexdigest()


def _read(source: str, base: Path | None) -> AnnData:
    path = Path(source)
    path = path if base is None or path.is_absolute() else base / path
    if not path.exists():
        known = plugins.datasets()
        if source in known:
            found: AnnData = plugins.load_object(
                known[source].target, plugin=known[source].plugin
            )()
            return found
    return read_cells(path)


def _prepared(entry: DataEntry, cells: AnnData, labels_key: str | None, keep: str | None) -> Any:
    if keep is not None:
        cells = cells[rows_where(cells.obs, keep, entry.name)]
    donor_key = entry.donor_key
    if labels_key is None:
        proposed = inspect(cells).arguments
        labels_key = proposed.get("labels_key")
        donor_key = donor_key or proposed.get("donor_key")
    _require_columns(cells.obs, [labels_key, donor_key, entry.batch_key], entry.name)
    labels = cells.obs[labels_key].astype("object").where(cells.obs[labels_key].notna(), None)
    if entry.names:
        labels = labels.map(lambda v: entry.names.get(str(v)) if v is not None else None)
    counts = labels.value_counts()
    known = labels.map(counts).fillna(0).to_numpy() >= entry.min_cells
    known &= ~labels.astype(str).str.casefold().isin({"unknown", "nan", "", "none"}).to_numpy()
    if not known.any():
        raise InputDataError(
            "E-B06",
            f"no labelled cells are left of {cells.n_obs:,}",
            where=entry.name,
            fix="look at keep=, names= and min_cells=",
        )
    out = cells[known].copy()
    out.obs[LABEL] = labels[known].astype(str).to_numpy(dtype=object)
    if donor_key is not None and donor_key in out.obs:
        out.obs[DONOR] = out.obs[donor_key].astype("object").to_numpy()
    return out


def rows_where(obs: pd.DataFrame, expression: str, where: str) -> NDArray[np.bool_]:
    """Return which rows an expression holds for.

    Parameters
    ----------
    obs
        Table of cells.
    expression
        Of :meth:`pandas.DataFrame.query`; values of categories are compared as text.
    where
        How messages name the data.

    Raises
    ------
    UsageError
        It is none, or names a column that is missing (E-B05).
    """
    text = obs.copy()
    for name in text.columns:
        if isinstance(text[name].dtype, pd.CategoricalDtype):
            text[name] = text[name].astype(object)
    try:
        found = text.eval(expression, engine="python")
        return np.asarray(found, dtype=bool)
    except Exception as error:  # pandas raises anything for a text that is none
        raise UsageError(
            "E-B05",
            f"{expression!r} is no expression over these cells",
            where=where,
            why=f"{type(error).__name__}: {error}; the columns are {list(obs.columns)[:12]}",
            fix="such as: donor_id in ['d1', 'd2'] and condition == 'control'",
        ) from error


def _require_columns(obs: pd.DataFrame, names: list[str | None], where: str) -> None:
    if names[0] is None:
        raise UsageError(
            "E-B05",
            "no column of labels is named, and none is found",
            where=where,
            why=f"the columns are {list(obs.columns)[:12]}",
            fix="labels_key = the column of cell types",
        )
    missing = [n for n in names if n is not None and n not in obs]
    if missing:
        raise UsageError(
            "E-B05",
            f"columns that are missing: {', '.join(map(repr, missing))}",
            where=where,
            why=f"the columns are {list(obs.columns)[:12]}",
            fix="name columns that are there",
        )


def _renamed(cells: AnnData, column: str) -> AnnData:
    if column in cells.var:
        cells = cells.copy()
        cells.var_names = cells.var[column].astype(str).to_numpy()
    return cells[:, ~cells.var_names.duplicated()]


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
        donors = None
        if data.donor_key is not None:
            column = data.cells.obs[DONOR].astype("object")
            donors = column.where(column.notna(), None).to_numpy(dtype=object)
        yield from folds(codes, donors, seed=stream, n_folds=split.n_folds)
        return
    if split.by == "where":
        held = rows_where(data.cells.obs, str(split.where), data.entry.name)
    elif split.by == "group":
        held = _whole_groups(data, split, stream)
    else:
        held = _share_of_classes(codes, split.test_size, stream)
    yield rows[~held], rows[held]


def _share_of_classes(codes: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Hold out a share of every class, and never its last cell."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(codes), dtype=bool)
    for code in np.unique(codes):
        members = rng.permutation(np.flatnonzero(codes == code))
        n = min(round(share * len(members)), len(members) - 1)
        held[members[:n]] = True
    return held


def _whole_groups(data: TaskData, split: SplitEntry, seed: int) -> NDArray[np.bool_]:
    """Hold out groups at random until they hold the wanted share of the cells."""
    column = split.column or DONOR
    if column not in data.cells.obs:
        raise UsageError(
            "E-B05",
            f"column {split.column!r} is missing" if split.column else "no donors are known",
            where=data.entry.name,
            fix="name the column to hold out: column =, or donor_key = of the data",
        )
    groups = data.cells.obs[column].astype("object")
    names = groups.dropna().astype(str)
    sizes = names.value_counts()
    order = np.random.default_rng(seed).permutation(np.sort(sizes.index.to_numpy(dtype=str)))
    wanted, n = split.test_size * len(names), 0
    chosen: list[str] = []
    for name in order[:-1]:  # one is always left to learn from
        if chosen and n + sizes[name] / 2 > wanted:
            continue
        chosen.append(name)
        n += int(sizes[name])
        if n >= wanted:
            break
    held: NDArray[np.bool_] = (groups.astype(str).isin(chosen) & groups.notna()).to_numpy()
    return held
