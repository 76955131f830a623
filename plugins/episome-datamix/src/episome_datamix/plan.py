"""`Plan`: which cells are trained on, in which mixes, and what is asked of the models."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from episome.benchmark import ModelEntry, record_of
from episome.errors import InputFileError, UsageError, did_you_mean

SAMPLING = ("random", "balanced", "sketch")
SPACES = ("intersection", "measured", "union")
TARGETS = ("reconstruction", "annotation")
OVERLAPS = ("donor", "barcode", "cell")
HALVES = ("", "first", "second")
#: Between the corpora of a mix that is written as one text.
PLUS = "+"
#: Between the parts of a name that mixes and evaluation sets may not hold.
_RESERVED = "|&;=@"


@dataclass(frozen=True, slots=True)
class Corpus:
    """Cells to train on, or to evaluate on.

    Parameters
    ----------
    source
        A file or folder of cells, a corpus, or an address such as ``census:...``; paths are
        relative to the file of the plan.
    where
        Which of its cells: conditions ``COLUMN=VALUE``, all of which hold.
    labels_key, donor_key
        Columns of cell types and of donors, where there are some.
    term_key
        Column of the terms of the Cell Ontology.
    layer
        Where the counts are; default ``X``.
    dataset
        Of which study the cells are: names of cells and donors are told apart by it. Default the
        name of the file. Two files of one study should say so, or their overlap is not seen.
    half
        ``"first"`` or ``"second"`` half of its donors, or of its cells where the plan names no
        column of donors; empty: all. So that what is advised on is not what tests the advice.
    """

    source: str
    where: tuple[str, ...] = ()
    labels_key: str | None = None
    donor_key: str | None = None
    term_key: str | None = None
    layer: str | None = None
    dataset: str = ""
    half: str = ""

    def __post_init__(self) -> None:
        if self.half not in HALVES:
            _refuse_unknown("half", self.half, HALVES[1:], self.source)

    @property
    def of(self) -> str:
        """Name of the study that the cells are of."""
        return self.dataset or Path(self.source).stem


@dataclass(frozen=True, slots=True)
class Mix:
    """Corpora that are trained on together.

    Parameters
    ----------
    name
        How reports call it.
    parts
        Share of every corpus, summing to 1; or, where ``n_cells`` is ``None``, how many times the
        plan's number of cells is taken of each: of the same corpus twice means other cells of it.
    n_cells
        Cells in all, of shares.
    """

    name: str
    parts: Mapping[str, float]
    n_cells: int | None = None

    def sizes(self, n_cells: int) -> dict[str, int]:
        """Return how many cells of every corpus are taken.

        Parameters
        ----------
        n_cells
            The plan's number of cells.
        """
        if self.n_cells is None:
            return {name: int(times * n_cells) for name, times in self.parts.items()}
        exact = {name: share * self.n_cells for name, share in self.parts.items()}
        found = {name: int(value) for name, value in exact.items()}
        # What rounding leaves goes to the largest remainders, so that the sum is what was asked.
        order = sorted(exact, key=lambda name: (found[name] - exact[name], name))
        for name in order[: self.n_cells - sum(found.values())]:
            found[name] += 1
        return {name: n for name, n in found.items() if n}


@dataclass(frozen=True, slots=True)
class QC:
    """Which cells are good enough, of every corpus and evaluation set alike.

    Parameters
    ----------
    min_counts, max_counts
        Molecules of a cell, over all genes of its source.
    min_genes
        Genes of which it has some.
    max_mito
        Largest share of molecules of mitochondrial genes, which are found by symbol or by Ensembl
        identifier; a source without any is refused.
    """

    min_counts: float = 0
    max_counts: float | None = None
    min_genes: int = 0
    max_mito: float | None = None

    def __post_init__(self) -> None:
        for what, most in (("min_counts", None), ("max_counts", None), ("min_genes", None),
                           ("max_mito", 1)):  # fmt: skip
            value = getattr(self, what)
            if value is not None and not (value >= 0 and (most is None or value <= most)):
                _refuse(
                    f"{what}={value!r}", "qc", f"pass 0 to {most}" if most else "pass 0 or more"
                )


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared: mixes of corpora, by models trained on them, on evaluation sets.

    Parameters
    ----------
    name
        How reports call it.
    corpora, evaluation
        Cells to train on and to evaluate on, by name.
    mixes
        What is trained on: ``"blood"``, ``"blood+marrow"`` (as many cells of each),
        ``"blood+blood"`` (twice as many of one corpus: the control of every mix of two), or a
        :class:`Mix`. Empty: every corpus alone.
    n_cells
        Cells of each corpus in a mix; default those of the smallest corpus.
    sizes
        A series of numbers of cells instead; smaller sets are part of the larger ones.
    seeds
        Of the draws of cells, of models, and of what is drawn in evaluation.
    hold_out
        Cell types that no model may see: labels, or terms of the Cell Ontology with all that are
        kinds of them. They stay in evaluation sets.
    leave_one_out
        Add a mix of all corpora but one, for every corpus.
    qc
        Which cells are good enough.
    gene_space
        ``"intersection"`` or ``"union"`` of the genes of all corpora; ``"measured"``: those that
        the evaluation sets have as well, where genes that a target lacks would be zeros that no
        training cell has; or a file with a list.
    sampling
        ``"random"``; ``"balanced"``: cell types in turn; ``"sketch"``: evenly over the space of
        the cells, so that rare states are drawn as well.
    models
        What is trained, as in studies; any model with the capability takes part.
    target
        What is asked: ``"reconstruction"`` or ``"annotation"``.
    batch
        Let models that can be told batches know the corpus of a training cell.
    n_top_genes
        Variable genes of an evaluation set that are scored; 0: all.
    n_samples
        Draws of the posterior of models that have them; 0: none.
    baseline
        Mix that others are compared with; default the first.
    allow
        Overlaps that are meant: ``"donor"``, ``"barcode"``, ``"cell"``.
    coverage
        Whether to measure how much of an evaluation set a mix covers.
    timeout
        Seconds a run may take.

    Raises
    ------
    UsageError
        Something is asked for that there is not (E-B07).
    """

    corpora: Mapping[str, Corpus]
    evaluation: Mapping[str, Corpus]
    name: str = "mix"
    mixes: tuple[Mix, ...] = ()
    n_cells: int | None = None
    sizes: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    hold_out: tuple[str, ...] = ()
    leave_one_out: bool = False
    qc: QC = field(default_factory=QC)
    gene_space: str = "intersection"
    sampling: str = "random"
    models: tuple[ModelEntry, ...] = (ModelEntry("ldvae"),)
    target: str = "reconstruction"
    batch: bool = False
    n_top_genes: int = 1000
    n_samples: int = 0
    baseline: str = ""
    allow: tuple[str, ...] = ()
    coverage: bool = True
    timeout: float = 7200.0

    def __post_init__(self) -> None:
        for what in ("corpora", "evaluation", "seeds", "models"):
            if not getattr(self, what):
                _refuse(f"the plan has no {what}", self.name, "name some")
        for name in (self.name, *self.corpora, *self.evaluation):
            if not name or set(_RESERVED) & set(name) or PLUS in name:
                _refuse(f"{name!r} is no name", self.name, f"leave out {_RESERVED}{PLUS}")
        mixes = list(self.mixes) or list(self.corpora)
        if self.leave_one_out:
            # A plan that comes back from plain data has them already.
            there = {m.name if isinstance(m, Mix) else m.get("name") for m in mixes if _is_mix(m)}
            added = [_all_but(self.corpora, name) for name in self.corpora]
            mixes += [m for m in added if m.name not in there]
        found = tuple(self._mix(given) for given in mixes)
        names = [m.name for m in found]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            _refuse(f"mixes with the same name: {', '.join(twice)}", self.name, "name =")
        object.__setattr__(self, "mixes", found)
        baseline = self.baseline or names[0]
        if baseline not in names:
            _refuse_unknown("baseline", baseline, names, self.name)
        object.__setattr__(self, "baseline", baseline)
        models = tuple(m if isinstance(m, ModelEntry) else ModelEntry(m) for m in self.models)
        object.__setattr__(self, "models", models)
        for what, value, known in (
            ("sampling", self.sampling, SAMPLING),
            ("target", self.target, TARGETS),
        ):
            if value not in known:
                _refuse_unknown(what, value, known, self.name)
        for what, least in (("n_cells", 2), ("sizes", 2), ("seeds", 0), ("n_samples", 0)):
            for value in _listed(getattr(self, what)):
                if value is not None and (type(value) is not int or value < least):
                    _refuse(f"{what}={value!r}", self.name, f"pass whole numbers from {least} on")
        if type(self.n_top_genes) is not int or self.n_top_genes == 1 or self.n_top_genes < 0:
            _refuse(f"n_top_genes={self.n_top_genes!r}", self.name, "pass 2 or more, or 0: all")
        for one in self.allow:
            if one not in OVERLAPS:
                _refuse_unknown("overlap", one, OVERLAPS, self.name)
        if self.sampling == "balanced" and (
            without := [n for n, c in self.corpora.items() if c.labels_key is None]
        ):
            _refuse(
                f'sampling = "balanced", and no labels_key of {", ".join(without)}',
                self.name,
                "name the column of cell types of every corpus",
            )
        if self.target == "annotation" and (
            without := [
                n for n, c in {**self.corpora, **self.evaluation}.items() if c.labels_key is None
            ]
        ):
            _refuse(
                f'target = "annotation", and no labels_key of {", ".join(without)}',
                self.name,
                "name the column of cell types of every corpus and evaluation set",
            )

    def _mix(self, given: Any) -> Mix:
        """Return a mix from what stands for it; its corpora are known."""
        if isinstance(given, str):
            given = given.split(PLUS)
        if isinstance(given, list | tuple):
            names = [str(n).strip() for n in given]
            given = Mix(PLUS.join(names), {n: float(names.count(n)) for n in names})
        elif not isinstance(given, Mix):
            given = record_of(Mix, given, f"mixes of {self.name}")
        if unknown := [n for n in given.parts if n not in self.corpora]:
            _refuse_unknown(f"corpus of {given.name!r}", unknown[0], self.corpora, self.name)
        shares = list(given.parts.values())
        if not shares or any(not float(s) > 0 for s in shares):
            _refuse(f"shares of {given.name!r}: {shares}", self.name, "pass positive ones")
        if given.n_cells is not None and abs(sum(shares) - 1) > 1e-6:
            _refuse(
                f"shares of {given.name!r} sum to {sum(shares):g}",
                self.name,
                "pass shares that sum to 1, with n_cells =",
            )
        if given.n_cells is None and any(s != int(s) for s in shares):
            _refuse(f"shares of {given.name!r} without a number of cells", self.name, "n_cells =")
        return given

    # --- plain data -------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Plan:
        """Make a plan from plain data, such as a table of TOML.

        Parameters
        ----------
        given
            The fields; corpora, evaluation sets, mixes and models as tables.

        Raises
        ------
        UsageError
            Something is asked for that there is not (E-B07).
        """
        values = dict(given)
        for what in ("corpora", "evaluation"):
            tables = values.get(what, {})
            if not isinstance(tables, Mapping):
                _refuse(f"{what} is no table of tables", "plan", f"write [{what}.NAME]")
            values[what] = {
                str(n): record_of(
                    Corpus, {"source": t} if isinstance(t, str) else t, f"{what}.{n}"
                )
                for n, t in tables.items()
            }
        if "qc" in values:
            values["qc"] = record_of(QC, values["qc"], "qc")
        if "models" in values:
            values["models"] = tuple(
                m if isinstance(m, ModelEntry) else record_of(ModelEntry, _named(m), "models")
                for m in _listed(values["models"])
            )
        for what in ("seeds", "sizes", "hold_out", "allow", "mixes"):
            if what in values:
                # One may stand without a list.
                values[what] = _listed(values[what])
        found: Plan = record_of(cls, values, "plan")
        return found

    @classmethod
    def from_toml(cls, path: str | Path) -> Plan:
        """Read a plan; paths in it are relative to the file.

        Parameters
        ----------
        path
            The file.

        Raises
        ------
        InputFileError
            It cannot be read (E-B08).
        UsageError
            Something is asked for that there is not (E-B07).
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            given = tomllib.loads(text)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputFileError(
                "E-B08",
                "the plan cannot be read",
                where=str(path),
                why=str(error),
                fix="pass a TOML file of a plan",
            ) from error
        given.setdefault("name", Path(path).stem)
        return cls.from_dict(given)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data, from which :meth:`from_dict` makes it again."""
        found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return found

    @property
    def digest(self) -> str:
        """SHA-256 of what the plan asks for, 16 digits; the cells are hashed run by run."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def numbers(self) -> tuple[int | None, ...]:
        """Cells of each corpus that mixes are made of, one after the other."""
        return self.sizes or (self.n_cells,)


def _all_but(corpora: Mapping[str, Corpus], name: str) -> Mix:
    others = {n: 1.0 for n in corpora if n != name}
    if not others:
        _refuse("leave_one_out of one corpus", name, "name two corpora or more")
    return Mix(f"all but {name}", others)


def _is_mix(given: Any) -> bool:
    return isinstance(given, Mix | Mapping)


def _named(given: Any) -> Any:
    return {"model": given} if isinstance(given, str) else given


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _refuse(what: str, where: str, fix: str, cause: Exception | None = None) -> NoReturn:
    raise UsageError("E-B07", what, where=where, fix=fix) from cause


def _refuse_unknown(
    what: str, value: str, known: Sequence[str] | Mapping[str, Any], where: str
) -> NoReturn:
    raise UsageError(
        "E-B07",
        f"there is no {what} {value!r}",
        where=where,
        why=f"there are {', '.join(list(known)[:12])}",
        fix=did_you_mean(value, list(known)) or "name one of these",
    )
