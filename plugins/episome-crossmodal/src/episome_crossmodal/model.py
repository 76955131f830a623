"""`CrossModal`: surface proteins, chromatin or another modality, from RNA alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import torch

from episome.data import FeatureSpace, ScaleName, require_choice
from episome.errors import InputDataError, UsageError
from episome.models import (
    EmbeddingMixin,
    EncoderPart,
    EpisomeModel,
    NetworkModel,
    TranslationMixin,
    WarmStartMixin,
)
from episome_crossmodal.core import LIKELIHOODS, CrossModalCore
from episome_crossmodal.presets import sizes, training

if TYPE_CHECKING:
    from mudata import MuData
    from numpy.typing import NDArray

    from episome.data import PreparedCells
    from episome.train import CellDataModule

Likelihood = Literal["auto", "mse", "nb", "nb_mixture", "bernoulli", "poisson"]
TARGETS = ("auto", "protein", "atac", "other")
#: Likelihoods that describe numbers of molecules.
_OF_COUNTS = ("nb", "nb_mixture", "poisson")
#: Scale of predictions by likelihood; ``"mse"``: that of the values it is trained on.
_COMPARED: dict[str, ScaleName] = {
    "nb": "log1p",
    "nb_mixture": "log1p",
    "bernoulli": "binary",
    "poisson": "none",
}
_BLOCK = 4096


class CrossModal(WarmStartMixin, TranslationMixin, EmbeddingMixin, NetworkModel):
    """A network from RNA to another modality; queries are RNA alone.

    Parameters
    ----------
    mdata
        Training cells, set up with ``setup_mudata`` or ``setup_source``; or the path of a file of
        MuData, which is read in blocks.
    registry
        What a saved model restores instead of data.
    target
        What is predicted: ``"protein"``, ``"atac"`` or ``"other"``; ``"auto"``: what the features
        look like.
    likelihood
        ``"mse"``: squared errors on ``target_scale``; ``"nb"``: negative binomial of counts;
        ``"nb_mixture"``: of a background that all cells have, and a foreground, for antibodies;
        ``"bernoulli"``: open or not; ``"poisson"``: fragments of peaks. ``"auto"``: ``"mse"``, and
        ``"bernoulli"`` for peaks.
    target_scale
        With ``"mse"``, see ``episome.data.TargetScale``; what is fitted is fitted on the training
        part. ``"auto"``: ``"log1p"`` of counts, ``"tfidf"`` of peaks, ``"none"`` of other values.
    scale_options
        Further arguments of ``TargetScale.fit``: ``{"empty": droplets}`` of ``"dsb"``.
    encoder
        ``"told"``: every layer is told the batch, as published; ``"masked"``: that of
        ``SSLEncoder``, which can be pretrained. ``"auto"``: that of ``init``, else ``"told"``.
    hidden, n_latent, activation, norm
        Of the encoder; ``None``: those of ``init``, or by the number of cells.
    decoder
        Widths of layers between embedding and output; ``None``: by the number of cells.
    dropout, input_dropout
        After hidden layers; and share of a cell's expressed genes that are hidden in training.
    batch_dropout
        Share of the cells that are told no batch in training: what the model says of batches that
        it does not know is learned from these.
    head_rank
        Width before the map to all features: its weights are ``head_rank`` for every feature.
        ``None``: the width of the last hidden layer.
    rna_weight
        Weight of the error of reconstructed RNA. Above 0 cells without the other modality are
        learned from too; then the encoder is ``"masked"``.
    init
        A model with an encoder, or its folder, to start from; see :meth:`init_from`.

    References
    ----------
    Richter et al., Nature Machine Intelligence 7, 68-78 (2025), with what its code does otherwise
    mended: see the documentation of the method.

    Examples
    --------
    >>> CrossModal.setup_mudata(mdata, batch_key="sample")  # doctest: +SKIP
    >>> model = CrossModal(mdata)  # doctest: +SKIP
    >>> model.train()  # doctest: +SKIP
    >>> proteins = model.predict_modality(rna, interval=0.9)  # doctest: +SKIP
    """

    capabilities = ("translation", "embedding")
    target_kind = "auto"
    reads_sources = True
    told_batches = True
    masks_panels = True
    _core_cls = CrossModalCore
    module: CrossModalCore

    def __init__(
        self,
        mdata: MuData | PreparedCells | str | Path | None = None,
        registry: dict[str, object] | None = None,
        *,
        target: Literal["auto", "protein", "atac", "other"] = "auto",
        likelihood: Likelihood = "auto",
        target_scale: str = "auto",
        scale_options: Mapping[str, Any] | None = None,
        encoder: Literal["auto", "told", "masked"] = "auto",
        hidden: Sequence[int] | None = None,
        n_latent: int | None = None,
        activation: Literal["relu", "selu"] | None = None,
        norm: bool | None = None,
        decoder: Sequence[int] | None = None,
        dropout: float | None = None,
        input_dropout: float | None = None,
        batch_dropout: float = 0.1,
        head_rank: int | None = None,
        rna_weight: float = 0.0,
        init: EpisomeModel | str | Path | EncoderPart | None = None,
    ) -> None:
        init_locals = dict(locals())
        require_choice("target", target, TARGETS)
        require_choice("likelihood", likelihood, ("auto", *LIKELIHOODS))
        require_choice("encoder", encoder, ("auto", "told", "masked"))
        require_choice("target_scale", target_scale, ("auto", *get_args(ScaleName)))
        super().__init__(mdata, registry)
        self._target, self._options = target, dict(scale_options or {})
        self.likelihood, scale = self._chosen(likelihood, target_scale)
        self.target_scale = cast("ScaleName", scale)
        self._rna_weight = float(rna_weight)
        start = None if init is None else EncoderPart.of(init)
        config = self._sizes(
            start,
            encoder="masked" if encoder == "auto" and rna_weight else encoder,
            hidden=hidden,
            n_latent=n_latent,
            activation=activation,
            norm=norm,
            decoder=decoder,
            dropout=dropout,
            input_dropout=input_dropout,
        )
        core = self._build_core(
            **self._target_config(),
            **config,
            likelihood=self.likelihood,
            n_batch=len(self.batches),
            batch_dropout=batch_dropout,
            head_rank=head_rank,
            rna_weight=rna_weight,
        )
        self.pretraining_ = {}
        # What was chosen is part of the model; what it started from, and droplets, are not.
        init_locals |= {"init": None, "scale_options": None, **config}
        init_locals |= {"likelihood": self.likelihood, "target_scale": self.target_scale}
        features = self.target_features
        summary = f"CrossModal to {len(features):,} features ({features.modality})"
        self._finish_init(core, init_locals, summary)
        if start is not None:
            self.init_from(start)

    # --- what is predicted, and how -----------------------------------------------------------

    @property
    def target_features(self) -> FeatureSpace:
        """Features that are predicted, in the order of the outputs."""
        found = super().target_features
        return found if self._target == "auto" else replace(found, modality=self._target)

    def _chosen(self, likelihood: str, scale: str) -> tuple[str, str]:
        """Return the likelihood and the scale of squared errors."""
        kind = self.target_features.modality
        if likelihood == "auto":
            # A scale is one of squared errors.
            likelihood = "bernoulli" if kind == "atac" and scale == "auto" else "mse"
        if likelihood != "mse":
            if scale not in {"auto", "none"}:
                raise UsageError(
                    "E-U31",
                    f"target_scale={scale!r} with likelihood={likelihood!r}",
                    why="this likelihood is of the values as they are",
                    fix='leave target_scale out, or take likelihood="mse"',
                )
            if likelihood in _OF_COUNTS and not self.target_holds_counts:
                raise InputDataError(
                    "E-D53",
                    f"likelihood={likelihood!r} of values that are no counts",
                    where=f"modality {self.setup_args['target_modality']!r}",
                    why="it is that of numbers of molecules",
                    fix='pass the layer that holds counts, target_layer=, or likelihood="mse"',
                )
            return likelihood, "none"
        if scale == "auto":
            usual = "tfidf" if kind == "atac" else "log1p"
            scale = usual if self.target_holds_counts else "none"
        return likelihood, scale

    def _sizes(self, start: EncoderPart | None, **given: Any) -> dict[str, Any]:
        """Return sizes of the network: those given, those of its start, or the usual ones."""
        n_cells, kind = self.summary_stats.n_cells, self.target_features.modality
        usual = {"activation": "relu", "norm": True, "encoder": "told", **sizes(n_cells, kind)}
        if start is not None:
            usual |= {"encoder": "masked", **start.settings}
            usual.pop("n_batch", None)
        if given["encoder"] == "auto":
            given["encoder"] = None
        found = {k: usual[k] if v is None else v for k, v in given.items()}
        try:
            widths = {k: tuple(int(n) for n in found[k]) for k in ("hidden", "decoder")}
        except (TypeError, ValueError) as error:
            raise UsageError(
                "E-U31",
                f"hidden={found['hidden']!r}, decoder={found['decoder']!r}",
                why="widths are whole numbers, one for each layer",
                fix="pass lists such as [512, 256]",
            ) from error
        return {**found, **widths}

    def _training_scale(self) -> ScaleName:
        return self.target_scale

    def _compared_scale(self) -> ScaleName:
        return _COMPARED.get(self.likelihood, self.target_scale)

    def _scale_options(self) -> dict[str, Any]:
        return {self.target_scale: self._options} if self._options else {}

    def _learns_from_rna_alone(self) -> bool:
        return self._rna_weight > 0

    # --- training -----------------------------------------------------------------------------

    def _training_defaults(self) -> dict[str, Any]:
        return training(self.summary_stats.n_cells)

    def _fit(self, datamodule: CellDataModule, *args: Any, **kwargs: Any) -> None:
        if not self.is_trained_:
            mean, spread = self._moments(datamodule)
            device = self.module.device
            self.module.start_from(
                torch.from_numpy(mean).to(device), torch.from_numpy(spread).to(device)
            )
        super()._fit(datamodule, *args, **kwargs)

    def _moments(
        self, datamodule: CellDataModule
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation of every feature in the training cells that have it."""
        measured, rows = self.measured_target(), np.sort(np.asarray(datamodule.split.train))
        rows = rows[measured.present[rows]]
        source = measured.on(self._scale)
        total, square = np.zeros((2, source.n_vars))
        for start in range(0, len(rows), _BLOCK):
            block = source.read(rows[start : start + _BLOCK]).astype(np.float64)
            if self.likelihood == "bernoulli":
                block.data = (block.data != 0).astype(np.float64)
            total += np.asarray(block.sum(axis=0)).ravel()
            block.data **= 2
            square += np.asarray(block.sum(axis=0)).ravel()
        n_cells = np.full(source.n_vars, len(rows))
        if measured.panels is not None:
            origins = np.bincount(
                measured.panels.codes[rows], minlength=len(measured.panels.measured)
            )
            n_cells = origins @ measured.panels.measured
        n_cells = np.maximum(n_cells, 1)
        mean = total / n_cells
        spread = np.sqrt(np.maximum(square / n_cells - mean**2, 0))
        # A feature that is the same in all cells has no scale of its own.
        spread[spread < 1e-3 * max(float(spread.max(initial=0.0)), 1e-3)] = 1.0
        return mean.astype(np.float32), spread.astype(np.float32)
