"""Pretext tasks that compare two views of the same cells.

Views are made for the loss only: embeddings of cells are taken from the cells as they are. In
validation views are drawn from the seed of the batch, which never changes, and batch norms of the
heads use what they have averaged in training, so that a batch of one cell is fine and, for BYOL,
the loss of a batch is the mean of those of its cells. What BarlowTwins, VICReg and SimCLR ask of a
batch depends on how many cells it has by definition: compare epochs, not batch sizes.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, get_args

import torch
from torch import nn

from episome.nn import CSRParts, PretextBatch, PretextOutput, PretextSetting, PretextTask
from episome_ssl.losses import barlow_loss, byol_loss, nt_xent, vicreg_loss
from episome_ssl.projectors import barlow_projector, mlp, simsiam_projector
from episome_ssl.views import Augmentation, Kind

if TYPE_CHECKING:
    from episome.nn import MaskedAutoencoder

__all__ = ["BYOL", "BarlowTwins", "SimCLR", "VICReg", "ViewsTask"]

View: TypeAlias = CSRParts | torch.Tensor
Schedule = Literal["fixed", "cosine"]

#: Parts of a network that an embedding is computed with.
_ENCODES = {"first", "first_bias", "encoder"}


class ViewsTask(PretextTask):
    """Base of tasks that compare two views of the same cells.

    Parameters
    ----------
    augmentation
        How views are made.
    """

    needs_decoder: ClassVar[bool] = False
    projector: nn.Module

    def __init__(self, augmentation: Augmentation) -> None:
        super().__init__()
        self.augmentation = augmentation

    @classmethod
    def build(cls, setting: PretextSetting, **options: object) -> ViewsTask:
        """Return the task for a network.

        Parameters
        ----------
        setting
            Of which the width of the embedding is used.
        **options
            Of the constructor.

        Raises
        ------
        TypeError, ValueError
            Unknown or impossible options.
        """
        return cls(setting.n_latent, **options)

    def loss(self, net: MaskedAutoencoder, batch: PretextBatch) -> PretextOutput:
        """Return the loss of two views of a batch.

        Parameters
        ----------
        net
            Encoder.
        batch
            The cells.
        """
        views = self.views(batch, net.n_features)
        return self.loss_of_views(net, *views, products=batch.products)

    def views(self, batch: PretextBatch, n_features: int) -> tuple[View, View]:
        """Return two views of the cells of a batch, (B, G) each, dense or CSR.

        Parameters
        ----------
        batch
            The cells.
        n_features
            Genes, G.
        """
        first, second = (self.augmentation.view(batch, n_features, i) for i in (0, 1))
        return first, second

    def loss_of_views(
        self,
        net: MaskedAutoencoder,
        first: View,
        second: View,
        *,
        products: torch.dtype | None = None,
    ) -> PretextOutput:
        """Return the loss of two views of the same cells.

        Parameters
        ----------
        net
            Encoder.
        first, second
            The views, (B, G) each, dense or CSR.
        products
            Type in which the products of the encoder are taken; default that of its weights.
        """
        latent = [_encode(net, view, products) for view in (first, second)]
        loss, said = self.compare(*self.projected(latent))
        return PretextOutput(loss, torch.cat(latent).detach(), said)

    def projected(self, latent: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return projections of the embeddings of both views, each in a batch of its own.

        Parameters
        ----------
        latent
            Embeddings of either view, (B, n_latent).
        """
        first, second = map(self.projector, latent)
        return first, second

    @abstractmethod
    def compare(
        self, first: torch.Tensor, second: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of projections of two views, (B, D) each, and what is logged."""


def _encode(net: MaskedAutoencoder, x: View, products: torch.dtype | None) -> torch.Tensor:
    """Return embeddings (B, n_latent) in the type of the weights."""
    weights = net.first
    low = torch.float32 if products is None else products
    if isinstance(x, torch.Tensor):
        x = x.to(weights.dtype)
    with torch.autocast(weights.device.type, low, enabled=products is not None):
        return net.encode(x).to(weights.dtype)


class _Target(nn.Module):
    """A copy of encoder and projector that no gradient enters."""

    def __init__(self, net: MaskedAutoencoder, projector: nn.Module) -> None:
        super().__init__()
        # The decoder is as large as the encoder, and would only be carried along.
        parts = {**net._modules, **net._parameters}
        without = {id(p): None for name, p in parts.items() if name not in _ENCODES}
        self.net = copy.deepcopy(net, without)
        self.net.decodes = False
        self.projector = copy.deepcopy(projector)
        self.requires_grad_(requires_grad=False)

    @torch.no_grad()
    def forward(self, views: tuple[View, View], products: torch.dtype | None) -> torch.Tensor:
        """Return projections (2B, D) of both views."""
        latent = torch.cat([_encode(self.net, view, products) for view in views])
        out: torch.Tensor = self.projector(latent)
        return out

    @torch.no_grad()
    def follow(self, net: MaskedAutoencoder, projector: nn.Module, decay: float) -> None:
        """Move every parameter towards its counterpart; batch statistics are no parameters."""
        for mine, theirs in ((self.net, net), (self.projector, projector)):
            leading = dict(theirs.named_parameters())
            for name, parameter in mine.named_parameters():
                parameter.lerp_(leading[name], 1 - decay)


class BYOL(ViewsTask):
    r"""Predict what a slowly following copy of the network says of another view of the cell.

    Embeddings pass a projector and a predictor; the target is a copy of encoder and projector,
    without gradient, whose parameters move by

    .. math:: \theta_t \leftarrow \tau \theta_t + (1 - \tau) \theta

    after every update. Both views pass the heads in one batch. The loss is that of
    :func:`byol_loss`.

    Parameters
    ----------
    n_latent
        Width of the embedding.
    projection_hidden, projection_size
        Widths of projector and predictor.
    momentum
        Whether the target is a moving average. ``False``: it is the network itself, without
        gradient, and the projector has three layers, SimSiam of :cite:p:`chen2021simsiam`.
    decay
        :math:`\tau`, at least 0 and at most 1.
    decay_schedule
        ``"fixed"``, or ``"cosine"``: from ``decay`` to 1 over the training.
    frozen_target
        The target never moves. That is what the published code does, which never calls its moving
        average: it imitates a random network.
    augmentation
        ``"noise"`` or ``"mask"``, see :class:`Augmentation`.
    **settings
        Of the augmentation.

    Raises
    ------
    TypeError, ValueError
        Unknown or impossible options.

    Notes
    -----
    Of :cite:p:`grill2020byol` and :cite:p:`richter2025ssl`. The latter's projector reads the last
    hidden layer, so that the embedding is never trained; here it reads the embedding.
    Reports the mean ``cosine`` of predictions and targets.
    """

    def __init__(
        self,
        n_latent: int,
        *,
        projection_hidden: int = 4096,
        projection_size: int = 256,
        momentum: bool = True,
        decay: float = 0.99,
        decay_schedule: Schedule = "fixed",
        frozen_target: bool = False,
        augmentation: Kind = "noise",
        **settings: float,
    ) -> None:
        super().__init__(Augmentation.of(augmentation, **settings))
        if not 0 <= decay <= 1:
            msg = f"decay is {decay}; it must be between 0 and 1."
            raise ValueError(msg)
        if decay_schedule not in get_args(Schedule):
            msg = f"decay_schedule is {decay_schedule!r}; use one of {get_args(Schedule)}."
            raise ValueError(msg)
        if frozen_target and not momentum:
            msg = "without momentum there is no target to freeze. Leave out one of the options."
            raise ValueError(msg)
        self.momentum, self.frozen_target = momentum, frozen_target
        self.decay, self.decay_schedule = decay, decay_schedule
        kind = mlp if momentum else simsiam_projector
        self.projector = kind(n_latent, projection_hidden, projection_size)
        self.predictor = mlp(projection_size, projection_hidden, projection_size)
        self.target: _Target | None = None

    def prepare(self, net: MaskedAutoencoder) -> None:
        """Copy encoder and projector as target, unless the network is its own.

        The target is part of the state: prepare a task before its state is loaded.

        Parameters
        ----------
        net
            The network before training.
        """
        if self.momentum:
            self.target = _Target(net, self.projector).train(self.training)

    def loss_of_views(
        self,
        net: MaskedAutoencoder,
        first: View,
        second: View,
        *,
        products: torch.dtype | None = None,
    ) -> PretextOutput:
        """Return the loss of two views of the same cells.

        Parameters
        ----------
        net
            Encoder.
        first, second
            The views, (B, G) each, dense or CSR.
        products
            Type in which the products of the encoder are taken; default that of its weights.
        """
        # One after the other: no norm of the encoder sees the batch, and views may be large.
        latent = torch.cat([_encode(net, view, products) for view in (first, second)])
        projected = self.projector(latent)
        aims = self._target()((first, second), products) if self.momentum else projected.detach()
        loss, said = self.compare(self.predictor(projected), aims)
        return PretextOutput(loss, latent.detach(), said)

    def compare(
        self, first: torch.Tensor, second: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of predictions and aims of both views, (2B, D), and what is logged."""
        loss = byol_loss(first.chunk(2), second.chunk(2))
        # Two cosines per cell, each a quarter of the loss away from one.
        return loss, {"cosine": 1 - loss.detach() / 4}

    def after_update(self, net: MaskedAutoencoder, done: float) -> None:
        """Move the target, unless it is frozen.

        Parameters
        ----------
        net
            The network that was updated.
        done
            Share of all updates that are done.
        """
        if self.momentum and not self.frozen_target:
            self._target().follow(net, self.projector, self.decay_at(done))

    def decay_at(self, done: float) -> float:
        r"""Return :math:`\tau` when a share of all updates is done.

        Parameters
        ----------
        done
            The share s: with a cosine schedule
            :math:`1 - (1 - \tau) (1 + \cos(\pi s)) / 2`.
        """
        if self.decay_schedule == "fixed":
            return self.decay
        return 1 - (1 - self.decay) * (1 + math.cos(math.pi * done)) / 2

    def _target(self) -> _Target:
        if self.target is None:
            msg = "this task has no target network yet; call prepare(net) before training."
            raise RuntimeError(msg)
        return self.target


class BarlowTwins(ViewsTask):
    """Dimensions of two views of a cell agree, and tell different things.

    Each view passes the projector in a batch of its own; the loss is that of :func:`barlow_loss`
    over the cells that there are.

    Parameters
    ----------
    n_latent
        Width of the embedding.
    projection
        Widths of the projector's layers.
    off_weight
        Weight of what is beside the diagonal.
    clean_second_view
        The second view is the cell as it is, as published; default two augmented views.
    augmentation
        ``"noise"`` or ``"mask"``, see :class:`Augmentation`.
    **settings
        Of the augmentation. Noise is always on unless ``probability`` says otherwise, as
        published.

    Raises
    ------
    TypeError, ValueError
        Unknown or impossible options.

    Notes
    -----
    Of :cite:p:`zbontar2021barlow` and :cite:p:`richter2025ssl`. Reports ``on_diagonal`` and
    ``off_diagonal``, the two sums of the loss without the weight.
    """

    def __init__(
        self,
        n_latent: int,
        *,
        projection: Sequence[int] = (256, 256, 512, 512),
        off_weight: float = 0.0051,
        clean_second_view: bool = False,
        augmentation: Kind = "noise",
        **settings: float,
    ) -> None:
        if augmentation == "noise":
            settings = {"probability": 1.0, **settings}
        super().__init__(Augmentation.of(augmentation, **settings))
        _not_negative(off_weight=off_weight)
        self.off_weight, self.clean_second_view = off_weight, clean_second_view
        self.projector = barlow_projector(n_latent, projection)

    def views(self, batch: PretextBatch, n_features: int) -> tuple[View, View]:
        """Return two views of the cells of a batch, (B, G) each, dense or CSR.

        Parameters
        ----------
        batch
            The cells.
        n_features
            Genes, G.
        """
        if self.clean_second_view:
            return self.augmentation.view(batch, n_features, 0), batch.cells
        return super().views(batch, n_features)

    def compare(
        self, first: torch.Tensor, second: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of projections of two views, (B, D) each, and what is logged."""
        parts = barlow_loss(first, second, off_weight=self.off_weight)
        said = {name: getattr(parts, name).detach() for name in ("on_diagonal", "off_diagonal")}
        return parts.loss, said


class VICReg(ViewsTask):
    """Views of a cell are near each other, and dimensions vary over cells and do not covary.

    Each view passes the projector, that of :class:`BarlowTwins`, in a batch of its own; the loss
    is that of :func:`vicreg_loss`.

    Parameters
    ----------
    n_latent
        Width of the embedding.
    projection
        Widths of the projector's layers.
    invariance, variance, covariance
        Weights of the terms.
    augmentation
        ``"mask"`` or ``"noise"``, see :class:`Augmentation`. Hiding half of the genes was the
        best augmentation of a benchmark of self-supervised methods for cells.
    **settings
        Of the augmentation.

    Raises
    ------
    TypeError, ValueError
        Unknown or impossible options.

    Notes
    -----
    Of :cite:p:`bardes2022vicreg`. Reports the terms without their weights.
    """

    def __init__(
        self,
        n_latent: int,
        *,
        projection: Sequence[int] = (256, 256, 512, 512),
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        augmentation: Kind = "mask",
        **settings: float,
    ) -> None:
        super().__init__(Augmentation.of(augmentation, **settings))
        self.weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
        _not_negative(**self.weights)
        self.projector = barlow_projector(n_latent, projection)

    def compare(
        self, first: torch.Tensor, second: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of projections of two views, (B, D) each, and what is logged."""
        parts = vicreg_loss(first, second, **self.weights)
        said = {name: getattr(parts, name).detach() for name in self.weights}
        return parts.loss, said


class SimCLR(ViewsTask):
    """Find the other view of a cell among all views of a batch.

    Both views pass the projector in one batch; the loss is that of :func:`nt_xent`.

    Parameters
    ----------
    n_latent
        Width of the embedding.
    projection_hidden, projection_size
        Widths of the projector.
    temperature
        Of the softmax, above 0.
    augmentation
        ``"mask"`` or ``"noise"``, see :class:`Augmentation`. Hiding half of the genes was the
        best augmentation of a benchmark of self-supervised methods for cells.
    **settings
        Of the augmentation.

    Raises
    ------
    TypeError, ValueError
        Unknown or impossible options.

    Notes
    -----
    Of :cite:p:`chen2020simclr`. A loss of B cells takes the memory of 4 B^2 numbers.
    """

    def __init__(
        self,
        n_latent: int,
        *,
        projection_hidden: int = 512,
        projection_size: int = 128,
        temperature: float = 0.1,
        augmentation: Kind = "mask",
        **settings: float,
    ) -> None:
        super().__init__(Augmentation.of(augmentation, **settings))
        if not 0 < temperature < math.inf:
            msg = f"temperature is {temperature}; it must be a number above 0."
            raise ValueError(msg)
        self.temperature = temperature
        self.projector = mlp(n_latent, projection_hidden, projection_size)

    def projected(self, latent: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return projections of the embeddings of both views, of one batch.

        Parameters
        ----------
        latent
            Embeddings of either view, (B, n_latent).
        """
        first, second = self.projector(torch.cat(latent)).chunk(2)
        return first, second

    def compare(
        self, first: torch.Tensor, second: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of projections of two views, (B, D) each, and what is logged."""
        return nt_xent(first, second, temperature=self.temperature), {}


def _not_negative(**weights: float) -> None:
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            msg = f"{name} is {weight}; it must be a number of 0 or more."
            raise ValueError(msg)
