"""Augmented views of cells, which contrastive tasks compare.

Everything is drawn on the device of the cells and from a given generator or seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch

from episome.nn import RandomMask

if TYPE_CHECKING:
    from episome.nn import CSRParts, PretextBatch

__all__ = [
    "Augmentation",
    "dropout",
    "gaussian_noise",
    "negative_binomial_noise",
    "overdispersed_counts",
    "uniform_noise",
    "with_count_noise",
    "with_dropout",
    "with_noise",
]

Kind = Literal["noise", "mask"]

#: Successes that end the published noise, and the total to which its counts are scaled.
_TOTAL = 10.0
_SCALE = 1e4
_SETTINGS: dict[str, tuple[str, ...]] = {
    "noise": ("probability", "intensity", "dropout"),
    "mask": ("mask_rate",),
}


def overdispersed_counts(
    shape: tuple[int, ...], generator: torch.Generator, total: int = 10
) -> torch.Tensor:
    r"""Draw counts of negative binomials of total r, each with a probability that is drawn too.

    With p uniform between 0 and 1, as published, the counts themselves have

    .. math:: P(n) = \int_0^1 \binom{n + r - 1}{n} p^n (1 - p)^r dp = \frac{r}{(n + r)(n + r + 1)},

    so that :math:`P(N \ge n) = r / (n + r)`, and one uniform number u is enough:
    :math:`N = \lfloor r / u \rfloor - r`. Exact, and twenty times as fast as gamma and Poisson
    draws. The mean of this distribution is infinite: a few draws are very large.

    Parameters
    ----------
    shape
        Of the result.
    generator
        Of the draws, on the device where they are wanted.
    total
        Number r, 1 or more.

    Returns
    -------
    Whole numbers, float32.
    """
    if total < 1:
        msg = f"total is {total}; it must be 1 or more."
        raise ValueError(msg)
    # Above 0 and up to 1.
    u = 1 - torch.rand(shape, generator=generator, device=generator.device)
    return (total / u).floor_().sub_(total)


def with_count_noise(x: torch.Tensor, counts: torch.Tensor, intensity: float) -> torch.Tensor:
    r"""Add drawn counts to cells, as log1p values.

    .. math:: \max(x_{ij} + a \log(1 + 10^4 n_{ij} / \sum_k n_{ik}), 0)

    Parameters
    ----------
    x
        Log1p expression, (B, G) float.
    counts
        Drawn counts n, (B, G) float; a cell without any gets no noise.
    intensity
        Factor a of the noise.

    Returns
    -------
    (B, G), at least 0.
    """
    # Counts are whole: a sum below one is a sum of zeros.
    scaled = counts * (_SCALE / counts.sum(1, keepdim=True).clamp_min_(1))
    return with_noise(x, scaled.log1p_().mul_(intensity))


def with_dropout(x: torch.Tensor, kept: torch.Tensor, rate: float) -> torch.Tensor:
    """Return ``x * kept / (1 - rate)``, (B, G), for which values are kept, (B, G) bool."""
    return x * (kept.to(x.dtype) / (1 - rate))


def with_noise(x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Return ``max(x + noise, 0)``, (B, G)."""
    return (x + noise).clamp_min_(0)


def negative_binomial_noise(
    x: torch.Tensor, intensity: float, generator: torch.Generator
) -> torch.Tensor:
    """Add counts that every gene of every cell draws from a negative binomial of its own.

    Ten in total, and of a probability that is uniform between 0 and 1; scaled to 10,000 in every
    cell and taken as log1p, see :func:`with_count_noise`.

    Parameters
    ----------
    x
        Log1p expression, (B, G) float.
    intensity
        Factor of the noise.
    generator
        Of the draws, on the device of ``x``.

    Returns
    -------
    (B, G), at least 0; hardly any value is zero.
    """
    counts = overdispersed_counts(tuple(x.shape), generator, _TOTAL).to(x.dtype)
    return with_count_noise(x, counts, intensity)


def dropout(x: torch.Tensor, rate: float, generator: torch.Generator) -> torch.Tensor:
    """Set values to zero with a probability, and divide the others by the share that stays.

    Parameters
    ----------
    x
        Values, (B, G) float.
    rate
        Probability, at least 0 and below 1.
    generator
        Of the draws, on the device of ``x``.

    Returns
    -------
    (B, G), of the expectation of ``x``.
    """
    drawn = torch.rand(x.shape, generator=generator, device=x.device)
    return with_dropout(x, drawn >= rate, rate)


def gaussian_noise(x: torch.Tensor, std: float, generator: torch.Generator) -> torch.Tensor:
    """Add normal noise of a standard deviation to values (B, G); below zero becomes zero."""
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return with_noise(x, noise.mul_(std))


def uniform_noise(x: torch.Tensor, width: float, generator: torch.Generator) -> torch.Tensor:
    """Add noise between minus and plus half a width to values (B, G); below zero becomes zero."""
    noise = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return with_noise(x, noise.sub_(0.5).mul_(width))


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How a view of a cell is made.

    Parameters
    ----------
    kind
        ``"noise"``, of :cite:p:`richter2025ssl`: with a probability noise of counts, see
        :func:`negative_binomial_noise`, then with the same probability :func:`dropout`; views are
        dense. ``"mask"``: genes are hidden at random, which keeps cells sparse and costs next to
        nothing.
    probability
        Of either step of the noise. Every cell draws for itself; the published code draws once
        for all cells of a batch.
    intensity
        Factor of the noise.
    dropout
        Rate of the dropout, at least 0 and below 1.
    mask_rate
        Probability of a gene to be hidden, at least 0 and below 1; genes that are visible are
        divided by the share that is.

    Raises
    ------
    ValueError
        A setting is out of range.
    """

    kind: Kind = "noise"
    probability: float = 0.3
    intensity: float = 0.2
    dropout: float = 0.1
    mask_rate: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            msg = f"augmentation is {self.kind!r}; use one of {get_args(Kind)}."
            raise ValueError(msg)
        if not 0 <= self.probability <= 1:
            msg = f"probability is {self.probability}; it must be between 0 and 1."
            raise ValueError(msg)
        if not 0 <= self.intensity < float("inf"):
            msg = f"intensity is {self.intensity}; it must be a number of 0 or more."
            raise ValueError(msg)
        for name in ("dropout", "mask_rate"):
            if not 0 <= getattr(self, name) < 1:
                msg = f"{name} is {getattr(self, name)}; it must be at least 0 and below 1."
                raise ValueError(msg)

    @classmethod
    def of(cls, kind: Kind, **settings: float) -> Augmentation:
        """Return an augmentation, and refuse settings that its kind does not use.

        Parameters
        ----------
        kind
            Of the augmentation.
        **settings
            ``probability``, ``intensity`` and ``dropout`` of noise, ``mask_rate`` of a mask.

        Raises
        ------
        TypeError
            A setting is unknown, or is one of the other kind.
        ValueError
            A setting is out of range.
        """
        known = _SETTINGS.get(kind, ())
        if kind in _SETTINGS and not settings.keys() <= set(known):
            unknown = sorted(settings.keys() - set(known))
            msg = f"augmentation {kind!r} has no setting {unknown}; it has {', '.join(known)}."
            raise TypeError(msg)
        return cls(kind, **settings)

    def view(self, batch: PretextBatch, n_features: int, which: int) -> CSRParts | torch.Tensor:
        """Return a view of the cells of a batch.

        Parameters
        ----------
        batch
            B cells, and what the draws follow from.
        n_features
            Genes, G.
        which
            Number of the view, 0 or 1: views of different numbers are drawn independently.

        Returns
        -------
        (B, G), at least 0 where the cells are: dense with noise, CSR with a mask.
        """
        if self.kind == "mask":
            mask = RandomMask(self.mask_rate, 2 * batch.seed + which, batch.numbers)
            return mask.visible(batch.cells)
        return self._noisy(batch.cells.to_dense(n_features), batch.generator(which))

    def _noisy(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Change the chosen cells of `x`, which is overwritten."""
        # Only the cells that drew it: noise is the dearest part of a view.
        rows = self._chosen(x, generator)
        x[rows] = negative_binomial_noise(x[rows], self.intensity, generator)
        rows = self._chosen(x, generator)
        x[rows] = dropout(x[rows], self.dropout, generator)
        return x

    def _chosen(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        drawn = torch.rand(len(x), generator=generator, device=x.device)
        return (drawn < self.probability).nonzero()[:, 0]
