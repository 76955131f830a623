"""Results of a benchmark: one file per run, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from episome.errors import InputFileError, UsageError
from episome.io import ensure_free, write_file

if TYPE_CHECKING:
    import pandas as pd

    from episome.benchmark._runs import Run

#: What names a row, in this order; together they occur once in a store.
KEYS = ("study", "task", "data", "split", "fold", "condition", "model", "seed", "metric")
#: What else a row holds.
FACTS = (
    "value",
    "status",
    "reason",
    "pretrain_seconds",
    "train_seconds",
    "predict_seconds",
    "seconds",
    "peak_mib",
    "device",
    "device_peak_mib",
    "n_train",
    "n_test",
    "n_unseen",
    "leaks",
    "donors",
    "n_no_donor",
    "data_sha256",
    "model_version",
    "versions",
    "started",
    "run",
)
COLUMNS = (*KEYS, *FACTS)
#: Key of a remembered study under which its runs are.
_RUNS = "runs"
#: What differs between two runs that computed the same.
VOLATILE = (
    "pretrain_seconds",
    "train_seconds",
    "predict_seconds",
    "seconds",
    "peak_mib",
    "device_peak_mib",
    "started",
)


@dataclass(frozen=True, slots=True, eq=False)
class RunResult:
    """What one run left.

    Parameters
    ----------
    run
        Digest of everything that decides what is computed.
    key
        Values of ``KEYS`` without the metric.
    status
        ``"ok"``, ``"failed"``, ``"timeout"``, ``"out of memory"``, ``"killed"``, ``"refused"``
        (a leak) or ``"skipped"`` (the model cannot do it).
    reason
        One line where it is not ``"ok"``.
    scores
        Value by condition and metric; a task may score one training in several conditions.
    facts
        Values of ``FACTS`` that are known.
    predictions
        One row per test cell, or ``None``.
    """

    run: str
    key: Mapping[str, Any]
    status: str
    reason: str = ""
    scores: Mapping[tuple[str, str], float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    predictions: pd.DataFrame | None = None

    @classmethod
    def of(cls, run: Run, status: str, reason: str = "", **facts: Any) -> RunResult:
        """Return the result of a run that said nothing itself."""
        known = {"data_sha256": run.data_sha256, "model_version": run.model_version, **facts}
        return cls(run.digest, run.key, status, reason, facts=known)

    def with_facts(self, **facts: Any) -> RunResult:
        """Return the result with more of what is known of its run."""
        return replace(self, facts={**self.facts, **facts})

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per metric; a run without one has a row all the same."""
        shared = {
            **dict.fromkeys(COLUMNS, None),
            **self.key,
            **self.facts,
            "status": self.status,
            "reason": self.reason,
            "run": self.run,
        }
        named = dict(self.scores) or {(str(self.key.get("condition", "")), ""): float("nan")}
        return [
            {**shared, "condition": c, "metric": m, "value": float(v)}
            for (c, m), v in named.items()
        ]


class ResultStore:
    """A folder of results.

    Every run is a file of its own, named by its digest, so that whatever stops a study leaves
    whole runs, the same study goes on where it was, and two stores are joined by copying.

    Parameters
    ----------
    path
        The folder; made when something is written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"ResultStore({str(self.path)!r}): {len(self.runs())} runs"

    def runs(self) -> list[str]:
        """Return the digests of the runs that are there."""
        # A file that begins with a dot is one that was being written when the program was killed.
        files = (self.path / "runs").glob("*.parquet")
        return sorted(p.stem for p in files if not p.name.startswith("."))

    def has(self, run: str) -> bool:
        """Whether a run is there."""
        return self._place("runs", run).exists()

    def status(self, run: str) -> str:
        """Return how a run ended.

        Raises
        ------
        InputFileError
            Its file is damaged (E-B02).
        """
        return str(_read(self._place("runs", run), columns=["status"])["status"].iloc[0])

    def add(self, result: RunResult) -> None:
        """Write a run in the place of an earlier one; its predictions first.

        Parameters
        ----------
        result
            What it left.
        """
        import pandas as pd

        if result.predictions is not None:
            self._write(self._place("predictions", result.run), result.predictions)
        frame = pd.DataFrame(result.rows(), columns=list(COLUMNS))
        self._write(self._place("runs", result.run), _typed(frame))

    def table(self) -> pd.DataFrame:
        """Return all rows, in the order of their keys, those of earlier settings included."""
        import pandas as pd

        files = [self._place("runs", run) for run in self.runs()]
        if not files:
            return _typed(pd.DataFrame(columns=list(COLUMNS)))
        parts = [_read(file) for file in files]
        found = pd.concat(parts, ignore_index=True).reindex(columns=list(COLUMNS))
        return found.sort_values(list(KEYS), kind="stable").reset_index(drop=True)

    def current(self) -> pd.DataFrame:
        """Return the rows of the runs that the studies ask for now.

        Runs of settings, cells or code that a study had earlier stay in the folder and are not
        among them. All rows of studies that nobody remembered.
        """
        table = self.table()
        asked = {n: s[_RUNS] for n, s in self.studies().items() if _RUNS in s}
        known = {run for runs in asked.values() for run in runs}
        keep = ~table["study"].isin(set(asked)) | table["run"].isin(known)
        return table[keep].reset_index(drop=True)

    def predictions(self, run: str) -> pd.DataFrame | None:
        """Return the predictions of a run, if it left some."""
        place = self._place("predictions", run)
        return _read(place) if place.exists() else None

    def remember_study(
        self,
        name: str,
        plain: Mapping[str, Any],
        runs: Mapping[str, str] | None = None,
        *,
        partial: bool = False,
    ) -> None:
        """Keep what a study asked for, for its report.

        Parameters
        ----------
        name
            Of the study.
        plain
            What it asked for.
        runs
            What each of its runs is of, by digest; see :meth:`current`.
        partial
            Whether only a part of the study was asked for: what was remembered stays, and runs of
            the same model, data, split and seed take the place of earlier ones.
        """
        kept = dict(plain)
        before = self.studies().get(name, {}) if partial else {}
        if runs is not None:
            new = set(runs.values())
            old = {d: of for d, of in before.get(_RUNS, {}).items() if of not in new}
            kept = {**kept, **before, _RUNS: {**old, **runs}}
        text = json.dumps(kept, indent=2, sort_keys=True)
        place = self.path / "studies" / f"{name}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        write_file(place, text.encode(), overwrite=True)

    def studies(self) -> dict[str, dict[str, Any]]:
        """Return what the studies of the store asked for, by name."""
        found = {}
        for file in sorted((self.path / "studies").glob("*.json")):
            try:
                found[file.stem] = dict(json.loads(file.read_text(encoding="utf-8")))
            except (ValueError, OSError, TypeError) as error:
                raise InputFileError(
                    "E-B02",
                    "what a study asked for cannot be read",
                    where=str(file),
                    why=str(error),
                    fix="delete the file and run the study again: no run is repeated",
                ) from error
        return found

    def merge(self, others: Iterable[ResultStore]) -> int:
        """Add the runs of other stores; a run that is here stays, unless it failed and theirs not.

        Parameters
        ----------
        others
            Stores of any studies.

        Returns
        -------
        Number of runs added or replaced.

        Raises
        ------
        UsageError
            One of them is no store (E-B01).
        """
        added = 0
        for other in others:
            if not (other.path / "runs").is_dir():
                raise UsageError(
                    "E-B01",
                    "no results of a benchmark are there",
                    where=str(other.path),
                    fix="pass the folder that `episome benchmark run -o` wrote",
                )
            for run in other.runs():
                theirs, ours = other.status(run), self.status(run) if self.has(run) else None
                if ours is not None and not (theirs == "ok" and ours != "ok"):
                    continue
                predictions = other.predictions(run)
                if predictions is not None:
                    self._write(self._place("predictions", run), predictions)
                self._write(self._place("runs", run), _read(other._place("runs", run)))
                added += 1
            for name, plain in other.studies().items():
                if not (self.path / "studies" / f"{name}.json").exists():
                    self.remember_study(name, plain)
                elif _RUNS in plain:
                    self.remember_study(name, plain, plain[_RUNS], partial=True)
        return added

    def export(
        self, path: str | Path, *, study: str | None = None, overwrite: bool = False
    ) -> Path:
        """Write the table of :meth:`current` as one file: ``.parquet`` or ``.csv``.

        Parameters
        ----------
        path
            The file.
        study
            Only this one.
        overwrite
            Replace an existing file.

        Raises
        ------
        UsageError
            There are no results of the study (E-B13).
        """
        place = Path(path)
        ensure_free(place, overwrite=overwrite)
        table = self.current()
        if study is not None:
            self.require([study], table)
            table = table[table["study"] == study]
        if place.suffix == ".csv":
            write_file(place, lambda p: table.to_csv(p, index=False), overwrite=True)
        else:
            self._write(place, table)
        return place

    def require(self, names: Collection[str], table: pd.DataFrame) -> None:
        """Refuse names of studies that a table has no results of.

        Raises
        ------
        UsageError
            There are none (E-B13).
        """
        known = sorted(set(table["study"]))
        if known and set(names) <= set(known):
            return
        lacking = ", ".join(n for n in names if n not in known)
        raise UsageError(
            "E-B13",
            "there are no results" if not known else f"there are no results of {lacking!r}",
            where=str(self.path),
            why=f"the studies are {', '.join(known)}" if known else None,
            fix="run one: episome benchmark run STUDY -o FOLDER",
        )

    def _place(self, kind: str, run: str) -> Path:
        return self.path / kind / f"{run}.parquet"

    @staticmethod
    def _write(place: Path, frame: pd.DataFrame) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_file(place, lambda p: frame.to_parquet(p, index=False), overwrite=True)


def _read(place: Path, columns: list[str] | None = None) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    try:
        return pd.read_parquet(place, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputFileError(
            "E-B02",
            "a result cannot be read",
            where=str(place),
            why=str(error).splitlines()[0],
            fix="delete the file and run the study again: only this run is repeated",
        ) from error


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Give every column one type, so that files of all runs fit together."""
    numbers = {"value", "train_seconds", "predict_seconds", "seconds", "peak_mib"}
    numbers |= {"device_peak_mib", "pretrain_seconds"}
    whole = {"seed", "fold", "n_train", "n_test", "n_unseen", "n_no_donor"}
    out = frame.copy()
    for name in frame.columns:
        if name in numbers:
            out[name] = frame[name].astype("float64")
        elif name in whole:
            out[name] = frame[name].astype("Int64")
        else:
            out[name] = frame[name].map(lambda v: "" if v is None else str(v)).astype("object")
    return out
