"""Peaks of chromatin: read from their names, and mapped from one study to another by overlap."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from episome.data._builds import possible_builds, said_of_builds
from episome.data._compiled import compiled
from episome.data._matrix import move_columns, to_csr_block
from episome.errors import GeneMatchError, InputDataError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

#: Share of the model's peaks below which those of another study are refused.
MIN_PEAK_OVERLAP = 0.3

_PLACE = re.compile(r"^(.+)[:_-](\d[\d,]{0,15})[_-](\d[\d,]{0,15})$")
#: More bases than any chromosome has; positions on all of them stand in one line.
_SPAN = 1 << 42


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    """Places in a genome.

    Parameters
    ----------
    names
        As they were given.
    chromosomes
        Every chromosome once, in small letters and without ``chr``.
    codes
        Chromosome of every peak, int64 (n,).
    starts, ends
        First base, and the one behind the last, int64 (n,).
    """

    names: tuple[str, ...]
    chromosomes: tuple[str, ...]
    codes: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def builds(self) -> tuple[str, ...]:
        """Builds of human and mouse in which the peaks can be: hg19, hg38, mm10, mm39."""
        return possible_builds(self.chromosomes, self.codes, self.ends)


def read_peaks(names: Sequence[object], *, where: str = "the names of peaks") -> Peaks:
    """Read where peaks are from their names.

    Parameters
    ----------
    names
        ``chr1:100-200``, ``chr1_100_200`` or ``chr1-100-200``, with or without ``chr``.
    where
        How messages name the list.

    Raises
    ------
    InputDataError
        Names that are no places, or places without a base (E-G32).

    Examples
    --------
    >>> peaks = read_peaks(["chr1:100-200", "X_5_10"])
    >>> peaks.chromosomes, peaks.starts.tolist(), peaks.ends.tolist()
    (('1', 'x'), [100, 5], [200, 10])
    """
    given = [str(n).strip() for n in names]
    n = len(given)
    codes, starts, ends = (np.zeros(n, dtype=np.int64) for _ in range(3))
    known: dict[str, int] = {}
    wrong = []
    for i, name in enumerate(given):
        found = _PLACE.match(name)
        if found is not None:
            starts[i], ends[i] = (int(found[k].replace(",", "")) for k in (2, 3))
            codes[i] = known.setdefault(_chromosome(found[1]), len(known))
        if found is None or starts[i] >= ends[i] or ends[i] >= _SPAN:
            wrong.append(name)
    if wrong:
        raise InputDataError(
            "E-G32",
            "names that are no places in a genome",
            where=where,
            count=len(wrong),
            total=n,
            examples=wrong[:3],
            why="peaks of two studies are matched by where they are",
            fix="name them by chromosome, start and end, such as chr1:100-200",
        )
    return Peaks(tuple(given), tuple(known), codes, starts, ends)


def _chromosome(name: str) -> str:
    """Return a chromosome as both ways of naming write it."""
    folded = name.casefold()
    short = folded.removeprefix("chr") or folded
    return "m" if short == "mt" else short


@dataclass(frozen=True, slots=True)
class PeakReport:
    """How peaks of another study met those of a model.

    Parameters
    ----------
    n_ours, n_theirs
        Peaks of the model and of the other study.
    n_measured
        Peaks of the model that get counts; ``n_exact`` of them from the very same peak,
        ``n_split`` from several.
    n_merged
        Peaks of the other study that overlap several of the model.
    n_taken
        Peaks of the model that are overlapped only by peaks whose counts another one gets: as
        their share is not known, they count as not measured.
    n_missing
        Peaks of the model that none overlaps.
    n_left_out
        Peaks of the other study that overlap none of the model.
    builds, their_builds
        Builds of the genome in which the peaks of each can be.
    """

    n_ours: int
    n_theirs: int
    n_measured: int
    n_exact: int
    n_split: int
    n_merged: int
    n_taken: int
    n_missing: int
    n_left_out: int
    builds: tuple[str, ...]
    their_builds: tuple[str, ...]

    @property
    def n_overlapped(self) -> int:
        """Peaks of the model that get counts of peaks with other ends."""
        return self.n_measured - self.n_exact

    @property
    def share(self) -> float:
        """Share of the model's peaks that get counts."""
        return self.n_measured / max(self.n_ours, 1)

    @property
    def text(self) -> str:
        """One line for logs and results."""
        facts = [
            (self.n_exact, "are the same"),
            (self.n_overlapped, "have other ends"),
            (self.n_split, "add up several peaks"),
            (self.n_missing, "were not measured"),
            (
                self.n_taken,
                "count as not measured, as a neighbour gets the counts of the peak",
            ),
            (self.n_merged, "peaks of the data overlap several and go to one"),
            (self.n_left_out, "peaks of the data are left out"),
        ]
        return (
            f"{self.n_measured:,} of the model's {self.n_ours:,} peaks are found by overlap "
            f"({self.share:.1%})" + "".join(f"; {n:,} {what}" for n, what in facts if n)
        )


@dataclass(frozen=True, slots=True, eq=False)
class PeakMap:
    """A map from the peaks of another study to those of a model.

    Parameters
    ----------
    columns
        For every peak of the other study the model's peak that gets its counts, or -1; int64
        (n_theirs,).
    measured
        Which peaks of the model get counts, bool (n_ours,).
    report
        What was found.
    """

    columns: NDArray[np.int64]
    measured: NDArray[np.bool_]
    report: PeakReport

    def sources_of(self, peak: int) -> NDArray[np.int64]:
        """Return the peaks of the other study whose counts a peak of the model gets.

        Parameters
        ----------
        peak
            Its position.
        """
        return np.flatnonzero(self.columns == peak)

    def apply(self, counts: sparse.spmatrix) -> sparse.csr_matrix:
        """Return counts of the model's peaks: sums of those that overlap them.

        Parameters
        ----------
        counts
            (n_cells, n_theirs), before any scaling; not modified.

        Returns
        -------
        CSR float32 (n_cells, n_ours). Peaks that were not ``measured`` have no values, which is
        not a zero that was seen.

        Raises
        ------
        UsageError
            Another number of peaks (E-U41).
        """
        return moved(counts, self.columns, len(self.measured))


def moved(
    block: sparse.spmatrix, columns: NDArray[np.int64], n_features: int
) -> sparse.csr_matrix:
    """Return a block with its columns at other places, those of one place added up.

    Raises
    ------
    UsageError
        Another number of columns (E-U41).
    """
    values = to_csr_block(block)
    if values.shape[1] != len(columns):
        raise UsageError(
            "E-U41",
            f"the values have {values.shape[1]:,} features, and {len(columns):,} were matched",
            fix="pass all features of the data, in their order",
        )
    return move_columns(values, columns, n_features)


def map_peaks(
    ours: Peaks | Sequence[object],
    theirs: Peaks | Sequence[object],
    *,
    min_overlap: float = MIN_PEAK_OVERLAP,
    where: str = "the data",
) -> PeakMap:
    """Map the peaks of another study to those of a model by overlap.

    Parameters
    ----------
    ours, theirs
        Peaks of the model and of the other study, or their names.
    min_overlap
        Smallest accepted share of the model's peaks that get counts.
    where
        How messages name the other study.

    Returns
    -------
    :class:`PeakMap`. A peak that overlaps several of the model's goes to the one with which it
    shares most bases, the first of those with equally many.

    Raises
    ------
    GeneMatchError
        Too few peaks overlap (E-G31); the message says which builds of the genome both can be of.
    InputDataError
        Names that are no places (E-G32).

    Examples
    --------
    >>> found = map_peaks(["chr1:0-100", "chr1:200-300"], ["1:50-90", "1:95-120", "2:5-9"])
    >>> found.columns.tolist(), found.measured.tolist()
    ([0, 0, -1], [True, False])
    """
    ours = ours if isinstance(ours, Peaks) else read_peaks(ours, where="the model's peaks")
    theirs = theirs if isinstance(theirs, Peaks) else read_peaks(theirs, where=where)
    columns, n_of_theirs, n_of_ours = _overlaps(ours, theirs)
    got = np.bincount(columns[columns >= 0], minlength=len(ours))
    given = np.flatnonzero(columns >= 0)
    here = columns[given]
    same = (ours.starts[here] == theirs.starts[given]) & (ours.ends[here] == theirs.ends[given])
    report = PeakReport(
        n_ours=len(ours),
        n_theirs=len(theirs),
        n_measured=int((got > 0).sum()),
        n_exact=len(np.unique(here[same])),
        n_split=int((got > 1).sum()),
        n_merged=int((n_of_theirs > 1).sum()),
        n_taken=int(((n_of_ours > 0) & (got == 0)).sum()),
        n_missing=int((n_of_ours == 0).sum()),
        n_left_out=int((columns < 0).sum()),
        builds=ours.builds,
        their_builds=theirs.builds,
    )
    if report.share < min_overlap:
        raise _too_few(report, ours, theirs, min_overlap, where)
    return PeakMap(columns, got > 0, report)


def _too_few(
    report: PeakReport, ours: Peaks, theirs: Peaks, limit: float, where: str
) -> GeneMatchError:
    here, there = (said_of_builds(b) for b in (report.builds, report.their_builds))
    why = f"by their places the model's peaks are of {here}, and these of {there}"
    apart = not set(ours.chromosomes) & set(theirs.chromosomes)
    if apart:
        shown = [", ".join(p.chromosomes[:3]) for p in (ours, theirs)]
        why += f"; no chromosome is in both ({shown[0]} against {shown[1]})"
    elif (
        report.builds and report.their_builds and not set(report.builds) & set(report.their_builds)
    ):
        why += ", which are different builds: one place is another piece of DNA"
    return GeneMatchError(
        "E-G31",
        "too few of the model's peaks are found by overlap",
        where=where,
        count=report.n_measured,
        total=report.n_ours,
        why=why,
        fix="count the fragments in the model's peaks, lift the peaks to the model's build, or "
        f"lower min_overlap (now {limit:g})",
        details={"builds": list(report.builds), "their_builds": list(report.their_builds)},
    )


# -- overlaps ------------------------------------------------------------------------------------


def _overlaps(
    ours: Peaks, theirs: Peaks
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return where every peak of theirs goes, and how many each peak of both overlaps.

    Two peaks overlap where one starts inside the other, and each of these is a run of the peaks
    sorted by their starts: the work grows with the overlaps, not with all pairs.
    """
    known = {c: i for i, c in enumerate(dict.fromkeys((*ours.chromosomes, *theirs.chromosomes)))}
    start, end = _in_line(ours, known)
    their_start, their_end = _in_line(theirs, known)
    order, their_order = (np.argsort(s, kind="stable") for s in (start, their_start))
    sorted_start, their_sorted = start[order], their_start[their_order]
    columns = np.full(len(theirs), -1, dtype=np.int64)
    n_of_theirs, n_of_ours = (np.zeros(len(p), dtype=np.int64) for p in (theirs, ours))
    _assign(
        (start, end, their_start, their_end),
        # Ours that start in a peak of theirs, then theirs that start in one of ours, behind it.
        (order, *(np.searchsorted(sorted_start, at) for at in (their_start, their_end))),
        (
            their_order,
            np.searchsorted(their_sorted, start, side="right"),
            np.searchsorted(their_sorted, end),
        ),
        (columns, n_of_theirs, n_of_ours),
    )
    return columns, n_of_theirs, n_of_ours


def _in_line(peaks: Peaks, known: dict[str, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return starts and ends with the chromosomes one behind the other."""
    place = np.array([known[c] for c in peaks.chromosomes], dtype=np.int64)
    before = place[peaks.codes] * _SPAN if len(peaks) else peaks.codes
    return before + peaks.starts, before + peaks.ends


@compiled
def _assign(places: Any, ours_in: Any, theirs_in: Any, out: Any) -> None:
    """Give every peak of theirs to the one of ours with most bases in common, else the first."""
    start, end, their_start, their_end = places
    columns, n_of_theirs, n_of_ours = out
    most = np.zeros(len(columns), dtype=np.int64)
    order, first, last = ours_in
    for t in range(len(columns)):
        for k in range(first[t], last[t]):
            o = order[k]
            n_of_theirs[t] += 1
            n_of_ours[o] += 1
            bases = min(end[o], their_end[t]) - start[o]
            if bases > most[t] or (bases == most[t] and o < columns[t]):
                most[t], columns[t] = bases, o
    order, first, last = theirs_in
    for o in range(len(start)):
        for k in range(first[o], last[o]):
            t = order[k]
            n_of_theirs[t] += 1
            n_of_ours[o] += 1
            bases = min(end[o], their_end[t]) - their_start[t]
            if bases > most[t] or (bases == most[t] and o < columns[t]):
                most[t], columns[t] = bases, o
