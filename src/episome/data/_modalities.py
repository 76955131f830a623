"""Cells of several modalities, paired by their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from episome.data._keys import GENE_EXPRESSION
from episome.data._pairing import match_cells, shared_names, stale_tables
from episome.data._prepared import in_memory
from episome.data._proteins import SHORT, TYPE_COLUMNS, TYPES, kind_by_word
from episome.data._query import modalities_of
from episome.data._source import AnnDataSource, CellSource
from episome.errors import Problem, UsageError, raise_problems
from episome.log import get_logger

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray

    from episome.data._matrix import Rows

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PairedCells:
    """Cells that every chosen modality has, paired by name.

    Parameters
    ----------
    obs_names
        Names of the cells, in the order of the first modality.
    sources
        Every modality's values of these cells, in this order.
    features
        Names of the features of every modality, as they are in its ``var``.
    notes
        Lines of the input report: what was left out, put in order or not read.
    present
        Which of the cells a modality has, bool (n_obs,), of those that lack some.
    """

    obs_names: pd.Index
    sources: dict[str, CellSource]
    features: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]
    present: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return len(self.obs_names)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of all features with their modality before them, such as ``"prot:CD4"``."""
        return tuple(f"{m}:{n}" for m, names in self.features.items() for n in names)


class RowsOf:
    """Rows of another source in an order of their own; nothing is copied.

    Parameters
    ----------
    source
        What is read.
    rows
        Its rows, int64 of shape (n_obs,); -1 stands for a cell that it lacks, which is read as one
        without values.
    """

    def __init__(self, source: CellSource, rows: NDArray[np.int64]) -> None:
        self._source, self._rows = source, np.asarray(rows, dtype=np.int64)
        self._there = self._rows >= 0
        names = source.obs_names
        self._obs_names = names[self._rows] if self._there.all() else None

    @property
    def n_obs(self) -> int:
        return len(self._rows)

    @property
    def n_vars(self) -> int:
        return self._source.n_vars

    @property
    def dtype(self) -> str:
        """Type of the stored values."""
        return str(getattr(self._source, "dtype", "float32"))

    @property
    def in_memory(self) -> bool:
        """Whether single rows in any order cost no more than rows in a block."""
        return in_memory(self._source)

    @property
    def obs_names(self) -> pd.Index:
        if self._obs_names is not None:
            return self._obs_names
        names = self._source.obs_names.to_numpy(dtype=object)
        return pd.Index(np.where(self._there, names[self._rows], None))

    @property
    def var(self) -> pd.DataFrame:
        return self._source.var

    @property
    def where(self) -> str:
        return self._source.where

    @property
    def obs_columns(self) -> list[str]:
        """Names of the columns of the cell table."""
        return list(getattr(self._source, "obs_columns", ()))

    def obs_column(self, key: str) -> pd.Series:
        """Return one column of the cell table, with NaN for cells that the source lacks."""
        found = self._source.obs_column(key)
        return found.iloc[self._rows] if self._there.all() else found.reindex(self.obs_names)

    def read(self, rows: Rows) -> sparse.csr_matrix:
        """Return the expression of ``rows`` as CSR float32, in the order asked for."""
        wanted, there = self._rows[rows], self._there[rows]
        if there.all():
            return self._source.read(wanted)
        return spread_rows(self._source.read(wanted[there]), there)


def spread_rows(block: sparse.csr_matrix, there: NDArray[np.bool_]) -> sparse.csr_matrix:
    """Return a block with rows without values between its own.

    Parameters
    ----------
    block
        As many rows as ``there`` is true.
    there
        Which rows of the result are those of the block, bool (n_rows,).
    """
    sizes = np.zeros(len(there), dtype=np.int64)
    sizes[there] = np.diff(block.indptr)
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(block.indptr.dtype)
    shape = (len(there), block.shape[1])
    return sparse.csr_matrix((block.data, block.indices, indptr), shape=shape)


def pair_modalities(
    mdata: MuData | Mapping[str, AnnData],
    modalities: Sequence[str] | None = None,
    *,
    layers: Mapping[str, str | None] | None = None,
    name: str = "mdata",
    keep: Literal["common", "first"] = "common",
) -> PairedCells:
    """Pair the cells of several modalities by name, never by position.

    Everything is read from the modalities themselves. The tables that MuData keeps of them
    (``obs``, ``obsm``, ``obsmap``) are as old as the last ``mdata.update()``, and are not used.

    Parameters
    ----------
    mdata
        MuData, or objects by the name of their modality; never modified.
    modalities
        Names of those to pair; default all. The first gives the order of the cells.
    layers
        Layer to read by modality; default ``X``.
    name
        How messages name the object.
    keep
        ``"common"``: the cells that all chosen modalities have; ``"first"``: all cells of the
        first, and which of them the others have.

    Returns
    -------
    :class:`PairedCells`; no matrix is copied.

    Raises
    ------
    UsageError
        The object holds no modalities, or other things than cells (E-U07), or not the named ones
        (E-U60).
    InputDataError
        No cell is in all modalities (E-D45), names of cells repeat within one of several
        modalities (E-L15), or a modality has no ``X`` (E-D27).

    Examples
    --------
    >>> import anndata, numpy as np, pandas as pd
    >>> rna = anndata.AnnData(np.eye(3, dtype="float32"), pd.DataFrame(index=["a", "b", "c"]))
    >>> prot = anndata.AnnData(np.eye(2, dtype="float32"), pd.DataFrame(index=["c", "a"]))
    >>> pair_modalities({"rna": rna, "prot": prot}).obs_names.to_list()
    ['a', 'c']
    """
    held = parts_of(mdata, name=name)
    parts = {m: held[m] for m in _chosen(mdata, list(held), modalities, name)}
    sources: dict[str, CellSource] = {
        m: AnnDataSource(part, layer=(layers or {}).get(m), name=f"{name}[{m!r}]")
        for m, part in parts.items()
    }
    return pair_sources(sources, name=name, keep=keep, notes=stale_tables(mdata, name))


def pair_sources(
    sources: Mapping[str, CellSource],
    *,
    name: str = "cells",
    keep: Literal["common", "first"] = "common",
    notes: Sequence[str] = (),
) -> PairedCells:
    """Pair cells of several sources by name, wherever they are; see :func:`pair_modalities`.

    Parameters
    ----------
    sources
        By the name of the modality; the first gives the order of the cells.
    name
        How messages name all of them.
    keep
        Which cells there are.
    notes
        Lines of the report that are known already.

    Raises
    ------
    InputDataError
        No cell is in all modalities (E-D45), or names of cells repeat within one (E-L15).
    """
    names = {m: source.obs_names for m, source in sources.items()}
    obs_names, rows, found = match_cells(names, name, keep=keep)
    paired: dict[str, CellSource] = {
        m: RowsOf(source, rows[m]) if m in rows else source for m, source in sources.items()
    }
    features = {m: tuple(map(str, source.var.index)) for m, source in sources.items()}
    lines = (*notes, *found, *shared_names(features, name))
    for note in lines:
        logger.info("%s", note)
    present = {m: r >= 0 for m, r in rows.items() if (r < 0).any()}
    return PairedCells(obs_names, paired, features, lines, present)


def holds_modalities(data: object) -> bool:
    """Whether an object is MuData, or objects by the name of their modality."""
    return isinstance(getattr(data, "mod", data), Mapping)


def parts_of(data: MuData | Mapping[str, AnnData], *, name: str = "mdata") -> dict[str, AnnData]:
    """Return the modalities of an object by their names.

    Raises
    ------
    UsageError
        E-U07, with the line that makes MuData of what was passed.
    """
    if not holds_modalities(data):
        raise UsageError(
            "E-U07",
            f"modalities cannot be read from a {type(data).__name__}",
            why="MuData, or objects by the name of their modality, are expected",
            fix=_conversion(data),
        )
    held = dict(getattr(data, "mod", data))
    wrong = [f"{m} is a {type(p).__name__}" for m, p in held.items() if not _is_cells(p)]
    if wrong or not held:
        raise UsageError(
            "E-U07",
            "modalities that are no objects of cells" if wrong else "there are no modalities",
            where=name,
            count=len(wrong) if wrong else None,
            total=len(held) if wrong else None,
            examples=wrong,
            fix='mudata.MuData({"rna": adata, "prot": proteins})',
        )
    return held


def _is_cells(part: object) -> bool:
    return not modalities_of(part) and hasattr(part, "obs_names") and hasattr(part, "layers")


def _conversion(data: object) -> str:
    """Return the line that makes MuData of what was passed."""
    if isinstance(data, str) or hasattr(data, "__fspath__"):
        return "episome.data.read_any(path)"
    if _is_cells(data):
        for line in (_split_by_type(data), _split_off_table(data)):
            if line:
                return line
    return 'mudata.MuData({"rna": adata, "prot": proteins})'


def _split_by_type(adata: AnnData) -> str:
    """Return the line for features of several kinds in one matrix, as 10x writes them."""
    for column in TYPE_COLUMNS:
        types = sorted(set(adata.var[column].astype(str))) if column in adata.var else []
        if len(types) > 1 and GENE_EXPRESSION in types:
            parts = [
                f'"{SHORT.get(TYPES.get(t, "other"), t)}": '
                f'adata[:, adata.var["{column}"] == "{t}"].copy()'
                for t in sorted(types, key=lambda t: t != GENE_EXPRESSION)
            ]
            return f"mudata.MuData({{{', '.join(parts)}}})"
    return ""


def _split_off_table(adata: AnnData) -> str:
    """Return the line for a second modality that lies in ``obsm``."""
    for key in adata.obsm:
        kind = kind_by_word(str(key))
        if kind in {"protein", "atac"}:
            second = f'anndata.AnnData(adata.obsm["{key}"], obs=adata.obs[[]])'
            return f'mudata.MuData({{"rna": adata, "{SHORT[kind]}": {second}}})'
    return ""


def _chosen(
    mdata: object, held: list[str], wanted: Sequence[str] | None, name: str
) -> tuple[str, ...]:
    """Return the names of the wanted modalities, each once; refuse those that are not held."""
    names = held if wanted is None else [wanted] if isinstance(wanted, str) else list(wanted)
    where = f"{name}.mod" if hasattr(mdata, "mod") else name
    if not names:
        raise UsageError(
            "E-U60", "no modality is named", why=_listed(held), fix=f"modalities={held!r}"
        )
    missing = [m for m in names if m not in held]
    closest = {m: _near(m, [h for h in held if h not in names]) for m in missing}
    fixed = [closest.get(m, m) for m in names]
    fix = f"modalities={fixed!r}" if all(fixed) else "pass modalities= with names that are there"
    problems = [
        Problem("E-U60", f"modality {m!r} is missing", where, why=_listed(held), fix=fix)
        for m in missing
    ]
    raise_problems(UsageError, problems)
    return tuple(dict.fromkeys(names))


def _listed(held: Iterable[str]) -> str:
    return f"the modalities are {', '.join(held)}"


def _near(wanted: str, held: list[str]) -> str:
    """Return the name that may be meant: one written alike, else the only one of the kind."""
    folded = {str(h).casefold(): h for h in held}
    found = get_close_matches(str(wanted).casefold(), folded, n=1)
    if found:
        return folded[found[0]]
    kind = kind_by_word(str(wanted))
    alike = [h for h in held if kind not in {None, "other"} and kind_by_word(h) == kind]
    return alike[0] if len(alike) == 1 else ""
