"""`SCBERT`: the transformer of Yang et al. (2022), for any genes and on one machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from episome.data import require_choice
from episome.errors import UsageError
from episome.models import (
    ClassifierModel,
    EncoderPart,
    EpisomeModel,
    OptionalLabels,
    ReconstructionMixin,
    WarmStartMixin,
    knowing_what_was_measured,
)
from episome_scbert.attention import GeneAttentionMixin
from episome_scbert.core import TRAINABLE, SCBERTCore
from episome_scbert.genes import (
    GeneVectors,
    learn_from_cells,
    read_vectors,
    settle_head,
    vectors_for,
)
from episome_scbert.plan import MaskedPlan, SCBERTPlan
from episome_scbert.presets import pretraining_defaults, training_defaults, values_for
from episome_scbert.pretraining import PretrainingMixin

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.data import CellSource, Labels, NameTable
    from episome.models import TuningSpace
    from episome.train import CellDataModule, CorePlan


class SCBERT(
    OptionalLabels,
    PretrainingMixin,
    GeneAttentionMixin,
    WarmStartMixin,
    ReconstructionMixin,
    ClassifierModel,
):
    """A transformer over the genes of a cell, whose tokens are levels of expression.

    Set up without ``labels_key`` it learns from hidden genes alone, and its folder starts others.

    Parameters
    ----------
    adata, registry
        As for every model.
    preset
        ``"tiny"`` and ``"small"``: chosen here for one core; ``"base"``: the published widths with
        exact attention on expressed genes, for large references; ``"paper"``: as published, all
        genes with random features, slow. ``"auto"``: ``"small"`` or ``"base"`` by the number of
        training cells.
    n_bins, binning
        Levels above zero; ``"log2"``: every level is a doubling of counts per 10,000, ``"rank"``:
        groups of one size by rank in the cell. By default doublings; ranks for fewer than 2,000
        genes, of which most expressed ones would be in the last level (not with ``"paper"``).
    dim, depth, heads, dim_head, ff_mult
        Width, layers, heads and their width, hidden width of the dense networks in ``dim``.
    attention
        ``"exact_nonzero"``: exact attention of the expressed genes; ``"favor"``: random features,
        on all genes.
    nb_features, stabilizer
        Random features of ``"favor"``, default d ln d; and over what their stabiliser is taken,
        ``"head"`` or, as in the published prediction, ``"cell"``.
    max_tokens
        Expressed genes of a cell that are drawn in every training step, 0: all; prediction reads
        all in any case. Not with ``"favor"``.
    gene_embedding
        Where the vectors of genes start: ``"learned"``: by chance; ``"coexpression"``: how genes
        go together in the training cells; ``"table"``: ``gene_table``.
    gene_table
        Vectors by gene: a frame, a mapping, or a file (``.parquet``, ``.csv``, ``.tsv``, the text
        of word2vec). It makes ``gene_embedding`` ``"table"``.
    gene_width
        Length of these vectors, default ``dim``, or that of the table.
    train_genes
        Whether they are trained; by default a table is not.
    head
        ``"pooled"``: a weighted mean over expressed genes, whatever their order; ``"position"``:
        the published head, which knows genes by their place.
    hidden
        Two hidden widths of the head; the pooled one has the first.
    dropout, head_dropout
        Of the layers, and of the head.
    mask_rate, mask_zeros
        Share of the expressed genes that are hidden in pretraining; and whether as many genes that
        are not expressed are asked for, without which nothing is known of which are expressed.
    mask_weight
        Weight of hidden genes in the training on labels; 0: none is hidden there, as published.
    appended
        Whether a token that is no gene follows, as published; only with ``"favor"``.
    checkpointing
        Compute layers again in the backward pass instead of keeping them: less memory, more time.
    init
        A model with such an encoder, or its folder, to start from; sizes that are not given are
        its.

    Raises
    ------
    UsageError
        There is no such preset (E-U23); a network that cannot be built, or an option that would
        change nothing beside the others (E-U31).

    Notes
    -----
    The vocabulary, the genes and their vectors come from the data or the user: no file of the
    original is needed, and none is shipped.

    References
    ----------
    Yang et al., Nature Machine Intelligence 4, 852-866 (2022).
    """

    capabilities = ("annotation", "embedding", "explanation", "reconstruction", "pretraining")
    _core_cls = SCBERTCore
    _plan_cls = SCBERTPlan
    module: SCBERTCore

    def __init__(
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        registry: dict[str, object] | None = None,
        *,
        preset: Literal["auto", "tiny", "small", "base", "paper"] = "auto",
        n_bins: int | None = None,
        binning: Literal["log2", "rank"] | None = None,
        dim: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        dim_head: int | None = None,
        ff_mult: int | None = None,
        attention: Literal["exact_nonzero", "favor"] | None = None,
        nb_features: int | None = None,
        stabilizer: Literal["head", "cell"] | None = None,
        max_tokens: int | None = None,
        gene_embedding: Literal["learned", "coexpression", "table"] | None = None,
        gene_table: GeneVectors | None = None,
        gene_width: int | None = None,
        train_genes: bool | None = None,
        head: Literal["pooled", "position"] | None = None,
        hidden: tuple[int, int] | None = None,
        dropout: float | None = None,
        head_dropout: float | None = None,
        mask_rate: float | None = None,
        mask_zeros: bool | None = None,
        mask_weight: float | None = None,
        appended: bool | None = None,
        checkpointing: bool | None = None,
        init: EpisomeModel | str | Path | EncoderPart | None = None,
    ) -> None:
        init_locals = dict(locals())
        super().__init__(adata, registry)
        self.preset, values = values_for(preset, self.summary_stats.n_cells, len(self.features))
        given = {k: v for k, v in init_locals.items() if k in OPTIONS and v is not None}
        _require_switches(given)
        start = None if init is None else EncoderPart.of(init)
        if start is not None:
            values |= {k: v for k, v in start.settings.items() if k in values or k in OPTIONS}
        vectors = (
            None if gene_table is None else vectors_for(self.features, read_vectors(gene_table))
        )
        config = self._configured(values, given, vectors is not None, registry is not None)
        if vectors is not None:
            config["gene_width"] = vectors.shape[1]
        core = self._build_core(**config)
        if vectors is not None:
            core.encoder.genes.set_genes(vectors)
        if self.labels is None:
            self._plan_cls = MaskedPlan
        self.pretraining_ = {}
        # What came from a table or a start is in the weights, and no part of the model's folder.
        known = {
            "gene_embedding": config["gene_embedding"],
            "gene_width": core.config["gene_width"],
        }
        init_locals |= {"init": None, "gene_table": None, **given}
        if vectors is not None or start is not None:
            init_locals |= {**known, **{k: config[k] for k in config if k in OPTIONS}}
        n_classes = "no labels" if self.labels is None else f"{len(self.labels)} classes"
        summary = f"SCBERT ({self.preset}) of {n_classes}, {len(self.features):,} genes"
        self._finish_init(core, init_locals, summary)
        if start is not None:
            self.init_from(start)

    def _configured(
        self,
        values: dict[str, Any],
        given: dict[str, Any],
        has_table: bool,  # noqa: FBT001 - internal
        restored: bool,  # noqa: FBT001 - internal
    ) -> dict[str, Any]:
        """Return options of the core: those of the preset, and what was given."""
        config = {**values, **given}
        if has_table:
            config |= {"gene_embedding": "table", "train_genes": bool(given.get("train_genes"))}
        elif config["gene_embedding"] == "table" and not restored:
            raise UsageError(
                "E-U31",
                'gene_embedding="table" without a table',
                where=type(self).__name__,
                fix="pass gene_table= with vectors by gene, or leave it out",
            )
        config["max_tokens"] = config["max_tokens"] or None
        if config["attention"] != "favor" and "appended" not in given:
            config["appended"] = False
        if not restored:
            _require_used(given, config["attention"], has_table=has_table)
        return config

    # --- set-up -----------------------------------------------------------------------------

    @property
    def labels(self) -> Labels | None:  # type: ignore[override]  # there may be none
        """Classes in the order of the outputs; ``None`` for a model without labels."""
        if "labels" not in self.registry["field_registries"]:
            return None
        return super().labels

    def training_codes(self) -> NDArray[np.int64]:
        """Class code of every training cell, -1 for cells without a label; zeros without any."""
        if self.labels is None:
            return np.zeros(self.training_source().n_obs, dtype=np.int64)
        return super().training_codes()

    @classmethod
    def tuning_space(cls, *, has_donors: bool = False) -> TuningSpace:
        """Add sizes; see ``EpisomeModel.tuning_space``."""
        mine: TuningSpace = {"model.dim": (32, 64, 128), "model.depth": (1, 2, 4)}
        return {**mine, **super().tuning_space(has_donors=has_donors)}

    # --- training ---------------------------------------------------------------------------

    def train(
        self,
        max_epochs: int | None = None,
        *,
        trainable: Literal["head", "last", "all"] | None = None,
        **kwargs: Any,
    ) -> None:
        """Train on labels; without labels in the set-up, on hidden genes.

        Parameters
        ----------
        max_epochs
            Passes over the training cells; default by the preset and the number of cells.
        trainable
            ``"head"``: the heads, of classes and of hidden genes; ``"last"``: the last layer and
            norm too; ``"all"``. By
            default ``"last"`` of a pretrained encoder, as published but for the layer that is
            meant, and ``"all"`` of a fresh one. What is not trained stays equal bit by bit.
        **kwargs
            Of ``ClassifierModel.train``. ``accumulate_grad_batches=k`` gives the updates of a
            batch ``k`` times as large; ``plan_kwargs`` also takes ``restarts``, the published
            optimiser and schedule.

        Raises
        ------
        UsageError
            Unknown or impossible arguments; layers of a fresh encoder are to stay as they are
            (E-U112).
        InputDataError
            Cells of the test part were pretrained on (E-L20).
        """
        known = bool(self.pretraining_) or self.is_trained_
        if trainable is None:
            trainable = "last" if self.pretraining_ and self.labels is not None else "all"
        require_choice("trainable", trainable, TRAINABLE)
        if trainable != "all" and not known:
            raise UsageError(
                "E-U112",
                f"trainable={trainable!r} with an encoder that has learned nothing",
                where="train()",
                why="layers of random weights would stay as they are",
                fix='call pretrain() first, start from an encoder, init="FOLDER", or leave it out',
            )
        self._trainable = trainable
        super().train(max_epochs, **kwargs)

    @classmethod
    def check_train_arguments(cls, arguments: Mapping[str, Any]) -> None:
        """Refuse arguments that ``train`` does not take; see the base class."""
        if arguments.get("trainable") is not None:
            require_choice("trainable", arguments["trainable"], TRAINABLE)
        super().check_train_arguments(arguments)

    def _training_defaults(self) -> dict[str, Any]:
        n_cells = self.summary_stats.n_cells
        if self.labels is None:
            return pretraining_defaults(self.preset, n_cells)
        return training_defaults(self.preset, n_cells)

    def _calibration_size(self, *args: Any) -> float:
        return 0.0 if self.labels is None else super()._calibration_size(*args)

    _trainable: str = "all"

    def _fit(self, datamodule: CellDataModule, *args: Any, **kwargs: Any) -> None:
        core = self.module
        self._require_untouched(datamodule.split)
        if not self.is_trained_ and not self.pretraining_:
            learn_from_cells(core, datamodule)
        if not self.is_trained_:
            settle_head(core, datamodule)
        core.set_trainable(self._trainable)
        with knowing_what_was_measured(core, datamodule):
            super()._fit(datamodule, *args, **kwargs)

    def _make_plan(
        self, datamodule: CellDataModule, plan_args: dict[str, Any], **kwargs: Any
    ) -> tuple[CorePlan, dict[str, object]]:
        facts = {"trainable": self._trainable}
        if self.labels is None:
            return MaskedPlan(self.module, **plan_args), facts
        plan, more = super()._make_plan(datamodule, plan_args, **kwargs)
        return plan, {**more, **facts}

    def _hold_out(self, datamodule: CellDataModule, *, again: bool) -> None:
        if self.labels is not None:
            super()._hold_out(datamodule, again=again)

    def _weigh_genes(self, *args: Any) -> None:
        if self.labels is not None:
            super()._weigh_genes(*args)

    def _fit_confidence(self, *args: Any, **kwargs: Any) -> None:
        if self.labels is not None:
            super()._fit_confidence(*args, **kwargs)

    def _remember(self, result: Any, data: Any, facts: dict[str, Any]) -> None:
        more = {"pretext": "masked_expression"} if self.labels is None else {}
        super()._remember(result, data, {**facts, **more})

    # --- answers ----------------------------------------------------------------------------

    def attention_scores(
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        groupby: Any = "prediction",
        top_k: int = 50,
        **kwargs: Any,
    ) -> pd.DataFrame:
        """Return the genes that get most attention in the cells of every group.

        Parameters
        ----------
        adata, groupby, **kwargs
            As for :meth:`top_genes`.
        top_k
            Genes of every group, 50 as published.

        Returns
        -------
        The table of :meth:`top_genes`, ranked by mean attention alone: the attention that a gene
        gets, summed over queries, mean over heads, layers and cells; of a cell they sum to one.
        """
        given = {"method": "native", "weight": "none", **kwargs}
        return self.top_genes(adata, groupby, top_k, **given)

    def get_normalized_expression(
        self, adata: AnnData | str | Path | CellSource | None = None, **kwargs: Any
    ) -> pd.DataFrame | NDArray[np.float32]:
        """Return the expression that the model expects of every cell.

        Expressed genes are read where they stand, others are hidden and asked for. Without
        ``mask_zeros`` a gene that is not expressed has its level where it is expressed.

        Parameters
        ----------
        adata, **kwargs
            See ``ReconstructionMixin.get_normalized_expression``.

        Raises
        ------
        UsageError
            The model was never asked for a hidden gene (E-U12); and as the base class.
        """
        self._require_trained()
        if int(self.module.encoder.n_asked) == 0:
            raise UsageError(
                "E-U12",
                "the model gives no 'mean': it was never asked for a hidden gene",
                where=type(self).__name__,
                why="its head for levels has learned nothing",
                fix="call pretrain() before train(), or build it with mask_weight=0.1",
            )
        return super().get_normalized_expression(adata, **kwargs)

    @classmethod
    def from_reference_checkpoint(
        cls,
        checkpoint: str | Path,
        *,
        genes: NameTable | None = None,
        labels: NameTable | None = None,
        gene_table: GeneVectors | None = None,
        unlabeled_category: str = "unknown",
    ) -> SCBERT:
        """Import a user's own checkpoint of the original as a trained model without data.

        The file is read for its tensors only; a file that would run code is refused. No weights of
        the original come with this package: its licence is the GPL, and says for whom they are.

        Parameters
        ----------
        checkpoint
            A state dict that ``torch.save`` wrote, or a dictionary that holds one as
            ``model_state_dict`` or ``state_dict``, or ``.safetensors``; of the fine-tuned
            classifier, or of pretraining: that gives a model without labels.
        genes
            Gene of every input, in order: a list, a table, or a file of either.
        labels
            Class of every output, in order, likewise; for a classifier.
        gene_table
            Vectors by gene, where the file holds none.
        unlabeled_category
            Name for cells without a label.

        Returns
        -------
        A model that predicts, explains, is saved and starts others as one that was trained here.
        Its input are counts, normalised over the model's genes.

        Raises
        ------
        UsageError
            Genes (E-U53) or labels (E-U54) are not given, or a table lacks their column (E-U55).
        UntrustedModelError
            Loading the file would run code (E-M30).
        ModelFileError
            The file cannot be read (E-M31), or weights are not finite (E-M07).
        ModelMismatchError
            Genes (E-M32), labels (E-M33), or tensors (E-M34) do not fit.
        InputFileError
            A file does not exist (E-F07) or is no table (E-F22).
        """
        from episome_scbert.reference import import_reference

        return import_reference(
            cls,
            checkpoint,
            genes=genes,
            labels=labels,
            gene_table=gene_table,
            unlabeled_category=unlabeled_category,
        )


#: Arguments that become options of the core.
OPTIONS = (
    "n_bins",
    "binning",
    "dim",
    "depth",
    "heads",
    "dim_head",
    "ff_mult",
    "attention",
    "nb_features",
    "stabilizer",
    "max_tokens",
    "gene_embedding",
    "gene_width",
    "train_genes",
    "head",
    "hidden",
    "dropout",
    "head_dropout",
    "mask_rate",
    "mask_zeros",
    "mask_weight",
    "appended",
    "checkpointing",
)
#: Options that mean something with one kind of attention alone.
_OF_KIND = {"nb_features": "favor", "stabilizer": "favor", "max_tokens": "exact_nonzero"}


def _require_switches(given: Mapping[str, object]) -> None:
    """Refuse what is neither true nor false where it has to be: any text would count as true."""
    for name in ("train_genes", "mask_zeros", "appended", "checkpointing"):
        if not isinstance(given.get(name, False), bool | np.bool_):
            raise UsageError(
                "E-U31",
                f"{name}={given[name]!r}",
                where="SCBERT",
                fix="pass True or False",
            )


def _require_used(given: Mapping[str, Any], attention: str, *, has_table: bool) -> None:
    """Refuse options that would change nothing beside the others.

    Raises
    ------
    UsageError
        There are some (E-U31).
    """
    for name, kind in _OF_KIND.items():
        if given.get(name) and attention != kind:
            raise UsageError(
                "E-U31",
                f"{name}={given[name]!r} changes nothing with attention={attention!r}",
                where="SCBERT",
                fix=f'leave it out, or pass attention="{kind}"',
            )
    start = given.get("gene_embedding", "table")
    if has_table and start != "table":
        raise UsageError(
            "E-U31",
            f"gene_embedding={start!r} beside a gene_table",
            where="SCBERT",
            why="genes start from one or the other",
            fix="leave one of the two out",
        )
