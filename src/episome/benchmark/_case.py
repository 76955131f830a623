"""One run of a benchmark: what a task gets, and what it says."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from episome import plugins, settings
from episome.benchmark._data import COARSE, DONOR, LABEL, TARGET, TERM
from episome.benchmark._pretrain import pretrained_folder, pretrained_model, with_files
from episome.benchmark._runs import version_of
from episome.data import as_mudata
from episome.errors import UsageError
from episome.io import read_manifest
from episome.models import Ensemble, NetworkModel, load

if TYPE_CHECKING:
    from episome.benchmark._data import DataEntry
    from episome.benchmark._study import ModelEntry, Pretraining

_RNA = "rna"
#: Columns of ``obs`` that a model may see in training; of test cells it sees none but the batch.
_OF_TRAINING = (LABEL, DONOR)


@dataclass(slots=True, eq=False)
class Case:
    """What a task works on.

    Parameters
    ----------
    train
        Training cells with labels; nothing else reaches a model.
    test
        Test cells without labels and donors.
    truth
        Cell table of the test cells, with labels and donors: for scores only.
    entry
        The data set.
    model
        The model and its settings.
    seed
        Of the split, the model and everything drawn.
    condition
        One of those that the task names; empty where it has none.
    options
        Of the task.
    compute
        ``accelerator``, ``devices``, ``precision`` of the study.
    base
        Folder that paths of data are relative to.
    measured
        Values of the other modality in the test cells, CSR, where the data set has one: for scores
        only.
    """

    train: AnnData
    test: AnnData
    truth: pd.DataFrame
    entry: DataEntry
    model: ModelEntry
    seed: int
    condition: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    compute: Mapping[str, Any] = field(default_factory=dict)
    measured: Any = None
    base: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def coarse(self) -> dict[str, str] | None:
        """Coarser label of every label, of data sets that have them."""
        if COARSE not in self.truth:
            return None
        parts = (self.train.obs, self.truth)
        return {k: v for p in parts for k, v in zip(p[LABEL], p[COARSE], strict=True)}

    def rng(self, name: str) -> np.random.Generator:
        """Return a generator of a stream of its own."""
        return np.random.default_rng(settings.stream_seed(f"benchmark-{name}", self.seed))

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Add the time of the block to ``seconds[what]``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - started

    def fitted(self, train: AnnData | None = None, *, labels: bool = True) -> Any:
        """Set a model up on training cells, train it, and return it.

        Parameters
        ----------
        train
            Default the training cells of the case.
        labels
            Whether the model is told the labels; one that cannot do without is told in any case.
        """
        asked = self.model.pretrain
        if asked is not None and not asked.model:
            return load(self.pretrained(asked))
        start = {} if asked is None else {"init": self.pretrained(asked)}
        with self.timed("train"):
            found = self.untrained(train, labels=labels, **start)
            found.train(**self._training(found), **self.model.train)
        return found

    @property
    def reading(self) -> dict[str, Any]:
        """How the fitted model is told to read cells.

        A model of other studies may know genes by symbols, of which these cells have several of a
        name: they are summed, as they were in its pretraining.
        """
        asked = self.model.pretrain
        return {} if asked is None or asked.model else {"duplicates": "sum"}

    def pretrained(self, asked: Pretraining) -> Path:
        """Return the folder of what is learned before, without labels.

        Parameters
        ----------
        asked
            What is learned.
        """
        obs = self.test.obs.copy()
        if DONOR in self.truth:
            obs[DONOR] = self.truth[DONOR].to_numpy()
        folder = pretrained_folder(
            self.model,
            asked,
            self.train,
            AnnData(self.test.X, obs=obs, var=self.test.var),
            seed=self.seed,
            base=self.base,
            version=version_of(pretrained_model(self.model)),
            compute={k: v for k, v in self.compute.items() if v is not None},
        )
        # What it took when it was done, by this run or by another.
        self.seconds["pretrain"] = float(read_manifest(folder)["fit"]["seconds"])
        return folder

    def untrained(
        self, train: AnnData | None = None, *, labels: bool = True, **more: object
    ) -> Any:
        """Set a model up on training cells, and return it as it is.

        Parameters
        ----------
        train, labels
            Of :meth:`fitted`.
        **more
            Arguments of the class beside those of the entry.
        """
        cells: Any = self.train if train is None else train
        setup: dict[str, Any] = {"donor_key": DONOR if DONOR in cells.obs else None}
        cls = class_of(self)
        if labels or needs_labels(cls):
            setup["labels_key"] = LABEL
        if self.entry.batch_key is not None:
            setup["batch_key"] = self.entry.batch_key
        set_up = cls.setup_anndata
        if "translation" in plugins.get_spec(self.model.model).capabilities:
            cells, set_up = in_two(cells), cls.setup_mudata
            setup |= {"rna_modality": _RNA, "target_modality": TARGET}
        members = []
        for _ in range(self.model.ensemble):
            set_up(cells, **_known(set_up, setup), **self.model.setup)
            init = with_files({**self.model.init, **more}, self.base)
            members.append(cls(cells, **init))
        found: Any = members[0] if len(members) == 1 else Ensemble(members)
        return found

    def _training(self, model: Any) -> dict[str, Any]:
        """Arguments of ``train`` that the study gives; those of epochs go to networks only."""
        given = {k: v for k, v in self.compute.items() if v is not None}
        if not all(isinstance(m, NetworkModel) for m in getattr(model, "members", (model,))):
            given.pop("precision", None)
        return {k: v for k, v in given.items() if k not in self.model.train}


@dataclass(slots=True, eq=False)
class Outcome:
    """What a task found.

    Parameters
    ----------
    scores
        Metric -> value, by condition.
    predictions
        One row per test cell: ``truth``, ``call``, ``confidence``, ``donor`` ...
    """

    scores: dict[str, dict[str, float]]
    predictions: pd.DataFrame | None = None


def only(cells: AnnData, columns: tuple[str, ...], arrays: tuple[str, ...] = ()) -> AnnData:
    """Return a copy of cells with the columns and arrays of ``obsm`` that are named."""
    # A task may ask for a column that training has anyway: once.
    obs = cells.obs[[c for c in dict.fromkeys(columns) if c in cells.obs]].copy()
    kept = {k: cells.obsm[k].copy() for k in arrays if k in cells.obsm}
    found = AnnData(cells.X.copy(), obs=obs, var=cells.var.copy(), obsm=kept)
    if TARGET in kept:
        found.uns[TARGET] = cells.uns[TARGET]
    return found


def for_training(cells: AnnData, keep: tuple[str, ...], arrays: tuple[str, ...] = ()) -> AnnData:
    """Return a copy of training cells with labels, donors and the columns and arrays named."""
    return only(cells, (*_OF_TRAINING, TERM, COARSE, *keep), arrays)


def in_two(cells: AnnData) -> Any:
    """Return cells with another modality in ``obsm`` as MuData of two.

    Raises
    ------
    UsageError
        There is no other modality (E-B05).
    """
    if TARGET not in cells.obsm:
        raise UsageError(
            "E-B05",
            "the model predicts another modality, and the data set names none",
            fix='target = "obsm:KEY", or a modality of a file of several',
        )
    rna = AnnData(cells.X, obs=cells.obs.copy(), var=cells.var.copy())
    var = pd.DataFrame(index=pd.Index(cells.uns[TARGET].astype(str)))
    obs = pd.DataFrame(index=cells.obs_names)
    return as_mudata({_RNA: rna, TARGET: AnnData(cells.obsm[TARGET].copy(), obs=obs, var=var)})


def class_of(case: Case) -> Any:
    """Return the class of the model of a case."""
    return plugins.load_class(plugins.get_spec(case.model.model))


def needs_labels(cls: Any) -> bool:
    """Whether a model cannot be set up without labels."""
    found = inspect.signature(cls.setup_anndata).parameters.get("labels_key")
    return found is not None and found.default is found.empty


def _known(function: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out arguments that a set-up does not name, and those that say nothing."""
    parameters = inspect.signature(function).parameters
    return {k: v for k, v in arguments.items() if v is not None and k in parameters}
