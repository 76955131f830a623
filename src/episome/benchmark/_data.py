"""Data sets of a study: which file, which columns, which cells, which parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from episome import plugins, settings
from episome.data import (
    AnnDataSource,
    Condition,
    cell_files,
    clean_labels,
    combined_column,
    folds,
    has_own_source,
    inspect,
    open_source,
    pair_modalities,
    read_cells,
    read_modality,
    split_cells,
)
from episome.errors import InputDataError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data import CellSource

SplitFamily = Literal["random", "group", "kfold", "where", "query"]
#: Columns under which every task finds what it needs, whatever they are called in the file.
LABEL, DONOR, TERM = "episome_label", "episome_donor", "cell_type_ontology_term_id"
#: Column with the group that the label of every cell belongs to, the same for all of a label.
COARSE = "episome_coarse"
#: Key of the values and of the feature names of another modality.
TARGET = "episome_target"
_OBSM = "obsm:"
#: Data sets of the host; plugins register others.
DATASETS = {"simulated-types": "episome.benchmark._simulated:simulated_types"}
_NONE = "unknown"


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
        Of ``"group"``, default the donor.
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
        if (self.by == "where") != bool(self.where):
            raise UsageError(
                "E-B04",
                f"split by {self.by!r} {'without' if self.by == 'where' else 'with'} `where`",
                fix='where = ["COLUMN=VALUE"] belongs to by = "where"',
            )

    @property
    def name(self) -> str:
        """Short name for reports."""
        if self.by == "group":
            return f"unseen {self.column or 'donors'}"
        if self.by == "where":
            return f"where {', '.join(self.where)}"
        return {"random": "random cells", "kfold": f"{self.n_folds} folds", "query": "other file"}[
            self.by
        ]


@dataclass(frozen=True, slots=True)
class DataEntry:
    """One data set of a study.

    Parameters
    ----------
    name
        How reports call it.
    source
        A file or folder of cells, a corpus, an address such as ``census:...``, or the name of a
        registered data set. The cells that take part are read into memory.
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
    ``query`` holds the test cells of another file, with the same genes.
    """

    entry: DataEntry
    cells: AnnData
    query: AnnData | None = None

    @property
    def donor_key(self) -> str | None:
        """Column of the donors, if there are some."""
        return DONOR if DONOR in self.cells.obs else None


def load_data(entry: DataEntry, base: Path | None = None, *, labels: bool = True) -> TaskData:
    """Read a data set, keep the cells that take part, and bring labels to common names.

    Parameters
    ----------
    entry
        Which one.
    base
        Folder that paths are relative to.
    labels
        Whether cells need labels; without, all are of one type if no column is named.

    Raises
    ------
    UsageError
        A column is missing (E-U04), or none is named and found (E-B05); a condition is none
        (E-U90).
    InputDataError
        No cells are left (E-B06).
    """
    cells = _prepared(
        entry,
        *_opened(entry, entry.source, base),
        entry.labels_key,
        entry.keep,
        needs_labels=labels,
    )
    if entry.query is None:
        return TaskData(entry, cells)
    other = _prepared(
        entry,
        *_opened(entry, entry.query, base),
        entry.query_labels_key or entry.labels_key,
        entry.keep_query,
        needs_labels=labels,
    )
    if entry.target is not None and list(cells.uns[TARGET]) != list(other.uns[TARGET]):
        raise InputDataError(
            "E-B06",
            "the two files do not hold the same features to predict",
            where=entry.name,
            why=f"{len(cells.uns[TARGET]):,} and {len(other.uns[TARGET]):,} of {entry.target}",
            fix="bring them to the same names and order",
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
    other = other[other.obs[LABEL].isin(set(cells.obs[LABEL])).to_numpy()].copy()
    if COARSE in cells.obs:
        of = dict(zip(cells.obs[LABEL], cells.obs[COARSE], strict=True))
        other.obs[COARSE] = other.obs[LABEL].map(of)
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
    found = hashlib.sha256()
    for part in (data.cells, data.query):
        if part is None:
            continue
        source = AnnDataSource(part)
        columns = [part.obs[c] for c in (LABEL, COARSE) if c in part.obs]
        targets = [part.uns[TARGET]] if TARGET in part.uns else []
        for names in (part.obs_names, source.var.index, *columns, *targets):
            found.update("\n".join(map(str, names)).encode())
        if targets:
            values = part.obsm[TARGET]
            for array in (values.indptr, values.indices, values.data):
                found.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        for start in range(0, source.n_obs, 4096):
            block = source.read(slice(start, min(start + 4096, source.n_obs))).copy()
            block.eliminate_zeros()
            for array in (np.diff(block.indptr), block.indices, block.data):
                found.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
    return found.hexdigest()


def _opened(entry: DataEntry, source: str, base: Path | None) -> tuple[AnnData | None, CellSource]:
    """Return cells as an object, where they are one, and as a source of the named values."""
    path = Path(source)
    path = path if base is None or path.is_absolute() else base / path
    if not path.exists():
        known = {n: (s.target, s.plugin) for n, s in plugins.datasets().items()}
        known |= {n: (target, "") for n, target in DATASETS.items()}
        if source in known:
            target, plugin = known[source]
            cells: AnnData = plugins.load_object(target, plugin=plugin)()
            return cells, _slot(entry, cells)
        if has_own_source(Path(source)):  # an address, which is relative to nothing
            return None, open_source(source, layer=entry.layer, use_raw=entry.use_raw)
    elif cell_files(path) or has_own_source(path):
        return None, open_source(path, layer=entry.layer, use_raw=entry.use_raw)
    if entry.target is not None and not entry.target.startswith(_OBSM):
        cells = _with_modality(entry, path)
    else:
        cells = read_cells(path)
    return cells, _slot(entry, cells)


def _with_modality(entry: DataEntry, path: Path) -> AnnData:
    """Return the RNA of cells that have both modalities, with the other one in ``obsm``."""
    parts = {m: read_modality(path, m) for m in (entry.modality, str(entry.target))}
    paired = pair_modalities(parts, list(parts), name=entry.name)
    rna = parts[entry.modality][paired.obs_names].copy()
    values = paired.sources[str(entry.target)]
    rna.obsm[TARGET] = values.read(slice(0, paired.n_obs))
    rna.uns[TARGET] = np.array(paired.features[str(entry.target)], dtype=object)
    return rna


def _target_of(entry: DataEntry, cells: AnnData) -> tuple[sparse.csr_matrix, NDArray[np.object_]]:
    """Values and names of what is predicted, of cells that hold it in ``obsm``."""
    if TARGET in cells.obsm:
        return sparse.csr_matrix(cells.obsm[TARGET]), cells.uns[TARGET]
    key = str(entry.target).removeprefix(_OBSM)
    if key not in cells.obsm:
        raise UsageError(
            "E-B05",
            f"obsm has no {key!r}",
            where=entry.name,
            why=f"it has {', '.join(cells.obsm) or 'nothing'}",
            fix='target = "obsm:KEY", or a modality of a file of several',
        )
    values = cells.obsm[key]
    if isinstance(values, pd.DataFrame):
        return sparse.csr_matrix(values.to_numpy(np.float32)), values.columns.to_numpy(object)
    names = cells.uns.get(entry.target_names, None) if entry.target_names else None
    if names is None or len(names) != values.shape[1]:
        names = [f"{key} {i}" for i in range(values.shape[1])]
    return sparse.csr_matrix(values, dtype=np.float32), np.array(names, dtype=object)


def _slot(entry: DataEntry, cells: AnnData) -> CellSource:
    return AnnDataSource(cells, layer=entry.layer, use_raw=entry.use_raw, name=entry.name)


def _prepared(
    entry: DataEntry,
    cells: AnnData | None,
    source: CellSource,
    labels_key: str | None,
    keep: tuple[str, ...],
    *,
    needs_labels: bool = True,
) -> AnnData:
    """Return the labelled cells that take part, with the wanted values in ``X``."""
    donor_key = entry.donor_key
    if labels_key is None and cells is not None:
        proposed = inspect(cells).arguments
        labels_key = proposed.get("labels_key")
        donor_key = donor_key or proposed.get("donor_key")
    columns = _columns(cells, source)
    if labels_key is None and needs_labels:
        raise UsageError(
            "E-B05",
            "no column of labels is named, and none is found",
            where=entry.name,
            why=f"the columns are {columns[:12]}",
            fix="labels_key = the column of cell types",
        )
    if labels_key is None:
        labels = pd.Series("cell", index=source.obs_names, dtype=object)
    else:
        labels = _labels(source, labels_key, entry)
    labels = labels.where(cells_where(source, keep), None)
    counts = labels.value_counts()
    known = labels.map(counts).fillna(0).to_numpy() >= entry.min_cells
    if not known.any():
        raise InputDataError(
            "E-B06",
            f"no labelled cells are left of {source.n_obs:,}",
            where=entry.name,
            fix="look at keep=, names= and min_cells=",
        )
    rows = np.flatnonzero(known)
    if entry.max_cells is not None and len(rows) > entry.max_cells:
        rng = np.random.default_rng(settings.stream_seed("subset", 0))
        rows = np.sort(rng.choice(rows, entry.max_cells, replace=False))
    obs = pd.DataFrame(
        {c: source.obs_column(c).iloc[rows] for c in columns}, index=source.obs_names[rows]
    )
    obs[LABEL] = labels.iloc[rows].astype(str).to_numpy(dtype=object)
    if donor_key is not None:
        keys = [donor_key] if isinstance(donor_key, str) else list(donor_key)
        table = pd.DataFrame({k: source.obs_column(k) for k in keys})
        donors = combined_column(AnnData(obs=table.astype(object)), keys, name=entry.name)
        obs[DONOR] = donors.iloc[rows].astype("object").to_numpy()
    if entry.batch_key is not None:
        source.obs_column(entry.batch_key)  # refused here, with the near names, if it is missing
    if entry.coarse_key is not None:
        obs[COARSE] = _coarse(obs[LABEL], source.obs_column(entry.coarse_key).iloc[rows])
    arrays = {} if cells is None else {k: _rows_of(v, rows) for k, v in cells.obsm.items()}
    found = AnnData(source.read(rows), obs=obs, var=source.var.copy(), obsm=arrays)
    if entry.target is not None:
        if cells is None:
            raise UsageError(
                "E-B05",
                "a corpus holds one modality",
                where=entry.name,
                fix="pass one file with both",
            )
        values, names = _target_of(entry, cells)
        found.obsm[TARGET], found.uns[TARGET] = values[rows], names
    return found


def _rows_of(array: Any, rows: NDArray[np.int64]) -> Any:
    return array.iloc[rows] if isinstance(array, pd.DataFrame) else array[rows]


def _columns(cells: AnnData | None, source: CellSource) -> list[str]:
    if cells is not None:
        return list(cells.obs.columns)
    return list(getattr(source, "obs_columns", ()))


def _coarse(labels: pd.Series, coarse: pd.Series) -> NDArray[np.object_]:
    """Return the coarse label that most cells of every cell's label have."""
    pairs = pd.crosstab(labels.to_numpy(), coarse.astype(str).to_numpy())
    found: NDArray[np.object_] = labels.map(pairs.idxmax(axis=1)).to_numpy(dtype=object)
    return found


def _labels(source: CellSource, key: str, entry: DataEntry) -> pd.Series:
    """Return the common name of every cell's label, ``None`` for a cell without one."""
    given = source.obs_column(key)
    cleaned = clean_labels(given, unlabeled_category=_NONE, unlabeled="keep")
    named = pd.Series(cleaned, index=given.index)
    labels = named.where(named != _NONE, None)
    if not entry.names:
        return labels
    return labels.map(lambda v: None if v is None else entry.names.get(v))


def cells_where(source: CellSource, conditions: tuple[str, ...]) -> NDArray[np.bool_]:
    """Return for which cells all conditions hold, bool (n_obs,).

    Parameters
    ----------
    source
        The cells.
    conditions
        ``COLUMN=VALUE``, ``COLUMN=VALUE|VALUE`` or ``COLUMN!=VALUE``.

    Raises
    ------
    UsageError
        One of them is none (E-U90), or names a column that is missing (E-U04).
    """
    found = np.ones(source.n_obs, dtype=bool)
    for condition in conditions:
        found &= Condition.parse(condition).holds(source)
    return found


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
        donors = None if data.donor_key is None else _groups(data, split)
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
