"""Reading data sets of a study: files, corpora, registered ones, under the names of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from episome import plugins, settings
from episome.benchmark._data import COARSE, DONOR, LABEL, TARGET, DataEntry, TaskData
from episome.data import (
    AnnDataSource,
    cell_files,
    cells_where,
    clean_labels,
    combined_column,
    has_own_source,
    inspect,
    open_source,
    pair_modalities,
    read_cells,
    read_modality,
)
from episome.errors import InputDataError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data import CellSource

#: Data sets of the host; plugins register others.
DATASETS = {
    "simulated-cite": "episome.benchmark._simulated:simulated_cite",
    "simulated-types": "episome.benchmark._simulated:simulated_types",
}
_OBSM = "obsm:"
_NONE = "unknown"


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
    known = other.obs[LABEL].isin(set(cells.obs[LABEL])).to_numpy()
    other = other[known].copy()
    if COARSE in cells.obs:
        of = dict(zip(cells.obs[LABEL], cells.obs[COARSE], strict=True))
        other.obs[COARSE] = other.obs[LABEL].map(of)
    n_unseen = int((~known).sum())
    return TaskData(entry, cells[:, shared].copy(), other[:, shared].copy(), n_unseen)


def _opened(entry: DataEntry, source: str, base: Path | None) -> tuple[AnnData | None, CellSource]:
    """Return cells as an object, where they are one, and as a source of the named values."""
    # Addresses that name files say where they are relative to.
    source = source.replace("{data}", str(Path.cwd() if base is None else base.resolve()))
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


def _renamed(cells: AnnData, column: str) -> AnnData:
    if column in cells.var:
        cells = cells.copy()
        cells.var_names = cells.var[column].astype(str).to_numpy()
    return cells[:, ~cells.var_names.duplicated()]
