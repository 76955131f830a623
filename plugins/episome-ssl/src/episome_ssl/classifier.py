"""`SSLClassifier`: cell types by a dense network, from scratch or from a pretrained encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from episome.models import ClassifierModel, EncoderPart, EpisomeModel, WarmStartMixin
from episome_ssl.core import SSLClassifierCore
from episome_ssl.presets import classifying
from episome_ssl.warm_start import sizes_of, started

if TYPE_CHECKING:
    from anndata import AnnData

    from episome.data import CellSource


class SSLClassifier(WarmStartMixin, ClassifierModel):
    """An encoder and a linear head, trained on labels.

    Parameters
    ----------
    adata, registry
        As for every model.
    hidden, n_latent, activation
        Of the encoder; ``None``: those of ``init``, or of :class:`SSLEncoder`.
    dropout
        After every hidden layer.
    freeze
        ``"none"``: all is trained; ``"shallow"``: the last layer of the encoder and the head;
        ``"all"``: the head only. Layers that are not trained stay equal bit by bit.
    input_dropout
        Share of the expressed genes of a cell that are hidden in training.
    init
        A model with an encoder, or its folder, to start from; see :meth:`init_from`. Genes are
        those of the training cells; :meth:`from_ssl` keeps those of the encoder.

    References
    ----------
    Richter et al., Nature Machine Intelligence 7, 68-78 (2025).
    """

    capabilities = ("annotation", "embedding", "explanation")
    _core_cls = SSLClassifierCore
    module: SSLClassifierCore

    def __init__(
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        registry: dict[str, object] | None = None,
        *,
        hidden: Sequence[int] | None = None,
        n_latent: int | None = None,
        activation: Literal["selu", "relu"] | None = None,
        dropout: float = 0.1,
        freeze: Literal["none", "shallow", "all"] = "none",
        input_dropout: float = 0.0,
        init: EpisomeModel | str | Path | EncoderPart | None = None,
    ) -> None:
        init_locals = dict(locals())
        super().__init__(adata, registry)
        start = None if init is None else EncoderPart.of(init)
        sizes = sizes_of(start, hidden=hidden, n_latent=n_latent, activation=activation)
        core = self._build_core(
            **sizes,
            dropout=dropout,
            freeze=freeze,
            input_dropout=input_dropout,
            target_sum=float(self.input_rule.target_sum),
        )
        self.pretraining_ = {}
        # The start is no part of the model: what came from it is in the weights.
        init_locals |= {"init": None, **sizes}
        summary = f"SSLClassifier of {len(self.labels)} classes, {len(self.features):,} genes"
        self._finish_init(core, init_locals, summary)
        if start is not None:
            self.init_from(start)

    @classmethod
    def from_ssl(
        cls,
        ssl: EpisomeModel | str | Path,
        adata: AnnData | str | Path | CellSource,
        labels_key: str,
        *,
        freeze: Literal["none", "shallow", "all"] = "none",
        dropout: float = 0.1,
        input_dropout: float = 0.0,
        genes: Literal["encoder", "data"] = "encoder",
        **setup: Any,
    ) -> SSLClassifier:
        """Return a classifier on top of a pretrained encoder, with its sizes.

        Parameters
        ----------
        ssl
            A trained ``SSLEncoder``, any other model with such an encoder, or a folder.
        adata
            Labelled cells: an object, which is not modified, or anything that ``setup_source``
            reads where it is.
        labels_key
            Column of their labels.
        freeze, dropout, input_dropout
            Of the class.
        genes
            ``"encoder"``: the model has the genes of the encoder, and those that the cells lack
            are zero; ``"data"``: it has the genes of the cells, and those that the encoder does
            not know start anew.
        **setup
            Of ``setup_source``: ``donor_key``, ``layer``, ``use_raw``, ``unlabeled`` ...

        Returns
        -------
        A model that is to be trained.

        Raises
        ------
        ModelMismatchError
            There is no such encoder, or the values are of another scale (E-M06).
        GeneMatchError
            Too few genes of the one are known to the other (E-G03).
        """
        model: SSLClassifier = started(
            cls,
            ssl,
            adata,
            {"freeze": freeze, "dropout": dropout, "input_dropout": input_dropout},
            {"labels_key": labels_key, **setup},
            genes,
        )
        return model

    def _training_defaults(self) -> dict[str, Any]:
        return classifying(self.summary_stats.n_cells, self.module.frozen)
