"""Temperature scaling: one number that makes confidence agree with accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from episome.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

#: Smallest probability whose logarithm is taken: votes may be zero.
SMALLEST = 1e-6
#: Temperatures that are looked at.
RANGE = (1e-2, 1e2)


def as_logits(probabilities: ArrayLike) -> NDArray[np.float64]:
    """Return logits that give these probabilities; zeros count as 1e-6.

    Parameters
    ----------
    probabilities
        (n_cells, n_classes), rows sum to one.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    logits: NDArray[np.float64] = np.log(np.maximum(values, SMALLEST))
    return logits


def logits_of(outputs: Mapping[str, Any]) -> NDArray[np.floating]:
    """Return the logits of a core's outputs, from its probabilities where it gives no others."""
    if "logits" in outputs:
        logits: NDArray[np.floating] = np.asarray(outputs["logits"])
        return logits
    return as_logits(outputs["probabilities"])


def fit_temperature(logits: ArrayLike, codes: ArrayLike, *, smoothing: float = 0.0) -> float:
    """Return the temperature that gives the smallest negative log-likelihood.

    The likelihood is convex in the inverse temperature, so the minimum is the one.

    Parameters
    ----------
    logits
        Of cells that did not train the model, (n_cells, n_classes), never scaled before.
    codes
        True class of every cell, int64 (n_cells,).
    smoothing
        Share of the truth that is spread over all classes. Without any, cells that are all called
        right, as few cells often are, ask for a model that is never in doubt.

    Returns
    -------
    Above 1 where the model is too sure, below 1 where it is not sure enough; from 0.01 to 100.

    Raises
    ------
    UsageError
        No cells (E-U43), or not one code per cell (E-U41).

    References
    ----------
    Guo et al. (2017), On Calibration of Modern Neural Networks; Platt (1999) for the smoothing.
    """
    values, classes = _checked(logits, codes)

    def loss(log_temperature: float) -> float:
        logs = log_softmax(values * np.exp(-log_temperature), axis=1)
        of_truth = logs[np.arange(len(classes)), classes]
        return float(-((1.0 - smoothing) * of_truth + smoothing * logs.mean(axis=1)).mean())

    low, high = np.log(RANGE)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-5})
    # One class that is always right has no minimum inside: nothing is gained by any temperature.
    best = float(found.x) if loss(float(found.x)) < loss(0.0) else 0.0
    return float(np.exp(best))


def scaled(logits: ArrayLike, temperature: float) -> NDArray[np.float32]:
    """Return probabilities at a temperature: ``softmax(logits / temperature)`` over all classes.

    Parameters
    ----------
    logits
        (n_cells, n_classes).
    temperature
        Above zero.

    Raises
    ------
    UsageError
        A temperature that is not above zero (E-U64).
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise UsageError("E-U64", f"temperature={temperature!r}", fix="pass a number above zero")
    values = np.asarray(logits, dtype=np.float64)
    shares: NDArray[np.float32] = softmax(values / temperature, axis=1).astype(np.float32)
    return shares


def _checked(logits: ArrayLike, codes: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    values, classes = np.asarray(logits, dtype=np.float64), np.asarray(codes, dtype=np.int64)
    if len(values) == 0:
        raise UsageError("E-U43", "there are no cells to calibrate on", fix="pass some")
    if classes.shape != values.shape[:1]:
        raise UsageError(
            "E-U41", f"{len(classes):,} codes for {len(values):,} cells", fix="pass one per cell"
        )
    return values, classes
