"""`SSLEncoder`: one encoder, pretrained without labels and used everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from episome import plugins, settings
from episome.data import GeneProgrammes
from episome.errors import Problem, UsageError, warn
from episome.models import (
    EmbeddingMixin,
    NetworkModel,
    ReconstructionMixin,
    SeenDonorsMixin,
    digests_of_training,
    knowing_what_was_measured,
    require_counts,
)
from episome_ssl.core import SSLCore
from episome_ssl.plan import PretextPlan
from episome_ssl.presets import pretraining
from episome_ssl.pretexts import build_task, task_class
from episome_ssl.start import start_from_means, widths

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

    from episome.data import CellSource, NameTable, Programmes
    from episome.train import CellDataModule, Fit

#: Below these an embedding tells cells apart hardly or not.
MIN_SPREAD, MIN_RANK = 0.01, 1.2


class SSLEncoder(SeenDonorsMixin, EmbeddingMixin, ReconstructionMixin, NetworkModel):
    """An encoder that a self-supervised task trains: a pretext, solved without labels.

    Parameters
    ----------
    adata, registry
        As for every model. Labels are not read.
    pretext
        Name of a registered task: ``"random_mask"``, ``"programme_mask"``,
        ``"programme_to_programme"``, ``"programme_to_tf"``, ``"byol"``, ``"barlow"``,
        ``"vicreg"``, ``"simclr"``, or one of another plugin.
    hidden, n_latent
        Widths of the encoder's layers, and of the embedding.
    activation
        ``"selu"`` or ``"relu"``, in encoder and decoder.
    output_activation
        Of the reconstruction, with ``likelihood="mse"``: ``"identity"``, ``"softplus"``, or
        ``"sigmoid"``, the authors' default, which cannot reach values above one.
    dropout
        After every hidden layer.
    likelihood
        ``"mse"``: squared errors of log1p values; ``"nb"``: negative binomial of counts.
    embedding_activation
        ``"relu"``: what is negative in the encoder's output is read as zero, as the published code
        does after pretraining; for imported weights.
    mask_rate
        Of tasks that hide genes; ``None``: the task's own.
    programmes
        Gene programmes, for tasks that need some: the path of a GMT file, ``{name: genes}``, or
        ``GeneProgrammes``.
    pretext_kwargs
        Further options of the task.

    Notes
    -----
    Embeddings are the linear output of the encoder, and the same activation is used in pretraining
    and after: the published code evaluates SELU-trained weights in a ReLU network.

    References
    ----------
    Richter et al., Nature Machine Intelligence 7, 68-78 (2025).

    Examples
    --------
    >>> model = SSLEncoder("atlas.h5ad")  # doctest: +SKIP
    >>> model.pretrain()  # doctest: +SKIP
    >>> model.zero_shot_predict(query, reference, "cell_type")  # doctest: +SKIP
    """

    capabilities = ("embedding", "reconstruction", "pretraining")
    _core_cls = SSLCore
    _plan_cls = PretextPlan
    module: SSLCore

    def __init__(
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        registry: dict[str, object] | None = None,
        *,
        pretext: str = "random_mask",
        hidden: Sequence[int] = (512, 512, 256, 256),
        n_latent: int = 64,
        activation: Literal["selu", "relu"] = "selu",
        output_activation: Literal["identity", "softplus", "sigmoid"] = "identity",
        dropout: float = 0.1,
        likelihood: Literal["mse", "nb"] = "mse",
        embedding_activation: Literal["identity", "relu"] = "identity",
        mask_rate: float | None = None,
        programmes: Programmes | None = None,
        pretext_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        init_locals = dict(locals())
        # A folder is read where the plugin of its task is not installed: its own core takes the
        # place of this one, and only training asks for the task.
        needed = registry is None or pretext in plugins.pretext_tasks()
        decodes = task_class(pretext).needs_decoder if needed else True
        super().__init__(adata, registry)
        require_likelihood(likelihood, self.input_rule.input_kind)
        if likelihood == "nb" and not decodes:
            raise UsageError(
                "E-U31",
                f"likelihood='nb' with pretext={pretext!r}",
                why="the task has no decoder, and no likelihood",
                fix="leave likelihood= out",
            )
        programmes = None if programmes is None else GeneProgrammes.of(programmes)
        options = dict(pretext_kwargs or {})
        if mask_rate is not None:
            options["mask_rate"] = mask_rate
        self._pretext = {"name": pretext, "options": options, "programmes": programmes}
        core = self._build_core(
            hidden=widths(hidden),
            n_latent=n_latent,
            activation=activation,
            output_activation=output_activation,
            dropout=dropout,
            likelihood=likelihood,
            decodes=decodes,
            target_sum=float(self.input_rule.target_sum),
            embedding_activation=embedding_activation,
        )
        init_locals["programmes"] = None if programmes is None else programmes.plain
        init_locals["hidden"] = widths(hidden)
        summary = f"SSLEncoder ({pretext}) of {len(self.features):,} genes, n_latent={n_latent}"
        self._finish_init(core, init_locals, summary)
        if self.has_data:
            # What cannot be trained is refused here, and not when the cells were read.
            self._set_task(core)

    def _set_task(self, core: SSLCore) -> None:
        """Build the task with weights from a stream of its own; global generators stay."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.stream_seed("pretext-init"))
            task = build_task(
                self._pretext["name"],
                self.features,
                int(core.config["n_latent"]),
                options=self._pretext["options"],
                programmes=self._pretext["programmes"],
            )
            core.set_task(task)

    # --- training ---------------------------------------------------------------------------

    def pretrain(self, max_epochs: int | None = None, **kwargs: Any) -> None:
        """Train the encoder: the same as :meth:`train`."""
        self.train(max_epochs, **kwargs)

    def _training_defaults(self) -> dict[str, Any]:
        return pretraining(self.summary_stats.n_cells)

    def _fit(self, datamodule: CellDataModule, *args: Any, **kwargs: Any) -> None:
        if not self.is_trained_:
            start_from_means(self.module, datamodule)
        if self.module.task is None:
            self._set_task(self.module)
        with knowing_what_was_measured(self.module, datamodule):
            super()._fit(datamodule, *args, **kwargs)

    def _remember(self, result: Fit, data: CellDataModule, facts: dict[str, Any]) -> None:
        more = {
            "pretext": self._pretext["name"],
            # A model that is trained once more goes on from what it has seen.
            "donor_digests": digests_of_training(data, (self.fit_ or {}).get("donor_digests", ())),
        }
        super()._remember(result, data, {**facts, **more})
        self._look_for_collapse()

    def _look_for_collapse(self) -> None:
        """Warn where the embedding of held-out cells tells them apart hardly or not."""
        part = "validation" if "validation_embedding_spread" in (self.history_ or {}) else "train"
        last = {
            k: float(self.history_[f"{part}_embedding_{k}"].iloc[-1].iloc[0])
            for k in ("spread", "rank")
        }
        self.fit_ |= {f"embedding_{k}": round(v, 4) for k, v in last.items()}
        if last["spread"] < MIN_SPREAD or last["rank"] < MIN_RANK:
            warn(
                Problem(
                    "E-T14",
                    "the embedding has collapsed: all cells get nearly the same",
                    where="SSLEncoder",
                    why=f"spread {last['spread']:.3f} (of 1), rank {last['rank']:.1f} "
                    f"(of {self.module.config['n_latent']})",
                    fix="lower the rate, use larger batches, or take another pretext task",
                )
            )

    # --- published weights ------------------------------------------------------------------

    @classmethod
    def from_reference_checkpoint(
        cls,
        checkpoint: str | Path,
        *,
        genes: NameTable | None = None,
        activation: Literal["selu", "relu"] = "selu",
        output_activation: Literal["identity", "softplus", "sigmoid"] = "sigmoid",
        embedding_activation: Literal["identity", "relu"] = "identity",
        target_sum: float = 1e4,
    ) -> SSLEncoder:
        """Import weights of the published code as a trained model without data.

        Nothing of the file is run. The defaults are those of the published pretraining network;
        its embeddings and fine-tuned models are read off another one: ``activation="relu"`` and
        ``embedding_activation="relu"`` give these. With the published likelihood of counts, which
        is fitted to log1p values, ``output_activation="softplus"`` gives its means.

        Parameters
        ----------
        checkpoint
            A Lightning checkpoint (``.ckpt``), a state dict that ``torch.save`` wrote, or
            ``.safetensors``; of a masked autoencoder, or of a contrastive task.
        genes
            Genes of the inputs in order: a list, a table, a file of either, or the folder of the
            store that the model was trained on.
        activation, output_activation, embedding_activation
            Of the network; the file does not say them.
        target_sum
            Library size to which counts are scaled before the logarithm.

        Returns
        -------
        A model that embeds, reconstructs where the file has a decoder, is saved, and starts
        others as one that was trained here.

        Raises
        ------
        UntrustedModelError
            The file names code (E-M30).
        UsageError
            The genes are not known (E-U53), or a table lacks their column (E-U55).
        ModelFileError
            The file cannot be read (E-M31), or weights are not finite (E-M07).
        ModelMismatchError
            Genes (E-M32), or tensors (E-M34) do not fit.
        InputFileError
            A file does not exist (E-F07) or is no table (E-F22).
        """
        from episome_ssl.reference import import_reference

        return import_reference(
            cls,
            checkpoint,
            genes=genes,
            activation=activation,
            output_activation=output_activation,
            embedding_activation=embedding_activation,
            target_sum=target_sum,
        )


def require_likelihood(likelihood: str, input_kind: str) -> None:
    """Refuse the likelihood of counts where there are none.

    Parameters
    ----------
    likelihood
        ``"mse"`` or ``"nb"``.
    input_kind
        What the training values are.

    Raises
    ------
    UsageError
        Another likelihood (E-U30).
    InputDataError
        ``"nb"`` with values after log1p (E-D53).
    """
    if likelihood not in {"mse", "nb"}:
        raise UsageError("E-U30", f"likelihood={likelihood!r}", fix='use one of "mse", "nb"')
    if likelihood == "nb":
        require_counts(input_kind)
