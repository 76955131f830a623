"""`SCTab`: the TabNet cell-type classifier of Fischer et al. (2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from episome.errors import UsageError
from episome.models import ClassifierModel
from episome.train import ONTOLOGY_MONITOR
from episome_sctab.core import SCTabCore
from episome_sctab.presets import GRID, training_defaults, values_for

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from scipy import sparse

    from episome.data import NameTable
    from episome.models import TuningSpace


class SCTab(ClassifierModel):
    """TabNet with one decision step, as published as scTab.

    A sparse mask picks few genes for each cell; a stack of gated linear layers reads them.

    Parameters
    ----------
    adata, registry
        As for every model.
    preset
        ``"paper"``: the published sizes and schedule, made for millions of cells;
        ``"paper-xs"``, ``"paper-s"``, ``"paper-m"`` and ``"paper-xl"`` are the other sizes of the
        paper's grid, 1.7, 3.3, 6.7 and 16.2 million parameters with its genes and classes
        (``"paper"``: 9.7). ``"small"``: chosen here for references of hundreds to tens of
        thousands of cells. ``"auto"``: ``"small"`` or ``"paper"`` by the number of training cells.
    n_d, n_a, n_steps, n_shared, n_independent, virtual_batch_size, gamma, momentum, mask
        Sizes of the network; ``None`` takes the preset's.
    lambda_sparse
        Weight of the mask entropy in the loss.
    dropout, embedding_dropout
        Share of input genes, and of the embedding, set to zero in training.
    input_eps
        Floor under the variance of a gene in the input norm.
    mask_scale
        Starting weight of the mask scores; below one masks start broad.
    n_top_genes
        Only so many of the most variable training genes enter; 0: all.

    References
    ----------
    Fischer et al., Nature Communications 15, 6611 (2024).
    """

    _core_cls = SCTabCore

    @classmethod
    def tuning_space(cls, *, has_donors: bool = False) -> TuningSpace:
        """Add the size presets; see ``EpisomeModel.tuning_space``."""
        return {"model.preset": ("small", *GRID), **super().tuning_space(has_donors=has_donors)}

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, object] | None = None,
        *,
        preset: Literal[
            "auto", "small", "paper-xs", "paper-s", "paper-m", "paper", "paper-xl"
        ] = "auto",
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
        dropout: float | None = None,
        embedding_dropout: float | None = None,
        input_eps: float | None = None,
        mask_scale: float | None = None,
        n_top_genes: int | None = None,
    ) -> None:
        init_locals = dict(locals())
        super().__init__(adata, registry)
        given = {k: v for k, v in init_locals.items() if k in SIZES and v is not None}
        self.preset, values = values_for(preset, self.summary_stats.n_cells, len(self.features))
        config = {**values, **given}
        config["n_top_genes"] = config["n_top_genes"] or None
        core = self._build_core(**config)
        sizes = f"{len(self.labels)} classes, {len(self.features):,} genes"
        summary = f"SCTab ({self.preset}) of {sizes}"
        self._finish_init(core, init_locals, summary)

    @classmethod
    def from_reference_checkpoint(
        cls,
        checkpoint: str | Path,
        *,
        genes: NameTable | None = None,
        labels: NameTable | None = None,
        unlabeled_category: str = "unknown",
        gamma: float | None = None,
        mask: Literal["entmax15", "sparsemax"] | None = None,
        momentum: float | None = None,
        virtual_batch_size: int | None = None,
        lambda_sparse: float | None = None,
    ) -> SCTab:
        """Import a checkpoint of the published implementation as a trained model without data.

        The file is read for its tensors and plain settings only; a file that would run code is
        refused. Neither the order of the inputs nor that of the outputs is in a checkpoint: both
        come from the store that the model was trained on.

        Parameters
        ----------
        checkpoint
            A Lightning checkpoint (``.ckpt``), a state dict that ``torch.save`` wrote, or
            ``.safetensors``, its names with or without ``classifier.``.
        genes
            Gene of every input, in order: the folder of the store, its ``var.parquet``, a list in
            ``.csv``, ``.tsv`` or ``.txt``, a table whose rows are genes, or identifiers.
        labels
            Class of every output, in order: the folder of the store, its
            ``categorical_lookup/cell_type.parquet``, a list or table as for ``genes``. A column of
            Cell Ontology identifiers is kept. Default the folder given as ``genes``.
        unlabeled_category
            Name for cells without a label.
        gamma, mask, momentum, virtual_batch_size, lambda_sparse
            Settings that a file of bare weights does not hold; default those of the published
            training script. Sizes are read off the tensors.

        Returns
        -------
        A model that predicts, explains, is saved and fine-tuned as one that was trained here. Its
        input are counts, normalised over the model's genes.

        Raises
        ------
        UsageError
            Genes (E-U53) or labels (E-U54) are not given, or a table lacks their column (E-U55).
        UntrustedModelError
            Loading the file would run code (E-M30).
        ModelFileError
            The file cannot be read (E-M31), or weights are not finite (E-M07).
        ModelMismatchError
            Genes (E-M32), labels (E-M33), or tensors and settings (E-M34) do not fit.
        InputFileError
            A file does not exist (E-F07) or is no table (E-F22).

        Examples
        --------
        >>> model = SCTab.from_reference_checkpoint(  # doctest: +SKIP
        ...     "val_f1_macro_epoch=41.ckpt", genes="merlin_cxg_2023_05_15_sf-log1p"
        ... )
        """
        from episome_sctab.reference import import_reference

        return import_reference(
            cls,
            checkpoint,
            genes=genes,
            labels=labels,
            unlabeled_category=unlabeled_category,
            gamma=gamma,
            mask=mask,
            momentum=momentum,
            virtual_batch_size=virtual_batch_size,
            lambda_sparse=lambda_sparse,
        )

    def get_feature_mask(
        self,
        adata: AnnData | None = None,
        *,
        step: int | None = 0,
        indices: list[int] | None = None,
        batch_size: int | None = None,
        **query: object,
    ) -> sparse.csr_matrix:
        """Return which genes the network looks at for each cell.

        Parameters
        ----------
        adata, indices, batch_size, **query
            As for :meth:`predict`.
        step
            Decision step; ``None``: the mean over steps.

        Returns
        -------
        CSR float32 of shape (n_cells, n_genes) in the order of ``model.features``; every row sums
        to one.

        Raises
        ------
        UsageError
            The network has no such step (E-U52).
        """
        self._require_trained()
        n_steps = int(self.module.config["n_steps"])
        if step is not None and not 0 <= step < n_steps:
            raise UsageError(
                "E-U52",
                f"step={step}",
                why=f"the network has {n_steps} decision steps, counted from 0",
                fix="pass one of them, or None for their mean",
            )
        prepared = self.prepare(adata, **query)
        run = self.module.masking(step)
        return self._gene_matrix(run, prepared, indices, batch_size, blank_empty=False)

    def _training_defaults(self) -> dict[str, object]:
        defaults = training_defaults(self.preset, self.summary_stats.n_cells)
        if self.preset in GRID and self.class_hierarchy() is not None:
            # The published training keeps the epoch with the best corrected macro F1.
            defaults["early_stopping_monitor"] = ONTOLOGY_MONITOR
        return defaults


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
