"""`CellTypist`: one logistic regression per class on scaled genes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import expit

from episome.errors import Problem, warn
from episome.log import get_logger
from episome.models import ArrayClassifierModel, TrainingCells
from episome_baselines.celltypist_core import CellTypistCore
from episome_baselines.celltypist_fit import checked, fit_arrays

if TYPE_CHECKING:
    from anndata import AnnData

    from episome.data import CellSource

logger = get_logger(__name__)

#: Training cells from which on a fifth of them calibrates the model: every fold is a whole fit.
MAX_FOLDED = 1000
#: What the sum of a cell must be after ``expm1``, and how far CellTypist lets it be off.
TARGET_SUM, TOLERANCE = 1e4, 1.0


class CellTypist(ArrayClassifierModel):
    """CellTypist's logistic regressions, trained as the package trains them.

    Log1p values are scaled by training cells and cut at 10; a first pass by gradient descent
    chooses, for every class, the genes with the largest coefficients; a second pass fits one
    regression per class against all others. The class with the largest score is called.

    What differs from ``celltypist.train`` 1.7: the regressions are fitted one by one, because the
    package asks scikit-learn for them by an argument that scikit-learn 1.8 took out; random draws
    come from the seed of the settings; with no more genes than ``top_genes`` none are
    selected, where the package raises. Nothing of the package is changed or needed to train or
    predict. What differs from ``celltypist.annotate``: genes that a query lacks count as zero, as
    for every model here; the package leaves them out of the sum.

    Probabilities are calibrated as for every annotator. CellTypist's own, one number between 0
    and 1 per class that do not sum to one, are given by :meth:`own_probabilities`.

    Parameters
    ----------
    adata, registry
        As for every model.
    feature_selection
        Train twice; the first pass chooses genes.
    top_genes
        Genes per class that the first pass keeps.
    use_SGD
        Fit the second pass by gradient descent too.
    mini_batch
        Descend in mini-batches, for references of more than ``batch_size`` cells.
    batch_number, batch_size, epochs
        Mini-batches per epoch, cells in each, and epochs.
    balance_cell_type
        Draw mini-batches from all classes alike.
    with_mean
        Centre the genes; without, sparse values are never made dense.
    C
        Inverse strength of the penalty of a regression.
    alpha
        Strength of the penalty of the descent.
    max_iter
        Largest number of iterations; default 1,000, 500 from 50,000 cells, 200 from 500,000.

    Raises
    ------
    UsageError
        A value that cannot be (E-U15, E-U22).
    """

    _core_cls = CellTypistCore
    _max_folded = MAX_FOLDED

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, object] | None = None,
        *,
        feature_selection: bool = True,
        top_genes: int = 300,
        use_SGD: bool = False,
        mini_batch: bool = False,
        batch_number: int = 100,
        batch_size: int = 1000,
        epochs: int = 10,
        balance_cell_type: bool = False,
        with_mean: bool = True,
        C: float = 1.0,
        alpha: float = 0.0001,
        max_iter: int | None = None,
    ) -> None:
        given = {k: v for k, v in locals().items() if k not in _NOT_OF_TRAINING}
        self._settings = checked(given)
        super().__init__(adata, registry)
        self._finish_init(
            self._build_core(), locals(), f"CellTypist of {len(self.labels)} classes"
        )

    def _fit_core(self, cells: TrainingCells) -> dict[str, object]:
        arrays, facts = fit_arrays(cells, self._settings)
        self.module.fill(**arrays)
        return facts

    def _settle(self, cells: TrainingCells) -> None:
        sums = np.asarray(cells.values.expm1().sum(axis=1)).ravel()
        off = np.flatnonzero((np.abs(sums - TARGET_SUM) > TOLERANCE) & (sums > 0))
        if len(off):
            warn(
                Problem(
                    "E-D52",
                    "cells do not sum to 10,000 after expm1",
                    where="the training cells",
                    count=len(off),
                    total=len(sums),
                    examples=[f"{s:,.0f}" for s in sums[off[:3]]],
                    why="CellTypist is made for log1p values of 10,000 counts a cell over all "
                    "genes, and refuses others; genes were taken out after normalising, or the "
                    "scale is another",
                    fix="pass counts, or log1p values of all genes",
                )
            )

    def own_probabilities(
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        *,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        **query: Any,
    ) -> pd.DataFrame:
        """Return CellTypist's probabilities: the sigmoid of every class's score.

        Parameters
        ----------
        adata
            Query; genes are aligned by name, nothing is modified. ``None`` takes the training
            cells.
        indices
            Rows; default all.
        batch_size
            Cells at a time.
        **query
            ``layer``, ``use_raw``, ``input_kind``, ``min_gene_overlap``, ``duplicates``.

        Returns
        -------
        float64 (n_cells, n_classes), rows cells, columns classes; each between 0 and 1, and a
        row may hold several near 1 or none.
        """
        prepared = self.prepare(adata, **query)
        rows = None if indices is None else np.asarray(indices, dtype=np.int64)
        found = self.predictor().collect(prepared, ["logits"], rows=rows, batch_size=batch_size)
        names = prepared.source.obs_names if rows is None else prepared.source.obs_names[rows]
        scores = np.asarray(found["logits"], dtype=np.float64)
        scores = scores.reshape(len(names), len(self.labels))
        return pd.DataFrame(expit(scores), index=names, columns=list(self.labels.names))

    @classmethod
    def from_file(
        cls, path: str | Path, *, trust: bool = False, unlabeled_category: str = "unknown"
    ) -> CellTypist:
        """Import a model of the package (``.pkl``).

        The file is a pickle: opening it runs whatever code is in it. That is done only with
        ``trust=True``. The model that comes back saves an ordinary folder, which holds no code.

        Parameters
        ----------
        path
            The file.
        trust
            You know who made the file, and run code of theirs.
        unlabeled_category
            What cells without a type are called; no class of the file.

        Returns
        -------
        A trained model without data. It is not calibrated. Counts of a query are scaled over all
        of its genes, as the package wants.

        Raises
        ------
        UntrustedModelError
            ``trust`` was not given (E-M36); the file is not opened.
        InputFileError
            There is no such file (E-F07).
        ModelFileError
            It cannot be read (E-M31), or holds no such model (E-M34).
        """
        from episome_baselines.celltypist_file import import_file

        logger.warning(
            "the confidence of an imported CellTypist model is what it says itself: no cells are "
            "there to calibrate it on"
        )
        return import_file(cls, path, trust=trust, unlabeled_category=unlabeled_category)


_NOT_OF_TRAINING = frozenset({"self", "adata", "registry", "__class__"})
