"""`SIMS`: the TabNet label transfer of Gonzalez-Ferrer et al. (2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from episome.data import merge_references, require_choice
from episome.errors import UsageError
from episome.models import ClassifierModel
from episome_sims.core import SCALINGS, SIMSCore
from episome_sims.groups import group_numbers, plain_groups
from episome_sims.presets import training_defaults, values_for
from episome_sims.pretraining import PretrainingMixin
from episome_sims.ranked import ranked_labels
from episome_sims.stability import ExplanationStability, explanation_stability
from episome_sims.statistics import learn_scale

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

    from episome.data import CellSource, NameTable
    from episome.train import CellDataModule, CorePlan, Fit
    from episome_sims.groups import Groups


class SIMS(PretrainingMixin, ClassifierModel):
    """TabNet with several decision steps, as published as SIMS.

    At every step a sparse mask picks genes for each cell; gated linear layers read them.

    Parameters
    ----------
    adata, registry
        As for every model.
    preset
        ``"tall"``, ``"grande"``, ``"venti"`` and ``"trenta"``: the published sizes, widths of 8,
        32, 64 and 128. ``"small"``: chosen here for references of hundreds to some ten thousand
        cells. ``"auto"``: ``"small"``, ``"grande"`` or ``"venti"`` by the number of training
        cells.
    n_d, n_a, n_steps, n_shared, n_independent, virtual_batch_size, gamma, momentum, mask
        Sizes of the network; ``None`` takes the preset's.
    lambda_sparse
        Weight of the mask entropy in the loss.
    feature_groups
        Genes that a mask chooses together: genes by the name of their group, or the number of the
        group of every gene. A gene in no group is one of its own.
    input_scaling
        ``"none"``; ``"l2"``: cells are divided by their Euclidean length, as the published loader
        does; ``"zscore_train"``: genes are z-scored by mean and deviation of the training cells,
        which the model keeps.
    dropout, embedding_dropout
        Share of input genes, and of the embedding, set to zero in training.
    input_eps
        Floor under the variance of a gene in the input norm.
    mask_scale
        Starting weight of the mask scores; below one masks start broad.
    n_top_genes
        Only so many of the most variable training genes enter; 0: all.
    init
        A model folder whose encoder is the start; see :meth:`init_from`.

    References
    ----------
    Gonzalez-Ferrer et al., Cell Genomics 4, 100581 (2024).
    """

    _core_cls = SIMSCore

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, object] | None = None,
        *,
        preset: Literal["auto", "small", "tall", "grande", "venti", "trenta"] = "auto",
        n_d: int | None = None,
        n_a: int | None = None,
        n_steps: int | None = None,
        n_shared: int | None = None,
        n_independent: int | None = None,
        virtual_batch_size: int | None = None,
        gamma: float | None = None,
        momentum: float | None = None,
        mask: Literal["entmax15", "sparsemax"] | None = None,
        lambda_sparse: float | None = None,
        feature_groups: Groups | None = None,
        input_scaling: Literal["none", "l2", "zscore_train"] = "none",
        dropout: float | None = None,
        embedding_dropout: float | None = None,
        input_eps: float | None = None,
        mask_scale: float | None = None,
        n_top_genes: int | None = None,
        init: str | Path | None = None,
    ) -> None:
        init_locals = dict(locals())
        require_choice("input_scaling", input_scaling, SCALINGS)
        super().__init__(adata, registry)
        given = {k: v for k, v in init_locals.items() if k in SIZES and v is not None}
        self.preset, values = values_for(preset, self.summary_stats.n_cells, len(self.features))
        config = {**values, **given, "input_scaling": input_scaling}
        config["n_top_genes"] = config["n_top_genes"] or None
        config["feature_groups"] = group_numbers(feature_groups, self.features)
        core = self._build_core(**config)
        sizes = f"{len(self.labels)} classes, {len(self.features):,} genes"
        self.pretraining_: dict[str, object] = {}
        # The folder of the start is no part of the model: what came from it is in the weights.
        init_locals |= {"init": None, "feature_groups": plain_groups(feature_groups)}
        self._finish_init(core, init_locals, f"SIMS ({self.preset}) of {sizes}")
        if init is not None:
            self.init_from(init)

    # --- training ---------------------------------------------------------------------------

    def _training_defaults(self) -> dict[str, object]:
        return training_defaults(self.preset, self.summary_stats.n_cells)

    def _run_plan(
        self, datamodule: CellDataModule, *args: Any, choose_genes: bool, **kwargs: Any
    ) -> tuple[Fit, dict[str, object]]:
        # The genes that an encoder was pretrained on stay.
        choose = choose_genes and not self.pretraining_
        return super()._run_plan(datamodule, *args, choose_genes=choose, **kwargs)

    def _make_plan(
        self, datamodule: CellDataModule, plan_args: dict[str, Any], **kwargs: Any
    ) -> tuple[CorePlan, dict[str, object]]:
        if not self.is_trained_:
            learn_scale(self.module, datamodule, datamodule.split.train)
        return super()._make_plan(datamodule, plan_args, **kwargs)

    def _remember(self, result: Fit, data: CellDataModule, facts: dict[str, Any]) -> None:
        more = {"pretraining": self.pretraining_} if self.pretraining_ else {}
        super()._remember(result, data, {**facts, **more})

    # --- answers ----------------------------------------------------------------------------

    def ranked(
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        k: int = 3,
        *,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        **query: Any,
    ) -> pd.DataFrame:
        """Return the best labels of every cell with their probabilities.

        Probabilities are those of :meth:`predict_proba`, over all classes: they do not depend on
        ``k``.

        Parameters
        ----------
        adata, indices, batch_size, **query
            As for :meth:`predict`.
        k
            Labels per cell; all classes where there are fewer.

        Returns
        -------
        One row per cell, indexed by its name: ``label_1``, ``probability_1``, ``label_2`` ...,
        best first. Cells with none of the model's genes have the unlabelled category and NaN.

        Raises
        ------
        UsageError
            ``k`` below one (E-U22).
        """
        if k < 1:
            raise UsageError("E-U22", f"k={k}", fix="pass k of at least 1")
        predictor, prepared = self.predictor(), self.prepare(adata, **query)
        return ranked_labels(
            predictor, prepared, min(k, len(self.labels)), indices=indices, batch_size=batch_size
        )

    def explanation_stability(
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        *,
        seeds: int = 5,
        k: int = 50,
        method: Literal["auto", "native", "gradient"] = "auto",
        train_kwargs: Mapping[str, Any] | None = None,
        **query: Any,
    ) -> ExplanationStability:
        """Train repeatedly with other seeds, and compare what the trainings say about genes.

        This model is not changed; it must hold its training data.

        Parameters
        ----------
        adata
            Cells to explain; ``None`` takes the training cells.
        seeds
            Trainings, at least two; the first has ``settings.seed`` itself.
        k
            Genes at the top whose agreement is measured.
        method
            Of :meth:`explain`.
        train_kwargs
            Of :meth:`train`.
        **query
            As for :meth:`predict`.

        Returns
        -------
        A table of genes and the agreement of every two trainings.

        Raises
        ------
        UsageError
            Fewer than two trainings or ``k`` below one (E-U22), or no training data (E-U17).
        """
        return explanation_stability(
            self, adata, seeds=seeds, k=k, method=method, train_kwargs=train_kwargs, **query
        )

    # --- where references come from ---------------------------------------------------------

    merge_references = staticmethod(merge_references)

    @classmethod
    def from_reference_checkpoint(
        cls,
        checkpoint: str | Path,
        *,
        trust: bool = False,
        genes: NameTable | None = None,
        labels: NameTable | None = None,
        unlabeled_category: str = "unknown",
        input_scaling: Literal["none", "l2"] = "l2",
        target_sum: float = 1e4,
        **given: Any,
    ) -> SIMS:
        """Import a checkpoint of the published implementation as a trained model without data.

        Parameters
        ----------
        checkpoint
            A Lightning checkpoint (``.ckpt``), a state dict that ``torch.save`` wrote, or
            ``.safetensors``.
        trust
            Published checkpoints are pickles that name a label encoder and arrays. ``True`` reads
            them in a process of its own, in which these names are inert stand-ins; any other name
            is refused. ``False`` reads files of tensors and plain data only.
        genes, labels
            Gene of every input and class of every output, in order: a list, a table, or a file of
            either (``.csv``, ``.tsv``, ``.txt``, ``.parquet``). Symbols beside identifiers of
            genes, and Cell Ontology identifiers beside labels, are kept. Default what the file
            itself names.
        unlabeled_category
            Name for cells without a label.
        input_scaling
            ``"l2"``, as the published loader does unless it was told otherwise.
        target_sum
            Library size to which counts are scaled before the logarithm. The file does not say
            what its training data were scaled to.
        **given
            ``gamma``, ``mask``, ``momentum``, ``virtual_batch_size``, ``lambda_sparse``, where
            the file does not hold them; default those of the published code.

        Returns
        -------
        A model that predicts, explains, is saved and fine-tuned as one that was trained here.

        Raises
        ------
        UntrustedModelError
            The file names code (E-M30).
        UsageError
            Genes (E-U53) or labels (E-U54) are not known, or a table lacks their column (E-U55).
        ModelFileError
            The file cannot be read (E-M31), or weights are not finite (E-M07).
        ModelMismatchError
            Genes (E-M32), labels (E-M33), or tensors and settings (E-M34) do not fit.
        InputFileError
            A file does not exist (E-F07) or is no table (E-F22).
        """
        from episome_sims.reference import import_reference

        return import_reference(
            cls,
            checkpoint,
            trust=trust,
            genes=genes,
            labels=labels,
            unlabeled_category=unlabeled_category,
            input_scaling=input_scaling,
            target_sum=target_sum,
            **given,
        )


SIZES = (
    "n_d",
    "n_a",
    "n_steps",
    "n_shared",
    "n_independent",
    "virtual_batch_size",
    "gamma",
    "momentum",
    "mask",
    "lambda_sparse",
    "dropout",
    "embedding_dropout",
    "input_eps",
    "mask_scale",
    "n_top_genes",
)
