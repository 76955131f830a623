"""Masked autoencoders: the decoder never forms the matrix of cells by genes.

The gene-wide output is the largest tensor of an autoencoder, and its loss the widest pass. Both
are taken block by block of genes: product, error and gradient of a block are done while it is in
the cache, and a mask exists for a block only. The encoder reads stored values that are visible.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from episome.nn._autograd import apply
from episome.nn._masked_blocks import Target, activated, block_of
from episome.nn._numba import numba_enabled
from episome.nn._tabnet_sparse import masked_first

if TYPE_CHECKING:
    from collections.abc import Sequence

    from episome.nn._csr import CSRParts
    from episome.nn._masks import GeneMask

__all__ = [
    "MaskedAutoencoder",
    "masked_count_error",
    "masked_error",
    "output_error",
    "times_genes",
]

#: Values of a block of the output: product, mask and error stay in the cache together.
_BLOCK_VALUES = 2**20
_MIN_BLOCK = 256

Activation = Literal["identity", "softplus", "sigmoid"]


class _MaskedError(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        theta: torch.Tensor | None,
        target: Target,
        mask: GeneMask,
        genes: torch.Tensor | None,
        products: torch.dtype | None,
    ) -> torch.Tensor:
        dtype = hidden.dtype if products is None else products
        low = hidden.to(dtype)
        wanted = any(ctx.needs_input_grad[:4])
        given = [t for t in (hidden, weight, bias, theta) if t is not None]
        grads = [torch.zeros_like(t) for t in given] if wanted else []
        size = max(_BLOCK_VALUES // max(len(hidden), 1), _MIN_BLOCK)
        n_genes = len(weight) if genes is None else len(genes)
        cuts = [*range(0, n_genes, size), n_genes]
        error = hidden.new_zeros((), dtype=torch.float64)
        count = torch.zeros((), dtype=torch.int64, device=hidden.device)
        for first, last in pairwise(cuts):
            these = slice(first, last) if genes is None else genes[first:last]
            w = weight[these].to(dtype)
            raw = (low @ w.T).to(hidden.dtype) + bias[these]
            numbers = (
                torch.arange(first, last, device=hidden.device)
                if genes is None
                else genes[first:last]
            )
            scored = mask.scored(len(hidden), numbers)
            block = block_of(raw, target, None if theta is None else theta[these], first, scored)
            error += block.error.sum(dtype=torch.float64)
            count += block.n_scored
            if wanted:
                small = block.derivative.to(dtype)
                grads[0] += small @ w
                grads[1][these] = (small.T @ low).to(weight.dtype)
                grads[2][these] = block.derivative.sum(0)
                if block.of_theta is not None:
                    grads[3][these] = block.of_theta
        count = count.clamp(min=1)
        ctx.grads, ctx.count = grads, count
        return (error / count).to(hidden.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        # Of the size of the weights: scaled where they are, and therefore once.
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            msg = "the gradients of this loss were taken already; compute the loss again."
            raise RuntimeError(msg)
        found = [g.mul_(grad / ctx.count) for g in grads]
        return (*found, *[None] * (8 - len(found)))


def masked_error(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    cells: CSRParts,
    mask: GeneMask,
    *,
    genes: torch.Tensor | None = None,
    activation: Activation = "identity",
    products: torch.dtype | None = None,
) -> torch.Tensor:
    """Return the mean squared error of a linear output layer over the values that a mask scores.

    The same as forming ``activation(hidden @ weight.T + bias)``, (B, G), and taking the mean of
    squared differences where the mask scores; neither that matrix nor the mask is formed.

    Parameters
    ----------
    hidden
        Last hidden layer, (B, H).
    weight, bias
        Of the output, (G, H) and (G,).
    cells
        Expected values, B rows over G genes.
    mask
        Which values count.
    genes
        Genes that are decoded, ascending, (S,) int64; default all. With genes drawn at random
        the result estimates the error over all, and so do its gradients.
    activation
        Of the output.
    products
        Type in which products are taken, sums stay in float32; default that of ``hidden``.

    Returns
    -------
    Scalar, differentiable once; zero if nothing is scored.
    """
    target = Target(_decoded(cells, genes, len(weight)), None, activation)
    error: torch.Tensor = apply(
        _MaskedError, hidden, weight, bias, None, target, mask, genes, products
    )
    return error


def masked_count_error(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    theta: torch.Tensor,
    counts: CSRParts,
    size: torch.Tensor,
    mask: GeneMask,
    *,
    genes: torch.Tensor | None = None,
    products: torch.dtype | None = None,
) -> torch.Tensor:
    """Return the mean negative log likelihood of the counts that a mask scores.

    A negative binomial of mean ``size * softplus(hidden @ weight.T + bias)`` and inverse
    dispersion ``theta``, as :func:`negative_binomial_log_likelihood` has it. Neither the means nor
    the mask of cells by genes is formed.

    Parameters
    ----------
    hidden, weight, bias, mask, genes, products
        As for :func:`masked_error`.
    theta
        Inverse dispersions above zero, (G,).
    counts
        Whole numbers, B rows over G genes.
    size
        Of every cell, (B,): what the mean of the output is multiplied with.

    Returns
    -------
    Scalar, differentiable once; zero if nothing is scored.
    """
    decoded = _decoded(counts, genes, len(weight))
    target = Target(decoded, size.to(hidden.dtype), "softplus", "nb")
    error: torch.Tensor = apply(
        _MaskedError, hidden, weight, bias, theta, target, mask, genes, products
    )
    return error


def output_error(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    values: CSRParts,
    mask: GeneMask,
    *,
    likelihood: Literal["mse", "poisson", "bernoulli"] = "mse",
    size: torch.Tensor | None = None,
    products: torch.dtype | None = None,
) -> torch.Tensor:
    """Return the mean error of a wide output layer over the entries that a mask scores.

    The matrix of cells by features is never formed: block by block of features, products, errors
    and gradients are made and added up.

    Parameters
    ----------
    hidden, weight, bias, mask, products
        As for :func:`masked_error`.
    values
        What is expected, B rows over the features; for ``"bernoulli"`` what is stored counts as
        one.
    likelihood
        ``"mse"``: squared differences. ``"bernoulli"``: cross-entropy, the output being logits.
        ``"poisson"``: negative log likelihood of counts of mean ``size * softplus(output)``.
    size
        Of every cell, (B,), for ``"poisson"``; default one.

    Returns
    -------
    Scalar, differentiable once; zero if nothing is scored.

    Examples
    --------
    >>> import torch
    >>> from episome.nn import CSRParts, RandomMask
    >>> hidden, weight = torch.ones(2, 3), torch.zeros(5, 3)
    >>> peaks = CSRParts.from_dense(torch.eye(2, 5))
    >>> loss = output_error(
    ...     hidden, weight, torch.zeros(5), peaks, RandomMask(0.0), likelihood="bernoulli"
    ... )
    >>> round(float(loss), 4)
    0.6931
    """
    if likelihood not in {"mse", "poisson", "bernoulli"}:
        msg = f"likelihood is {likelihood!r}; use 'mse', 'poisson' or 'bernoulli'."
        raise ValueError(msg)
    if size is None:
        size = hidden.new_ones(len(hidden))
    target = Target(values, size.to(hidden.dtype), "identity", likelihood)
    error: torch.Tensor = apply(
        _MaskedError, hidden, weight, bias, None, target, mask, None, products
    )
    return error


def _decoded(cells: CSRParts, genes: torch.Tensor | None, n_genes: int) -> CSRParts:
    """Return the stored values of the genes that are decoded, numbered as these are."""
    if genes is None:
        return cells
    device = cells.values.device
    positions = torch.full((n_genes,), -1, dtype=torch.int32, device=device)
    positions[genes] = torch.arange(len(genes), dtype=torch.int32, device=device)
    return cells.select(positions)


def times_genes(x: CSRParts | torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return cells times a weight that is kept gene by gene, (B, H); differentiable in both.

    Parameters
    ----------
    x
        Cells (B, G), CSR or dense.
    weight
        (G, H).
    """
    if isinstance(x, torch.Tensor):
        return x @ weight
    if weight.device.type == "cpu" and numba_enabled():
        return masked_first(x.values.to(weight.dtype), weight, x)
    return x.to_dense(len(weight)) @ weight


class MaskedAutoencoder(nn.Module):
    """Encoder and decoder that are trained to tell the genes which a mask hides.

    Parameters
    ----------
    n_features
        Genes, G.
    hidden
        Widths of the encoder's layers; the decoder has them in reverse.
    n_latent
        Width of the embedding, which no activation follows.
    activation
        ``"selu"`` or ``"relu"``, after every hidden layer.
    output_activation
        Of the reconstruction. The authors' ``"sigmoid"`` cannot reach values above one.
    dropout
        After every activation.
    likelihood
        ``"mse"``: squared errors of log1p values. ``"nb"``: the output, through softplus, is the
        mean of counts per ``size``, each gene with a dispersion of its own.
    decodes
        Whether there is a decoder; without one only :meth:`encode` works.

    Notes
    -----
    ``encoder`` ends with the embedding; its first layer is kept gene by gene, ``first`` (G, H).
    Architecture of :cite:p:`richter2025ssl`: 512, 512, 256, 256 and 64.

    Examples
    --------
    >>> import torch
    >>> from episome.nn import CSRParts, RandomMask
    >>> net = MaskedAutoencoder(20, hidden=(8,), n_latent=3)
    >>> cells = CSRParts.from_dense(torch.eye(4, 20))
    >>> net.encode(cells).shape, net.loss(cells, RandomMask(0.5)).ndim
    (torch.Size([4, 3]), 0)
    """

    def __init__(
        self,
        n_features: int,
        *,
        hidden: Sequence[int] = (512, 512, 256, 256),
        n_latent: int = 64,
        activation: Literal["selu", "relu"] = "selu",
        output_activation: Activation = "identity",
        dropout: float = 0.1,
        likelihood: Literal["mse", "nb"] = "mse",
        decodes: bool = True,
    ) -> None:
        super().__init__()
        if likelihood not in {"mse", "nb"}:
            msg = f"likelihood is {likelihood!r}; use 'mse' or 'nb'."
            raise ValueError(msg)
        if not hidden or min(*hidden, n_features, n_latent) < 1:
            msg = (
                f"hidden is {tuple(hidden)}, n_latent {n_latent} and n_features {n_features}; "
                "there must be one hidden layer at least, and every width must be 1 or more."
            )
            raise ValueError(msg)
        if output_activation not in get_args(Activation):
            msg = f"output_activation is {output_activation!r}; use one of {get_args(Activation)}."
            raise ValueError(msg)
        kinds = {"selu": nn.SELU, "relu": nn.ReLU}
        if activation not in kinds:
            msg = f"activation is {activation!r}; use one of {tuple(kinds)}."
            raise ValueError(msg)
        self.n_features = n_features
        self.output_activation: Activation = output_activation
        kind = kinds[activation]
        self.first = nn.Parameter(torch.empty(n_features, hidden[0]))
        self.first_bias = nn.Parameter(torch.empty(hidden[0]))
        self.encoder = nn.Sequential(kind(), nn.Dropout(dropout))
        for before, after in pairwise(hidden):
            self.encoder.extend([nn.Linear(before, after), kind(), nn.Dropout(dropout)])
        self.encoder.append(nn.Linear(hidden[-1], n_latent))
        self.likelihood, self.decodes = likelihood, decodes
        if decodes:
            self.decoder = nn.Sequential()
            for before, after in pairwise((n_latent, *reversed(hidden))):
                self.decoder.extend([nn.Linear(before, after), kind(), nn.Dropout(dropout)])
            self.out = nn.Linear(hidden[0], n_features)
        if decodes and likelihood == "nb":
            self.log_theta = nn.Parameter(torch.zeros(n_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew, as torch's linear layers do."""
        bound = self.n_features**-0.5
        for parameter in (self.first, self.first_bias):
            nn.init.uniform_(parameter, -bound, bound)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()

    def start_from(self, mean: torch.Tensor) -> None:
        """Let the decoder begin at the mean of every gene, so that it need not learn it.

        Parameters
        ----------
        mean
            Of the training cells, (G,): of log1p values, or with the likelihood of counts of
            counts per ``size``. With ``"sigmoid"`` nothing is done: means may be above one.
        """
        softplus = self.likelihood == "nb" or self.output_activation == "softplus"
        if not softplus and self.output_activation != "identity":
            return
        with torch.no_grad():
            # The inverse of softplus; where nothing was seen it is small, not minus infinity.
            seen = mean.clamp(min=1e-4)
            self.out.bias.copy_(seen + (-torch.expm1(-seen)).log() if softplus else mean)

    def encode(self, x: CSRParts | torch.Tensor) -> torch.Tensor:
        """Return the embedding (B, n_latent) of log1p expression (B, G), CSR or dense."""
        hidden = times_genes(x, self.first) + self.first_bias
        out: torch.Tensor = self.encoder(hidden)
        return out

    def decode(self, z: torch.Tensor, *, shift: torch.Tensor | None = None) -> torch.Tensor:
        """Return the expected expression (B, G) of embeddings (B, n_latent).

        Of counts: for a cell of size one. ``shift``: see :meth:`error`.
        """
        activation = "softplus" if self.likelihood == "nb" else self.output_activation
        return activated(self.out(self._expanded(z, shift)), activation)[0]

    def _expanded(self, z: torch.Tensor, shift: torch.Tensor | None) -> torch.Tensor:
        """Return the last hidden layer of the decoder, (B, H)."""
        first, *others = self.decoder
        hidden: torch.Tensor = first(z)
        if shift is not None:
            hidden = hidden + shift
        for layer in others:
            hidden = layer(hidden)
        return hidden

    def forward(self, x: CSRParts | torch.Tensor) -> torch.Tensor:
        """Reconstruct (B, G) cells, nothing hidden."""
        return self.decode(self.encode(x))

    def loss(
        self,
        cells: CSRParts,
        mask: GeneMask,
        *,
        counts: CSRParts | None = None,
        size: torch.Tensor | None = None,
        genes: torch.Tensor | None = None,
        products: torch.dtype | None = None,
    ) -> torch.Tensor:
        """Return the mean error over the values that the mask scores; see :meth:`error`."""
        z = self.encode_visible(cells, mask, products=products)
        return self.error(z, cells, mask, counts=counts, size=size, genes=genes, products=products)

    def encode_visible(
        self, cells: CSRParts, mask: GeneMask, *, products: torch.dtype | None = None
    ) -> torch.Tensor:
        """Return the embedding (B, n_latent) of what a mask leaves visible.

        Parameters
        ----------
        cells
            Log1p expression of B cells.
        mask
            What is hidden.
        products
            ``torch.bfloat16`` takes products with half as many digits, about four times faster
            where the machine can. Sums and weights stay in float32.
        """
        with self._lower(products):
            return self.encode(mask.visible(cells)).to(self.first.dtype)

    def error(
        self,
        z: torch.Tensor,
        cells: CSRParts,
        mask: GeneMask,
        *,
        counts: CSRParts | None = None,
        size: torch.Tensor | None = None,
        shift: torch.Tensor | None = None,
        genes: torch.Tensor | None = None,
        products: torch.dtype | None = None,
    ) -> torch.Tensor:
        """Return the mean error of what embeddings are decoded to, where a mask scores it.

        Parameters
        ----------
        z
            Embeddings, (B, n_latent).
        cells
            Log1p expression of B cells, which squared errors are taken of.
        mask
            What is scored.
        counts, size
            With the likelihood of counts: what was counted, and the size (B,) of every cell.
        shift
            What a covariate adds to the first layer of the decoder, (B, H) or (H,).
        genes
            Genes to decode, ascending, (S,) int64; see :func:`masked_error`.
        products
            See :meth:`encode_visible`.

        Returns
        -------
        Scalar, differentiable once.
        """
        with self._lower(products):
            hidden = self._expanded(z, shift).to(self.first.dtype)
        weights = self.out.weight, self.out.bias
        if self.likelihood == "mse":
            return masked_error(
                hidden,
                *weights,
                cells,
                mask,
                genes=genes,
                activation=self.output_activation,
                products=products,
            )
        if counts is None or size is None:
            msg = "the likelihood of counts needs counts and the size of every cell."
            raise ValueError(msg)
        theta = self.log_theta.exp()
        return masked_count_error(
            hidden, *weights, theta, counts, size, mask, genes=genes, products=products
        )

    def _lower(self, products: torch.dtype | None) -> torch.autocast:
        device = self.first.device.type
        low = torch.float32 if products is None else products
        return torch.autocast(device, low, enabled=products is not None)
