"""The core: torch, without scvi-tools or Lightning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from episome.nn import (
    MaskedAutoencoder,
    MeasuredMask,
    RandomMask,
    TorchCore,
    negative_binomial_log_likelihood,
    output_error,
)
from episome_crossmodal.likelihoods import background_mixture_log_likelihood
from episome_crossmodal.networks import ACTIVATIONS, GeneEncoder, Layers, Output

if TYPE_CHECKING:
    from episome.data import GenePanels
    from episome.nn import CSRParts, GeneMask

#: Likelihoods, and whether the matrix of cells by features is formed for them in training.
LIKELIHOODS = {
    "mse": False,
    "nb": True,
    "nb_mixture": True,
    "bernoulli": False,
    "poisson": False,
}
#: ``"told"``: every layer of the encoder is told the batch, as published; ``"masked"``: the
#: encoder of a masked autoencoder, which is told none and can be pretrained.
ENCODERS = ("told", "masked")
_RATE = 20.0


class CrossModalCore(TorchCore):
    """Another modality from RNA.

    Parameters
    ----------
    n_features
        Genes of the model.
    n_targets
        Name of what is predicted, and how many features it has.
    likelihood
        One of ``LIKELIHOODS``.
    encoder
        One of ``ENCODERS``.
    hidden, n_latent
        Widths of the encoder's layers, and of the embedding.
    decoder
        Widths of the layers between embedding and output.
    activation
        ``"relu"`` or ``"selu"``.
    dropout, input_dropout
        After every hidden layer; and of the expressed genes of a cell, others scaled up.
    norm
        Whether layers that are told batches have batch norms.
    n_batch
        Batches; with one nothing is told.
    batch_dropout
        Share of the training cells that are told no batch, so that there is an answer for cells of
        batches that nobody knows.
    head_rank
        Width before the map to all features; ``None``: that of the last hidden layer.
    rna_weight
        Weight of the error of reconstructed RNA, which cells without the other modality have too;
        only with the encoder ``"masked"``.
    """

    input_format: ClassVar[str] = "csr"
    inference_format: ClassVar[str] = "csr"
    target_format: ClassVar[str] = "csr"
    measured: torch.Tensor | None
    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(
        self,
        n_features: int,
        *,
        n_targets: Mapping[str, int],
        likelihood: str = "mse",
        encoder: str = "told",
        hidden: Sequence[int] = (256, 256),
        n_latent: int = 40,
        decoder: Sequence[int] = (256, 256),
        activation: str = "relu",
        dropout: float = 0.1,
        input_dropout: float = 0.0,
        norm: bool = True,
        n_batch: int = 1,
        batch_dropout: float = 0.1,
        head_rank: int | None = None,
        rna_weight: float = 0.0,
    ) -> None:
        super().__init__()
        _require_word("likelihood", likelihood, tuple(LIKELIHOODS))
        _require_word("encoder", encoder, ENCODERS)
        _require_word("activation", activation, tuple(ACTIVATIONS))
        for name, share in {
            "dropout": dropout,
            "input_dropout": input_dropout,
            "batch_dropout": batch_dropout,
        }.items():
            if not 0 <= share < 1:
                msg = f"{name} is {share}; it must be at least 0 and below 1."
                raise ValueError(msg)
        if rna_weight < 0 or (rna_weight and encoder != "masked"):
            msg = (
                f"rna_weight is {rna_weight} with encoder={encoder!r}; it must be 0 or more, and "
                "RNA is reconstructed by encoder='masked' only."
            )
            raise ValueError(msg)
        ((self.kind, width),) = n_targets.items()
        self.config = {
            "n_features": n_features,
            "n_targets": dict(n_targets),
            "likelihood": likelihood,
            "encoder": encoder,
            "hidden": list(hidden),
            "n_latent": n_latent,
            "decoder": list(decoder),
            "activation": activation,
            "dropout": dropout,
            "input_dropout": input_dropout,
            "norm": norm,
            "n_batch": n_batch,
            "batch_dropout": batch_dropout,
            "head_rank": head_rank,
            "rna_weight": rna_weight,
        }
        self.likelihood, self.rna_weight = likelihood, rna_weight
        self.input_dropout, self.batch_dropout = input_dropout, batch_dropout
        self.n_told = n_batch if n_batch > 1 else 0
        shared: dict[str, Any] = {"activation": activation, "dropout": dropout}
        self.net: GeneEncoder | MaskedAutoencoder
        if encoder == "told":
            self.net = GeneEncoder(
                n_features,
                hidden=hidden,
                n_latent=n_latent,
                n_batch=self.n_told,
                norm=norm,
                **shared,
            )
        else:
            self.net = MaskedAutoencoder(
                n_features, hidden=hidden, n_latent=n_latent, decodes=rna_weight > 0, **shared
            )
        # The published decoder reads the embedding as it is; without layers of its own it is the
        # activation that makes one of it.
        self.between = nn.Identity() if decoder else ACTIVATIONS[activation]()
        self.decoder = Layers((n_latent, *decoder), n_batch=self.n_told, norm=norm, **shared)
        last = (decoder[-1] if decoder else n_latent) + self.n_told
        self.out = Output(last, width, rank=head_rank)
        if likelihood in {"nb", "nb_mixture"}:
            self.log_theta = nn.Parameter(torch.zeros(width))
        if likelihood == "nb_mixture":
            self.mixing = Output(last, width, rank=head_rank)
            self.background = nn.Parameter(torch.zeros(max(self.n_told, 1), width))
        # What squared errors are counted in, so that all features weigh alike.
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.register_buffer("measured", None, persistent=False)
        self.start_from(torch.zeros(width))

    def gene_axes(self) -> Mapping[str, int]:
        """Return the weights whose rows are genes."""
        axes = {"net.first": 0}
        return axes | {"net.out.weight": 0} if self.rna_weight else axes

    def parts(self) -> Mapping[str, Any]:
        """Return where in the tensors the encoder is; see ``episome.models.EncoderPart``."""
        keys = ("hidden", "n_latent", "activation")
        settings_of: dict[str, Any] = {k: self.config[k] for k in keys}
        if isinstance(self.net, MaskedAutoencoder):
            own = [f"encoder.{n}" for n in self.net.encoder.state_dict()]
        else:
            own = [n for n in self.net.state_dict() if not n.startswith("first")]
            own += ["first_batch"]
            settings_of |= {k: self.config[k] for k in ("encoder", "norm", "n_batch")}
        return {
            "encoder": {
                "prefix": "net.",
                "tensors": ["first", "first_bias", *own],
                "gene_axes": {"first": 0},
                "settings": settings_of,
            }
        }

    # --- what is told -------------------------------------------------------------------------

    def start_from(self, mean: torch.Tensor, spread: torch.Tensor | None = None) -> None:
        """Let the output begin at the mean of every feature in training.

        Parameters
        ----------
        mean
            Of the values that the loss reads, (P,); for ``"bernoulli"`` the share of cells.
        spread
            Standard deviation, (P,): errors are counted in units of it, for ``"mse"``.
        """
        seen = mean.clamp(min=1e-4)
        with torch.no_grad():
            if self.likelihood == "mse":
                self.mean.copy_(mean)
                if spread is not None:
                    self.spread.copy_(spread)
            elif self.likelihood == "bernoulli":
                self.out.bias.copy_(torch.logit(seen.clamp(max=1 - 1e-4)))
            elif self.likelihood == "poisson":
                self.out.bias.copy_(seen + (-torch.expm1(-seen)).log())
            elif self.likelihood == "nb":
                self.out.bias.copy_(seen.log())
            else:
                # Most antibodies of most cells are background.
                self.background.copy_((seen / 2).log().expand_as(self.background))

    def set_panels(self, panels: GenePanels | None) -> None:
        """Say which features were measured in the training cells; ``None``: all in all."""
        self.measured = None
        if panels is not None:
            self.measured = torch.from_numpy(panels.measured.astype("uint8")).to(self.device)

    def _mask(self, batch: Mapping[str, Any]) -> GeneMask:
        whole = RandomMask(0.0)
        if self.measured is None:
            return whole
        return MeasuredMask(whole, self.measured, batch[f"{self.kind}_panel"])

    def _told(self, batch: Mapping[str, Any]) -> torch.Tensor | None:
        """Return the one-hot of every cell's batch, (B, n_batch); zeros where it is not known."""
        if not self.n_told:
            return None
        n_cells = _n_cells(batch["X"])
        codes = batch.get("batch")
        if codes is None:
            return self.out.bias.new_zeros(n_cells, self.n_told)
        if self.training and self.batch_dropout:
            hidden = torch.rand(n_cells, device=codes.device) < self.batch_dropout
            codes = codes.masked_fill(hidden, -1)
        one_hot = F.one_hot(codes.clamp(min=0), self.n_told).to(self.out.bias.dtype)
        told: torch.Tensor = one_hot * (codes >= 0)[:, None]
        return told

    # --- forward ------------------------------------------------------------------------------

    def _embed(self, x: CSRParts | torch.Tensor, told: torch.Tensor | None) -> torch.Tensor:
        if isinstance(self.net, MaskedAutoencoder):
            return self.net.encode(x)
        found: torch.Tensor = self.net(x, told)
        return found

    def _hidden(self, latent: torch.Tensor, told: torch.Tensor | None) -> torch.Tensor:
        hidden = self.decoder(self.between(latent), told)
        return hidden if told is None else torch.cat([hidden, told], dim=1)

    def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return ``latent`` (B, n_latent) and, where it is wanted, ``target`` (B, P)."""
        told = self._told(batch)
        latent = self._embed(batch["X"], told)
        found = {"latent": latent}
        if "target" in batch.get("outputs", ("target",)):
            found["target"] = self._expected(self._hidden(latent, told), told)
        return found

    def _expected(self, hidden: torch.Tensor, told: torch.Tensor | None) -> torch.Tensor:
        """Return the prediction on its scale, (B, P)."""
        raw: torch.Tensor = self.out(hidden)
        if self.likelihood == "mse":
            return self.mean + self.spread * raw
        if self.likelihood == "bernoulli":
            return torch.sigmoid(raw)
        if self.likelihood == "poisson":
            return F.softplus(raw)
        if self.likelihood == "nb":
            return torch.log1p(raw.clamp(max=_RATE).exp())
        low, high = self._two_means(raw, told)
        share = torch.sigmoid(self.mixing(hidden))
        return torch.log1p(share * low + (1 - share) * high)

    def _two_means(
        self, raw: torch.Tensor, told: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the means of background and foreground, (B, P); the latter is the larger one."""
        if told is None:
            back = self.background.expand(len(raw), -1)
        else:
            known = told.sum(1, keepdim=True)
            back = told @ self.background + (1 - known) * self.background.mean(0)
        low = back.clamp(max=_RATE).exp()
        return low, low * (1 + F.softplus(raw))

    def loss(self, batch: dict[str, Any]) -> Mapping[str, torch.Tensor]:
        """Return the error of the features that were measured, and that of the RNA if wanted."""
        told, x = self._told(batch), batch["X"]
        if self.training and self.input_dropout:
            x = x.thinned(self.input_dropout)
        latent = self._embed(x, told)
        error = self._error(self._hidden(latent, told), told, batch)
        if not self.rna_weight or not isinstance(self.net, MaskedAutoencoder):
            return {"loss": error}
        rna = self.net.error(latent, batch["X"], RandomMask(0.0))
        return {"loss": error + self.rna_weight * rna, "target_error": error, "rna_error": rna}

    def _error(
        self, hidden: torch.Tensor, told: torch.Tensor | None, batch: Mapping[str, Any]
    ) -> torch.Tensor:
        values: CSRParts = batch[self.kind]
        mask = self._mask(batch)
        if not LIKELIHOODS[self.likelihood] and not self._standardised:
            device = hidden.device.type
            products = (
                torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
            )
            return output_error(
                self.out.inner(hidden).float(),
                *self._scaled_out(),
                values,
                mask,
                likelihood=self.likelihood,  # type: ignore[arg-type]  # one of those it knows
                products=products,
            )
        n_targets = len(self.out.bias)
        columns = torch.arange(n_targets, device=hidden.device)
        scored = mask.scored(len(hidden), columns).to(hidden.dtype)
        truth = values.to_dense(n_targets)
        raw = self.out(hidden).float()
        if self.likelihood == "mse":
            error = ((truth - self.mean) / self.spread - raw).square()
        elif self.likelihood == "nb":
            mu = raw.clamp(max=_RATE).exp()
            return self._of_counts(truth, mu, scored)
        else:
            low, high = self._two_means(raw, told)
            logits = self.mixing(hidden).float()
            error = -background_mixture_log_likelihood(
                truth, low, high, logits, self.log_theta.exp()
            )
        mean: torch.Tensor = (error * scored).sum() / scored.sum().clamp(min=1)
        return mean

    def _of_counts(
        self, truth: torch.Tensor, mu: torch.Tensor, scored: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean error of counts; what was not measured is read as a certain zero."""
        known = scored > 0
        likelihood = negative_binomial_log_likelihood(
            torch.where(known, truth, torch.zeros_like(truth)),
            torch.where(known, mu, torch.zeros_like(mu)),
            self.log_theta.exp(),
        )
        return -likelihood.sum() / scored.sum().clamp(min=1)

    @property
    def _standardised(self) -> bool:
        """Whether errors of features are weighed, for which their matrix is formed."""
        return self.likelihood == "mse" and len(self.out.bias) <= 4096

    def _scaled_out(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of the output on the scale of the prediction."""
        if self.likelihood != "mse":
            return self.out.weight, self.out.bias
        return self.out.weight * self.spread[:, None], self.out.bias * self.spread + self.mean


def _n_cells(x: CSRParts | torch.Tensor) -> int:
    return len(x) if isinstance(x, torch.Tensor) else x.n_rows


def _require_word(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        msg = f"{name} is {value!r}; use one of {known}."
        raise ValueError(msg)
