"""What is counted of calls, part by part: no more than a few numbers of a cell are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome.ontology import level_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Bins of a histogram from 0 to 1, and columns that have one.
BINS = 20
SCALES = ("confidence", "novelty")


@dataclass(slots=True, eq=False)
class CallSummary:
    """Counts over a table of calls.

    Parameters
    ----------
    keep
        Keep the label, confidence and novelty of every cell, 12 bytes, for a map of the cells.
    """

    keep: bool = False
    n_obs: int = 0
    _labels: dict[str, int] = field(default_factory=dict)
    _terms: dict[str, str] = field(default_factory=dict)
    _sums: dict[str, float] = field(default_factory=dict)
    _sized: dict[str, int] = field(default_factory=dict)
    _n: dict[str, int] = field(default_factory=dict)
    _status: dict[str, int] = field(default_factory=dict)
    _bins: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    _codes: list[NDArray[np.int32]] = field(default_factory=list)
    _values: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)

    @classmethod
    def of(cls, calls: pd.DataFrame, *, keep: bool = False) -> CallSummary:
        """Return the counts of one table."""
        found = cls(keep)
        found.add(calls)
        return found

    def add(self, calls: pd.DataFrame) -> None:
        """Count more cells.

        Parameters
        ----------
        calls
            Columns of calls without a prefix; ``label`` at least.
        """
        self.n_obs += len(calls)
        labels = calls["label"].astype(str).to_numpy(dtype=object)
        codes, names = pd.factorize(labels)
        names = [str(n) for n in names]
        for name in names:
            self._labels.setdefault(name, len(self._labels))
        n = np.bincount(codes, minlength=len(names))
        sure = _numbers(calls, "confidence")
        if "label_confidence" in calls:
            # Of a label that was rolled up; ``confidence`` is that of ``label_raw``.
            reached = _numbers(calls, "label_confidence")
            sure = np.where(np.isfinite(reached), reached, sure)
        known = np.isfinite(sure)
        sums = np.bincount(codes[known], weights=sure[known], minlength=len(names))
        sized = np.bincount(codes[known], minlength=len(names))
        for i, name in enumerate(names):
            self._n[name] = self._n.get(name, 0) + int(n[i])
            self._sums[name] = self._sums.get(name, 0.0) + float(sums[i])
            self._sized[name] = self._sized.get(name, 0) + int(sized[i])
        self._add_terms(calls, codes, names)
        if "status" in calls:
            for value, k in calls["status"].astype(str).value_counts().items():
                self._status[str(value)] = self._status.get(str(value), 0) + int(k)
        for scale in SCALES:
            values = _numbers(calls, scale)
            good = values[np.isfinite(values)].clip(0.0, 1.0)
            counts = np.histogram(good, BINS, (0.0, 1.0))[0]
            self._bins[scale] = self._bins.get(scale, 0) + counts
            if self.keep:
                self._values.setdefault(scale, []).append(values.astype(np.float32))
        if self.keep:
            places = np.array([self._labels[n] for n in names], dtype=np.int32)
            self._codes.append(places[codes])

    def _add_terms(self, calls: pd.DataFrame, codes: NDArray[np.int64], names: list[str]) -> None:
        if "label_ontology_term_id" not in calls:
            return
        first = np.unique(codes, return_index=True)
        column = calls["label_ontology_term_id"]
        for code, at in zip(*first, strict=True):
            term = column.iloc[int(at)]
            self._terms.setdefault(names[code], term if isinstance(term, str) else "")

    @property
    def terms(self) -> dict[str, str]:
        """Identifier of the term of every label, empty where it has none."""
        return {name: self._terms.get(name, "") for name in self._labels}

    def labels(self) -> pd.Categorical:
        """Return the label of every cell, where they are kept."""
        codes = np.concatenate(self._codes) if self._codes else np.empty(0, dtype=np.int32)
        return pd.Categorical.from_codes(codes, categories=list(self._labels))

    def values(self, scale: str) -> NDArray[np.float32]:
        """Return the confidence or novelty of every cell, where they are kept."""
        parts = self._values.get(scale, [])
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)

    def table(self) -> list[dict[str, Any]]:
        """Return every label with its term, its cells and their mean confidence."""
        order = sorted(self._n, key=lambda name: -self._n[name])
        return [
            {
                "label": name,
                "term": self._terms.get(name, ""),
                "n": self._n[name],
                "confidence": (
                    round(self._sums[name] / self._sized[name], 3) if self._sized[name] else None
                ),
            }
            for name in order
        ]

    def status(self) -> dict[str, int]:
        """Return how many cells have each status, the commonest first."""
        return dict(sorted(self._status.items(), key=lambda pair: -pair[1]))

    def histogram(self, scale: str) -> list[int]:
        """Return the numbers of cells in 20 bins of confidence or novelty from 0 to 1."""
        return [int(n) for n in self._bins.get(scale, np.zeros(BINS, dtype=int))]

    def levels(self) -> list[dict[str, str]]:
        """Return the broader type of every label, by level of the Cell Ontology."""
        return level_names(self.terms)

    def facts(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "n_obs": self.n_obs,
            "labels": self.table(),
            "status": self.status(),
            "levels": self.levels(),
            "histograms": {scale: self.histogram(scale) for scale in SCALES},
        }


def _numbers(calls: pd.DataFrame, name: str) -> NDArray[np.float64]:
    if name not in calls:
        return np.full(len(calls), np.nan)
    values = pd.to_numeric(calls[name], errors="coerce")
    found: NDArray[np.float64] = values.to_numpy(dtype=np.float64, na_value=np.nan)
    return found
