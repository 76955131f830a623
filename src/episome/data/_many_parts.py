"""The files that `ManyCells` joins: which are open, and what is kept of the others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import pandas as pd

from episome.data._own_sources import own_source
from episome.data._prepared import in_memory
from episome.data._read import read_cells
from episome.data._source import AnnDataSource, CellSource
from episome.data._values import inspect_values
from episome.errors import UsageError

if TYPE_CHECKING:
    from anndata import AnnData

#: Files that are held open; others are opened again when they are needed.
MAX_OPEN = 32
#: First cells of a file that say what its values are.
_HEAD = 64

Opener: TypeAlias = Callable[[Path], AnnDataSource]


@dataclass(slots=True)
class Facts:
    """What is kept of a file that need not stay open."""

    n_obs: int
    obs_names: pd.Index
    var: pd.DataFrame
    where: str
    layer: str | None
    use_raw: bool
    columns: list[str]
    lists_columns: bool
    dtype: str
    in_memory: bool
    kind: str


def facts_of(source: CellSource) -> Facts:
    columns = getattr(source, "obs_columns", None)
    return Facts(
        source.n_obs,
        source.obs_names,
        source.var,
        source.where,
        getattr(source, "layer", None),
        bool(getattr(source, "use_raw", False)),
        list(columns or ()),
        columns is not None,
        str(getattr(source, "dtype", "float32")),
        in_memory(source),
        _kind(source),
    )


class Parts:
    """Sources by their number; of those that are files only some are open."""

    def __init__(
        self,
        data: Sequence[str | Path | AnnData | CellSource],
        layer: str | None,
        *,
        use_raw: bool | Literal["auto"],
        opener: Opener | None,
    ) -> None:
        self._layer, self._use_raw, self._opener = layer, use_raw, opener
        self._paths = [Path(one) if isinstance(one, str | Path) else None for one in data]
        self._held: dict[int, CellSource] = {
            i: self._object(i, one)
            for i, one in enumerate(data)
            if not isinstance(one, str | Path)
        }
        self._open: OrderedDict[int, CellSource] = OrderedDict()
        self._slots: dict[int, tuple[str | None, bool]] = {}

    @property
    def stems(self) -> list[str]:
        """Name of every part, for names of cells: of files without their ending."""
        stems = [f"part{i + 1}" if p is None else p.stem for i, p in enumerate(self._paths)]
        twice = pd.Index(stems).duplicated(keep=False)
        return [
            f"{s}.{i + 1}" if t else s for i, (s, t) in enumerate(zip(stems, twice, strict=True))
        ]

    def _object(self, i: int, one: AnnData | CellSource) -> CellSource:
        if isinstance(one, CellSource):
            return one
        if hasattr(one, "n_obs") and hasattr(one, "layers") and not hasattr(one, "mod"):
            return AnnDataSource(
                one, layer=self._layer, use_raw=self._use_raw, name=f"part {i + 1}"
            )
        raise UsageError(
            "E-U07",
            f"cells cannot be read from a {type(one).__name__}",
            where=f"part {i + 1}",
            why="a path, an AnnData object or a CellSource is expected",
            fix="pass one of these",
        )

    def __getitem__(self, i: int) -> CellSource:
        if i in self._held:
            return self._held[i]
        if i in self._open:
            self._open.move_to_end(i)
            return self._open[i]
        while len(self._open) >= MAX_OPEN:
            _, oldest = self._open.popitem(last=False)
            if isinstance(oldest, AnnDataSource) and oldest.adata.isbacked:
                oldest.adata.file.close()
        self._open[i] = self._opened(i)
        return self._open[i]

    def _opened(self, i: int) -> CellSource:
        path = self._paths[i]
        assert path is not None
        if (own := own_source(path, layer=self._layer, use_raw=self._use_raw)) is not None:
            return own
        if i not in self._slots and self._opener is not None:
            source = self._opener(path)
        else:
            # What was found at first is what is read from now on.
            layer, use_raw = self._slots.get(i, (self._layer, self._use_raw))
            source = AnnDataSource(
                read_cells(path, backed=True), layer=layer, use_raw=use_raw, name=path.name
            )
        self._slots[i] = source.layer, source.use_raw
        return source


class _Head:
    """The first cells of a source."""

    def __init__(self, source: CellSource) -> None:
        self.n_obs, self.n_vars = min(_HEAD, source.n_obs), source.n_vars
        self.obs_names, self.var, self.where = source.obs_names, source.var, source.where
        self.obs_column, self.read = source.obs_column, source.read


def _kind(source: CellSource) -> str:
    """Tell what the first cells hold: ``"counts"``, ``"log1p"``, or nothing that says it."""
    kind = inspect_values(_Head(source)).kind
    return {"fractional": "counts"}.get(kind, kind)
