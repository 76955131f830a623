"""The table of calls: label, confidence, novelty, status, label set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome.confidence import Confidence, restricted
from episome.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.confidence import RollUp
    from episome.data import Labels

CALL_COLUMNS = (
    "label",
    "label_ontology_term_id",
    "confidence",
    "label_raw",
    "novelty",
    "status",
    "second",
    "second_confidence",
)
#: Column of label sets, where an error rate is given.
SET_COLUMN = "set"
#: Columns of rolled-up calls, where a confidence is wanted of them.
ROLL_COLUMNS = ("label_confidence", "level")
#: Share of cells of known types whose status is novel, unless another is given.
FALSE_ALARMS = 0.01


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Which calls are kept; a limit that is not given filters nothing.

    Parameters
    ----------
    error_rate
        Label sets miss the truth in this share of cells like the calibration cells; cells whose
        set is not the call alone are ambiguous.
    false_alarms
        This share of cells of known types may be called novel; novel cells lose their label.
    min_confidence
        Calls below it are ambiguous and lose their label.
    roll_up
        Every call becomes the deepest term of the Cell Ontology that is at least this probable;
        with an error rate it has to cover the label set besides. Not with ``min_confidence``.
    restrict_to
        Terms, or names of terms or classes: the cells are known to be of these types or kinds of
        them. Probabilities of other classes are zero, and the rest sum to one.

    Raises
    ------
    UsageError
        A number outside 0 and 1, or two limits that exclude each other (E-U65).
    """

    error_rate: float | None = None
    false_alarms: float | None = None
    min_confidence: float | None = None
    roll_up: float | None = None
    restrict_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("error_rate", "false_alarms"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < 1.0:
                raise UsageError("E-U65", f"{name}={value!r}", fix="pass a share such as 0.05")
        sure = self.min_confidence
        if sure is not None and not 0.0 <= sure <= 1.0:
            raise UsageError("E-U65", f"min_confidence={sure!r}", fix="pass a number such as 0.5")
        rolled = self.roll_up
        if rolled is not None and not 0.0 < rolled <= 1.0:
            raise UsageError("E-U65", f"roll_up={rolled!r}", fix="pass a number such as 0.8")
        if rolled is not None and sure is not None:
            raise UsageError(
                "E-U65",
                "roll_up and min_confidence are both given",
                why="the one replaces a call that is not sure enough, the other takes it away",
                fix="pass one of them",
            )


def calls_frame(
    probabilities: NDArray[np.floating],
    empty: NDArray[np.bool_],
    labels: Labels,
    names: pd.Index,
    *,
    novelty: NDArray[np.floating] | None = None,
    confidence: Confidence | None = None,
    limits: CallLimits | None = None,
    roll: RollUp | None = None,
    possible: NDArray[np.bool_] | None = None,
) -> pd.DataFrame:
    """Turn probabilities into the table of calls.

    Parameters
    ----------
    probabilities
        Calibrated where the model is, (n_cells, n_classes).
    empty
        Cells with none of the model's genes.
    labels
        Classes.
    names
        Cell names.
    novelty
        Score of every cell, 0 to 1.
    confidence
        For label sets and the threshold of novelty.
    limits
        Which calls are kept.
    roll
        Terms above the classes; needed where the limits want calls rolled up.
    possible
        Which classes the cells may be of, bool (n_classes,); needed where limits restrict them.

    Returns
    -------
    One row per cell: ``label`` (filtered by the limits, unlabelled where nothing is left),
    ``label_ontology_term_id``, ``confidence`` (probability of ``label_raw``), ``label_raw`` (the
    most probable class, whatever the limits), ``novelty`` (NaN where the model has none),
    ``status`` (``assigned``, ``ambiguous``, ``novel``, ``low_quality``), ``second`` and
    ``second_confidence``; with an error rate ``set``: the classes of the label set, joined by
    ``;`` (names that hold one are quoted, as in a table of text); with ``roll_up``
    ``label_confidence`` (probability of ``label``) and ``level`` (steps of ``label`` above
    ``label_raw``), and the status ``rolled_up`` of calls that are no class any more. A cell with
    none of the model's genes is ``low_quality``: unlabelled, with NaN.

    Raises
    ------
    UsageError
        An error rate or false alarms for a model that has no calibration cells (E-U66).
    """
    limits, sure = limits or CallLimits(), confidence or Confidence()
    classes = np.array(labels.names, dtype=object)
    terms = np.array(labels.term_ids, dtype=object)
    sets = _sets(probabilities, sure, limits)
    if limits.restrict_to and possible is not None:
        probabilities = restricted(probabilities, possible)
        sets = None if sets is None else sets & possible
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]
    best, second = order[:, 0], order[:, 1] if len(labels) > 1 else order[:, 0]
    rows = np.arange(len(probabilities))
    top = probabilities[rows, best].astype(np.float32)
    scores = np.full(len(rows), np.nan, dtype=np.float32) if novelty is None else novelty
    called, called_terms = classes[best], terms[best]
    more: dict[str, NDArray[Any]] = {}
    rolled = np.zeros(len(rows), dtype=bool)
    if limits.roll_up is not None and roll is not None:
        node, reached, level = roll.climb(probabilities, limits.roll_up, sets=sets)
        ambiguous, rolled = node < 0, (node >= 0) & (level > 0)
        called = np.array(roll.names, dtype=object)[node]
        called_terms = np.array(roll.term_ids, dtype=object)[node]
        called_terms = np.where(rolled, called_terms, terms[best])
        more = {"label_confidence": reached.astype(np.float32), "level": level}
    else:
        ambiguous = _ambiguous(top, best, sets, limits)
    novel = _novel(scores, sure, limits)
    status = np.select(
        [empty, novel, ambiguous, rolled],
        ["low_quality", "novel", "ambiguous", "rolled_up"],
        "assigned",
    )
    lost = empty | ambiguous | (novel & (limits.false_alarms is not None))

    def shown(values: NDArray[Any], blank: str | float, where: NDArray[np.bool_]) -> NDArray[Any]:
        kept: NDArray[Any] = values.copy()
        kept[where] = blank
        return kept

    text = {
        "label": shown(called, labels.unlabeled, lost),
        "label_ontology_term_id": shown(called_terms, "", lost),
        "label_raw": shown(classes[best], "", empty),
        "status": status.astype(object),
        "second": shown(classes[second], "", empty),
    }
    numbers: dict[str, Any] = {
        "confidence": shown(top, np.nan, empty),
        "novelty": shown(scores.astype(np.float32), np.nan, empty),
        "second_confidence": shown(probabilities[rows, second].astype(np.float32), np.nan, empty),
    }
    columns = list(CALL_COLUMNS)
    if sets is not None:
        shown_as = np.array([_in_a_set(c) for c in classes], dtype=object)
        joined = [";".join(shown_as[row]) for row in sets]
        text[SET_COLUMN] = shown(np.array(joined, dtype=object), "", empty)
        columns.append(SET_COLUMN)
    if more:
        numbers["label_confidence"] = shown(more["label_confidence"], np.nan, lost)
        numbers["level"] = pd.array(more["level"], dtype="Int64")
        numbers["level"][lost] = pd.NA
        columns += ROLL_COLUMNS
    # Said, not inferred: a table without cells has the same types.
    calls = pd.DataFrame({**text, **numbers}, index=names).astype(dict.fromkeys(text, "str"))
    return calls[columns]


def _in_a_set(name: str) -> str:
    """Name of a class in a list with semicolons: quoted, as in a table, where it holds one."""
    quoted = name.replace('"', '""')
    return f'"{quoted}"' if ";" in name or '"' in name else name


def _sets(
    probabilities: NDArray[np.floating], sure: Confidence, limits: CallLimits
) -> NDArray[np.bool_] | None:
    if limits.error_rate is None:
        return None
    if sure.scores is None:
        name = "error_rate"
        raise _not_calibrated(name)
    return sure.scores.sets(probabilities, limits.error_rate)


def _ambiguous(
    top: NDArray[np.floating],
    best: NDArray[np.int64],
    sets: NDArray[np.bool_] | None,
    limits: CallLimits,
) -> NDArray[np.bool_]:
    """Cells whose call the limits do not let stand."""
    found = np.zeros(len(top), dtype=bool)
    if limits.min_confidence is not None:
        found |= top < limits.min_confidence
    if sets is not None:
        # Limits differ between classes: the one class of a set need not be the most probable.
        found |= (sets.sum(axis=1) != 1) | ~sets[np.arange(len(best)), best]
    return found


def _novel(
    novelty: NDArray[np.floating], sure: Confidence, limits: CallLimits
) -> NDArray[np.bool_]:
    """Cells that look less like the known types than almost all calibration cells."""
    if sure.novelty is None:
        if limits.false_alarms is not None:
            name = "false_alarms"
            raise _not_calibrated(name)
        return np.zeros(len(novelty), dtype=bool)
    rate = FALSE_ALARMS if limits.false_alarms is None else limits.false_alarms
    found: NDArray[np.bool_] = novelty > sure.novelty.threshold(rate)
    return found


def _not_calibrated(what: str) -> UsageError:
    return UsageError(
        "E-U66",
        f"{what} is given, and the model was never calibrated",
        why="label sets and novelty are measured against cells that did not train the model",
        fix="train it on labelled cells of your own; networks with calibration_size=0.1, or with "
        "validation cells",
    )
