"""`ManyCells`: several files of cells as one source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import pandas as pd
from scipy import sparse

from episome.data._gene_union import join_genes
from episome.data._many_parts import Opener, Parts, facts_of
from episome.data._panels import GenePanels
from episome.errors import InputDataError, UsageError, did_you_mean

if TYPE_CHECKING:
    from anndata import AnnData

    from episome.data._matrix import Rows
    from episome.data._source import CellSource

_T = TypeVar("_T")


class ManyCells:
    """Several sets of cells as one: genes aligned, cells one after the other.

    Parameters
    ----------
    data
        Paths (h5ad and zarr stay on disk), AnnData objects and sources, in the order of the cells.
    join
        ``"outer"`` keeps every gene, and counts it as zero in files that lack it; ``"inner"``
        keeps the genes that all files have.
    layer, use_raw
        Where the values of paths and objects are; ``use_raw="auto"`` looks in each of them.
    duplicates
        ``"sum"`` adds up genes of one name in one file.
    min_gene_overlap
        Smallest accepted share of genes that a file shares with those before it.
    opener
        Opens a path instead of ``read_cells(path, backed=True)``.

    Attributes
    ----------
    notes
        Lines of the input report: which files lack genes, which cells got another name.
    in_memory
        Whether no file is read.

    Raises
    ------
    UsageError
        There is nothing (E-U85), something that is no cells (E-U07), or another word for ``join``
        (E-U30).
    GeneMatchError
        Files share too few genes (E-G25).
    InputDataError
        Some files hold counts and others log values (E-D54), or one cannot be used.

    Examples
    --------
    >>> cells = ManyCells(["lung.h5ad", "blood.h5ad"])  # doctest: +SKIP
    """

    def __init__(
        self,
        data: Sequence[str | Path | AnnData | CellSource],
        *,
        join: Literal["inner", "outer"] = "outer",
        layer: str | None = None,
        use_raw: bool | Literal["auto"] = False,
        duplicates: Literal["error", "sum"] = "error",
        min_gene_overlap: float = 0.5,
        opener: Opener | None = None,
    ) -> None:
        if join not in {"inner", "outer"}:
            raise UsageError("E-U30", f"join={join!r}", fix='use one of "inner", "outer"')
        if not len(data):
            raise UsageError("E-U85", "there are no cells to join", fix="pass one file or more")
        self._parts = Parts(data, layer, use_raw=use_raw, opener=opener)
        facts = [facts_of(self._parts[i]) for i in range(len(data))]
        self._places = [f.where for f in facts]
        _require_one_kind([f.kind for f in facts], self._places)
        self._facts = facts
        self._starts = np.concatenate([[0], np.cumsum([f.n_obs for f in facts])]).astype(np.int64)
        genes = join_genes(
            [(f.var, f.where) for f in facts],
            join=join,
            duplicates=duplicates,
            min_gene_overlap=min_gene_overlap,
        )
        self._alignments, self._var = genes.alignments, genes.var
        self._obs_names, renamed = _unique_names([f.obs_names for f in facts], self._parts.stems)
        self.notes: tuple[str, ...] = (*genes.notes, *renamed)
        self.in_memory = all(f.in_memory for f in facts)
        for fact in facts:
            # The joined tables hold all of it.
            fact.obs_names, fact.var = pd.Index([]), pd.DataFrame()

    def __len__(self) -> int:
        return len(self._facts)

    def __repr__(self) -> str:
        return f"ManyCells: {self.n_obs:,} cells, {self.n_vars:,} genes of {self.where}"

    @property
    def n_obs(self) -> int:
        return int(self._starts[-1])

    @property
    def n_vars(self) -> int:
        return len(self._var)

    @property
    def obs_names(self) -> pd.Index:
        return self._obs_names

    @property
    def var(self) -> pd.DataFrame:
        return self._var

    @property
    def where(self) -> str:
        shown = ", ".join(self._places[:3]) + (", ..." if len(self) > 3 else "")
        return f"{len(self):,} files ({shown})" if len(self) > 1 else shown

    @property
    def name(self) -> str:
        """How messages name the cells, wherever their values are."""
        return f"{len(self):,} files" if len(self) > 1 else self.where

    @property
    def dtype(self) -> str:
        """Type of the stored values, where it is the same in all files."""
        return _common([f.dtype for f in self._facts], "float32")

    @property
    def layer(self) -> str | None:
        """Layer that is read, where it is the same in all files."""
        return _common([f.layer for f in self._facts], None)

    @property
    def use_raw(self) -> bool:
        """Whether ``raw`` is read in all files."""
        return _common([f.use_raw for f in self._facts], default=False)

    @property
    def obs_columns(self) -> list[str]:
        """Names of the columns that every cell table has, where all sources list them."""
        first, *rest = (f.columns for f in self._facts)
        return [c for c in first if all(c in columns for columns in rest)]

    def obs_column(self, key: str) -> pd.Series:
        """Return one column of all cell tables.

        Raises
        ------
        UsageError
            Some file lacks it (E-U04).
        """
        without = [f.where for f in self._facts if f.lists_columns and key not in f.columns]
        if without:
            raise UsageError(
                "E-U04",
                f"column {key!r} is missing",
                where="the cell tables",
                count=len(without),
                total=len(self),
                examples=without[:3],
                why=f"the columns that all have are {self.obs_columns[:12]}",
                fix=did_you_mean(key, self.obs_columns)
                or "add the column to every file, or pass the name of another",
            )
        parts = [self._parts[i].obs_column(key) for i in range(len(self))]
        return _stacked(parts, self._obs_names, key)

    @property
    def panels(self) -> GenePanels:
        """Which genes each file holds, and the file of every cell."""
        measured = np.zeros((len(self), self.n_vars), dtype=bool)
        for row, alignment in zip(measured, self._alignments, strict=True):
            row[alignment.columns[alignment.columns >= 0]] = True
        return GenePanels(measured, np.repeat(np.arange(len(self)), np.diff(self._starts)))

    def read(self, rows: Rows) -> sparse.csr_matrix:
        """Return the expression of ``rows`` as CSR float32, in the order asked for."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(self.n_obs)
            if step == 1:
                return self._consecutive(start, max(stop, start))
            rows = np.arange(start, stop, step)
        rows = np.asarray(rows, dtype=np.int64)
        file = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(file, kind="stable")
        blocks = []
        for i in np.unique(file):
            wanted = rows[file == i] - self._starts[i]
            blocks.append(self._aligned(int(i), wanted))
        if len(blocks) == 1:
            return blocks[0]
        back = np.empty(len(rows), dtype=np.int64)
        back[order] = np.arange(len(rows))
        return self._stacked_blocks(blocks)[back]

    def _consecutive(self, start: int, stop: int) -> sparse.csr_matrix:
        blocks = []
        for i in range(len(self)):
            first, last = int(self._starts[i]), int(self._starts[i + 1])
            low, high = max(start, first), min(stop, last)
            if low < high:
                blocks.append(self._aligned(i, slice(low - first, high - first)))
        return self._stacked_blocks(blocks)

    def _aligned(self, i: int, rows: Rows) -> sparse.csr_matrix:
        return self._alignments[i].apply(self._parts[i].read(rows))

    def _stacked_blocks(self, blocks: list[sparse.csr_matrix]) -> sparse.csr_matrix:
        if not blocks:
            return sparse.csr_matrix((0, self.n_vars), dtype=np.float32)
        return blocks[0] if len(blocks) == 1 else sparse.vstack(blocks, format="csr")


def _require_one_kind(kinds: Sequence[str], places: Sequence[str]) -> None:
    """Refuse counts beside log values: nothing afterwards could tell which cell has which."""
    logged = [w for k, w in zip(kinds, places, strict=True) if k == "log1p"]
    if not logged or "counts" not in kinds:
        return
    raise InputDataError(
        "E-D54",
        "some files hold counts and others log1p values",
        where="the first cells",
        count=len(logged),
        total=len(kinds),
        examples=logged[:3],
        why="a model would take the difference for biology",
        fix="pass layer= (--layer) or use_raw=True (--use-raw) so that all are counts, or write "
        "the files again",
    )


def _unique_names(
    names: Sequence[pd.Index], stems: Sequence[str]
) -> tuple[pd.Index, tuple[str, ...]]:
    """Put the name of the file before names of cells that several files have, and say so."""
    joined = pd.Index(np.concatenate([np.asarray(n, dtype=object) for n in names]))
    file = np.repeat(np.arange(len(names)), [len(n) for n in names])
    pairs = pd.DataFrame({"name": joined, "file": file}).drop_duplicates()
    shared = pairs.loc[pairs["name"].duplicated(keep=False), "name"]
    if not len(shared):
        return joined, ()
    renamed = joined.isin(shared.unique())
    values = joined.to_numpy(dtype=object, copy=True)
    values[renamed] = [
        f"{stems[f]}:{v}" for f, v in zip(file[renamed], values[renamed], strict=True)
    ]
    note = (
        f"{int(renamed.sum()):,} of {len(joined):,} cells have names that are in several files: "
        f"the file stands before them ({values[renamed][0]})"
    )
    return pd.Index(values), (note,)


def _stacked(parts: Sequence[pd.Series], names: pd.Index, key: str) -> pd.Series:
    if all(isinstance(p.dtype, pd.CategoricalDtype) for p in parts):
        values = pd.api.types.union_categoricals(
            [p.cat.set_categories(p.cat.categories.astype(object)) for p in parts],
            ignore_order=True,
        )
        return pd.Series(values, index=names, name=key)
    same = len({p.dtype for p in parts}) == 1
    plain = parts if same else [p.astype(object) for p in parts]
    joined = pd.concat([p.reset_index(drop=True) for p in plain], ignore_index=True)
    return joined.set_axis(names).rename(key)


def _common(values: Sequence[_T], default: _T) -> _T:
    """Return what all agree on, else the default."""
    return values[0] if all(v == values[0] for v in values) else default
