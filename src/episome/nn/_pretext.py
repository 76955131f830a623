"""Self-supervised tasks: what an encoder is trained on where there are no labels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import nn

from episome.nn._masks import MeasuredMask

if TYPE_CHECKING:
    from episome.nn._csr import CSRParts
    from episome.nn._masked import MaskedAutoencoder
    from episome.nn._masks import GeneMask

__all__ = ["PretextBatch", "PretextOutput", "PretextSetting", "PretextTask"]

_ODD = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class PretextSetting:
    """What is known where a task is built.

    Parameters
    ----------
    n_features, n_latent
        Genes, and width of the embedding.
    genes
        Identifiers of the genes, in order.
    programmes
        Columns of the genes of every programme, by its name; empty where none are given.
    targets
        Column of the gene that a programme is asked for, by its name: the transcription factor
        that it is named after.
    """

    n_features: int
    n_latent: int
    genes: tuple[str, ...] = ()
    programmes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    targets: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class PretextBatch:
    """What a task is given of B cells.

    Parameters
    ----------
    cells
        Log1p expression, B rows over G genes.
    numbers
        Number of every cell in the data, int64 (B,).
    seed
        Of everything that is drawn. In training another for every batch; in validation always the
        same, so that epochs can be compared.
    counts, size
        Counts and the size (B,) of every cell, where the network wants the likelihood of counts.
    products
        Type in which large products are taken; ``None``: that of the weights.
    measured, origins
        Genes that were measured, bool or uint8 (P, G) by origin, and the origin of every cell,
        int64 (B,); ``None`` where all were.
    """

    cells: CSRParts
    numbers: torch.Tensor
    seed: int = 0
    counts: CSRParts | None = None
    size: torch.Tensor | None = None
    products: torch.dtype | None = None
    measured: torch.Tensor | None = None
    origins: torch.Tensor | None = None

    def only_measured(self, mask: GeneMask) -> GeneMask:
        """Return a mask that scores what another one does, of the genes that were measured."""
        if self.measured is None or self.origins is None:
            return mask
        return MeasuredMask(mask, self.measured, self.origins)

    def generator(self, stream: int = 0) -> torch.Generator:
        """Return a generator on the device of the cells.

        Parameters
        ----------
        stream
            Generators of other streams draw other numbers.
        """
        first = int(self.numbers[0]) if len(self.numbers) else 0
        seed = (self.seed + _ODD * (first + 1) + 0x632BE59BD9B4E019 * stream) % 2**63
        return torch.Generator(device=self.cells.values.device).manual_seed(seed)


class PretextOutput(NamedTuple):
    """What a task says of a batch.

    Parameters
    ----------
    loss
        Scalar.
    latent
        Embeddings that the loss was computed from, (n, n_latent), which are watched for collapse.
    said
        Further scalars, which are logged by their names.
    """

    loss: torch.Tensor
    latent: torch.Tensor
    said: Mapping[str, torch.Tensor]


class PretextTask(nn.Module):
    """Base of self-supervised tasks, which plugins register as pretext tasks.

    A subclass takes its options as keywords and implements :meth:`loss`; networks of its own
    (projectors, moving averages) are submodules: they are trained and resumed, and not saved with
    the model. Where options are not enough, :meth:`build` is overridden.
    """

    #: Whether the network needs its decoder.
    needs_decoder: ClassVar[bool] = True
    #: Whether programmes of genes have to be given; and whether each needs its own target gene.
    needs_programmes: ClassVar[bool] = False
    needs_targets: ClassVar[bool] = False

    @classmethod
    def build(cls, setting: PretextSetting, **options: object) -> PretextTask:
        """Return the task for genes and a network.

        Parameters
        ----------
        setting
            Sizes, genes and programmes.
        **options
            Of the constructor.

        Raises
        ------
        TypeError, ValueError
            Unknown or impossible options.
        """
        return cls(**options)

    def prepare(self, net: MaskedAutoencoder) -> None:
        """Do what can be done only when the network is there; called once, before training."""

    @abstractmethod
    def loss(self, net: MaskedAutoencoder, batch: PretextBatch) -> PretextOutput:
        """Return the loss of a batch; in validation the task is in evaluation mode.

        Parameters
        ----------
        net
            Encoder, and decoder where the task needs it.
        batch
            The cells.
        """

    def after_update(self, net: MaskedAutoencoder, done: float) -> None:
        """Do what follows every update of the weights, such as moving an average.

        Parameters
        ----------
        net
            The network that was updated.
        done
            Share of all updates that are done.
        """
