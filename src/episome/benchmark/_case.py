"""One run of a benchmark: what a task gets, and what it says."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from episome import plugins, settings
from episome.benchmark._data import DONOR, LABEL, TERM
from episome.models import Ensemble, NetworkModel

if TYPE_CHECKING:
    import pandas as pd

    from episome.benchmark._data import DataEntry
    from episome.benchmark._study import ModelEntry

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
    seconds: dict[str, float] = field(default_factory=dict)

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
        cells = self.train if train is None else train
        setup: dict[str, Any] = {"donor_key": DONOR if DONOR in cells.obs else None}
        cls = class_of(self)
        if labels or needs_labels(cls):
            setup["labels_key"] = LABEL
        if self.entry.batch_key is not None:
            setup["batch_key"] = self.entry.batch_key
        with self.timed("train"):
            members = []
            for _ in range(self.model.ensemble):
                cls.setup_anndata(cells, **_known(cls.setup_anndata, setup), **self.model.setup)
                members.append(cls(cells, **self.model.init))
            found: Any = members[0] if len(members) == 1 else Ensemble(members)
            found.train(**self._training(found), **self.model.train)
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


def only(cells: AnnData, columns: tuple[str, ...], obsm_key: str = "") -> AnnData:
    """Return a copy of cells with the columns named, and one array of ``obsm`` or none."""
    obs = cells.obs[[c for c in columns if c in cells.obs]].copy()
    arrays = {obsm_key: cells.obsm[obsm_key].copy()} if obsm_key in cells.obsm else {}
    return AnnData(cells.X.copy(), obs=obs, var=cells.var.copy(), obsm=arrays)


def for_training(cells: AnnData, keep: tuple[str, ...], obsm_key: str = "") -> AnnData:
    """Return a copy of training cells with labels, donors and the columns named."""
    return only(cells, (*_OF_TRAINING, TERM, *keep), obsm_key)


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
