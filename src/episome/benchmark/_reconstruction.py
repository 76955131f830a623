"""The task of models that say what expression they expect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from episome.benchmark._case import Case, Outcome, class_of, needs_labels
from episome.benchmark._tasks import Task
from episome.models import normalized_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

    from episome.data import Query

_SIZE = 1e4
_BLOCK = 1024


class ReconstructionTask(Task):
    """Expression of unseen cells, as a model expects it, and what it fills in where it sees none.

    Conditions: ``seen`` (the model is shown the cells), ``hidden`` (a ``hidden`` share of the
    measured genes of every cell is taken away, and only those are scored), and for both the mean
    of the training cells, which a model has to beat: ``mean of training, seen`` and ``mean of
    training, hidden``. All on log1p of 10,000 molecules a cell. ``r2`` is over all entries that
    are scored, around the mean of every gene in training; ``r2_genes`` and ``r_genes`` (Pearson)
    are means over the genes that vary. ``ev_weighted`` and ``ev_uniform`` are explained variance,
    which forgives a gene a constant difference, weighted by the variance of genes, and as the mean
    over genes that vary. Genes that a model gives no value for are left out, of the
    mean of training too; ``genes`` is the share of the others.
    """

    name = "reconstruction"
    capability = "reconstruction"
    metrics: ClassVar[dict[str, bool]] = {
        "r2": True,
        "r2_genes": True,
        "r_genes": True,
        "ev_weighted": True,
        "ev_uniform": True,
        "mse": False,
        "genes": True,
        "saw_labels": False,
    }
    main = "r2"
    needs_labels = False
    defaults: ClassVar[dict[str, Any]] = {"hidden": 0.1, "labels": False}

    def run(self, case: Case) -> Outcome:
        """Train, and compare what is expected with what was measured."""
        labels = bool(case.options["labels"])
        model = case.fitted(labels=labels)
        mean = _mean_of(model, model.prepare(case.train))
        query, rng = model.prepare(case.test), case.rng("hidden")
        sums = {n: Moments(mean) for n in ("seen", "hidden")}
        plain = {n: Moments(mean) for n in sums}
        told_genes = np.ones(len(mean), dtype=bool)
        # In blocks: what is expected is dense, and so is what is compared with it.
        for start in range(0, query.source.n_obs, _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, query.source.n_obs))
            values = _log(normalized_rows(query, rows), model).toarray()
            hidden = (rng.random(values.shape) < float(case.options["hidden"])) & (values > 0)
            masks = {"seen": (None, np.ones_like(hidden)), "hidden": (hidden, hidden)}
            for name, (mask, where) in masks.items():
                with case.timed("predict"):
                    expected = model.get_normalized_expression(
                        case.test, indices=rows, library_size=_SIZE, mask=mask, return_numpy=True
                    )
                expected = np.log1p(expected)
                told_genes &= np.isfinite(expected).all(axis=0)
                sums[name].add(expected, values, where)
                plain[name].add(np.broadcast_to(mean, values.shape), values, where)
        for found in (*sums.values(), *plain.values()):
            found.keep(told_genes)
        told = {"saw_labels": float(labels or needs_labels(class_of(case)))}
        told["genes"] = float(told_genes.mean())
        scores = {name: found.scores | told for name, found in sums.items()}
        scores |= {f"mean of training, {name}": found.scores for name, found in plain.items()}
        return Outcome(scores)


class Moments:
    """What says how well expected values fit measured ones, added up over blocks of cells.

    Parameters
    ----------
    mean
        Of every gene in training, what nothing but the gene tells, (n_genes,).
    """

    def __init__(self, mean: NDArray[np.floating]) -> None:
        self.mean = np.asarray(mean, dtype=np.float64)
        # By gene: entries, and sums of measured, its square, expected, its square, their product.
        self.sums = np.zeros((6, len(self.mean)))

    def add(
        self,
        expected: NDArray[np.floating],
        measured: NDArray[np.floating],
        where: NDArray[np.bool_],
    ) -> None:
        """Add cells; all arrays are (n_cells, n_genes), ``where`` says what is scored."""
        # Around the mean of training, or squares of large numbers would swallow their differences.
        true = np.where(where, measured - self.mean, 0.0)
        said = np.where(where, expected - self.mean, 0.0)
        parts = (where, true, true**2, said, said**2, true * said)
        self.sums += np.stack([p.sum(axis=0, dtype=np.float64) for p in parts])

    def keep(self, genes: NDArray[np.bool_]) -> None:
        """Forget the genes that are not among these, bool (n_genes,)."""
        self.sums[:, ~genes] = 0.0

    @property
    def scores(self) -> dict[str, float]:
        """The scores.

        ``r2``: one less the squared error over that of the mean of training, over all entries;
        ``mse``; ``ev_weighted`` and ``ev_uniform``: explained variance of the genes that vary,
        weighted by their variance and uniformly; ``r2_genes`` and ``r_genes``: means over the
        genes that have three scored entries that differ, around the mean of the scored entries.
        """
        n, true, true2, said, said2, both = self.sums
        error = true2 - 2 * both + said2
        total, entries = true2.sum(), n.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = true2 - true**2 / n
            spread_said = said2 - said**2 / n
            shared = both - true * said / n
            residual = error - (true - said) ** 2 / n
            explained = 1 - residual / spread
            # What rounding leaves of no difference is none.
            varies = (n >= 3) & (spread > 1e-9 * true2)
            r2 = 1 - error / spread
            # A value that is the same for all cells says nothing about the gene.
            told = spread_said > 1e-9 * said2
            r = np.where(told, shared / np.sqrt(spread * spread_said), 0.0)
        nothing = float("nan")
        return {
            "r2": float(1 - error.sum() / total) if total > 0 else nothing,
            "r2_genes": float(r2[varies].mean()) if varies.any() else nothing,
            "r_genes": float(r[varies].mean()) if varies.any() else nothing,
            "ev_weighted": float(1 - residual[varies].sum() / spread[varies].sum())
            if varies.any()
            else nothing,
            "ev_uniform": float(explained[varies].mean()) if varies.any() else nothing,
            "mse": float(error.sum() / entries) if entries else nothing,
        }


def _mean_of(model: Any, query: Query) -> NDArray[np.float64]:
    """Mean log1p of ``_SIZE`` molecules of every gene, (n_genes,), in blocks of cells."""
    total = np.zeros(len(model.features))
    for start in range(0, query.source.n_obs, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, query.source.n_obs))
        total += np.asarray(_log(normalized_rows(query, rows), model).sum(axis=0)).ravel()
    return total / query.source.n_obs


def _log(values: sparse.csr_matrix, model: Any) -> sparse.csr_matrix:
    """Log1p of ``_SIZE`` molecules, of values that are scaled as the model wants them."""
    found = values.astype(np.float64)
    found.data = np.log1p(np.expm1(found.data) * (_SIZE / float(model.input_rule.target_sum)))
    return found
