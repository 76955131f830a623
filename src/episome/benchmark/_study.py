"""Studies: models x data x splits x seeds, declared in TOML or Python."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from episome import plugins
from episome.benchmark._data import DataEntry, SplitEntry
from episome.errors import InputFileError, UsageError, did_you_mean

Scale = TypeVar("Scale")
#: Stands for every installed model that can do the task.
INSTALLED = "installed"
#: Tag of the models that are in every benchmark of their capability.
FLOOR = "floor"
#: What ``accelerator`` may be, as Lightning names them.
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu", "hpu", "xpu")
#: Keys of conditions: one may stand without a list.
_CONDITIONS = {"where", "keep", "keep_query"}


@dataclass(frozen=True, slots=True)
class Pretraining:
    """What is learned before a run, without labels.

    Parameters
    ----------
    model
        Name of the spec that is pretrained, from whose encoder the model of the entry starts (its
        argument ``init``). Empty: the model of the entry itself, which is then used as it is:
        zero-shot.
    setup, init, train
        Arguments of ``setup_source``, of the class and of ``train``.
    data
        Cells to learn from; none: the training cells of the run, all of them, also where a
        condition takes the labels of a few. Donors and cells that are tested on must not be among
        them.
    donor_fraction
        Share of the donors of every data set that is learned from.
    allow
        Kinds of leaks that are meant: ``"donor"``, ``"barcode"``, ``"cell"``.
    genes
        Of other cells: ``"all"`` that they have, or those that the cells of the run have too
        (``"run"``), for models that are used as they are.
    """

    model: str = ""
    setup: Mapping[str, Any] = field(default_factory=dict)
    init: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    data: tuple[DataEntry, ...] = ()
    donor_fraction: float = 1.0
    allow: tuple[str, ...] = ()
    genes: str = "all"

    def __post_init__(self) -> None:
        if self.genes not in ("all", "run"):
            raise UsageError(
                "E-B07", f"genes={self.genes!r}", where="pretrain", fix='use "all" or "run"'
            )
        share = self.donor_fraction
        number = isinstance(share, int | float) and not isinstance(share, bool)
        if not number or not 0 < share <= 1:
            raise UsageError(
                "E-B07",
                f"donor_fraction={share!r}",
                where="pretrain",
                fix="pass a share above 0, 1 at most",
            )


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model of a study, with the settings it is tried with.

    Parameters
    ----------
    model
        Name of the spec.
    name
        How reports call it, default the spec's name.
    setup, init, train
        Arguments of ``setup_anndata``, of the class and of ``train``.
    ensemble
        Members, trained one after the other; 1 is the model alone.
    data
        Names of the data sets it is tried on; default all.
    pretrain
        What is learned before, without labels.
    """

    model: str
    name: str = ""
    setup: Mapping[str, Any] = field(default_factory=dict)
    init: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    ensemble: int = 1
    data: tuple[str, ...] = ()
    pretrain: Pretraining | None = None

    @property
    def shown(self) -> str:
        """Name in reports."""
        return self.name or self.model


@dataclass(frozen=True, slots=True)
class Contrast:
    """A claim that the report tests: that one model is better than another.

    Parameters
    ----------
    first, second
        Names of models, as reports show them.
    claim
        In words, as the paper puts it.
    metric
        By which they are compared; default the main one of the task.
    conditions
        Of the first and of the second, where they differ: then both may be the same model.
    """

    first: str
    second: str
    claim: str = ""
    metric: str = ""
    conditions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.conditions) not in (0, 2):
            raise UsageError(
                "E-B07",
                f"a contrast has {len(self.conditions)} conditions",
                where=f"{self.first} against {self.second}",
                fix="name one of the first and one of the second, or none",
            )


@dataclass(frozen=True, slots=True)
class Study:
    """What is compared: every model on every data set, split, seed and condition of a task.

    Parameters
    ----------
    name
        How reports call it.
    task
        Name of a task, see ``episome benchmark list``.
    data
        Data sets.
    models
        Models; ``"installed"`` stands for all that can do the task.
    splits
        How cells are held out. A data set with a ``query`` uses only the splits by ``"query"``,
        and the others all but those.
    seeds
        Seeds of the splits and of the models.
    options
        Of the task.
    floor
        Whether every installed model tagged ``floor``, or ``floor-TASK``, takes part as well.
    accelerator, devices, precision
        Handed to every training that has epochs.
    timeout
        Seconds a run may take.
    max_memory
        Bytes a run may take; default what the machine has, shared among the runs at a time.
    summary, reference
        For the report: what is asked, and the paper whose claim it restates.
    published
        Figures of that paper, shown apart as of another protocol.
    contrasts
        Claims that the report tests.
    """

    name: str
    task: str
    data: tuple[DataEntry, ...]
    models: tuple[ModelEntry, ...]
    splits: tuple[SplitEntry, ...] = (SplitEntry(),)
    seeds: tuple[int, ...] = (0, 1, 2)
    options: Mapping[str, Any] = field(default_factory=dict)
    floor: bool = True
    accelerator: str = "auto"
    devices: Any = 1
    precision: Any = None
    timeout: float = 3600.0
    max_memory: int | None = None
    summary: str = ""
    reference: str = ""
    published: tuple[Mapping[str, Any], ...] = ()
    contrasts: tuple[Contrast, ...] = ()

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise UsageError("E-B07", f"name={self.name!r}", fix="pass a name of a file")
        for what in ("data", "models", "splits", "seeds"):
            if not getattr(self, what):
                raise UsageError(
                    "E-B07", f"the study {self.name!r} has no {what}", fix="name some"
                )
        for what in ("data", "models"):
            names = [getattr(e, "shown", getattr(e, "name", "")) for e in getattr(self, what)]
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                raise UsageError(
                    "E-B07",
                    f"{what} with the same name: {', '.join(twice)}",
                    where=self.name,
                    fix="give each a name of its own: name =",
                )
        for name, fix in (
            ("timeout", "pass seconds"),
            ("max_memory", "pass bytes, such as 8_589_934_592 for 8 GiB"),
        ):
            value = getattr(self, name)
            if value is None and name == "max_memory":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise UsageError("E-B07", f"{name}={value!r}", where=self.name, fix=fix)
        whole = all(isinstance(s, int) and not isinstance(s, bool) for s in self.seeds)
        if not whole or len(set(self.seeds)) < len(self.seeds):
            raise UsageError(
                "E-B07",
                f"seeds={list(self.seeds)!r}",
                where=self.name,
                fix="pass whole numbers, each once",
            )
        if self.accelerator not in ACCELERATORS:
            raise UsageError(
                "E-B07",
                f"accelerator={self.accelerator!r}",
                where=self.name,
                fix=did_you_mean(str(self.accelerator), ACCELERATORS)
                or f"use one of {', '.join(ACCELERATORS)}",
            )

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Study:
        """Make a study of plain data, as TOML holds it.

        ``models`` holds names or tables; ``data`` and ``splits`` hold tables.

        Raises
        ------
        UsageError
            A key that is none (E-B07), with the near ones.
        """
        given = dict(plain)
        data = tuple(record_of(DataEntry, d, "data") for d in _listed(given.pop("data", ())))
        splits = tuple(
            record_of(SplitEntry, s, "splits") for s in _listed(given.pop("splits", ()))
        )
        models = tuple(_model(m) for m in _listed(given.pop("models", (INSTALLED,))))
        if "contrasts" in given:
            found = [record_of(Contrast, c, "contrasts") for c in _listed(given["contrasts"])]
            given["contrasts"] = tuple(found)
        for name in ("seeds", "published"):
            if name in given:
                given[name] = tuple(_listed(given[name]))
        for row in given.get("published", ()):
            if not isinstance(row, Mapping):
                raise UsageError(
                    "E-B07", f"published holds {row!r}, not a table", fix="write [[published]]"
                )
        sets = {d.name for d in data}
        for model in models:
            if unknown := sorted(set(model.data) - sets):
                raise UsageError(
                    "E-B07",
                    f"{model.shown} is for {', '.join(unknown)}, which is no data set here",
                    why=f"the study has {', '.join(sorted(sets))}",
                    fix=did_you_mean(unknown[0], sorted(sets)) or "name some of them",
                )
        if splits:
            given["splits"] = splits
        study: Study = record_of(cls, {**given, "data": data, "models": models}, "study")
        return study

    @classmethod
    def from_toml(cls, path: str | Path) -> Study:
        """Read a study from a file.

        Raises
        ------
        InputFileError
            It is missing, or no TOML (E-B08).
        UsageError
            It asks for what is none (E-B04, E-B07).
        """
        try:
            with Path(path).open("rb") as file:
                plain = tomllib.load(file)
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputFileError(
                "E-B08",
                "the study cannot be read",
                where=str(path),
                why=str(error),
                fix="see `episome benchmark list`, or the documentation of studies",
            ) from error
        return cls.from_dict({"name": Path(path).stem, **plain})

    def to_dict(self) -> dict[str, Any]:
        """Return the study as plain data; :meth:`from_dict` restores it."""
        found: dict[str, Any] = _plain(self)
        return found

    def only(
        self, *, models: Sequence[str] | None = None, data: Sequence[str] | None = None
    ) -> Study:
        """Return the study with some of its models or data sets.

        Parameters
        ----------
        models
            Names of specs or of entries of the study; a spec that the study lacks is added.
        data
            Names of data sets of the study.

        Raises
        ------
        UsageError
            There is no such data set (E-B07).
        """
        study = self
        if models is not None:
            known = {m.shown: m for m in self.models}
            study = dataclasses.replace(
                study, models=tuple(known.get(n) or ModelEntry(n) for n in models)
            )
        if data is not None:
            sets = {d.name: d for d in self.data}
            if missing := [n for n in data if n not in sets]:
                raise UsageError(
                    "E-B07",
                    f"the study has no data set {', '.join(missing)}",
                    where=self.name,
                    why=f"it has {', '.join(sets)}",
                    fix="name some of them",
                )
            study = dataclasses.replace(study, data=tuple(sets[n] for n in data))
        return study


def scale_of(scales: Mapping[str, Scale], scale: str, *, why: str | None = None) -> Scale:
    """Return what a registered study runs on at a scale.

    Parameters
    ----------
    scales
        By name.
    scale
        The one that is asked for.
    why
        Why there are no others.

    Raises
    ------
    UsageError
        There is no such scale (E-B07).
    """
    if scale not in scales:
        raise UsageError(
            "E-B07",
            f"the study has no scale {scale!r}",
            why=why,
            fix=f"use {', '.join(scales)}, or write a TOML file for sets of your own",
        )
    return scales[scale]


@dataclass(frozen=True, slots=True)
class Lineup:
    """The models that take part, and those that were asked for and do not.

    ``missing`` holds a reason for every name.
    """

    entries: tuple[ModelEntry, ...]
    missing: Mapping[str, str]


def lineup(study: Study, capability: str) -> Lineup:
    """Return the models of a study that are installed and can do its task.

    Parameters
    ----------
    study
        What asks for them.
    capability
        What the task needs of a model.
    """
    specs = plugins.models()
    able = {n: s for n, s in specs.items() if capability in s.capabilities}
    asked: list[ModelEntry] = []
    for entry in study.models:
        if entry.model == INSTALLED:
            asked += [dataclasses.replace(entry, model=n, name="") for n in sorted(able)]
        else:
            asked.append(entry)
    if study.floor:
        tags = {FLOOR, f"{FLOOR}-{study.task}"}
        asked += [ModelEntry(n) for n, s in sorted(able.items()) if tags & set(s.tags)]
    entries: dict[str, ModelEntry] = {}
    missing: dict[str, str] = {}
    for entry in asked:
        if entry.model.startswith("embedding:") or entry.model in able:
            entries.setdefault(entry.shown, entry)
        elif entry.model in specs:
            missing[entry.shown] = f"it has no capability {capability!r}"
        else:
            missing[entry.shown] = "no installed plugin has it"
    return Lineup(tuple(entries.values()), missing)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _model(given: Any) -> ModelEntry:
    if isinstance(given, ModelEntry):
        return given
    if isinstance(given, str):
        return ModelEntry(given)
    values = dict(given) if isinstance(given, Mapping) else given
    if isinstance(values, dict) and values.get("pretrain") is not None:
        where = "models.pretrain"
        asked = values["pretrain"]
        if isinstance(asked, Mapping):
            sets = [
                record_of(DataEntry, d, f"{where}.data") for d in _listed(asked.get("data", ()))
            ]
            asked = {**asked, "data": sets}
        values["pretrain"] = record_of(Pretraining, asked, where)
    found: ModelEntry = record_of(ModelEntry, values, "models")
    return found


def record_of(cls: type, given: Any, where: str) -> Any:
    """Return a record of a study from its table; a key that is none is refused with the near ones.

    Parameters
    ----------
    cls
        A dataclass.
    given
        The record itself, or a mapping of its fields; lists become tuples.
    where
        How messages name it.

    Raises
    ------
    UsageError
        It cannot be made (E-B07).
    """
    if isinstance(given, cls):
        return given
    if not isinstance(given, Mapping):
        raise UsageError(
            "E-B07", f"{where} holds {given!r}, not a table", fix="write [[data]], [[splits]] ..."
        )
    known = [f.name for f in dataclasses.fields(cls)]
    for key in given:
        if key not in known:
            raise UsageError(
                "E-B07",
                f"{where} knows no {key!r}",
                why=f"it knows {', '.join(known)}",
                fix=did_you_mean(str(key), known) or "leave it out",
            )
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    for name in _CONDITIONS & set(given):
        values[name] = tuple(_listed(given[name]))
    if cls is DataEntry and "splits" in given:
        nested = _listed(given["splits"])
        values["splits"] = tuple(record_of(SplitEntry, s, f"{where}.splits") for s in nested)
    try:
        return cls(**values)
    except TypeError as error:
        raise UsageError(
            "E-B07", f"{where} cannot be read", why=str(error), fix="name what is missing"
        ) from error


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: _plain(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if getattr(value, f.name) is not None
        }
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
