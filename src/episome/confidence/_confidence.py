"""Everything about a model's confidence, as its folder keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from episome.confidence._conformal import ConformalScores, coverage
from episome.confidence._maps import CalibrationMap, fit_map
from episome.confidence._novelty import Novelty, TypeSpace
from episome.confidence._shift import ShiftGrid
from episome.confidence._temperature import scaled
from episome.errors import ModelFileError
from episome.metrics import brier_score, expected_calibration_error, negative_log_likelihood

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Where calibration cells come from: a part of the split of their own; folds that held them out;
#: the cells that chose the checkpoint, where there are too few for a part of their own.
CalibrationSource: TypeAlias = Literal["held out", "out of fold", "validation"]

N_BINS = 15
#: Error rates whose label sets are measured.
RATES = (0.05, 0.1)


@dataclass(frozen=True, slots=True, eq=False)
class Confidence:
    """What turns the outputs of a model into probabilities, sets and novelty.

    Parameters
    ----------
    map
        From logits to calibrated probabilities.
    scores
        Of calibration cells, for label sets; ``None`` where nobody calibrated.
    novelty
        Ranks of calibration cells; ``None`` where the model has none.
    facts
        What was measured on calibration cells that the map was not fitted on: see
        :func:`fit_confidence`.
    shift
        What is known of queries that lack genes or counts; ``None`` where nothing is.
    """

    map: CalibrationMap = field(default_factory=CalibrationMap)
    scores: ConformalScores | None = None
    novelty: Novelty | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    shift: ShiftGrid | None = None

    @property
    def is_calibrated(self) -> bool:
        """Whether a map was fitted."""
        return self.map.kind != "none"

    def to_parts(self) -> tuple[dict[str, NDArray[np.generic]], dict[str, Any]]:
        """Return tensors, and plain data for the manifest."""
        tensors: dict[str, NDArray[np.generic]] = {
            f"map/{k}": v for k, v in self.map.arrays.items()
        }
        if self.scores is not None:
            tensors |= {"scores": self.scores.scores, "codes": self.scores.codes}
        if self.novelty is not None:
            tensors |= {f"novelty/{k}": v for k, v in self.novelty.tensors().items()}
        plain = {
            "calibrated": self.is_calibrated,
            "map": self.map.kind,
            "temperature": self.map.temperature,
            "floor": self.map.floor,
            **self.facts,
        }
        if self.shift is not None:
            plain["shift"] = self.shift.to_json()
        return tensors, plain

    @classmethod
    def from_parts(
        cls, tensors: Mapping[str, NDArray[Any]], plain: Mapping[str, Any], *, n_classes: int
    ) -> Confidence:
        """Restore what :meth:`to_parts` gave.

        Raises
        ------
        ModelFileError
            The tables do not fit the classes, or hold what is no number (E-M06).
        """
        own = {"calibrated", "map", "temperature", "floor", "shift"}
        facts = {k: v for k, v in plain.items() if k not in own}
        arrays = _under(tensors, "map/")
        broken = [k for k, v in tensors.items() if v.dtype.kind == "f" and np.isnan(v).any()]
        wrong = [k for k, v in arrays.items() if len(v) != n_classes]
        if broken or wrong:
            raise ModelFileError(
                "E-M06",
                "the confidence does not fit the model",
                where="weights.safetensors",
                examples=[*broken, *wrong],
                fix="copy the folder again, or train the model again",
            )
        scores = None
        if "scores" in tensors:
            scores = ConformalScores(tensors["scores"], tensors["codes"], n_classes)
        novelty = _under(tensors, "novelty/")
        return cls(
            CalibrationMap(
                plain.get("map", "none"),
                float(plain.get("temperature", 1.0)),
                float(plain.get("floor", 0.0)),
                arrays,
            ),
            scores,
            Novelty.from_tensors(novelty) if novelty else None,
            facts,
            ShiftGrid.from_json(plain["shift"]) if plain.get("shift") else None,
        )


def fit_confidence(
    logits: NDArray[np.floating],
    codes: NDArray[np.int64],
    *,
    source: CalibrationSource,
    space: TypeSpace | None = None,
    distances: NDArray[np.floating] | None = None,
    donors: NDArray[Any] | None = None,
    votes: bool = False,
    seed: int = 0,
) -> Confidence:
    """Fit everything on calibration cells.

    Parameters
    ----------
    logits, codes
        Of cells that neither trained nor chose the model: (n_cells, n_classes), (n_cells,).
    source
        Where they come from.
    space, distances
        Where the types lie, and the cells' distances in a space that was fitted without them, for
        the novelty; both or none.
    donors
        Donor of every cell.
    votes
        See :func:`fit_map`.
    seed
        Of folds and draws.

    Returns
    -------
    A :class:`Confidence` whose ``facts`` hold ``source``, ``n_cells``, ``n_donors``, the
    cross-fitted ``losses`` of every map tried, and for ``before`` (raw) and ``after`` (each cell
    by a map fitted on others): ``ece`` (15 bins of equally many cells), ``nll``, ``brier``,
    ``accuracy`` and the ``reliability`` table of ``confidence``, ``accuracy``, ``n_cells``;
    ``recall``: share of the cells of every class that are called so, and their number;
    ``coverage`` of the label sets of two error rates (:func:`coverage`), by class and donor.
    """
    fitted = fit_map(logits, codes, groups=donors, votes=votes, seed=seed)
    novelty = None
    if space is not None and distances is not None:
        novelty = Novelty.fit(space, fitted.map.probabilities(logits), distances)
    facts = {
        "source": source,
        "n_cells": len(codes),
        "n_donors": 0 if donors is None else len({d for d in donors if d is not None}),
        "losses": dict(fitted.losses),
        "before": _measured(scaled(logits, 1.0), codes),
        "after": _measured(fitted.held_out, codes),
        "recall": _recall(fitted.held_out, codes),
        "coverage": {
            f"{rate:g}": coverage(
                fitted.held_out, codes, donors=donors, error_rate=rate, seed=seed
            )
            for rate in RATES
        },
    }
    # Sets are of probabilities that did not see their own label: those of the folds.
    scores = ConformalScores.of(fitted.held_out, codes, seed=seed)
    return Confidence(fitted.map, scores, novelty, facts)


def reliability(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], *, n_bins: int = N_BINS
) -> dict[str, list[float]]:
    """Return mean confidence and accuracy over bins of equally many cells.

    Parameters
    ----------
    confidence, correct
        (n_cells,): probability of the call, and whether it is right.
    n_bins
        Number of bins.
    """
    order = np.argsort(confidence, kind="stable")
    parts = [p for p in np.array_split(order, n_bins) if len(p)]
    return {
        "confidence": [float(confidence[p].mean()) for p in parts],
        "accuracy": [float(correct[p].mean()) for p in parts],
        "n_cells": [len(p) for p in parts],
    }


def _measured(shares: NDArray[np.floating], codes: NDArray[np.int64]) -> dict[str, Any]:
    sure, right = shares.max(axis=1), shares.argmax(axis=1) == codes
    return {
        "ece": expected_calibration_error(np.minimum(sure, 1.0), right, n_bins=N_BINS),
        "nll": negative_log_likelihood(shares, codes),
        "brier": brier_score(shares, codes),
        "accuracy": float(right.mean()),
        "reliability": reliability(sure, right),
    }


def _recall(
    shares: NDArray[np.floating], codes: NDArray[np.int64]
) -> list[list[float | int | None]]:
    """Share of the cells of every class that are called it, and how many there are."""
    right = shares.argmax(axis=1) == codes
    n = np.bincount(codes, minlength=shares.shape[1])
    hits = np.bincount(codes, weights=right, minlength=shares.shape[1])
    return [[float(h / k) if k else None, int(k)] for h, k in zip(hits, n, strict=True)]


def _under(tensors: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
