"""`TOTALVIAdapter`: totalVI of scvi-tools, asked for the proteins of cells that have RNA alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import anndata
import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data.fields import CategoricalObsField, LayerField, ObsmField
from scvi.train import AdversarialTrainingPlan

from episome import settings
from episome.errors import Problem, UsageError
from episome.models import (
    TranslationMixin,
    batch_codes,
    batch_names,
    only_counts,
    require_counts,
)
from episome_baselines.extras import require_positive
from episome_baselines.scvi_core import TOTALVIAdapterCore
from episome_baselines.scvi_training import Cells, silenced
from episome_baselines.scvi_unlabelled import UnlabelledTraining
from episome_baselines.totalvi_prior import background_prior, measured_in

if TYPE_CHECKING:
    from mudata import MuData

    from episome.data import ValueReport


#: totalVI's rate of learning.
RATE = 4e-3
#: Panels of more proteins begin with a background that is read off the cells.
FEW_PROTEINS = 10
_PROTEINS = "proteins"


class TOTALVIAdapter(TranslationMixin, UnlabelledTraining):
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
    usual_batch_size = 256
    _plan_class = AdversarialTrainingPlan
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

    @classmethod
    def _target_problems(cls, report: ValueReport) -> list[Problem]:
        """Refuse proteins that are no counts, as a likelihood of counts has to."""
        n_wrong = int(report.n_fractional + report.n_negative)
        if not n_wrong:
            return []
        return [
            Problem(
                "E-D53",
                "proteins that are no counts are given to a model of counts",
                where=report.where,
                count=n_wrong,
                total=int(report.n_stored),
                why="its likelihood is that of numbers of molecules",
                fix="pass the layer that holds counts, target_layer= (--target-layer), or take "
                "another model",
            )
        ]

    def _compared_scale(self) -> str:
        return "log1p"

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

    def _begin_with(self, cells: Cells) -> dict[str, Any]:
        """Tell the module what the training cells say; return settings of the plan."""
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
        return {
            "lr": RATE,
            "n_epochs_kl_warmup": None,
            "n_steps_kl_warmup": int(0.75 * len(cells.train)),
            "reduce_lr_on_plateau": len(cells.validation) > 0,
            # As scvi-tools: batches that lack proteins are to mix with the others.
            "adversarial_classifier": not measured[there].all(),
        }
