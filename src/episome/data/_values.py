"""What the values of a matrix are: counts, log1p or something no model can use.

The whole matrix is read once in blocks; a sample would miss the one bad value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
ROW_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class ValueReport:
    """Facts about the stored values of a matrix, from one full scan.

    ``expm1_row_sum`` is the common row sum of ``expm1(X)`` when the non-empty rows agree within
    0.1 %: the proof that values are ``log1p`` of size-normalised counts.
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
    def evidence(self) -> str:
        """The evidence in words."""
        bits = [f"{self.n_fractional:,} of {self.n_stored:,} values are not integers"]
        bits.append(f"the largest is {self.maximum:.4g}")
        if self.expm1_row_sum is not None:
            bits.append(f"expm1 of every cell sums to {self.expm1_row_sum:.6g}")
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
    return tally.report(source)


class _Tally:
    def __init__(self) -> None:
        self.n_stored = self.n_nan = self.n_inf = self.n_negative = self.n_fractional = 0
        self.maximum = 0.0
        self.n_empty = 0
        self.bad: list[str] = []
        self.expm1 = _Range()
        self.plain = _Range()

    def add(self, block: sparse.csr_matrix, start: int, source: CellSource) -> None:
        data = block.data
        self.n_stored += int(np.count_nonzero(data))
        finite = np.isfinite(data)
        if not finite.all() or (data < 0).any():
            self._bad(block, finite, start, source)
            data = np.where(finite, data, 0)
        if data.size:
            self.maximum = max(self.maximum, float(data.max()))
        self.n_fractional += int(np.count_nonzero(data != np.rint(data)))
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
    """Return the sums of CSR rows in float64; ``np.add.reduceat`` is wrong for empty rows."""
    total = np.zeros(len(data) + 1)
    np.cumsum(data, dtype=np.float64, out=total[1:])
    sums: NDArray[np.float64] = total[indptr[1:]] - total[indptr[:-1]]
    # A difference of running sums leaves rounding where a row holds nothing.
    sums[np.diff(indptr) == 0] = 0.0
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
        (E-D07); values that are neither (E-D10).
    """
    raise_problems(InputDataError, _value_problems(report))
    kind = report.kind
    if kind == "fractional":
        raise InputDataError(
            "E-D10",
            "values are neither counts nor log1p",
            where=report.where,
            count=report.n_fractional,
            total=report.n_stored,
            why=f"{report.evidence}; they may be size-normalised or corrected without a logarithm",
            fix="pass the layer with raw counts (layer=... or use_raw=True), or log1p values",
        )
    if wanted == "log1p":
        return "log1p"
    if wanted == "counts" and kind == "log1p":
        raise InputDataError(
            "E-D07",
            "log1p-normalised values are given as counts",
            where=report.where,
            why=report.evidence,
            fix='pass the layer that holds counts (layer=...), or input_kind="log1p"',
        )
    return "log1p" if kind == "log1p" else "counts"


def _value_problems(report: ValueReport) -> list[Problem]:
    found = (
        (
            "E-D01",
            "NaN values",
            report.n_nan,
            "a model would train or predict on them without a word",
            "drop these cells, or set the values to what they should be",
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
            "pass the layer that holds counts (layer=...), or use_raw=True",
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
                fix="pass the layer that holds the counts (layer=... or use_raw=True)",
            )
        )
    return problems
