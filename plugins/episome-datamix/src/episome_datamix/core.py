"""The core: torch, without scvi-tools or Lightning, with the names of scvi-tools' tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from episome.nn import (
    TorchCore,
    negative_binomial_log_likelihood,
    restored_counts,
    times_genes,
    zero_inflated_log_likelihood,
)
from episome_datamix.draws import normal_draws
from episome_datamix.layers import Encoder, Linear, kl_normal, normalised_product, row_sums

if TYPE_CHECKING:
    from episome.nn import CSRParts

#: Options of the network, and what they are by default.
DEFAULTS: dict[str, Any] = {
    "n_batch": 1,
    "n_hidden": 128,
    "n_latent": 10,
    "n_layers": 2,
    "dropout_rate": 0.1,
    "gene_likelihood": "nb",
    "use_observed_lib_size": False,
    "target_sum": 1e4,
}
LIKELIHOODS = ("nb", "zinb")
#: Of the variances of the encoders, as scvi-tools has it.
VARIANCE_FLOOR = 1e-4
#: Column of a batch that holds the number of the cell's batch.
BATCH = "batch"


class LDVAECore(TorchCore):
    """A variational autoencoder with a linear decoder.

    Cells are encoded from log1p of their counts; the decoder is one matrix and a batch
    normalisation, whose softmax over genes are shares of the cell's molecules.

    Parameters
    ----------
    n_features
        Genes, G.
    **options
        Of ``DEFAULTS``: ``n_batch``, batches that the decoder is told, with one it is told none;
        ``n_hidden``, ``n_latent``, ``n_layers`` and ``dropout_rate`` of the encoder;
        ``gene_likelihood``, one of ``LIKELIHOODS``; ``use_observed_lib_size``: take the size of a
        cell as it was counted; ``target_sum``: what cells are scaled to on the way in.

    Raises
    ------
    TypeError
        There is no such option.
    ValueError
        A value is impossible.
    """

    input_format: ClassVar[str] = "csr"
    inference_format: ClassVar[str] = "dense"
    wants_counts: ClassVar[bool] = True
    #: ``mean`` are shares of the cell's molecules.
    mean_scale: ClassVar[str] = "proportion"

    config: dict[str, Any]
    px_r: torch.Tensor
    library_log_means: torch.Tensor
    library_log_vars: torch.Tensor

    def __init__(self, n_features: int, **options: Any) -> None:
        super().__init__()
        c = checked(n_features, options)
        told = c["n_latent"] + (c["n_batch"] if c["n_batch"] > 1 else 0)
        sizes = c["n_hidden"], c["n_layers"], c["dropout_rate"]
        self.px_r = nn.Parameter(torch.randn(n_features))
        self.z_encoder = Encoder(n_features, c["n_latent"], *sizes)
        self.l_encoder = Encoder(n_features, 1, c["n_hidden"], 1, c["dropout_rate"])
        self.decoder = nn.Module()
        self.decoder.factor_regressor = Linear(told, n_features)
        self.decoder.px_dropout_decoder = Linear(told, n_features)
        if not c["use_observed_lib_size"]:
            self.register_buffer("library_log_means", torch.zeros(1, c["n_batch"]))
            self.register_buffer("library_log_vars", torch.ones(1, c["n_batch"]))
        self.begin(c)

    def begin(self, config: Mapping[str, object]) -> None:
        """Keep the configuration, and predict without draws in the mean of all batches."""
        self.config = dict(config)
        for encoder in (self.z_encoder, self.l_encoder):
            # Gene by gene in memory, as products of sparse cells want it; the shape stays.
            first = encoder.encoder.fc_layers[0][0]
            first.weight = nn.Parameter(first.weight.detach().t().contiguous().t())
        #: Weight of the distance between posterior and prior of the latent space.
        self.kl_weight = 1.0
        self.decode_batch: int | None = None
        #: Draws of the posterior whose shares are averaged, and their seed; 0: its mean.
        self.n_draws, self.draw_seed = 0, 0

    # --- encoding ---------------------------------------------------------------------------

    def encoded(self, counts: CSRParts) -> tuple[torch.Tensor, ...]:
        """Return means and variances of the posterior of latent space and of log library size.

        Parameters
        ----------
        counts
            (B, G).

        Returns
        -------
        Mean and variance, (B, n_latent), and those of the library, (B, 1).
        """
        logs = counts._replace(values=counts.values.log1p())
        encoders = [self.z_encoder, *([self.l_encoder] if self.infers_library else [])]
        first = [e.encoder.fc_layers[0][0] for e in encoders]
        # Both encoders read the same values: one product does.
        hidden = times_genes(logs, torch.cat([f.weight.t() for f in first], dim=1))
        out: list[torch.Tensor] = []
        for encoder, part in zip(encoders, hidden.chunk(len(encoders), dim=1), strict=True):
            out += self._posterior(encoder, part + encoder.encoder.fc_layers[0][0].bias)
        return tuple(out)

    def _posterior(self, encoder: Any, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        blocks = list(encoder.encoder.fc_layers)
        for layer in list(blocks[0])[1:]:
            hidden = hidden if layer is None else layer(hidden)
        for block in blocks[1:]:
            for layer in block:
                hidden = hidden if layer is None else layer(hidden)
        variance = encoder.var_encoder(hidden).exp() + VARIANCE_FLOOR
        return encoder.mean_encoder(hidden), variance

    @property
    def infers_library(self) -> bool:
        """Whether the size of a cell is inferred, and not what was counted."""
        return not bool(self.config["use_observed_lib_size"])

    def latent(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and variance of the posterior of the latent space, (B, n_latent) each."""
        counts = restored_counts(batch, float(self.config["target_sum"]))
        hidden = self.z_encoder.encoder(torch.log1p(counts))
        variance = self.z_encoder.var_encoder(hidden).exp() + VARIANCE_FLOOR
        return self.z_encoder.mean_encoder(hidden), variance

    # --- decoding ---------------------------------------------------------------------------

    def with_batches(self, latent: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Return what the decoder reads: latent values, and which batch, (B, n_latent + n_batch).

        Parameters
        ----------
        latent
            (B, n_latent).
        codes
            Batch of every cell, int64 (B,).
        """
        n_batch = int(self.config["n_batch"])
        if n_batch < 2:
            return latent
        told = nn.functional.one_hot(codes, n_batch).to(latent.dtype)
        return torch.cat([latent, told], dim=-1)

    def logits(self, told: torch.Tensor) -> torch.Tensor:
        """Return what the softmax reads, (B, G), from what :meth:`with_batches` returns."""
        block = self.decoder.factor_regressor.fc_layers[0]
        return normalised_product(told, block[0].weight, block[1])

    def expected(self, latent: torch.Tensor) -> torch.Tensor:
        """Return shares of molecules, (B, G), in ``decode_batch`` or as the mean of all."""
        n_batch = int(self.config["n_batch"])
        codes = range(n_batch) if self.decode_batch is None else [self.decode_batch]
        total: torch.Tensor | None = None
        for code in codes:
            at = latent.new_full((len(latent),), code, dtype=torch.int64)
            shares = self.logits(self.with_batches(latent, at)).softmax(-1)
            total = shares if total is None else total.add_(shares)
        assert total is not None
        return total.div_(len(codes)) if len(codes) > 1 else total

    def forward(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return ``latent``, the mean of the posterior, and ``mean``, shares of molecules.

        Where draws are asked for, ``mean`` is the mean over draws of the posterior, which are the
        same for a cell whatever batch it is in.
        """
        mean, variance = self.latent(batch)
        out = {"latent": mean}
        if "mean" not in batch.get("outputs", ("mean",)):
            return out
        if self.n_draws == 0:
            return {**out, "mean": self.expected(mean)}
        noise = normal_draws(batch["ind_x"], self.n_draws, mean.shape[1], seed=self.draw_seed)
        total = torch.zeros(())
        for n in range(self.n_draws):
            drawn = mean + variance.sqrt() * noise[:, n].to(mean)
            total = total.to(mean) + self.expected(drawn)
        return {**out, "mean": total / self.n_draws}

    # --- the loss ---------------------------------------------------------------------------

    def elbo_terms(
        self, counts: CSRParts, codes: torch.Tensor, noise: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the three terms of the evidence lower bound of every cell, (B,) each.

        Parameters
        ----------
        counts
            (B, G).
        codes
            Batch of every cell, int64 (B,).
        noise
            Standard normal draws for latent space and library, (B, n_latent + 1); default drawn.
        """
        found = self.encoded(counts)
        mean, variance = found[:2]
        if noise is None:
            noise = torch.randn(len(mean), mean.shape[1] + 1, device=mean.device, dtype=mean.dtype)
        latent = mean + variance.sqrt() * noise[:, :-1]
        kl_library = mean.new_zeros(len(mean))
        if self.infers_library:
            l_mean, l_variance = found[2:]
            library = l_mean + l_variance.sqrt() * noise[:, -1:]
            prior = self.library_log_means[0, codes], self.library_log_vars[0, codes]
            kl_library = kl_normal(l_mean[:, 0], l_variance[:, 0], *prior)
        else:
            library = row_sums(counts).log()[:, None]
        told = self.with_batches(latent, codes)
        # Of log shares and not of shares: one pass over cells and genes less.
        mu = (self.logits(told).log_softmax(-1) + library).exp()
        theta = self.px_r.exp()
        if self.config["gene_likelihood"] == "zinb":
            zeros = self.decoder.px_dropout_decoder.fc_layers[0]
            log_likelihood = zero_inflated_log_likelihood(
                counts, mu, theta, normalised_product(told, zeros[0].weight, zeros[1])
            )
        else:
            log_likelihood = negative_binomial_log_likelihood(counts, mu, theta)
        zero, one = torch.zeros_like(mean), torch.ones_like(mean)
        return {
            "reconstruction": -log_likelihood,
            "kl_z": kl_normal(mean, variance, zero, one).sum(1),
            "kl_l": kl_library,
        }

    def loss(self, batch: dict[str, Any]) -> Mapping[str, torch.Tensor]:
        """Return ``loss`` and the parts that are logged.

        In training the distance to the prior of the latent space is weighted by ``kl_weight``; in
        validation all terms are, so that epochs can be compared.
        """
        noise = None if self.training else self._own_noise(batch)
        terms = self.elbo_terms(batch["counts"], batch[BATCH], noise)
        weight = self.kl_weight if self.training else 1.0
        total = terms["reconstruction"] + weight * terms["kl_z"] + terms["kl_l"]
        said = {k: v.detach().mean() for k, v in terms.items()}
        return {"loss": total.mean(), **said}

    def training_pass(self, batch: Mapping[str, Any]) -> None:
        """Run a batch as in training, for statistics of batch norms; nothing is drawn anew."""
        self.elbo_terms(batch["counts"], batch[BATCH], self._own_noise(batch))

    def _own_noise(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Draws that belong to the cells, (B, n_latent + 1): epochs can be compared."""
        width = int(self.config["n_latent"]) + 1
        drawn = normal_draws(batch["ind_x"], 1, width, seed=self.draw_seed)[:, 0]
        return drawn.to(self.px_r)

    def gene_axes(self) -> Mapping[str, int]:
        """Return the weights whose rows or columns are genes."""
        return {
            "z_encoder.encoder.fc_layers.Layer 0.0.weight": 1,
            "l_encoder.encoder.fc_layers.Layer 0.0.weight": 1,
            "decoder.factor_regressor.fc_layers.Layer 0.0.weight": 0,
        }

    def inference(self) -> Callable[[dict[str, Any]], dict[str, torch.Tensor]]:
        """Return what the ``Predictor`` calls."""
        self.eval()
        return self


def checked(n_features: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole configuration of a network.

    Raises
    ------
    TypeError
        There is no such option.
    ValueError
        A value is impossible.
    """
    if unknown := sorted(set(options) - set(DEFAULTS)):
        msg = f"there is no option {', '.join(unknown)}."
        raise TypeError(msg)
    config = {"n_features": n_features, **DEFAULTS, **options}
    if config["gene_likelihood"] not in LIKELIHOODS:
        msg = f"gene_likelihood is {config['gene_likelihood']!r}; use one of {LIKELIHOODS}."
        raise ValueError(msg)
    for name in ("n_features", "n_batch", "n_hidden", "n_latent", "n_layers"):
        value = config[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            msg = f"{name} is {value!r}; pass a whole number of 1 or more."
            raise ValueError(msg)
    if not 0 <= float(config["dropout_rate"]) < 1:
        msg = f"dropout_rate is {config['dropout_rate']!r}; it must be at least 0 and below 1."
        raise ValueError(msg)
    return config
