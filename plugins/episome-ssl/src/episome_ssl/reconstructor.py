"""`SSLReconstructor`: an autoencoder that is told batches, to integrate and to reconstruct."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from episome.models import (
    EmbeddingMixin,
    EncoderPart,
    EpisomeModel,
    NetworkModel,
    ReconstructionMixin,
    WarmStartMixin,
    add_batches,
    batch_codes,
    batch_names,
    decoding_into,
    knowing_what_was_measured,
    require_batches,
)
from episome_ssl.core import SSLReconstructorCore
from episome_ssl.model import require_likelihood
from episome_ssl.presets import pretraining
from episome_ssl.start import start_from_means
from episome_ssl.warm_start import sizes_of, started

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.data import CellSource
    from episome.train import CellDataModule


class SSLReconstructor(WarmStartMixin, EmbeddingMixin, ReconstructionMixin, NetworkModel):
    """An autoencoder whose decoder is told the batch, so that the embedding need not hold it.

    Cells of batches that it does not know, and cells without one, are embedded as all others: the
    encoder is told no batch.

    Parameters
    ----------
    adata, registry
        As for every model; ``setup_anndata(batch_key=)`` names the batches.
    hidden, n_latent, activation
        Of the encoder; ``None``: those of ``init``, or of :class:`SSLEncoder`.
    output_activation, dropout, likelihood
        See :class:`SSLEncoder`.
    freeze
        Of the encoder: ``"none"``, ``"shallow"`` (its last layer is trained) or ``"all"``. The
        decoder is trained in any case.
    mask_rate
        Share of the genes that are hidden in training and asked for; 0: a plain autoencoder.
    init
        A model with an encoder, or its folder, to start from.

    References
    ----------
    Richter et al., Nature Machine Intelligence 7, 68-78 (2025): integration, and reconstruction
    with a shallow fine-tuning.
    """

    capabilities = ("embedding", "reconstruction")
    _core_cls = SSLReconstructorCore
    module: SSLReconstructorCore

    def __init__(
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        registry: dict[str, object] | None = None,
        *,
        hidden: Sequence[int] | None = None,
        n_latent: int | None = None,
        activation: Literal["selu", "relu"] | None = None,
        output_activation: Literal["identity", "softplus", "sigmoid"] = "identity",
        dropout: float = 0.05,
        likelihood: Literal["mse", "nb"] = "mse",
        freeze: Literal["none", "shallow", "all"] = "none",
        mask_rate: float = 0.0,
        init: EpisomeModel | str | Path | EncoderPart | None = None,
    ) -> None:
        init_locals = dict(locals())
        super().__init__(adata, registry)
        require_likelihood(likelihood, self.input_rule.input_kind)
        start = None if init is None else EncoderPart.of(init)
        sizes = sizes_of(start, hidden=hidden, n_latent=n_latent, activation=activation)
        core = self._build_core(
            **sizes,
            output_activation=output_activation,
            dropout=dropout,
            likelihood=likelihood,
            freeze=freeze,
            mask_rate=mask_rate,
            n_batch=len(batch_names(self)),
            target_sum=float(self.input_rule.target_sum),
        )
        self.pretraining_ = {}
        init_locals |= {"init": None, **sizes}
        summary = f"SSLReconstructor of {len(batch_names(self))} batches"
        self._finish_init(core, init_locals, summary)
        if start is not None:
            self.init_from(start)

    @classmethod
    def setup_anndata(cls, adata: AnnData, *, batch_key: str | None = None, **kwargs: Any) -> None:
        """Register training data and batches; labels are not needed.

        Parameters
        ----------
        adata
            Training cells.
        batch_key
            Column of ``obs`` that the decoder is conditioned on.
        **kwargs
            Of ``EpisomeModel.setup_anndata`` (``layer``, ``use_raw``, ``donor_key``, ...).

        Raises
        ------
        InputDataError
            The data cannot be used; all reasons are named.
        UsageError
            There is no such column (E-U04), or it names no batch for some cells (E-U82).
        """
        if kwargs.get("source_registry") is None:
            require_batches(adata, batch_key)
        super().setup_anndata(adata, **kwargs)
        add_batches(cls, adata, batch_key, kwargs)

    @classmethod
    def from_ssl(
        cls,
        ssl: EpisomeModel | str | Path,
        adata: AnnData | str | Path | CellSource,
        *,
        batch_key: str | None = None,
        freeze: Literal["none", "shallow", "all"] = "none",
        dropout: float = 0.05,
        likelihood: Literal["mse", "nb"] = "mse",
        mask_rate: float = 0.0,
        genes: Literal["encoder", "data"] = "encoder",
        **setup: Any,
    ) -> SSLReconstructor:
        """Return an autoencoder on top of a pretrained encoder, with its sizes.

        Parameters
        ----------
        ssl
            A trained ``SSLEncoder``, any other model with such an encoder, or a folder.
        adata
            Cells: an object, which is not modified, or anything that ``setup_source`` reads.
        batch_key
            Column of their batches.
        freeze, dropout, likelihood, mask_rate
            Of the class. ``freeze="shallow"`` integrated best in the paper.
        genes
            ``"encoder"``: the model has the genes of the encoder, and those that the cells lack
            are zero; ``"data"``: it has the genes of the cells, and those that the encoder does
            not know start anew.
        **setup
            Of ``setup_source``: ``donor_key``, ``layer``, ``use_raw`` ...

        Returns
        -------
        A model that is to be trained.

        Raises
        ------
        ModelMismatchError
            There is no such encoder, or the values are of another scale (E-M06).
        """
        given = {"dropout": dropout, "likelihood": likelihood, "mask_rate": mask_rate}
        model: SSLReconstructor = started(
            cls, ssl, adata, {"freeze": freeze, **given}, {"batch_key": batch_key, **setup}, genes
        )
        return model

    @property
    def batches(self) -> tuple[str, ...]:
        """Names of the batches that the decoder knows."""
        return batch_names(self)

    def _training_defaults(self) -> dict[str, Any]:
        return pretraining(self.summary_stats.n_cells)

    def _fit(self, datamodule: CellDataModule, *args: Any, **kwargs: Any) -> None:
        if not self.is_trained_:
            start_from_means(self.module, datamodule)
        codes = batch_codes(self, datamodule.source)
        self.module.batch_codes = torch.from_numpy(codes)
        try:
            with knowing_what_was_measured(self.module, datamodule):
                super()._fit(datamodule, *args, **kwargs)
        finally:
            self.module.batch_codes = torch.zeros(0, dtype=torch.int64)

    def get_normalized_expression(
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        *,
        transform_batch: str | None = None,
        **kwargs: Any,
    ) -> pd.DataFrame | NDArray[np.float32]:
        """Return the expression that the model expects of every cell, as if of one batch.

        Parameters
        ----------
        adata, **kwargs
            See ``ReconstructionMixin.get_normalized_expression``.
        transform_batch
            Batch to decode into; ``None``: the mean of all batches, in the first layer of the
            decoder.

        Raises
        ------
        UsageError
            There is no such batch (E-U110); and as the base class.
        """
        with decoding_into(self.module, self.batches, transform_batch):
            return super().get_normalized_expression(adata, **kwargs)
