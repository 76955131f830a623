"""Maps from what a model says to probabilities that are right as often as they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from scipy.special import log_softmax, softmax

from episome.confidence._temperature import fit_temperature, scaled
from episome.metrics import negative_log_likelihood

if TYPE_CHECKING:
    from numpy.typing import NDArray

MapKind: TypeAlias = Literal["none", "temperature", "isotonic", "dirichlet"]

#: Cells from which on a richer map than one temperature is tried.
MIN_RICH = 1000
#: Share of the negative log-likelihood by which a richer map must be better.
MIN_GAIN = 0.01
#: Knots that an isotonic map keeps for every class.
MAX_KNOTS = 200
#: Smallest probability of a class after an isotonic map.
FLOOR = 1e-4
FOLDS = 5
#: Smallest shares that are tried for votes.
FLOORS = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1)


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationMap:
    """How logits become calibrated probabilities.

    Parameters
    ----------
    kind
        ``"temperature"``; ``"isotonic"``: a monotone map of every class's probability at that
        temperature, rows scaled to one; ``"dirichlet"``: a linear map of its logarithms;
        ``"none"``: nobody fitted one.
    temperature
        Above zero.
    floor
        Smallest share of a class on the way in: votes are often zero, and no class is impossible
        because none of a few neighbours has it. 0 for models with logits of their own.
    arrays
        What the richer maps hold, by name.
    """

    kind: MapKind = "none"
    temperature: float = 1.0
    floor: float = 0.0
    arrays: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def probabilities(self, logits: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return calibrated probabilities.

        Parameters
        ----------
        logits
            Of the model, (n_cells, n_classes).

        Returns
        -------
        float32 of the same shape, rows sum to one.
        """
        found = scaled(_raised(logits, self.floor), self.temperature)
        if self.kind == "isotonic":
            return _isotonic(found, self.arrays)
        if self.kind == "dirichlet":
            logs = np.log(np.maximum(found, FLOOR))
            mapped = logs @ self.arrays["weights"].T + self.arrays["bias"]
            shares: NDArray[np.float32] = softmax(mapped, axis=1).astype(np.float32)
            return shares
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A map, and what it does to cells that it was not fitted on.

    Parameters
    ----------
    map
        The chosen map, fitted on all calibration cells.
    held_out
        Probabilities of the calibration cells, each by a map fitted on the others, float32
        (n_cells, n_classes).
    losses
        Their negative log-likelihood by every kind of map that was tried.
    """

    map: CalibrationMap
    held_out: NDArray[np.float32]
    losses: Mapping[str, float]


def fit_map(
    logits: NDArray[np.floating],
    codes: NDArray[np.int64],
    *,
    groups: NDArray[Any] | None = None,
    votes: bool = False,
    seed: int = 0,
) -> Fitted:
    """Choose and fit the map of a model on calibration cells.

    One temperature always; an isotonic or a Dirichlet map only from 1,000 cells on, and where
    its negative log-likelihood on cells that it was not fitted on is at least 1 % better.

    Parameters
    ----------
    logits, codes
        Of cells that neither trained nor chose the model: (n_cells, n_classes), (n_cells,).
    groups
        Donor of every cell: folds keep donors together where there are at least five.
    votes
        The logits are those of votes: a floor is fitted beside the temperature.
    seed
        Of the folds.

    Returns
    -------
    A :class:`Fitted`.
    """
    parts = folds_of(codes, groups, seed)
    tried = {"temperature": cross_fitted("temperature", logits, codes, parts, votes=votes)}
    if len(codes) >= MIN_RICH and len(np.unique(codes)) == logits.shape[1]:
        for kind in ("isotonic", "dirichlet"):
            tried[kind] = cross_fitted(kind, logits, codes, parts, votes=votes)
    losses = {kind: negative_log_likelihood(shares, codes) for kind, shares in tried.items()}
    best = min(losses, key=lambda k: losses[k])
    if losses[best] >= losses["temperature"] * (1.0 - MIN_GAIN):
        best = "temperature"
    return Fitted(_fit(best, logits, codes, votes=votes), tried[best], losses)


def _fit(
    kind: str, logits: NDArray[np.floating], codes: NDArray[np.int64], *, votes: bool = False
) -> CalibrationMap:
    # As Platt's targets: n right calls of n allow one wrong one more.
    smoothing = 1.0 / (len(codes) + 2.0)
    fits = []
    for floor in FLOORS if votes else (0.0,):
        raised = _raised(logits, floor)
        temperature = fit_temperature(raised, codes, smoothing=smoothing)
        loss = negative_log_likelihood(scaled(raised, temperature), codes)
        fits.append((loss, temperature, floor))
    _, temperature, floor = min(fits)
    if kind == "temperature":
        return CalibrationMap("temperature", temperature, floor)
    found = scaled(_raised(logits, floor), temperature)
    fit = _fit_isotonic if kind == "isotonic" else _fit_dirichlet
    chosen: MapKind = "isotonic" if kind == "isotonic" else "dirichlet"
    return CalibrationMap(chosen, temperature, floor, fit(found, codes))


def _raised(logits: NDArray[np.floating], floor: float) -> NDArray[np.floating]:
    """Return logits of shares that are at least a floor."""
    if floor == 0.0:
        return logits
    raised: NDArray[np.floating] = np.log(np.maximum(scaled(logits, 1.0), floor))
    return raised


def cross_fitted(
    kind: str,
    logits: NDArray[np.floating],
    codes: NDArray[np.int64],
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
    *,
    votes: bool,
) -> NDArray[np.float32]:
    """Return probabilities of every cell by a map that was fitted on the others."""
    found = np.zeros(logits.shape, dtype=np.float32)
    for fitted, held in parts:
        fit = _fit(kind, logits[fitted], codes[fitted], votes=votes)
        found[held] = fit.probabilities(logits[held])
    return found


def folds_of(
    codes: NDArray[np.int64], groups: NDArray[Any] | None, seed: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return fitted and held-out rows of every fold; donors stay together where there are five."""
    from sklearn.model_selection import GroupKFold, KFold

    rows = np.arange(len(codes))
    if groups is not None and len(set(groups)) >= FOLDS:
        which = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
        return list(GroupKFold(FOLDS).split(rows, groups=which))
    n = min(FOLDS, len(rows))
    if n < 2:
        return [(rows, rows)]
    return list(KFold(n, shuffle=True, random_state=seed % (1 << 32)).split(rows))


def _fit_isotonic(
    shares: NDArray[np.float32], codes: NDArray[np.int64]
) -> dict[str, NDArray[np.float32]]:
    """Monotone maps of every class's probability, as knots of straight pieces."""
    from sklearn.isotonic import IsotonicRegression

    n_classes = shares.shape[1]
    x = np.zeros((n_classes, MAX_KNOTS), dtype=np.float32)
    y = np.zeros((n_classes, MAX_KNOTS), dtype=np.float32)
    for c in range(n_classes):
        fit = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
        fit.fit(shares[:, c].astype(np.float64), codes == c)
        known, value = fit.X_thresholds_, fit.y_thresholds_
        at = np.linspace(0, len(known) - 1, min(MAX_KNOTS, len(known))).round().astype(int)
        x[c] = np.pad(known[at], (0, MAX_KNOTS - len(at)), mode="edge")
        y[c] = np.pad(value[at], (0, MAX_KNOTS - len(at)), mode="edge")
    return {"x": x, "y": y}


def _isotonic(
    shares: NDArray[np.float32], knots: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float32]:
    mapped = np.stack(
        [np.interp(shares[:, c], knots["x"][c], knots["y"][c]) for c in range(shares.shape[1])],
        axis=1,
    )
    # A map is flat where cells were few: the order of what it was given breaks its ties.
    mapped = np.maximum(mapped, FLOOR) + 1e-6 * shares
    found: NDArray[np.float32] = (mapped / mapped.sum(axis=1, keepdims=True)).astype(np.float32)
    return found


def _fit_dirichlet(
    shares: NDArray[np.float32], codes: NDArray[np.int64]
) -> dict[str, NDArray[np.float32]]:
    """Fit a linear map of the logarithms that starts at the identity and stays near it.

    References
    ----------
    Kull et al. (2019), Beyond temperature scaling.
    """
    from scipy.optimize import minimize

    logs = np.log(np.maximum(shares.astype(np.float64), FLOOR))
    n, n_classes = logs.shape
    truth = np.zeros((n, n_classes))
    truth[np.arange(n), codes] = 1.0
    penalty = 1e-2

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        change, bias = flat[:-n_classes].reshape(n_classes, n_classes), flat[-n_classes:]
        logits = logs + logs @ change.T + bias
        log_shares = log_softmax(logits, axis=1)
        error = (np.exp(log_shares) - truth) / n
        value = -(truth * log_shares).sum() / n + penalty * (change**2).sum()
        slope = np.concatenate(
            [(error.T @ logs + 2 * penalty * change).ravel(), error.sum(axis=0)]
        )
        return float(value), slope

    start = np.zeros(n_classes * n_classes + n_classes)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    change = found[:-n_classes].reshape(n_classes, n_classes)
    return {
        "weights": (np.eye(n_classes) + change).astype(np.float32),
        "bias": found[-n_classes:].astype(np.float32),
    }
