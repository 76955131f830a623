"""What `SIMS` may start from: pretraining without labels, or the encoder of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from episome.data import split_cells
from episome.log import get_logger
from episome_sims.pretext import checked_arguments, pretrain
from episome_sims.statistics import learn_genes, learn_scale
from episome_sims.warm_start import fill_encoder

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

    from episome.data import CellSource
    from episome.models import ClassifierModel, EncoderReport
    from episome.train import CellDataModule
    from episome_sims.core import SIMSCore

    _Model = ClassifierModel
else:
    _Model = object

logger = get_logger(__name__)


class PretrainingMixin(_Model):
    """Starts of the encoder; mixed in before ``ClassifierModel``.

    ``pretraining_`` holds what is known of the start, as plain data; empty for a fresh encoder.
    """

    module: SIMSCore
    pretraining_: dict[str, object]

    def init_from(self, folder: str | Path, *, min_gene_overlap: float = 0.5) -> EncoderReport:
        """Take the encoder of a saved model as the start of training.

        Every tensor of the encoder is filled, or none: names and sizes must match, and rows of
        genes go to the genes of the same name. Genes that the folder does not know keep their
        fresh weights. Any folder of a TabNet fits; nothing of it is run.

        Parameters
        ----------
        folder
            A model folder.
        min_gene_overlap
            Smallest accepted share of this model's genes that the folder's encoder knows.

        Returns
        -------
        How many tensors and genes came from there.

        Raises
        ------
        ModelMismatchError
            Nothing, or less than all of the encoder, matches (E-M06).
        GeneMatchError
            Too few genes are known there (E-G03).
        ModelFileError
            It is no sound model folder.
        """
        report = fill_encoder(
            self.module, self.features, folder, min_gene_overlap=min_gene_overlap
        )
        self.pretraining_ = {"init": report._asdict()}
        self.is_trained_ = False
        return report

    def pretrain(
        self,
        max_epochs: int = 50,
        *,
        adata: AnnData | str | Path | CellSource | None = None,
        mask_rate: float = 0.2,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        batch_size: int = 256,
        early_stopping: bool = True,
        plan_kwargs: Mapping[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> dict[str, pd.DataFrame]:
        """Train the encoder without labels; :meth:`train` then starts from it.

        Genes are hidden at random, and the encoder learns to tell their values from the others.
        All cells take part, those without a label too. The weights of the best epoch by the loss
        of hidden values in held-out cells are kept. The model is not trained afterwards: its head
        is still to be.

        Parameters
        ----------
        max_epochs
            Passes over the cells.
        adata
            Cells to learn from, aligned to the model's genes by name and not modified; ``None``
            takes the training cells.
        mask_rate
            Probability with which a gene (or a group of genes) of a cell is hidden.
        accelerator, devices
            Of Lightning.
        train_size, validation_size
            Shares of the cells, by default 0.9 and the rest; whole donors where there are four.
        batch_size
            Cells per update.
        early_stopping
            Stop when the loss of held-out cells has not improved for
            ``early_stopping_patience`` epochs.
        plan_kwargs
            ``lr``, ``weight_decay``, ``lr_schedule``, ``lr_decay``, ``lr_patience``,
            ``weight_average``.
        **trainer_kwargs
            Of ``lightning.Trainer``, and ``progress``, as for :meth:`train`.

        Returns
        -------
        Losses of every epoch, one frame per name, as ``history`` holds them.

        Raises
        ------
        UsageError
            Unknown or impossible arguments, before anything is computed.
        TrainingError
            The loss is not finite (E-T01).
        """
        progress = trainer_kwargs.pop("progress", None)
        plan = checked_arguments(mask_rate, plan_kwargs, trainer_kwargs, max_epochs, batch_size)
        data = self._unlabelled_cells(adata, train_size, validation_size, batch_size)
        if not self.is_trained_ and not self.pretraining_:
            learn_genes(self.module, data, data.split.train)
        if not self.is_trained_:
            learn_scale(self.module, data, data.split.train)
        found = pretrain(
            self.module,
            data,
            mask_rate=mask_rate,
            max_epochs=max_epochs,
            plan_kwargs=plan,
            accelerator=accelerator,
            devices=devices,
            early_stopping=early_stopping,
            progress=progress,
            **trainer_kwargs,
        )
        n_cells = len(data.split.train) + len(data.split.validation)
        if self.is_trained_:
            logger.warning(
                "the model was trained before: its head no longer fits the encoder; call train() "
                "before it predicts again"
            )
        self.pretraining_ = found.facts(mask_rate=mask_rate, n_cells=n_cells)
        self.is_trained_ = False
        logger.info("pretraining: %d tensors of the encoder", found.n_tensors)
        return dict(found.fit.history)

    def _unlabelled_cells(
        self,
        adata: AnnData | str | Path | CellSource | None,
        train_size: float | None,
        validation_size: float | None,
        batch_size: int,
    ) -> CellDataModule:
        """Batches of all cells: the label of a cell plays no part."""
        query = self.training_query() if adata is None else self.prepare(adata)
        codes = np.zeros(query.source.n_obs, dtype=np.int64)
        donors = self.training_donors() if adata is None else None
        split = split_cells(
            codes, donors=donors, train_size=train_size, validation_size=validation_size
        )
        return self._cells_for(query, split, batch_size, codes=codes, donors=donors)
