"""One annotator on one part of the cells: trained, timed, scored; whatever happens is a result."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome import plugins
from episome.errors import EpisomeError, MissingDependencyError
from episome.log import get_logger, quiet
from episome.metrics import (
    accuracy,
    bootstrap,
    expected_calibration_error,
    macro_f1,
    negative_log_likelihood,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

logger = get_logger(__name__)

#: Arguments of a set-up that a query has as well.
QUERY = ("layer", "use_raw", "input_kind", "duplicates", "nan")
N_DRAWS = 300


@dataclass(slots=True)
class Trial:
    """What is known of one candidate.

    Parameters
    ----------
    name
        Name of the spec.
    n_cells
        Cells that are compared on.
    """

    name: str
    n_cells: int
    probabilities: pd.DataFrame | None = None
    said: NDArray[np.bool_] = field(init=False)
    seconds: float = 0.0
    n_parts: int = 0
    problem: str = ""
    is_late: bool = False

    def __post_init__(self) -> None:
        self.said = np.zeros(self.n_cells, dtype=bool)

    def add(self, rows: NDArray[np.int64], found: pd.DataFrame, seconds: float) -> None:
        """Remember calibrated probabilities of held-out cells."""
        known = self.probabilities
        if known is None:
            zeros = np.zeros((self.n_cells, found.shape[1]), dtype=np.float32)
            known = self.probabilities = pd.DataFrame(zeros, columns=found.columns)
        for name in found.columns.difference(known.columns):
            known[name] = np.float32(0.0)
        shares = found.reindex(columns=known.columns, fill_value=0.0)
        known.iloc[rows] = shares.to_numpy(dtype=np.float32)
        self.said[rows] = True
        self.seconds += seconds
        self.n_parts += 1

    def among(self, cells: NDArray[np.bool_]) -> Trial:
        """Return the trial as if only these cells had been held out."""
        less = copy.copy(self)
        less.said = self.said & cells
        return less

    def answers(self) -> pd.DataFrame:
        """Probabilities of the cells that were held out so far."""
        if self.probabilities is None:
            msg = f"{self.name} has not been tried"
            raise RuntimeError(msg)
        return self.probabilities.loc[self.said].sort_index(axis=1)


class _OutOfTimeError(Exception):
    """A training goes on for longer than it may."""


def try_model(
    trial: Trial,
    adata: AnnData,
    setup: Mapping[str, Any],
    fitted: NDArray[np.int64],
    held: NDArray[np.int64],
    *,
    seconds: float,
    train_kwargs: Mapping[str, Any],
    model_kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Train on ``fitted`` and call ``held``; what goes wrong becomes the problem of the trial.

    Parameters
    ----------
    trial
        Of the model; changed.
    adata
        All cells that are compared on.
    setup
        Of ``setup_anndata``.
    fitted, held
        Positions, int64.
    seconds
        A training of epochs is stopped after them.
    train_kwargs, model_kwargs
        Of ``train``, and of the model.
    """
    started = time.monotonic()
    stop = started + seconds

    def progress(*_: object) -> None:
        if time.monotonic() > stop:
            raise _OutOfTimeError

    try:
        with quiet():
            cls = plugins.load_class(plugins.get_spec(trial.name))
            part = adata[fitted].copy()
            cls.setup_anndata(part, **setup)
            model = cls(part, **(model_kwargs or {}))
            model.train(progress=progress, **train_kwargs)
            query = {k: setup[k] for k in QUERY if k in setup}
            found = model.predict_proba(adata[held], **query)
    except _OutOfTimeError:
        trial.problem = f"stopped after {time.monotonic() - started:.0f} s: it needs too long"
        trial.is_late = True
    except MissingDependencyError as error:
        trial.problem = f"needs {error.problems[0].fix}"
    except EpisomeError as error:
        trial.problem = f"{error.problems[0].what} [{error.problems[0].code}]"
    except Exception as error:  # a plugin may raise anything, and the others are to go on
        logger.debug("%s failed", trial.name, exc_info=True)
        trial.problem = f"failed: {type(error).__name__}: {str(error)[:160]}"
    else:
        trial.add(held, found, time.monotonic() - started)


def scores_of(
    trial: Trial, truth: NDArray[np.object_], donors: NDArray[np.object_] | None
) -> dict[str, float]:
    """Return the scores of a trial on the cells that were held out so far.

    ``macro_f1`` with ``low`` and ``high`` (95 %, over donors where there are three), ``accuracy``,
    ``nll`` and ``ece`` of the calibrated probabilities.
    """
    of = None if donors is None else donors[trial.said]
    return table_row(trial.answers(), truth[trial.said], of)


def table_row(
    answers: pd.DataFrame, truth: NDArray[np.object_], donors: NDArray[np.object_] | None
) -> dict[str, float]:
    """Return the scores of probabilities; see :func:`scores_of`."""
    values = answers.to_numpy(dtype=np.float64)
    values = values / values.sum(axis=1, keepdims=True)
    place = answers.columns.get_indexer(pd.Index(truth))
    calls = answers.columns.to_numpy(dtype=object)[values.argmax(axis=1)]
    several = donors is not None and len({d for d in donors if d is not None}) >= 3
    found = bootstrap(
        "macro_f1", truth, calls, groups=donors if several else None, n_draws=N_DRAWS
    )
    right = calls == truth
    return {
        "macro_f1": macro_f1(truth, calls),
        "low": found.low,
        "high": found.high,
        "accuracy": accuracy(truth, calls),
        "nll": negative_log_likelihood(values, place) if (place >= 0).all() else math.inf,
        "ece": expected_calibration_error(values.max(axis=1), right),
    }


@dataclass(frozen=True, slots=True)
class Pair:
    """Two candidates whose probabilities are averaged."""

    names: tuple[str, ...]
    scores: dict[str, float]


def best_pair(
    trials: Sequence[Trial],
    truth: NDArray[np.object_],
    rows: Mapping[str, Mapping[str, float]],
    n_tried: int = 4,
) -> Pair | None:
    """Return the best mean of two of the best candidates on the cells that both held out.

    Parameters
    ----------
    trials
        Candidates that held out the same cells.
    truth
        Label of every cell.
    rows
        Their scores by name.
    n_tried
        How many of the best are paired.
    """
    best = sorted(trials, key=lambda t: -rows[t.name]["macro_f1"])[:n_tried]
    found = []
    for one, two in combinations(best, 2):
        # An ensemble reads its cells once: all members have to read the same of them.
        if _read_by(one) != _read_by(two) or not (one.said == two.said).all():
            continue
        mean = one.answers().add(two.answers(), fill_value=0.0) / 2
        found.append(Pair((one.name, two.name), table_row(mean, truth[one.said], None)))
    return max(found, key=lambda p: p.scores["macro_f1"], default=None)


def _read_by(trial: Trial) -> str:
    """Return the array of ``obsm`` that a candidate reads; nothing for genes."""
    return plugins.get_spec(trial.name).obsm_key
