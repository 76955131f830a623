"""`TOTALVIAdapter`: totalVI of scvi-tools, asked for the proteins of cells that have RNA alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import anndata
import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data.fields import CategoricalObsField, LayerField, ObsmField
from scvi.train import AdversarialTrainingPlan

from episome import plugins, settings
from episome.data import AnnDataSource, inspect_values
from episome.errors import InputDataError, UsageError
from episome.models import (
    TranslationMixin,
    batch_codes,
    batch_names,
    only_counts,
    require_counts,
)
from episome_baselines.extras import require_positive
from episome_baselines.scvi_base import Adapter, splitter_indices, trainer_arguments
from episome_baselines.scvi_core import TOTALVIAdapterCore
from episome_baselines.scvi_training import (
    Cells,
    heuristic_epochs,
    plan_settings,
    run_unsupervised,
    silenced,
)
from episome_baselines.totalvi_prior import background_prior, measured_in

if TYPE_CHECKING:
    from mudata import MuData
    from numpy.typing import NDArray

    from episome.train import ProgressReport

#: totalVI's cells per update and its rate of learning.
BATCH_SIZE, RATE = 256, 4e-3
#: Panels of more proteins begin with a background that is read off the cells.
FEW_PROTEINS = 10
_PROTEINS = "proteins"


class TOTALVIAdapter(TranslationMixin, Adapter):
    """totalVI: a latent space of RNA and proteins, and proteins expected from RNA alone.

    The network, its likelihoods and its training plan are scvi-tools' own. Two things make it a
    fair predictor of proteins. Its encoder is shown no proteins of a query, not even by mistake;
    so that it knows such cells, in training it is not shown those of a share of the cells
    (``rna_only``), while the loss still asks for them, and early stopping goes by validation cells
    whose proteins it is not shown either. And it is not told the batch, since a query's is none of
    the model's; the decoder is, as in scvi-tools, and a prediction is the mean over the batches of
    training.

    Predictions are log1p of expected counts, with the background: those of scvi-tools'
    ``get_normalized_expression(include_protein_background=True)``, times the efficiency of the
    batch, which counts have. Nothing is drawn.

    Proteins that no cell of a batch has are taken as not measured there, as scvi-tools does.

    Parameters
    ----------
    mdata, registry
        As for every model of two modalities.
    n_top_genes
        Variable genes that the network reads, chosen on training cells; ``None``: all.
    n_hidden, n_latent, n_layers_encoder, n_layers_decoder
        Sizes of the network.
    dropout_rate
        Share of the hidden values that is left out in training.
    gene_likelihood
        ``"nb"`` or ``"zinb"``.
    rna_only
        Share of the training cells whose proteins the encoder is not shown, drawn anew in every
        step.

    Raises
    ------
    UsageError
        A network that cannot be built (E-U31), a number below one (E-U22), or a share outside 0
        and 1 (E-U15).
    """

    capabilities = ("translation",)
    masks_panels = True
    _core_cls = TOTALVIAdapterCore

    def __init__(
        self,
        mdata: MuData | None = None,
        registry: dict[str, object] | None = None,
        *,
        n_top_genes: int | None = 4000,
        n_hidden: int = 256,
        n_latent: int = 20,
        n_layers_encoder: int = 2,
        n_layers_decoder: int = 1,
        dropout_rate: float = 0.2,
        gene_likelihood: Literal["nb", "zinb"] = "nb",
        rna_only: float = 0.5,
    ) -> None:
        require_positive(n_top_genes=n_top_genes)
        if not 0.0 <= rna_only <= 1.0:
            raise UsageError("E-U15", f"rna_only={rna_only!r}", fix="pass a share from 0 to 1")
        super().__init__(mdata, registry)
        module = self._build_module(
            n_top_genes,
            n_hidden=n_hidden,
            n_latent=n_latent,
            n_layers_encoder=n_layers_encoder,
            n_layers_decoder=n_layers_decoder,
            dropout_rate_encoder=dropout_rate,
            dropout_rate_decoder=dropout_rate,
            gene_likelihood=gene_likelihood,
            rna_only=float(rna_only),
            **self._target_config(),
        )
        summary = (
            f"TOTALVIAdapter of {len(self.target_features)} proteins, {n_latent} latent dimensions"
        )
        self._finish_init(module, locals(), summary)

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        rna_modality: str = "rna",
        target_modality: str | None = None,
        target_layer: str | None = None,
        donor_key: str | list[str] | None = None,
        batch_key: str | None = None,
        input_kind: Literal["auto", "counts"] = "auto",
        **kwargs: Any,
    ) -> None:
        """Register training cells: counts of both modalities, and batches.

        Parameters
        ----------
        mdata
            Training cells.
        rna_modality, target_modality, target_layer, donor_key
            Of the base class.
        batch_key
            Column of the RNA's ``obs`` that the decoder is conditioned on.
        input_kind
            Only counts; they are checked.
        **kwargs
            Of the base class (``layer``, ...).

        Raises
        ------
        InputDataError
            Values after log1p (E-D07, E-D53), proteins that are no counts (E-D53), or other data
            that cannot be used.
        UsageError
            There is no such column (E-U04), or it names no batch for some cells (E-U82).
        """
        require_counts(input_kind)
        if kwargs.get("source_registry") is None and target_modality is not None:
            _require_protein_counts(mdata, target_modality, target_layer)
        with only_counts():
            super().setup_mudata(
                mdata,
                rna_modality=rna_modality,
                target_modality=target_modality,
                target_layer=target_layer,
                donor_key=donor_key,
                batch_key=batch_key,
                input_kind="counts",
                **kwargs,
            )
        if kwargs.get("source_registry") is None and target_modality is None:
            found = cls._setup_adata_manager_store[mdata.uns["_scvi_uuid"]]
            modality = found.registry["setup_args"]["target_modality"]
            _require_protein_counts(mdata, modality, target_layer)

    def _compared_scale(self) -> str:
        return "log1p"

    def train(
        self,
        max_epochs: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        load_sparse_tensor: bool = False,
        batch_size: int = BATCH_SIZE,
        early_stopping: bool = True,
        datasplitter_kwargs: Mapping[str, Any] | None = None,
        plan_kwargs: Mapping[str, Any] | None = None,
        progress: ProgressReport | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train totalVI as scvi-tools does.

        Parameters
        ----------
        max_epochs
            Passes over the training cells; default scvi-tools' heuristic: 400, fewer in
            proportion above 20,000 cells.
        accelerator, devices
            Of Lightning; ``"auto"`` takes a GPU when there is one.
        train_size, validation_size
            Shares of the cells, by default 0.9 and the rest. With a ``donor_key`` of at least four
            donors whole donors are held out.
        shuffle_set_split
            Only ``True``: splits are seeded and by donor.
        load_sparse_tensor
            Accepted for scvi-tools' sake, and means nothing.
        batch_size
            Cells per update.
        early_stopping
            Stop when ``elbo_validation`` has not fallen for 45 epochs
            (``early_stopping_patience``).
        datasplitter_kwargs
            ``external_indexing=[train, validation, test]`` gives the split, or ``split`` a file of
            ``episome corpus split``.
        plan_kwargs
            Of ``scvi.train.AdversarialTrainingPlan`` (``lr``, ``reduce_lr_on_plateau`` ...), by
            default as scvi-tools' totalVI sets them.
        progress
            A function ``(done, total, metrics)`` called after every epoch.
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
        (plan,) = plan_settings(plan_kwargs or {}, AdversarialTrainingPlan)
        require_positive(max_epochs=max_epochs, batch_size=batch_size)
        split = self._split(given, train_size, validation_size)
        cells = Cells(
            self._stand_in_of_training(),
            split.train,
            split.validation,
            min(batch_size, len(split.train)),
        )
        epochs = heuristic_epochs(len(split.train)) if max_epochs is None else max_epochs

        def run() -> dict[str, pd.DataFrame]:
            measured = self._begin_with(cells)
            defaults = {
                "lr": RATE,
                "n_epochs_kl_warmup": None,
                "n_steps_kl_warmup": int(0.75 * len(cells.train)),
                "reduce_lr_on_plateau": len(cells.validation) > 0,
                # As scvi-tools: batches that lack proteins are to mix with the others.
                "adversarial_classifier": not measured.all(),
            }
            return run_unsupervised(
                self.module,
                cells,
                trainer,
                max_epochs=epochs,
                plan={**defaults, **plan},
                progress=progress,
                plan_class=AdversarialTrainingPlan,
            )

        self._train(cells, run)
        self._remember_split(split)
        plugins.after_train(model=self, run={"seed": settings.seed})

    # --- cells ------------------------------------------------------------------------------

    def _stand_in_of_training(self) -> AnnDataManager:
        """Register the paired training cells, aligned, as totalVI's module reads them."""
        query = self.training_query()
        matrix = query.alignment.apply(query.source.read(slice(0, query.source.n_obs)))
        proteins = self._other_sources()[self.target_kind]
        codes = pd.Categorical.from_codes(
            batch_codes(self, query.source), categories=list(batch_names(self))
        )
        aligned = anndata.AnnData(
            matrix,
            obs=pd.DataFrame({"batch": codes}, index=query.source.obs_names.astype(str)),
            var=pd.DataFrame(index=list(self.features.ids)),
            obsm={
                _PROTEINS: pd.DataFrame(
                    proteins.read(slice(0, proteins.n_obs)).toarray(),
                    index=query.source.obs_names.astype(str),
                    columns=list(self.target_features.ids),
                )
            },
        )
        # What it would look for in counts was looked for at set-up, in all of them.
        fields = [
            LayerField(REGISTRY_KEYS.X_KEY, None, is_count_data=False),
            CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, "batch"),
            CategoricalObsField(REGISTRY_KEYS.LABELS_KEY, None),
            ObsmField(REGISTRY_KEYS.PROTEIN_EXP_KEY, _PROTEINS, is_count_data=False),
        ]
        manager = AnnDataManager(fields=fields)
        with silenced("scvi.data.fields._arraylike_field"):
            manager.register_fields(aligned)
        return manager

    def _begin_with(self, cells: Cells) -> NDArray[np.bool_]:
        """Tell the module what the training cells say; return which batch measured what."""
        adata, module = cells.manager.adata, self.module
        self.fit_target(cells.train)
        proteins = np.asarray(adata.obsm[_PROTEINS])[cells.train]
        codes = adata.obs["batch"].cat.codes.to_numpy()[cells.train]
        n_batch = int(module.config["n_batch"])
        measured = measured_in(proteins, codes, n_batch)
        for code in np.unique(codes):
            # Of a whole batch it is masked; of some of its cells it would be read as zero.
            lacking = self.measured_target().lacking(cells.train[codes == code])
            self._require_measured(lacking[measured[code][lacking]])
        sizes = np.bincount(codes, minlength=n_batch)[:, None] * measured
        # What no cell of any batch has is expected as any batch says.
        sizes = np.where(sizes.sum(axis=0) > 0, sizes, 1)
        module.weights.copy_(torch.as_tensor(sizes / sizes.sum(axis=0)))
        there = np.unique(codes)
        module.protein_batch_mask = None
        if not measured[there].all():
            module.protein_batch_mask = {str(b): measured[b] for b in range(n_batch)}
        if not self.is_trained_ and proteins.shape[1] > FEW_PROTEINS:
            mean, spread = background_prior(
                proteins, codes, measured, seed=settings.stream_seed("prior") % (1 << 32)
            )
            with torch.no_grad():
                module.background_pro_alpha.copy_(torch.as_tensor(mean))
                module.background_pro_log_beta.copy_(torch.log(torch.as_tensor(spread)))
        return measured[there]


def _require_protein_counts(mdata: MuData, modality: str, layer: str | None) -> None:
    """Refuse proteins that are no counts.

    Raises
    ------
    InputDataError
        E-D53.
    """
    source = AnnDataSource(mdata.mod[modality], layer=layer, name=modality)
    report = inspect_values(source)
    if report.n_fractional or report.n_negative:
        raise InputDataError(
            "E-D53",
            "proteins that are no counts are given to a model of counts",
            where=source.where,
            count=int(report.n_fractional + report.n_negative),
            total=int(report.n_stored),
            why="its likelihood is that of numbers of molecules",
            fix="pass the layer that holds counts, target_layer=, or take another model",
        )
