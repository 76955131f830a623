"""Calls of more cells than are kept at once: parts on disk, which a stopped run goes on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from episome.io import ensure_free, write_file
from episome.log import get_logger

if TYPE_CHECKING:
    from episome.data import Query
    from episome.inference import CallLimits, Predictor

logger = get_logger(__name__)

#: Cells of a part, whole batches of the default size; with more cells than these the calls are
#: never in memory together.
PART = 49 * 1024
_PLAN = "plan.json"
_FORMAT = 1


@dataclass(frozen=True)
class CallParts:
    """The calls of a file in parts of :data:`PART` cells, in a folder beside the output.

    Parameters
    ----------
    output
        File that is being made; the folder has its name and ``.parts``.
    key
        Digest of everything that decides the calls: parts of another run are thrown away.
    n_obs
        Number of cells.
    """

    output: Path
    key: str
    n_obs: int

    @property
    def folder(self) -> Path:
        """Where the parts are until the output is complete."""
        return self.output.with_name(f"{self.output.name}.parts")

    def open(self) -> int:
        """Find what an earlier run left, and return how many cells are called already."""
        plan = {"format": _FORMAT, "key": self.key, "n_obs": self.n_obs, "part": PART}
        if self._plan() != plan:
            if self.folder.exists():
                logger.info("%s is of another run: its parts are made anew", self.folder)
                self.remove()
            ensure_free(self.output, overwrite=True)
            self.folder.mkdir()
            write_file(self.folder / _PLAN, json.dumps(plan).encode())
        done = 0
        while done < self.n_obs and self._part(done).exists():
            done = min(done + PART, self.n_obs)
        if done:
            logger.info("%d of %d cells are called already: going on", done, self.n_obs)
        return done

    def make(
        self,
        predictor: Predictor,
        query: Query,
        *,
        limits: CallLimits,
        batch_size: int | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Call the cells that are not called yet; every part is on disk before the next."""
        for start in range(self.open(), self.n_obs, PART):
            stop = min(start + PART, self.n_obs)
            found, done = [], start
            rows = np.arange(start, stop)
            for part in predictor.calls(query, rows=rows, batch_size=batch_size, limits=limits):
                found.append(part)
                done += len(part)
                if progress is not None:
                    progress(done, self.n_obs)
            write_file(self._part(start), pd.concat(found).to_parquet)

    def frames(self, columns: list[str] | None = None) -> Iterator[pd.DataFrame]:
        """Yield the parts in the order of the cells; chosen columns come without the names."""
        for start in range(0, self.n_obs, PART):
            yield pd.read_parquet(self._part(start), columns=columns)

    def counts(self, column: str) -> pd.Series:
        """Return how often every value of a column occurs, the commonest first."""
        parts = [frame[column].value_counts() for frame in self.frames([column])]
        total = pd.concat(parts).groupby(level=0).sum()
        return total.sort_values(ascending=False, kind="stable")

    def remove(self) -> None:
        """Throw the parts away."""
        shutil.rmtree(self.folder)

    def _part(self, start: int) -> Path:
        return self.folder / f"{start:012d}.parquet"

    def _plan(self) -> object:
        try:
            return json.loads((self.folder / _PLAN).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # no such folder, or none of ours
            return None
