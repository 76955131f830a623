"""`SCVIAdapter` and `SCANVIAdapter`: scvi-tools' models in every table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scvi.model import SCANVI, SCVI
from scvi.train import SemiSupervisedTrainingPlan, TrainingPlan

from episome import plugins, settings
from episome.models import (
    AnnotationMixin,
    CountsWithBatches,
    EmbeddingMixin,
    ReconstructionMixin,
    WithoutModule,
    add_batches,
    only_counts,
    require_batches,
    require_counts,
)
from episome_baselines.extras import require_positive
from episome_baselines.scvi_base import (
    Adapter,
    splitter_indices,
    trainer_arguments,
)
from episome_baselines.scvi_core import SCANVIAdapterCore, SCVIAdapterCore
from episome_baselines.scvi_training import (
    Cells,
    heuristic_epochs,
    joined_history,
    part_of,
    plan_settings,
    run_semisupervised,
    run_unsupervised,
)
from episome_baselines.scvi_unlabelled import BATCH_SIZE, UnlabelledTraining

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from episome.train import ProgressReport

#: Passes of scANVI over the training cells, after those of scVI.
SCANVI_EPOCHS = 20


class SCVIAdapter(
    CountsWithBatches,
    ReconstructionMixin,
    EmbeddingMixin,
    UnlabelledTraining,
    WithoutModule,
    SCVI,
):
    """scVI: a latent space of counts, without labels, conditioned on batches.

    The model is scvi-tools' own, trained by its own plan; what the host adds is set-up, alignment
    of queries by gene name, donor-wise splits, folders without pickles, and prediction that draws
    nothing: the embedding is the mean of the posterior, and expected expression is decoded from
    it in the first batch of the training data, as with ``transform_batch`` of scvi-tools. A query
    is only encoded and never trains. With ``n_top_genes`` below the number of genes the expected
    expression of the others is NaN, and scvi-tools' own methods that return genes
    (``differential_expression`` ...) cannot be used: they want ``n_top_genes=None``.

    Parameters
    ----------
    adata, registry
        As for every model.
    n_top_genes
        Variable genes that the network reads, chosen on training cells; ``None``: all.
    n_hidden, n_latent, n_layers
        Sizes of the network.
    dropout_rate
        Share of the hidden values that is left out in training.
    dispersion
        ``"gene"``, ``"gene-batch"`` or ``"gene-cell"``.
    gene_likelihood
        ``"zinb"``, ``"nb"`` or ``"poisson"``.

    Raises
    ------
    UsageError
        A network that cannot be built (E-U31), or a number below one (E-U22).
    """

    capabilities = ("embedding", "reconstruction")
    _core_cls = SCVIAdapterCore

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, object] | None = None,
        *,
        n_top_genes: int | None = 4000,
        n_hidden: int = 128,
        n_latent: int = 30,
        n_layers: int = 2,
        dropout_rate: float = 0.1,
        dispersion: Literal["gene", "gene-batch", "gene-cell"] = "gene",
        gene_likelihood: Literal["zinb", "nb", "poisson"] = "zinb",
    ) -> None:
        require_positive(n_top_genes=n_top_genes)
        super().__init__(adata, registry)
        module = self._build_module(
            n_top_genes,
            n_hidden=n_hidden,
            n_latent=n_latent,
            n_layers=n_layers,
            dropout_rate=dropout_rate,
            dispersion=dispersion,
            gene_likelihood=gene_likelihood,
        )
        summary = f"SCVIAdapter with {n_latent} latent dimensions, {n_layers} layers"
        self._finish_init(module, locals(), summary)


class SCANVIAdapter(EmbeddingMixin, AnnotationMixin, Adapter, WithoutModule, SCANVI):
    """scANVI: scVI's latent space, trained further with labels, and a classifier on it.

    Training is scvi-tools': scVI first, then scANVI from its weights, with 100 labelled cells per
    class drawn anew in every epoch. Calls are those of scvi-tools' ``predict``: the classifier at
    the mean of the posterior, which depends on no batch. Probabilities are calibrated by the host
    on cells that were held out. A query never trains.

    Parameters
    ----------
    adata, registry
        As for every model.
    n_top_genes
        Variable genes that the network reads, chosen on training cells; ``None``: all.
    n_hidden, n_latent, n_layers
        Sizes of the network.
    dropout_rate
        Share of the hidden values that is left out in training.
    dispersion
        ``"gene"``, ``"gene-batch"`` or ``"gene-cell"``.
    gene_likelihood
        ``"zinb"``, ``"nb"`` or ``"poisson"``.
    linear_classifier
        Classify by one linear layer instead of a network.

    Raises
    ------
    UsageError
        A network that cannot be built (E-U31), or a number below one (E-U22).
    """

    capabilities = ("annotation", "embedding")
    _core_cls = SCANVIAdapterCore

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, object] | None = None,
        *,
        n_top_genes: int | None = 4000,
        n_hidden: int = 128,
        n_latent: int = 30,
        n_layers: int = 2,
        dropout_rate: float = 0.1,
        dispersion: Literal["gene", "gene-batch", "gene-cell"] = "gene",
        gene_likelihood: Literal["zinb", "nb", "poisson"] = "zinb",
        linear_classifier: bool = False,
    ) -> None:
        require_positive(n_top_genes=n_top_genes)
        super().__init__(adata, registry)
        module = self._build_module(
            n_top_genes,
            n_hidden=n_hidden,
            n_latent=n_latent,
            n_layers=n_layers,
            dropout_rate=dropout_rate,
            dispersion=dispersion,
            gene_likelihood=gene_likelihood,
            linear_classifier=linear_classifier,
        )
        summary = f"SCANVIAdapter of {len(self.labels)} classes, {n_latent} latent dimensions"
        self._finish_init(module, locals(), summary)

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        labels_key: str,
        *,
        batch_key: str | None = None,
        input_kind: Literal["auto", "counts"] = "auto",
        **kwargs: Any,
    ) -> None:
        """Register training data: counts, labels and batches.

        Parameters
        ----------
        adata
            Training cells.
        labels_key
            Column of ``obs`` with the cell types.
        batch_key
            Column of ``obs`` that the decoder is conditioned on.
        input_kind
            Only counts; they are checked.
        **kwargs
            Of ``AnnotationMixin.setup_anndata`` (``layer``, ``donor_key``, ``unlabeled``, ...).

        Raises
        ------
        InputDataError, LabelError
            Values after log1p (E-D07, E-D53), or other data that cannot be used.
        UsageError
            There is no such column (E-U04), or it names no batch for some cells (E-U82).
        """
        require_counts(input_kind)
        if kwargs.get("source_registry") is None:
            require_batches(adata, batch_key)
        with only_counts():
            super().setup_anndata(adata, labels_key, input_kind="counts", **kwargs)
        add_batches(cls, adata, batch_key, kwargs)

    def train(
        self,
        max_epochs: int | None = None,
        *,
        scanvi_epochs: int | None = None,
        n_samples_per_label: int | None = 100,
        semisupervised: bool = False,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        calibration_size: float | None = None,
        shuffle_set_split: bool = True,
        load_sparse_tensor: bool = False,
        batch_size: int = BATCH_SIZE,
        early_stopping: bool = True,
        datasplitter_kwargs: Mapping[str, Any] | None = None,
        plan_kwargs: Mapping[str, Any] | None = None,
        progress: ProgressReport | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train scVI, then scANVI from its weights.

        Parameters
        ----------
        max_epochs
            Passes of scVI; default scvi-tools' heuristic: 400, fewer in proportion above 20,000
            cells.
        scanvi_epochs
            Passes of scANVI after them, without early stopping; default 20, and no more than
            ``max_epochs``.
        n_samples_per_label
            Labelled cells of every class that an epoch of scANVI sees; ``None``: all.
        semisupervised
            Let cells without a label, kept by ``unlabeled="keep"``, shape the latent space.
        accelerator, devices
            Of Lightning; ``"auto"`` takes a GPU when there is one.
        train_size, validation_size
            Shares of the labelled cells, by default 0.9 and the rest. With a ``donor_key`` of at
            least four donors whole donors are held out.
        calibration_size
            Share of the labelled cells that calibrate the probabilities and are not trained on;
            by default a tenth where that are 200 cells, else none, and the validation cells are
            used.
        shuffle_set_split
            Only ``True``: splits are seeded and by donor or class.
        load_sparse_tensor
            Accepted for scvi-tools' sake, and means nothing.
        batch_size
            Cells per update.
        early_stopping
            Stop scVI when ``elbo_validation`` has not fallen for 45 epochs.
        datasplitter_kwargs
            ``external_indexing=[train, validation, test, calibration]`` gives the split.
        plan_kwargs
            Of ``scvi.train.TrainingPlan`` and ``SemiSupervisedTrainingPlan``; each takes what it
            knows.
        progress
            A function ``(done, total, metrics)`` called after every epoch of both.
        **trainer_kwargs
            Of ``lightning.Trainer``, and scvi-tools' ``early_stopping_*``.

        Raises
        ------
        UsageError
            Unknown or impossible arguments, before anything is computed.
        TrainingError
            The loss is not finite (E-T01).
        """
        given = splitter_indices(
            datasplitter_kwargs, self.training_source(), shuffle_set_split=shuffle_set_split
        )
        trainer = trainer_arguments(
            accelerator,
            devices,
            trainer_kwargs,
            early_stopping=early_stopping,
            load_sparse_tensor=load_sparse_tensor,
        )
        plans = plan_settings(plan_kwargs or {}, TrainingPlan, SemiSupervisedTrainingPlan)
        require_positive(
            max_epochs=max_epochs,
            scanvi_epochs=scanvi_epochs,
            batch_size=batch_size,
            n_samples_per_label=n_samples_per_label,
        )
        share = self._calibration_size(calibration_size, train_size, validation_size)
        split = self._split(given, train_size, validation_size, share)
        codes = self.training_codes()
        trained = split.train
        if semisupervised:
            trained = np.sort(np.concatenate([trained, np.flatnonzero(codes < 0)]))
        cells = Cells(
            self._stand_in_of_training(),
            trained,
            split.validation,
            min(batch_size, _n_drawn(codes[split.train], n_samples_per_label)),
        )
        epochs = heuristic_epochs(len(trained)) if max_epochs is None else max_epochs
        last = min(SCANVI_EPOCHS, epochs) if scanvi_epochs is None else scanvi_epochs

        def run() -> dict[str, pd.DataFrame]:
            first = run_unsupervised(
                self.module,
                cells,
                trainer,
                max_epochs=epochs,
                plan=plans[0],
                progress=part_of(progress, 0, epochs + last),
            )
            second = run_semisupervised(
                self.module,
                cells,
                trainer,
                n_classes=len(self.labels),
                n_samples_per_label=n_samples_per_label,
                max_epochs=last,
                plan=plans[1],
                progress=part_of(progress, epochs, epochs + last),
            )
            return joined_history(first, second)

        self._train(cells, run)
        self._remember_split(split)
        self.fit_ |= {"scanvi_epochs": last, "n_unlabeled": len(trained) - len(split.train)}
        self._calibrate(split)
        plugins.after_train(model=self, run={"seed": settings.seed})


def _n_drawn(codes: np.ndarray, n_samples_per_label: int | None) -> int:
    """Labelled cells of an epoch: no batch may be larger, or there would be none."""
    sizes = np.unique(codes, return_counts=True)[1]
    return int(np.minimum(sizes, n_samples_per_label or len(codes)).sum())
