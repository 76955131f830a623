"""Cores of this plugin: torch, without scvi-tools or Lightning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from episome import settings
from episome.errors import PluginError
from episome.nn import MaskedAutoencoder, PretextBatch, PretextOutput, RandomMask, TorchCore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from episome.data import GenePanels
    from episome.nn import PretextTask

#: Submodules and buffers that are of the training only, and not of the folder.
_OF_TRAINING = ("task.", "n_drawn")
#: What of an encoder may stay as it is.
FREEZE = ("none", "shallow", "all")


class EncoderCore(TorchCore):
    """Base: an encoder, with a decoder or without.

    Parameters
    ----------
    n_features
        Genes of the model.
    hidden, n_latent, activation, output_activation, dropout, likelihood, decodes
        Of ``episome.nn.MaskedAutoencoder``.
    target_sum
        What counts are scaled to before the logarithm; sizes of cells are told in units of it.
    embedding_activation
        ``"relu"``: what is negative in the encoder's output is read as zero, as the published code
        does; decoders read it as it is.
    """

    input_format: ClassVar[str] = "csr"
    inference_format: ClassVar[str] = "csr"
    #: ``mean`` of counts, or of log1p values: both are brought to the scale of the input.
    mean_scale: ClassVar[str] = "log1p"
    n_drawn: torch.Tensor
    measured: torch.Tensor | None
    origins: torch.Tensor | None

    def __init__(
        self,
        n_features: int,
        *,
        hidden: Sequence[int] = (512, 512, 256, 256),
        n_latent: int = 64,
        activation: str = "selu",
        output_activation: str = "identity",
        dropout: float = 0.1,
        likelihood: str = "mse",
        decodes: bool = True,
        target_sum: float = 1e4,
        embedding_activation: str = "identity",
        **more: object,
    ) -> None:
        super().__init__()
        if embedding_activation not in {"identity", "relu"}:
            msg = f"embedding_activation is {embedding_activation!r}; use 'identity' or 'relu'."
            raise ValueError(msg)
        self.config = {
            "n_features": n_features,
            "hidden": list(hidden),
            "n_latent": n_latent,
            "activation": activation,
            "output_activation": output_activation,
            "dropout": dropout,
            "likelihood": likelihood,
            "decodes": decodes,
            "target_sum": target_sum,
            "embedding_activation": embedding_activation,
            **more,
        }
        self.target_sum = target_sum
        # Batches that were drawn for, so that a run that goes on draws what it would have drawn.
        self.register_buffer("n_drawn", torch.zeros((), dtype=torch.int64))
        # Of the cells that are trained on, and of no use afterwards.
        self.register_buffer("measured", None, persistent=False)
        self.register_buffer("origins", None, persistent=False)
        self.net = MaskedAutoencoder(
            n_features,
            hidden=tuple(hidden),
            n_latent=n_latent,
            activation=activation,
            output_activation=output_activation,
            dropout=dropout,
            likelihood=likelihood,
            decodes=decodes,
        )

    @property
    def wants_counts(self) -> bool:  # type: ignore[override]  # of the likelihood, not the class
        """Whether the loss reads counts."""
        return bool(self.config["decodes"]) and self.config["likelihood"] == "nb"

    def gene_axes(self) -> Mapping[str, int]:
        """Return the weights whose rows are genes."""
        axes = {"net.first": 0}
        return axes | {"net.out.weight": 0} if self.net.decodes else axes

    def parts(self) -> Mapping[str, Any]:
        """Return where in the tensors the encoder is; see ``episome.models.EncoderPart``."""
        names = ["first", "first_bias", *(f"encoder.{n}" for n in self.net.encoder.state_dict())]
        return {
            "encoder": {
                "prefix": "net.",
                "tensors": names,
                "gene_axes": {"first": 0},
                "settings": {k: self.config[k] for k in ("hidden", "n_latent", "activation")},
            }
        }

    def state(self) -> tuple[dict[str, NDArray[np.generic]], dict[str, bytes]]:
        """Return what predicts: nothing of pretext tasks."""
        tensors, files = super().state()
        return {k: v for k, v in tensors.items() if not k.startswith(_OF_TRAINING)}, files

    def load_state(
        self, tensors: Mapping[str, NDArray[np.generic]], files: Mapping[str, bytes] | None = None
    ) -> None:
        """Fill what predicts, strictly; pretext tasks keep what they have."""
        kept = {k: v for k, v in super().state()[0].items() if k.startswith(_OF_TRAINING)}
        super().load_state({**kept, **tensors}, files)

    def expected(self, latent: torch.Tensor) -> torch.Tensor:
        """Return the expected expression on the scale of the input, (B, G)."""
        return self.scaled(self.net.decode(latent))

    def embedding(self, latent: torch.Tensor) -> torch.Tensor:
        """Return what is read as the embedding of the encoder's output."""
        return latent.relu() if self.config["embedding_activation"] == "relu" else latent

    def scaled(self, mean: torch.Tensor) -> torch.Tensor:
        """Return what was decoded on the scale of the input."""
        if self.config["likelihood"] == "nb":
            # Of a cell of the size that counts are scaled to.
            return torch.log1p(mean)
        return mean

    def set_measured(self, panels: GenePanels | None) -> None:
        """Say which genes were measured in the training cells; ``None``: all in all.

        Parameters
        ----------
        panels
            By the rows of the training cells.
        """
        at, table, codes = self.device, None, None
        if panels is not None:
            table = torch.from_numpy(panels.measured.astype("uint8")).to(at)
            codes = torch.from_numpy(panels.codes).to(at)
        self.measured, self.origins = table, codes

    def drawn(self, batch: dict[str, Any]) -> PretextBatch:
        """Return what a self-supervised loss reads of a batch, with numbers to draw by.

        In training every batch draws anew; in validation every epoch draws the same.
        """
        seed = settings.stream_seed("mask")
        if self.training:
            self.n_drawn += 1
            seed = (seed + int(self.n_drawn)) % 2**63
        device = self.device.type
        products = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return PretextBatch(
            batch["X"],
            batch["ind_x"],
            seed,
            counts=batch["counts"] if self.wants_counts else None,
            size=batch["size_factor"].float() / self.target_sum if self.wants_counts else None,
            products=products,
            measured=self.measured,
            origins=None if self.origins is None else self.origins[batch["ind_x"]],
        )


class SSLCore(EncoderCore):
    """An encoder that a pretext task trains; it embeds, and where it can, reconstructs.

    Parameters
    ----------
    n_features, **options
        Of :class:`EncoderCore`.
    """

    task: PretextTask | None

    def __init__(self, n_features: int, **options: Any) -> None:
        super().__init__(n_features, **options)
        self.task = None

    def set_task(self, task: PretextTask) -> None:
        """Say what trains the core; where it is only to predict, nothing need be said."""
        task.prepare(self.net)
        self.task = task

    def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return ``latent``, (B, n_latent), and ``mean``, (B, G), where there is a decoder."""
        latent = self.net.encode(batch["X"])
        out = {"latent": self.embedding(latent)}
        if self.net.decodes and "mean" in batch.get("outputs", ("mean",)):
            out["mean"] = self.expected(latent)
        return out

    def loss(self, batch: dict[str, Any]) -> Mapping[str, torch.Tensor]:
        """Return the loss of the pretext task, and how far embeddings spread."""
        if self.task is None:
            msg = "a core without a pretext task cannot be trained."
            raise RuntimeError(msg)
        out = self.task.loss(self.net, self.drawn(batch))
        if not isinstance(out, PretextOutput):
            raise PluginError(
                "E-P06",
                f"the loss of {type(self.task).__name__} is a {type(out).__name__}",
                where=type(self.task).__module__,
                why="a pretext task returns loss, embeddings and what is to be logged",
                fix="return PretextOutput(loss, latent, {})",
            )
        return {"loss": out.loss, **out.said, **spread_of(out.latent)}


def spread_of(latent: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return two numbers that fall where an encoder gives all cells the same embedding.

    Parameters
    ----------
    latent
        Embeddings, (B, d).

    Returns
    -------
    ``embedding_spread``: standard deviation of unit embeddings over cells, times the root of d,
    averaged over dimensions: 1 for embeddings in all directions, 0 where they are all the same.
    ``embedding_rank``: participation ratio of the variances, between 1 and d.
    """
    z = latent.detach().float()
    unit = z / z.norm(dim=1, keepdim=True).clamp(min=1e-12)
    spread = unit.std(dim=0, unbiased=False).mean() * z.shape[1] ** 0.5
    centred = z - z.mean(0)
    covariance = centred.T @ centred
    total = covariance.square().sum()
    rank = covariance.diagonal().sum().square() / total.clamp(min=1e-30)
    return {"embedding_spread": spread, "embedding_rank": torch.where(total > 0, rank, total)}


class SSLClassifierCore(EncoderCore):
    """An encoder and a head that names types.

    Parameters
    ----------
    n_features, n_classes
        Genes of the model, and classes.
    freeze
        ``"none"``: all is trained; ``"shallow"``: the last layer of the encoder and the head;
        ``"all"``: the head.
    input_dropout
        Share of the expressed genes of a cell that are hidden in training, others scaled up.
    **options
        Of :class:`EncoderCore`.
    """

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        *,
        freeze: str = "none",
        input_dropout: float = 0.0,
        **options: Any,
    ) -> None:
        more = {"n_classes": n_classes, "freeze": freeze, "input_dropout": input_dropout}
        super().__init__(n_features, **{**options, "decodes": False}, **more)
        if not 0 <= input_dropout < 1:
            msg = f"input_dropout is {input_dropout}; it must be at least 0 and below 1."
            raise ValueError(msg)
        kind = nn.SELU if self.config["activation"] == "selu" else nn.ReLU
        self.input_dropout = input_dropout
        self.head = nn.Sequential(
            kind(),
            nn.Dropout(float(self.config["dropout"])),
            nn.Linear(int(self.config["n_latent"]), n_classes),
        )
        self.freeze(freeze)

    def freeze(self, what: str) -> None:
        """Say which layers of the encoder are trained."""
        self.frozen = freeze_encoder(self, what)

    def train(self, mode: bool = True) -> SSLClassifierCore:  # noqa: FBT001, FBT002 - torch's
        """Set the mode; an encoder that is frozen stays in evaluation mode."""
        super().train(mode)
        if self.frozen == "all":
            self.net.eval()
        return self

    def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return ``logits`` (B, n_classes) and ``latent`` (B, n_latent)."""
        x = batch["X"]
        if self.training and self.input_dropout and self.frozen != "all":
            if isinstance(x, torch.Tensor):
                x = nn.functional.dropout(x, self.input_dropout)
            else:
                x = x.thinned(self.input_dropout)
        latent = self.net.encode(x)
        return {"logits": self.head(latent), "latent": self.embedding(latent)}


class SSLReconstructorCore(EncoderCore):
    """An autoencoder whose decoder is told the batch of a cell.

    Parameters
    ----------
    n_features
        Genes of the model.
    n_batch
        Batches; with one there is no covariate.
    freeze
        Of the encoder, as for :class:`SSLClassifierCore`; the decoder is trained in any case.
    mask_rate
        Share of the genes that are hidden in training and asked for; 0: a plain autoencoder.
    **options
        Of :class:`EncoderCore`.
    """

    batch_codes: torch.Tensor

    def __init__(
        self,
        n_features: int,
        *,
        n_batch: int = 1,
        freeze: str = "none",
        mask_rate: float = 0.0,
        **options: Any,
    ) -> None:
        RandomMask(mask_rate)  # refuses what is no rate
        more = {"n_batch": n_batch, "freeze": freeze, "mask_rate": mask_rate}
        super().__init__(n_features, **{**options, "decodes": True}, **more)
        self.n_batch, self.mask_rate = n_batch, mask_rate
        first = self.net.decoder[0]
        # Added to the first layer of the decoder; zero is what a decoder without batches has.
        self.shift = nn.Parameter(torch.zeros(n_batch, first.out_features))
        self.shift.requires_grad_(n_batch > 1)
        self.decode_batch: int | None = None
        self.register_buffer("batch_codes", torch.zeros(0, dtype=torch.int64), persistent=False)
        self.freeze(freeze)

    def freeze(self, what: str) -> None:
        """Say which layers of the encoder are trained."""
        self.frozen = freeze_encoder(self, what)

    def train(self, mode: bool = True) -> SSLReconstructorCore:  # noqa: FBT001, FBT002 - torch's
        """Set the mode; an encoder that is frozen stays in evaluation mode."""
        super().train(mode)
        if self.frozen == "all":
            for layer in self.net.encoder:
                layer.eval()
        return self

    def told(self, batch: dict[str, Any]) -> torch.Tensor | None:
        """Return what the batches of training cells add to the decoder, (B, H)."""
        if self.n_batch == 1:
            return None
        return self.shift[self.batch_codes[batch["ind_x"]]]

    def expected(self, latent: torch.Tensor) -> torch.Tensor:
        """Return the expected expression in ``decode_batch``, or the mean of all batches."""
        at = self.decode_batch
        shift = self.shift.mean(0) if at is None else self.shift[at]
        return self.scaled(self.net.decode(latent, shift=shift))

    def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return ``latent``, which is told no batch, and ``mean``, (B, G)."""
        latent = self.net.encode(batch["X"])
        out = {"latent": self.embedding(latent)}
        if "mean" in batch.get("outputs", ("mean",)):
            out["mean"] = self.expected(latent)
        return out

    def loss(self, batch: dict[str, Any]) -> torch.Tensor:
        """Return the mean error of the genes that are asked for."""
        given = self.drawn(batch)
        mask = RandomMask(self.mask_rate, seed=given.seed, cells=given.numbers)
        latent = self.net.encode_visible(given.cells, mask, products=given.products)
        return self.net.error(
            latent,
            given.cells,
            given.only_measured(mask),
            counts=given.counts,
            size=given.size,
            shift=self.told(batch),
            products=given.products,
        )


def freeze_encoder(core: EncoderCore, what: str) -> str:
    """Say which layers of an encoder are trained.

    Parameters
    ----------
    core
        Its encoder.
    what
        ``"none"``, ``"shallow"``: the last layer of the encoder is trained; ``"all"``: no layer.

    Raises
    ------
    ValueError
        Another word.
    """
    if what not in FREEZE:
        msg = f"freeze is {what!r}; use one of {FREEZE}."
        raise ValueError(msg)
    net, last = core.net, core.net.encoder[-1]
    for parameter in (net.first, net.first_bias, *net.encoder.parameters()):
        parameter.requires_grad_(what == "none")
    for parameter in last.parameters():
        parameter.requires_grad_(what != "all")
    return what
