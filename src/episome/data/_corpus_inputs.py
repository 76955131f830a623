"""Inputs of a corpus: opened, looked at as `episome check` does, all problems said at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from episome.data._corpus_records import MAX_COUNT, no_counts
from episome.data._inspect_cells import inspect_cells, inspect_source
from episome.data._inspect_checks import Meant
from episome.data._own_sources import own_source
from episome.data._read import read_cells
from episome.data._source import AnnDataSource, columns_of
from episome.errors import EpisomeError, InputDataError, Problem, UsageError, warn
from episome.io._corpus import path_digest, path_stamp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data._source import CellSource
    from episome.data._values import ValueReport

_CONDITION = re.compile(r"^\s*([^=!]+?)\s*(!=|==|=)\s*(.*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class CorpusInput:
    """A file of cells that goes into a corpus.

    Parameters
    ----------
    path
        The file; never changed.
    layer, use_raw
        Where the counts are; default the first slot that holds some.
    max_memory, trust
        Of ``episome.data.read_cells``.
    """

    path: Path
    layer: str | None = None
    use_raw: bool = False
    max_memory: int | None = None
    trust: bool = False

    @contextmanager
    def opened(self) -> Iterator[CellSource]:
        """Open the file with its matrix on disk, and close it afterwards."""
        own = own_source(self.path, layer=self.layer, use_raw=self.use_raw)
        if own is not None:
            yield own
            return
        adata = read_cells(self.path, backed=True, max_memory=self.max_memory, trust=self.trust)
        try:
            yield AnnDataSource(adata, layer=self.layer, use_raw=self.use_raw, name=self.path.name)
        finally:
            if adata.isbacked:
                adata.file.close()


@dataclass(frozen=True, slots=True)
class Condition:
    """Cells whose ``column`` has one of ``values``, or none of them.

    Examples
    --------
    >>> Condition.parse("tissue=lung|blood")
    Condition(column='tissue', values=('lung', 'blood'), unlike=False)
    """

    column: str
    values: tuple[str, ...]
    unlike: bool = False

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read ``COLUMN=VALUE|VALUE`` or ``COLUMN!=VALUE``.

        Raises
        ------
        UsageError
            It is neither (E-U90).
        """
        found = _CONDITION.match(text)
        if found is None:
            raise UsageError(
                "E-U90",
                f"{text!r} is no condition",
                fix="write COLUMN=VALUE, COLUMN=VALUE|VALUE or COLUMN!=VALUE",
            )
        values = tuple(v.strip() for v in found[3].split("|"))
        return cls(found[1], values, unlike=found[2] == "!=")

    def holds(self, source: CellSource) -> NDArray[np.bool_]:
        """Return for every cell whether it is wanted; a missing value is like none."""
        values = source.obs_column(self.column)
        inside = np.asarray(values.astype(str).isin(self.values) & values.notna(), dtype=bool)
        return ~inside if self.unlike else inside


@dataclass(frozen=True, slots=True)
class CheckedInput:
    """What looking at an input found, enough to use it without looking again.

    ``asked`` is the layer that was named, and whether raw was; ``layer`` and ``use_raw`` say
    where the counts are; ``columns`` are those of ``obs``.
    """

    name: str
    sha256: str
    stamp: list[list[object]]
    n_obs: int
    n_vars: int
    n_stored: int
    layer: str | None
    use_raw: bool
    asked: tuple[str | None, bool]
    columns: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def check_corpus_inputs(
    inputs: Sequence[CorpusInput],
    *,
    duplicates: Literal["error", "sum"] = "error",
    required: Sequence[str] = (),
    known: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[CheckedInput]:
    """Look at every input as ``episome check`` does, and say all that must be mended at once.

    Parameters
    ----------
    inputs
        Files.
    duplicates
        ``"sum"`` accepts genes of one name.
    required
        Columns of ``obs`` that every input must have.
    known
        What was found before, by path: a file that did not change is not looked at again.
    progress
        Called with ``(inputs done, inputs)``.

    Raises
    ------
    InputDataError, UsageError, InputFileError
        Something must be mended in any of them; of the class of the first problem.
    """
    _require_different(inputs)
    problems: list[Problem] = []
    classes: list[type[EpisomeError]] = []
    checked = []
    for done, one in enumerate(inputs, start=1):
        try:
            found = _recalled(one, known or {}) or _look(one, duplicates, required)
            problems += [_without(c, one) for c in required if c not in found.columns]
            checked.append(found)
        except EpisomeError as error:
            problems += error.problems
            classes.append(type(error))
        if progress is not None:
            progress(done, len(inputs))
    if problems:
        raise (classes[0] if classes else InputDataError)(problems)
    return checked


def _require_different(inputs: Sequence[CorpusInput]) -> None:
    paths = [one.path.resolve() for one in inputs]
    twice = sorted({str(p) for p in paths if paths.count(p) > 1})
    if twice or not paths:
        raise UsageError(
            "E-U91",
            "the same input is given twice" if twice else "no input is given",
            count=len(twice),
            total=len(paths),
            examples=twice[:3],
            why="its cells would be there twice" if twice else None,
            fix="name every file once",
        )


def _recalled(one: CorpusInput, known: Mapping[str, Any]) -> CheckedInput | None:
    found = known.get(str(one.path.resolve()))
    if not found or not one.path.exists():
        return None
    try:
        tuples = {k: tuple(found[k]) for k in ("asked", "columns")}
        kept = CheckedInput(**{**found, **tuples})
    except (KeyError, TypeError):  # of another version of this program: look again
        return None
    same = kept.asked == (one.layer, one.use_raw) and kept.stamp == path_stamp(one.path)
    return kept if same else None


def _look(
    one: CorpusInput, duplicates: Literal["error", "sum"], required: Sequence[str]
) -> CheckedInput:
    with one.opened() as source:
        stamp = path_stamp(one.path)
        if isinstance(source, AnnDataSource):
            meant = Meant(None, None, 0.5, duplicates, None, "as is")
            found = inspect_cells(
                source.adata, one.layer, use_raw=one.use_raw, name=one.path.name, meant=meant
            )
            findings, used = found.findings, found.values.get(found.slot)
            layer, use_raw = _layer_of(found.slot), found.slot == "raw.X"
            n_vars = found.n_vars
        else:
            findings, used = inspect_source(source, duplicates)
            layer, use_raw, n_vars = one.layer, False, source.n_vars
        columns = tuple(columns_of(source))
        n_obs = source.n_obs
    mend = [f.problem for f in findings if f.severity == "must mend"]
    mend += _of_counts(used, mend)
    if mend or used is None:
        # What an input lacks besides is said with the rest.
        mend += [_without(c, one) for c in required if c not in columns]
        raise InputDataError(mend)
    for finding in findings:
        warn(finding.problem)
    return CheckedInput(
        name=one.path.name,
        sha256=path_digest(one.path),
        stamp=stamp,
        n_obs=n_obs,
        n_vars=n_vars,
        n_stored=used.n_stored,
        layer=layer,
        use_raw=use_raw,
        asked=(one.layer, one.use_raw),
        columns=columns,
    )


def _layer_of(slot: str) -> str | None:
    return slot.removeprefix("layers['").removesuffix("']") if slot.startswith("layers[") else None


def _of_counts(report: ValueReport | None, mend: list[Problem]) -> list[Problem]:
    """Say that the values are no counts, unless something worse is said of them already."""
    if report is None or any(p.code.startswith("E-D") for p in mend):
        return []
    if report.kind != "counts":
        problem = no_counts(report.n_fractional, report.n_stored, [], report.where)
        return [problem]
    if report.maximum > MAX_COUNT:
        return [
            Problem(
                "E-D56",
                "counts that are larger than a corpus holds",
                report.where,
                examples=[f"{report.maximum:.0f}"],
                why=f"the largest is {MAX_COUNT:,}",
                fix="look at these cells: no library has so many molecules",
            )
        ]
    return []


def _without(column: str, one: CorpusInput) -> Problem:
    return Problem(
        "E-L35",
        f"column {column!r} is missing",
        where=f"{one.path.name}.obs",
        why="its cells would have no value in it",
        fix="give the column the same name in all files, or leave it out",
    )


def cells_where(source: CellSource, conditions: tuple[str, ...]) -> NDArray[np.bool_]:
    """Return for which cells all conditions hold, bool (n_obs,).

    Parameters
    ----------
    source
        The cells.
    conditions
        ``COLUMN=VALUE``, ``COLUMN=VALUE|VALUE`` or ``COLUMN!=VALUE``.

    Raises
    ------
    UsageError
        One of them is none (E-U90), or names a column that is missing (E-U04).
    """
    found = np.ones(source.n_obs, dtype=bool)
    for condition in conditions:
        found &= Condition.parse(condition).holds(source)
    return found
