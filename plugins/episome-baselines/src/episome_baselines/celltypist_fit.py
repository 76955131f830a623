"""CellTypist's training, step by step, with estimators that current scikit-learn can make."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from episome.errors import UsageError
from episome.log import get_logger
from episome_baselines.celltypist_core import CEILING
from episome_baselines.extras import require_positive

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.models import TrainingCells

logger = get_logger(__name__)

#: Cells from which on CellTypist takes the solver "sag", and iterates less.
LARGE, VERY_LARGE = 50_000, 500_000


@dataclass(frozen=True, slots=True)
class Settings:
    """Arguments of ``celltypist.train``, under its names."""

    feature_selection: bool
    top_genes: int
    use_SGD: bool
    mini_batch: bool
    batch_number: int
    batch_size: int
    epochs: int
    balance_cell_type: bool
    with_mean: bool
    C: float
    alpha: float
    max_iter: int | None


def fit_arrays(
    cells: TrainingCells, settings: Settings
) -> tuple[dict[str, NDArray[np.generic]], dict[str, object]]:
    """Train as CellTypist does.

    Parameters
    ----------
    cells
        Log1p values of all genes.
    settings
        Of the training.

    Returns
    -------
    The arrays of a ``CellTypistCore``, and what the manifest should record.
    """
    from sklearn.preprocessing import StandardScaler

    genes = np.flatnonzero(np.asarray(cells.values.sum(axis=0)).ravel() != 0)
    values = cells.values[:, genes]
    scaler = StandardScaler(with_mean=settings.with_mean)
    scaled = scaler.fit_transform(values.toarray() if settings.with_mean else values)
    scaled = _cut(scaled)
    chosen = np.arange(len(genes))
    if settings.feature_selection and len(genes) > settings.top_genes:
        first = _by_descent(scaled, cells, settings)
        chosen = _top_genes(first[0], settings.top_genes)
        scaled = scaled[:, chosen]
    elif settings.feature_selection:
        logger.info(
            "no genes are selected: there are %d, and top_genes=%d",
            len(genes),
            settings.top_genes,
        )
    solve = _by_descent if settings.use_SGD else _one_against_rest
    coefficients, intercept = _of_every_class(*solve(scaled, cells, settings))
    mean = scaler.mean_ if settings.with_mean else np.zeros(len(genes))
    arrays = {
        "genes": genes[chosen].astype(np.int64),
        "mean": np.asarray(mean, dtype=np.float64)[chosen],
        "scale": np.asarray(scaler.scale_, dtype=np.float64)[chosen],
        "coefficients": coefficients.astype(np.float64),
        "intercept": intercept.astype(np.float64),
    }
    return arrays, {"n_genes": len(chosen), "n_expressed_genes": len(genes)}


def _cut(scaled: NDArray[np.floating] | sparse.csr_matrix) -> np.ndarray | sparse.csr_matrix:
    values = scaled.data if sparse.issparse(scaled) else scaled
    np.minimum(values, CEILING, out=values)
    return scaled


def _top_genes(coefficients: NDArray[np.floating], n_top: int) -> NDArray[np.int64]:
    """Columns that are among the largest of any class, by absolute coefficient."""
    order = np.argpartition(np.abs(coefficients), -n_top, axis=1)
    return np.unique(order[:, -n_top:]).astype(np.int64)


def _iterations(settings: Settings, n_cells: int) -> int:
    if settings.max_iter is not None:
        return settings.max_iter
    return 1000 if n_cells < LARGE else 500 if n_cells < VERY_LARGE else 200


def _one_against_rest(
    values: np.ndarray | sparse.csr_matrix, cells: TrainingCells, settings: Settings
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Fit a logistic regression of every class against all others.

    CellTypist asks scikit-learn for this by ``multi_class="ovr"``, which scikit-learn 1.8 took
    out; the objectives are the same one by one.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    codes, n_cells = cells.codes, len(cells.codes)
    # Two classes are one regression.
    wanted = range(cells.n_classes) if cells.n_classes > 2 else (1,)
    rows = []
    for code in wanted:
        model = LogisticRegression(
            C=settings.C,
            solver="sag" if n_cells > LARGE else "lbfgs",
            max_iter=_iterations(settings, n_cells),
            random_state=cells.seed,
        )
        with warnings.catch_warnings():
            # Stopping at max_iter is how CellTypist bounds its time.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(values, codes == code)
        rows.append((model.coef_[0], model.intercept_[0]))
    return np.array([c for c, _ in rows]), np.array([i for _, i in rows])


def _by_descent(
    values: np.ndarray | sparse.csr_matrix, cells: TrainingCells, settings: Settings
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Fit all classes by stochastic gradient descent, at once or in mini-batches."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import SGDClassifier

    model = SGDClassifier(
        loss="log_loss",
        alpha=settings.alpha,
        max_iter=_iterations(settings, len(cells.codes)),
        random_state=cells.seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if settings.mini_batch and len(cells.codes) > settings.batch_size:
            for rows in _mini_batches(cells, settings):
                model.partial_fit(
                    values[rows], cells.codes[rows], classes=np.arange(cells.n_classes)
                )
        else:
            model.fit(values, cells.codes)
    return model.coef_, model.intercept_


def _mini_batches(cells: TrainingCells, settings: Settings) -> list[NDArray[np.int64]]:
    """Draw the rows of every mini-batch, as CellTypist does from numpy's global generator."""
    rng = np.random.RandomState(cells.seed)
    n_cells, size = len(cells.codes), settings.batch_size
    n_drawn = min(settings.batch_number * size, n_cells)
    share = None
    if settings.balance_cell_type:
        counts = np.bincount(cells.codes, minlength=cells.n_classes)
        share = 1 / (counts * cells.n_classes)[cells.codes]
    batches = []
    for _ in range(settings.epochs):
        drawn = rng.choice(n_cells, n_drawn, replace=False, p=share)
        batches += [drawn[start : start + size] for start in range(0, n_drawn, size)]
    return batches


def _of_every_class(
    coefficients: NDArray[np.floating], intercept: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Give two classes a row each: scikit-learn keeps that of the second."""
    if len(coefficients) > 1:
        return coefficients, intercept
    both = np.concatenate([-coefficients, coefficients])
    return both, np.concatenate([-intercept, intercept])


def checked(given: Mapping[str, object]) -> Settings:
    """Return the settings of a training.

    Parameters
    ----------
    given
        Arguments of ``CellTypist``.

    Raises
    ------
    UsageError
        A number that cannot be (E-U22, E-U15).
    """
    whole = ("top_genes", "batch_number", "batch_size", "epochs", "max_iter")
    require_positive(**{name: given[name] for name in whole})
    for name in ("C", "alpha"):
        if not given[name] > 0:
            raise UsageError("E-U15", f"{name}={given[name]!r}", fix="pass a positive number")
    return Settings(**given)
