"""Features of another panel, brought to those that a model predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from episome.data._alignment import FULL_OVERLAP
from episome.data._peaks import MIN_PEAK_OVERLAP, PeakReport, map_peaks, moved
from episome.data._proteins import protein_key
from episome.data._source import ChangedSource
from episome.errors import GeneMatchError, Problem, UsageError, warn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data._matrix import Rows
    from episome.data._source import CellSource


@dataclass(frozen=True, slots=True, eq=False)
class FeatureMatch:
    """A map from the features of another panel to those of a model.

    Parameters
    ----------
    kind
        ``"protein"`` or ``"atac"``.
    names
        Features of the model.
    columns
        For every feature of the other panel its place in the model, or -1; int64 (n_theirs,).
    measured
        Which features of the model the other panel has, bool (n_ours,).
    ambiguous
        Names of the other panel that could be one of several, or are several for one: they are
        left out.
    peaks
        How peaks were mapped; ``None`` for proteins.
    report
        One line for logs and results.
    """

    kind: Literal["protein", "atac"]
    names: tuple[str, ...]
    columns: NDArray[np.int64]
    measured: NDArray[np.bool_]
    report: str
    ambiguous: tuple[str, ...] = ()
    peaks: PeakReport | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        """Features of the model that the other panel lacks."""
        return tuple(self.names[i] for i in np.flatnonzero(~self.measured))

    @property
    def share(self) -> float:
        """Share of the model's features that the other panel has."""
        return float(self.measured.mean()) if len(self.names) else 0.0

    def apply(
        self, block: sparse.spmatrix, *, missing: Literal["auto", "nan", "zero"] = "auto"
    ) -> sparse.csr_matrix:
        """Return values of the model's features.

        Parameters
        ----------
        block
            Measured values of the other panel, before any scaling; not modified. Counts of peaks
            that become one are added up.
        missing
            What stands where nothing was measured: ``"nan"``, or ``"zero"`` where the caller looks
            at ``measured``. ``"auto"`` is NaN for proteins and zero for peaks, of which there may
            be a hundred thousand.

        Returns
        -------
        CSR float32 (n_cells, n_ours).

        Raises
        ------
        UsageError
            Another number of features (E-U41), or another word (E-U30).
        """
        if missing not in {"auto", "nan", "zero"}:
            raise UsageError("E-U30", f"missing={missing!r}", fix='use "auto", "nan" or "zero"')
        values = moved(block, self.columns, len(self.names))
        absent = np.flatnonzero(~self.measured)
        filled = missing == "nan" or (missing == "auto" and self.kind == "protein")
        if not filled or not len(absent):
            return values
        n = values.shape[0]
        nan = np.full(n * len(absent), np.nan, dtype=np.float32)
        ends = np.arange(n + 1) * len(absent)
        return values + sparse.csr_matrix((nan, np.tile(absent, n), ends), shape=values.shape)


class MatchedSource(ChangedSource):
    """Another source, with the features of a model.

    Parameters
    ----------
    source
        Measured values of the other panel, before any scaling; it stays as it is.
    match
        Of its features.
    missing
        See :meth:`FeatureMatch.apply`.
    """

    def __init__(
        self,
        source: CellSource,
        match: FeatureMatch,
        *,
        missing: Literal["auto", "nan", "zero"] = "auto",
    ) -> None:
        super().__init__(source)
        self._match, self._missing = match, missing
        self._var = pd.DataFrame(index=list(match.names))

    @property
    def n_vars(self) -> int:
        return len(self._match.names)

    @property
    def var(self) -> pd.DataFrame:
        return self._var

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines of the input report."""
        return (*getattr(self._source, "notes", ()), self._match.report)

    def read(self, rows: Rows) -> sparse.csr_matrix:
        """Return the values of ``rows`` as CSR float32, in the order asked for."""
        return self._match.apply(self._source.read(rows), missing=self._missing)


def match_features(
    kind: Literal["protein", "atac"],
    ours: Sequence[str],
    theirs: Sequence[str],
    *,
    min_overlap: float | None = None,
    where: str = "the data",
) -> FeatureMatch:
    """Find the features that a model predicts among those of another panel.

    Proteins are matched by their names, exactly or without the suffix of a kit, case and marks
    between words, where that leaves one on either side. Peaks are matched by overlap.

    Parameters
    ----------
    kind
        What the features are.
    ours, theirs
        Names of the model's features, and of the other panel's.
    min_overlap
        Smallest accepted share of the model's features. Default 0.3 for peaks, and one protein.
    where
        How messages name the other panel.

    Returns
    -------
    :class:`FeatureMatch`. What is missing is not measured, and never zero.

    Raises
    ------
    GeneMatchError
        Too few are found (E-G31).
    InputDataError
        Names of peaks that are no places (E-G32).
    UsageError
        Another kind (E-U30).

    Examples
    --------
    >>> found = match_features("protein", ["CD3", "CD4"], ["cd3_TotalSeqB", "CD8"])
    >>> found.columns.tolist(), found.missing
    ([0, -1], ('CD4',))
    """
    names = tuple(str(n) for n in ours)
    if kind == "atac":
        limit = MIN_PEAK_OVERLAP if min_overlap is None else min_overlap
        found = map_peaks(names, theirs, min_overlap=limit, where=where)
        report = found.report
        match = FeatureMatch(kind, names, found.columns, found.measured, report.text, peaks=report)
    elif kind == "protein":
        match = _match_proteins(names, [str(n) for n in theirs], min_overlap or 0.0, where)
    else:
        raise UsageError(
            "E-U30", f"features of kind {kind!r} cannot be matched", fix='use "protein" or "atac"'
        )
    if match.share < FULL_OVERLAP:
        warn(_few(match, where))
    return match


def _few(match: FeatureMatch, where: str) -> Problem:
    return Problem(
        "E-G33",
        f"{_WORDS[match.kind]} that the model predicts are missing",
        where,
        len(match.missing),
        len(match.names),
        match.missing[:3],
        "nothing was measured to compare predictions of them with: they take no part",
        "measure them, or read scores as those of the others",
    )


_WORDS = {"protein": "proteins", "atac": "peaks"}


def _match_proteins(
    ours: tuple[str, ...], theirs: list[str], min_overlap: float, where: str
) -> FeatureMatch:
    columns = np.full(len(theirs), -1, dtype=np.int64)
    keys, their_keys = ([protein_key(n) for n in names] for names in (ours, theirs))
    _join([n.strip() for n in ours], [n.strip() for n in theirs], columns)
    _join(keys, their_keys, columns)
    measured = np.zeros(len(ours), dtype=bool)
    measured[columns[columns >= 0]] = True
    open_keys = {k for k, found in zip(keys, measured, strict=True) if not found}
    ambiguous = tuple(
        n
        for n, k, place in zip(theirs, their_keys, columns, strict=True)
        if place < 0 and k in open_keys
    )
    n_found, n_extra = int(measured.sum()), int((columns < 0).sum())
    if n_found == 0 or n_found < min_overlap * len(ours):
        raise GeneMatchError(
            "E-G31",
            "too few of the model's proteins are found by name",
            where=where,
            count=n_found,
            total=len(ours),
            why=f"the model knows {', '.join(ours[:3])}, the data has {', '.join(theirs[:3])}",
            fix="name the proteins as the model does"
            + (f", or lower min_overlap (now {min_overlap:g})" if n_found else ""),
        )
    text = f"{n_found:,} of the model's {len(ours):,} proteins are in {where}"
    if n_found < len(ours):
        absent = [n for n, m in zip(ours, measured, strict=True) if not m]
        text += f"; {len(absent):,} were not measured: {_some(absent)}"
    if ambiguous:
        text += f"; left out as more than one could be meant: {_some(ambiguous)}"
    if n_extra > len(ambiguous):
        text += f"; {n_extra - len(ambiguous):,} proteins unknown to the model are left out"
    return FeatureMatch("protein", ours, columns, measured, text, ambiguous)


def _join(ours: Sequence[str], theirs: Sequence[str], columns: NDArray[np.int64]) -> None:
    """Fill in places of names that stand once on either side, where none was found before."""
    index, others = pd.Index(ours), pd.Index(theirs)
    once = index[~index.duplicated(keep=False) & (index != "")]
    places = index.get_indexer_for(once)
    where = dict(zip(once, places, strict=True))
    single = ~others.duplicated(keep=False)
    taken = set(columns[columns >= 0].tolist())
    for i in np.flatnonzero(single & (columns < 0)).tolist():
        place = where.get(theirs[i], -1)
        if place not in taken:
            columns[i] = place


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
