"""`LogisticRegression`: sparse, tuned on training cells; the bar for every other model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from episome.data import folds, require_choice, variable_genes
from episome.errors import UsageError
from episome.log import get_logger
from episome.metrics import macro_f1
from episome.models import ArrayClassifierModel, ExplanationMixin, TrainingCells
from episome_baselines.cores import LogisticRegressionCore

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

logger = get_logger(__name__)

#: Parts that the strength of the penalty is chosen by.
FOLDS = 5


class LogisticRegression(ExplanationMixin, ArrayClassifierModel):
    """Multinomial logistic regression on log1p values, without densifying.

    Vectors of ``obsm`` are scaled to unit variance first, as a linear probe wants them; the scale
    is that of training cells and becomes part of the coefficients.

    The strength of the penalty is the one of ``penalties`` with the best cross-validated macro F1
    on training cells, folds by donor where there are at least five; among those within one
    standard error the one nearest to scikit-learn's 1.

    Parameters
    ----------
    adata, registry
        As for every model.
    n_top_genes
        Variable genes, chosen on training cells; ``None``: all.
    penalties
        Inverse strengths to choose from; one value is taken without tuning.
    norm
        What is penalised: ``"l2"``, squared coefficients; ``"l1"``, absolute ones, so that most
        genes have none.
    max_iter
        Of the solver (L-BFGS, or SAGA with ``"l1"``).
    class_weight
        ``"balanced"`` or ``None``.

    Raises
    ------
    UsageError
        Penalties that are no numbers above zero (E-U31).
    """

    capabilities = ("annotation", "explanation")
    reads_embeddings = True
    _core_cls = LogisticRegressionCore

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, object] | None = None,
        *,
        n_top_genes: int | None = 2000,
        penalties: Sequence[float] = (0.1, 1.0, 10.0),
        norm: Literal["l2", "l1"] = "l2",
        max_iter: int = 200,
        class_weight: str | None = None,
    ) -> None:
        super().__init__(adata, registry)
        require_choice("norm", norm, ("l2", "l1"))
        if class_weight is not None:
            require_choice("class_weight", class_weight, ("balanced",))
        if max_iter < 1:
            raise UsageError("E-U22", f"max_iter={max_iter!r}", fix="pass a number such as 200")
        self.norm = norm
        self.n_top_genes, self.penalties = n_top_genes, checked_penalties(penalties)
        self.max_iter, self.class_weight = max_iter, class_weight
        penalties = list(self.penalties)
        self._finish_init(
            self._build_core(), locals(), f"LogisticRegression of {len(self.labels)} classes"
        )

    def _settle(self, cells: TrainingCells) -> None:
        # Chosen once for all fits: three strengths are too few to learn the calibration cells by.
        self._penalty, self._cv_scores = self._tune(cells)
        self._n_settled = len(cells.codes)

    def _fit_core(self, cells: TrainingCells) -> dict[str, object]:
        genes = variable_genes(cells.values, self.n_top_genes)
        values, mean, scale = self._scaled(cells.values[:, genes])
        # Of a part of the cells the losses count more, so that the penalty weighs what it does in
        # the fit on all: coefficients of parts would be smaller, and calibrate another model.
        penalty = self._penalty * self._n_settled / len(cells.codes)
        fitted = self._fitted(values, cells.codes, penalty)
        coefficients, intercept = full_coefficients(fitted, cells.n_classes)
        coefficients /= scale
        intercept -= coefficients @ mean
        self.module.fill(genes=genes, coefficients=coefficients, intercept=intercept)
        return {"penalty": self._penalty, "n_genes": len(genes), "cv_macro_f1": self._cv_scores}

    def _scaled(
        self, values: sparse.csr_matrix
    ) -> tuple[sparse.csr_matrix | NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Return what the solver sees, and the mean and scale that it was freed of."""
        width = values.shape[1]
        if self.input_rule.input_kind != "embedding":
            return values, np.zeros(width, np.float32), np.ones(width, np.float32)
        dense = values.toarray()
        mean, scale = dense.mean(axis=0), dense.std(axis=0)
        scale[scale == 0] = 1.0
        return (dense - mean) / scale, mean, scale

    def _fitted(
        self, values: sparse.csr_matrix, codes: NDArray[np.int64], penalty: float
    ) -> object:
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression as Multinomial

        how = {"C": penalty, "max_iter": self.max_iter, "class_weight": self.class_weight}
        if self.norm == "l1":
            # scikit-learn 1.8 has another name for it.
            old = Multinomial().get_params().get("penalty") == "l2"
            how |= {"solver": "saga", "random_state": 0}
            how |= {"penalty": "l1"} if old else {"l1_ratio": 1.0}
        model = Multinomial(**how)
        with warnings.catch_warnings():
            # Stopping at max_iter is an early stop, not a fault; more steps change no label here.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(values, codes)

    def _tune(self, cells: TrainingCells) -> tuple[float, dict[str, float]]:
        if len(self.penalties) == 1:
            return self.penalties[0], {}
        parts = list(folds(cells.codes, cells.donors, seed=cells.seed, n_folds=FOLDS))
        if len(parts) < 2:
            return min(self.penalties, key=lambda p: abs(np.log(p))), {}
        table = np.array([self._scores(cells, *part) for part in parts]).T
        mean = table.mean(axis=1)
        error = table[mean.argmax()].std(ddof=1) / np.sqrt(len(parts))
        good = [i for i in range(len(mean)) if mean[i] >= mean.max() - error]
        best = min(good, key=lambda i: abs(np.log(self.penalties[i])))
        scores = {f"{p:g}": round(float(m), 4) for p, m in zip(self.penalties, mean, strict=True)}
        logger.info("cross-validated macro F1 by penalty: %s", scores)
        return self.penalties[best], scores

    def _scores(
        self, cells: TrainingCells, train: NDArray[np.int64], test: NDArray[np.int64]
    ) -> list[float]:
        """Macro F1 of every penalty on one fold, genes chosen on its training part."""
        genes = variable_genes(cells.values[train], self.n_top_genes)
        known, mean, scale = self._scaled(cells.values[train][:, genes])
        new = cells.values[test][:, genes]
        if isinstance(known, np.ndarray):
            new = (new.toarray() - mean) / scale
        fits = [self._fitted(known, cells.codes[train], p) for p in self.penalties]
        return [macro_f1(cells.codes[test], fitted.predict(new)) for fitted in fits]


def checked_penalties(
    given: Sequence[float] | float, *, why: str = "they are inverse strengths above zero"
) -> tuple[float, ...]:
    """Return the strengths to choose from; one number is one strength.

    Parameters
    ----------
    given
        What was passed.
    why
        What they are.

    Raises
    ------
    UsageError
        None, or one that is no number above zero (E-U31).
    """
    many = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    numbers = [isinstance(p, int | float) and 0 < p < np.inf for p in many]
    if not many or not all(numbers):
        raise UsageError(
            "E-U31",
            f"penalties={given!r} is out of range",
            why=why,
            fix="pass numbers such as (0.1, 1.0, 10.0)",
        )
    return tuple(float(p) for p in many)


def full_coefficients(
    fitted: object, n_classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coefficients of every class; two classes come from the solver as one row of differences."""
    coefficients, intercept = fitted.coef_, fitted.intercept_
    if n_classes == 2 and len(coefficients) == 1:
        coefficients = np.vstack([-coefficients / 2, coefficients / 2])
        intercept = np.concatenate([-intercept / 2, intercept / 2])
    return coefficients.astype(np.float32), intercept.astype(np.float32)
