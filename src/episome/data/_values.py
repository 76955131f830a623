"""What the values of a matrix are: counts, log1p or something no model can use.

The whole matrix is read once in blocks; a sample would miss the one bad value.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from episome.data._matrix import block_rows_for, iter_blocks
from episome.errors import InputDataError, Problem, raise_problems

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

    from episome.data._source import CellSource

InputKind: TypeAlias = Literal["counts", "log1p"]

# log1p of 1e6 counts per cell stays below 14; counts up to 15 are integers.
LOG1P_MAX = 15.0
# log1p of log1p of 10,000 counts is 2.3.
TWICE_LOGGED_MAX = 3.0
# Integers above these are not all exact in the type.
EXACT_IN_FLOAT16, EXACT_IN_FLOAT32 = 2048, 1 << 24
ROW_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class ValueReport:
    """Facts about the stored values of a matrix, from one full scan.

    ``expm1_row_sum`` is the common row sum of ``expm1(X)`` when the non-empty rows agree within
    0.1 %: the proof that values are ``log1p`` of size-normalised counts. ``row_sum`` is that of
    the values themselves. ``n_ones`` counts values of exactly one; ``dtype`` is the store's.
    ``elsewhere`` is the keyword of a slot of the same object that looks like counts, where this
    one holds none.
    """

    where: str
    n_obs: int
    n_vars: int
    n_stored: int
    n_nan: int
    n_infinite: int
    n_negative: int
    n_fractional: int
    maximum: float
    n_empty_cells: int
    expm1_row_sum: float | None
    row_sum: float | None
    first_bad: tuple[str, ...] = field(default=())
    n_ones: int = 0
    dtype: str = "float32"
    elsewhere: str = ""

    @property
    def kind(self) -> Literal["counts", "log1p", "fractional", "scaled", "empty"]:
        """The kind of the values, by the evidence of the whole matrix."""
        if self.n_negative:
            return "scaled"
        if self.n_stored == 0 or self.maximum == 0:
            return "empty"
        if self.n_fractional == 0:
            return "counts"
        if self.maximum <= LOG1P_MAX:
            return "log1p"
        return "fractional"

    @property
    def form(self) -> str:
        """What the values look like in one word, finer than :attr:`kind`.

        ``"counts"``, ``"log1p"``, ``"scaled"``, ``"empty"``, ``"fractional"``, ``"binary"`` (all
        ones), ``"normalised"`` (every cell has one sum, no logarithm) or ``"log1p twice"``.
        """
        if self.is_binary:
            return "binary"
        if self.is_normalised:
            return "normalised"
        return "log1p twice" if self.is_twice_logged else self.kind

    @property
    def with_nan_as_zero(self) -> ValueReport:
        """The same where NaN are read as zero, which the other numbers already are for."""
        bad = tuple(text for text in self.first_bad if not text.endswith("= nan"))
        return replace(self, n_nan=0, n_stored=self.n_stored - self.n_nan, first_bad=bad)

    @property
    def is_binary(self) -> bool:
        """Whether every stored value is one, as where only presence was kept."""
        return self.kind == "counts" and self.n_ones == self.n_stored and self.n_stored > 1

    @property
    def is_normalised(self) -> bool:
        """Whether every cell has the same sum, to 0.1 %: sizes were evened out, without a log."""
        several = self.n_obs - self.n_empty_cells > 1 and not self.is_binary
        return self.row_sum is not None and several and self.kind in {"counts", "fractional"}

    @property
    def is_twice_logged(self) -> bool:
        """Whether values are as small as log1p of log1p leaves them, without proof of one log."""
        small = self.maximum < TWICE_LOGGED_MAX and self.expm1_row_sum is None
        return self.kind == "log1p" and small

    @property
    def evidence(self) -> str:
        """The evidence in words."""
        bits = [f"{self.n_fractional:,} of {self.n_stored:,} values are not integers"]
        bits.append(f"the largest is {self.maximum:.4g}")
        if self.expm1_row_sum is not None:
            bits.append(f"expm1 of every cell sums to {self.expm1_row_sum:.6g}")
        elif self.is_normalised:
            bits.append(f"every cell sums to {self.row_sum:.6g}")
        return ", ".join(bits)


def inspect_values(source: CellSource) -> ValueReport:
    """Scan all values of ``source`` once, in blocks of bounded memory.

    Returns
    -------
    A :class:`ValueReport`.
    """
    tally = _Tally()
    for rows in iter_blocks(source.n_obs, block_rows_for(source.n_vars)):
        tally.add(source.read(rows), rows.start, source)
    report, look = tally.report(source), getattr(source, "counts_elsewhere", None)
    if look is None or report.kind in {"counts", "empty"}:
        return report
    return replace(report, elsewhere=look())


class _Tally:
    def __init__(self) -> None:
        self.n_stored = self.n_nan = self.n_inf = self.n_negative = self.n_fractional = 0
        self.n_ones = 0
        self.maximum = 0.0
        self.n_empty = 0
        self.bad: list[str] = []
        self.expm1 = _Range()
        self.plain = _Range()

    def add(self, block: sparse.csr_matrix, start: int, source: CellSource) -> None:
        data = block.data
        self.n_stored += int(np.count_nonzero(data))
        # Two passes tell good values: NaN and infinity reach the extremes.
        low, high = (float(data.min()), float(data.max())) if data.size else (0.0, 0.0)
        if not np.isfinite(low) or not np.isfinite(high) or low < 0:
            finite = np.isfinite(data)
            self._bad(block, finite, start, source)
            data = np.where(finite, data, 0)
            high = float(data.max())
        self.maximum = max(self.maximum, high)
        self.n_fractional += int(np.count_nonzero(data != np.rint(data)))
        if self.maximum == 1:  # else not all values are one
            self.n_ones += int(np.count_nonzero(data == 1))
        sums = row_sums(data, block.indptr)
        self.n_empty += int(np.count_nonzero(sums == 0))
        self.plain.add(sums)
        if self.n_negative or self.maximum > LOG1P_MAX:
            return
        if self.n_fractional:
            self.expm1.add(row_sums(np.expm1(data.astype(np.float64)), block.indptr))
        elif data.any():
            # Counts so far: their expm1 is not worth its time, and proves nothing about log1p.
            self.expm1.differ()

    def _bad(
        self,
        block: sparse.csr_matrix,
        finite: NDArray[np.bool_],
        start: int,
        source: CellSource,
    ) -> None:
        data = block.data
        nan = int(np.isnan(data).sum())
        negative = finite & (data < 0)
        self.n_nan += nan
        self.n_inf += int((~finite).sum()) - nan
        self.n_negative += int(negative.sum())
        for i in np.flatnonzero(~finite | negative)[: 3 - len(self.bad)]:
            row = int(np.searchsorted(block.indptr, int(i), side="right")) - 1
            cell, gene = source.obs_names[start + row], source.var.index[block.indices[i]]
            self.bad.append(f"cell {cell} gene {gene} = {data[i]:g}")

    def report(self, source: CellSource) -> ValueReport:
        return ValueReport(
            where=source.where,
            n_obs=source.n_obs,
            n_vars=source.n_vars,
            n_stored=self.n_stored,
            n_nan=self.n_nan,
            n_infinite=self.n_inf,
            n_negative=self.n_negative,
            n_fractional=self.n_fractional,
            maximum=self.maximum,
            n_empty_cells=self.n_empty,
            expm1_row_sum=self.expm1.common,
            row_sum=self.plain.common,
            first_bad=tuple(self.bad),
            n_ones=self.n_ones,
            dtype=str(getattr(source, "dtype", "float32")),
        )


class _Range:
    """Whether all positive numbers seen agree within the tolerance."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf

    def add(self, sums: NDArray[np.floating]) -> None:
        positive = sums[sums > 0]
        if positive.size:
            self.low = min(self.low, float(positive.min()))
            self.high = max(self.high, float(positive.max()))

    def differ(self) -> None:
        """Say that there are numbers that were not looked at."""
        self.high = np.inf

    @property
    def common(self) -> float | None:
        if not np.isfinite(self.high) or self.high - self.low > ROW_SUM_TOLERANCE * self.high:
            return None
        return 0.5 * (self.low + self.high)


def row_sums(data: NDArray[np.generic], indptr: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the sums of CSR rows in float64."""
    sums = np.zeros(len(indptr) - 1)
    # ``reduceat`` is wrong for empty rows, and right for the others once these are left out.
    full = np.flatnonzero(np.diff(indptr))
    if len(full):
        last = int(indptr[-1])
        sums[full] = np.add.reduceat(data[:last], indptr[full], dtype=np.float64)
    return sums


def check_values(report: ValueReport, wanted: InputKind | Literal["auto"] = "auto") -> InputKind:
    """Decide what the values are, or refuse them with every reason at once.

    Parameters
    ----------
    report
        Result of :func:`inspect_values`.
    wanted
        ``"auto"`` takes what the values show; ``"counts"`` and ``"log1p"`` are checked against
        them.

    Returns
    -------
    ``"counts"`` or ``"log1p"``.

    Raises
    ------
    InputDataError
        Non-finite (E-D01, E-D03), negative (E-D04), all-zero (E-D13) values; log1p given as counts
        (E-D07).

    Notes
    -----
    Values that are no integers and too large for log1p (corrected for ambient RNA, estimated by
    pseudo-alignment, normalised without a logarithm) are taken as counts: the first step of every
    model divides by the cell's sum anyway. :func:`doubtful_values` says so.
    """
    raise_problems(InputDataError, value_problems(report))
    kind = report.kind
    if wanted == "log1p":
        return "log1p"
    if wanted == "counts" and kind == "log1p":
        raise InputDataError(
            "E-D07",
            "log1p-normalised values are given as counts",
            where=report.where,
            why=report.evidence,
            fix=report.elsewhere
            or 'pass the layer that holds counts, layer= (--layer), or input_kind="log1p" '
            "(--input-kind log1p)",
        )
    return "log1p" if kind == "log1p" else "counts"


def doubtful_values(report: ValueReport, *, allow_fractional: bool = False) -> list[Problem]:
    """Return what may be wrong with values that can be used, as warnings.

    Parameters
    ----------
    report
        Result of :func:`inspect_values`.
    allow_fractional
        The caller knows that counts are fractional: no word about it.
    """
    found: list[tuple[bool, Problem]] = [
        (
            report.kind == "counts" and report.is_normalised,
            Problem(
                "E-D09",
                "counts that were rescaled: integers, and every cell has the same sum",
                report.where,
                why=f"{report.evidence}; a model of counts will not know the depth of a cell",
                fix="pass the layer with raw counts, if there is one",
            ),
        ),
        (
            report.kind == "fractional" and not allow_fractional,
            Problem(
                "E-D10",
                "counts that are not integers",
                report.where,
                report.n_fractional,
                report.n_stored,
                why=f"{report.evidence}; corrected, estimated or normalised values are used as "
                "counts",
                fix="allow_fractional=True (--allow-fractional) if that is so, or pass the layer "
                "with raw counts",
            ),
        ),
        (
            report.is_twice_logged,
            Problem(
                "E-D11",
                "values as small as after log1p twice",
                report.where,
                why=report.evidence,
                fix="pass the layer with raw counts, or log1p values",
            ),
        ),
        (
            0 < report.n_empty_cells < report.n_obs,
            Problem(
                "E-D12",
                "cells without any count",
                report.where,
                report.n_empty_cells,
                report.n_obs,
                why="nothing is known about them: they are never given a type",
                fix="leave them out",
            ),
        ),
        (
            report.is_binary,
            Problem(
                "E-D15",
                "every value is one",
                report.where,
                report.n_stored,
                report.n_stored,
                why="only presence was kept, and models read amounts",
                fix="pass the layer with raw counts",
            ),
        ),
        (
            report.dtype == "float16" and report.maximum >= EXACT_IN_FLOAT16,
            Problem(
                "E-D16",
                "float16 counts of 2048 and more, which are not exact",
                report.where,
                why=f"the largest is {report.maximum:.4g}",
                fix="store counts as float32 or as integers",
            ),
        ),
        (
            _is_at_the_limit(report),
            Problem(
                "E-D17",
                f"the largest value is the largest that {report.dtype} holds",
                report.where,
                why=f"larger counts may have begun again at zero ({report.maximum:.0f})",
                fix="write the file again from the original data, as float32 or uint32",
            ),
        ),
        (
            report.kind == "counts" and report.maximum > EXACT_IN_FLOAT32,
            Problem(
                "E-D18",
                "counts above 16,777,216, which are not exact in float32",
                report.where,
                why=f"the largest is {report.maximum:.0f}",
                fix="look at the cell: no library has so many molecules of one gene",
            ),
        ),
    ]
    return [problem for holds, problem in found if holds]


def _is_at_the_limit(report: ValueReport) -> bool:
    kind = np.dtype(report.dtype)
    return kind.kind in "iu" and kind.itemsize < 4 and report.maximum == np.iinfo(kind).max


def unusable_values(report: ValueReport) -> list[Problem]:
    """Return the problems of values that no scale can hold: NaN and infinite ones."""
    return [p for p in value_problems(report) if p.code in {"E-D01", "E-D03"}]


def value_problems(report: ValueReport) -> list[Problem]:
    """Return what is wrong with values, whatever they are used for."""
    found = (
        (
            "E-D01",
            "NaN values",
            report.n_nan,
            "a model would train or predict on them without a word",
            'drop these cells, or pass nan="zero" (--nan zero) to read them as zero',
        ),
        (
            "E-D03",
            "infinite values",
            report.n_infinite,
            "no scale or model can hold them",
            "drop these cells, or set the values to what they should be",
        ),
        (
            "E-D04",
            "negative values",
            report.n_negative,
            "the matrix looks scaled or centred; counts or log1p values are expected",
            report.elsewhere
            or "pass the layer that holds counts, layer= (--layer), or use_raw=True (--use-raw)",
        ),
    )
    problems = [
        Problem(code, what, report.where, n, report.n_stored, report.first_bad, why, fix)
        for code, what, n, why, fix in found
        if n
    ]
    if not problems and report.kind == "empty" and report.n_obs:
        problems.append(
            Problem(
                "E-D13",
                "every value is zero",
                where=report.where,
                count=report.n_obs,
                total=report.n_obs,
                why="there is nothing to learn from or to annotate",
                fix="pass the layer that holds the counts: layer= (--layer) or use_raw=True "
                "(--use-raw)",
            )
        )
    return problems
