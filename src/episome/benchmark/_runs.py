"""The runs of a study, and the digest that names each of them."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from episome import plugins
from episome.benchmark._data import (
    DataEntry,
    SplitEntry,
    TaskData,
    content_digest,
    inputs_digest,
    parts_of,
)
from episome.benchmark._load import load_data
from episome.benchmark._pretrain import files_digest, pretrained_model, pretraining_digest
from episome.benchmark._study import ModelEntry, Study, lineup
from episome.errors import EpisomeError, UsageError

if TYPE_CHECKING:
    from episome.benchmark._tasks import Task

#: Changes of it repeat every run: what a task computes has changed.
PROTOCOL = 4


@dataclass(frozen=True, slots=True)
class Run:
    """One training of one model, and everything that decides what comes out.

    Parameters
    ----------
    study, task
        Names.
    entry, split, fold, condition, model, seed, options, compute
        What is run; see :class:`Study`.
    base
        Folder that paths of data are relative to.
    data_sha256
        Digest of the cells that take part.
    inputs
        Digest of the rows of both parts, and of an embedding that the model takes.
    model_version
        Version and digest of the code of the model's package.
    timeout
        Seconds it may take.
    """

    study: str
    task: str
    entry: DataEntry
    split: SplitEntry
    fold: int
    condition: str
    model: ModelEntry
    seed: int
    options: Mapping[str, Any]
    compute: Mapping[str, Any]
    base: str | None
    data_sha256: str
    inputs: str
    model_version: str
    timeout: float

    @property
    def digest(self) -> str:
        """Name of the run in a store; not of the study, place or time."""
        named = {
            "protocol": PROTOCOL,
            "study": self.study,
            "task": self.task,
            "data": [self.entry.name, self.data_sha256, self.entry.batch_key, self.inputs],
            "split": [
                self.split.by,
                self.split.column,
                self.split.where,
                self.split.test_size,
                self.split.n_folds,
                sorted(self.split.allow),
            ],
            "fold": self.fold,
            "condition": self.condition,
            "model": [
                self.model.shown,
                self.model.model,
                dict(self.model.setup),
                dict(self.model.init),
                dict(self.model.train),
                self.model.ensemble,
                self.model_version,
            ],
            "seed": self.seed,
            "options": dict(self.options),
            "compute": dict(self.compute),
        }
        if (asked := self.model.pretrain) is not None:
            named["pretrain"] = [
                asked.model,
                dict(asked.setup),
                dict(asked.init),
                dict(asked.train),
                [one.name for one in asked.data],
                asked.donor_fraction,
                sorted(asked.allow),
                version_of(pretrained_model(self.model)),
                # Runs of before there was a choice keep their names.
                *([asked.genes] if asked.genes != "all" else []),
            ]
        text = json.dumps(named, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @property
    def key(self) -> dict[str, Any]:
        """Values that name its rows."""
        return {
            "study": self.study,
            "task": self.task,
            "data": self.entry.name,
            "split": self.split.name,
            "fold": self.fold,
            "condition": self.condition,
            "model": self.model.shown,
            "seed": self.seed,
        }

    @property
    def text(self) -> str:
        """One line for progress."""
        parts = [self.entry.name, self.split.name, self.condition, self.model.shown]
        fold = f", fold {self.fold}" if self.split.by == "kfold" else ""
        return f"{', '.join(p for p in parts if p)}{fold}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Planned:
    """The runs of a study, and what is left out with its reason."""

    runs: tuple[Run, ...]
    missing: Mapping[str, str]


def plan(study: Study, task: Task, base: Path | None = None) -> Planned:
    """Read every data set once, and list the runs of a study.

    Parameters
    ----------
    study
        What is compared.
    task
        Its task.
    base
        Folder that paths of data are relative to.

    Raises
    ------
    UsageError
        No model or no data set is left (E-B10), or the study asks for what is none.
    """
    options = task.options(dict(study.options))
    who = lineup(study, task.capability)
    missing = dict(who.missing)
    runs: list[Run] = []
    drawn = [pair for entry in study.data for pair in _by_seed(entry, study.seeds)]
    for entry, seeds in drawn:
        try:
            data = load_data(entry, base, labels=task.needs_labels)
            conditions = task.conditions(data, options)
            pairs = list(_splits_of(study, data, seeds))
            digest = content_digest(data, task.columns(options))
        except EpisomeError as error:
            missing[f"data set {entry.name}"] = str(error)
            continue
        for model in who.entries:
            if model.data and entry.name not in model.data:
                continue
            version, given = version_of(model.model), _given(data, model.model)
            given += pretraining_digest(model, base) + _named_files(model, base)
            runs += [
                Run(
                    study.name,
                    study.task,
                    entry,
                    split,
                    fold,
                    condition,
                    model,
                    seed,
                    options,
                    {
                        "accelerator": study.accelerator,
                        "devices": study.devices,
                        "precision": study.precision,
                    },
                    None if base is None else str(base),
                    digest,
                    inputs + given,
                    version,
                    study.timeout,
                )
                for split, seed, fold, inputs in pairs
                for condition in conditions
            ]
    if not who.entries and not who.missing:
        missing["models"] = f"no installed model can do {task.capability!r}"
    if not runs:
        raise nothing_left(study.name, missing)
    return Planned(tuple(runs), missing)


def nothing_left(where: str, missing: Mapping[str, str]) -> UsageError:
    """Return the error of a study of which nothing can be run, with the reasons in full.

    Parameters
    ----------
    where
        Name of the study.
    missing
        Reason by what takes no part.
    """
    said = [f"{name}: {why}" for name, why in missing.items()]
    more = f"; and {len(said) - 3} more" if len(said) > 3 else ""
    return UsageError(
        "E-B10",
        "nothing of the study can be run",
        where=where,
        why="; ".join(said[:3]) + more if said else "no split fits the data",
        fix="put that right; paths of data are relative to the file of the study, or to --data",
    )


def _given(data: TaskData, model: str) -> str:
    """Digest of the embedding that a model takes from the cells; empty for the others."""
    key = plugins.get_spec(model).obsm_key
    parts = [p for p in (data.cells, data.query) if p is not None and key in p.obsm]
    return inputs_digest(*(np.asarray(p.obsm[key]) for p in parts)) if parts else ""


def _named_files(model: ModelEntry, base: Path | None) -> str:
    """Digest of the files that arguments of a model name; empty for most models."""
    asked = () if model.pretrain is None else (model.pretrain.init,)
    return "".join(files_digest(given, base) for given in (model.init, *asked))


def _by_seed(
    entry: DataEntry, seeds: tuple[int, ...]
) -> Iterator[tuple[DataEntry, tuple[int, ...]]]:
    """Yield a data set with its seeds; one for every seed where the seed draws its cells."""
    if "{seed}" not in entry.source:
        yield entry, seeds
        return
    for seed in seeds:
        yield dataclasses.replace(entry, source=entry.source.replace("{seed}", str(seed))), (seed,)


def _splits_of(
    study: Study, data: TaskData, seeds: tuple[int, ...]
) -> Iterator[tuple[SplitEntry, int, int, str]]:
    """Yield splits, seeds and folds of one data set, each of which can be made."""
    for split in data.entry.splits or study.splits:
        if not data.entry.splits and (split.by == "query") != (data.query is not None):
            continue
        for seed in seeds:
            for fold, train, test in parts_of(data, split, seed):
                yield split, seed, fold, inputs_digest(train, test)


@lru_cache(maxsize=64)
def version_of(model: str) -> str:
    """Return version and digest of the code of a model's package.

    A model whose code changed is run again, and the others are not.

    Parameters
    ----------
    model
        Name of the spec.
    """
    spec = plugins.get_spec(model)
    package = spec.target.partition(":")[0].partition(".")[0]
    found = importlib.util.find_spec(package)
    places = list(found.submodule_search_locations or []) if found is not None else []
    digest = hashlib.sha256()
    for place in places:
        for file in sorted(Path(place).rglob("*.py")):
            digest.update(str(file.relative_to(place)).encode())
            digest.update(file.read_bytes())
    return f"{spec.distribution} {spec.version} {digest.hexdigest()[:12]}"
