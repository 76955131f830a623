"""scvi-tools' module under the host's contract for cores; importing this imports scvi-tools."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.module import LDVAE as SCVIModule
from scvi.module.base import LossOutput

from episome.nn import (
    CSRParts,
    negative_binomial_log_likelihood,
    zero_inflated_log_likelihood,
)
from episome_datamix.core import LDVAECore, checked
from episome_datamix.layers import kl_normal

if TYPE_CHECKING:
    from numpy.typing import NDArray


class LDVAEModule(LDVAECore, SCVIModule):
    """scvi-tools' network, so that its own methods work, trained and run as the core is.

    Its ``loss`` computes the likelihood of counts where they are not zero; the value is that of
    scvi-tools up to rounding.

    Parameters
    ----------
    n_features, **options
        Of ``LDVAECore``.
    """

    def __init__(self, n_features: int, **options: Any) -> None:
        config = checked(n_features, options)
        n_batch = config["n_batch"]
        sizes: dict[str, Any] = {}
        if not config["use_observed_lib_size"]:
            sizes["library_log_means"] = np.zeros((1, n_batch))
            sizes["library_log_vars"] = np.ones((1, n_batch))
        SCVIModule.__init__(
            self,
            n_input=n_features,
            n_batch=n_batch,
            n_hidden=config["n_hidden"],
            n_latent=config["n_latent"],
            n_layers_encoder=config["n_layers"],
            dropout_rate=config["dropout_rate"],
            gene_likelihood=config["gene_likelihood"],
            use_observed_lib_size=config["use_observed_lib_size"],
            **sizes,
        )
        self.minified_data_type = None
        self.begin(config)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Do what scvi-tools' method does."""
        return SCVIModule.forward(self, *args, **kwargs)

    def load_state(
        self, tensors: Mapping[str, NDArray[np.generic]], files: Mapping[str, bytes] | None = None
    ) -> None:
        """Fill the module strictly.

        Raises
        ------
        ModelFileError
            Tensors are missing, unknown or of another shape (E-M06).
        """
        super().load_state(tensors, files)
        self.eval()

    def inference(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the ``Predictor`` calls; with arguments, do what scvi-tools' method does."""
        if args or kwargs:
            return SCVIModule.inference(self, *args, **kwargs)
        self.eval()
        return partial(LDVAECore.forward, self)

    def loss(self, *args: Any, **kwargs: Any) -> Any:
        """Return the host's loss of a batch, or scvi-tools' of its tensors and outputs."""
        if len(args) == 1 and not kwargs:
            return LDVAECore.loss(self, args[0])
        return self._scvi_loss(*args, **kwargs)

    def _scvi_loss(
        self,
        tensors: dict[str, torch.Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        kl_weight: torch.Tensor | float = 1.0,
    ) -> LossOutput:
        x, px = tensors[REGISTRY_KEYS.X_KEY], generative_outputs["px"]
        counts = CSRParts.from_dense(x)
        if self.config["gene_likelihood"] == "zinb":
            found = zero_inflated_log_likelihood(counts, px.mu, px.theta[0], px.zi_logits)
        else:
            found = negative_binomial_log_likelihood(counts, px.mu, px.theta[0])
        qz = inference_outputs["qz"]
        zero, one = torch.zeros_like(qz.loc), torch.ones_like(qz.loc)
        kl_z = kl_normal(qz.loc, qz.variance, zero, one).sum(-1)
        kl_l = torch.zeros_like(kl_z)
        if self.infers_library:
            ql, pl = inference_outputs["ql"], generative_outputs["pl"]
            kl_l = kl_normal(ql.loc, ql.variance, pl.loc, pl.variance).sum(-1)
        return LossOutput(
            loss=torch.mean(-found + kl_weight * kl_z + kl_l),
            reconstruction_loss=-found,
            kl_local={"kl_divergence_l": kl_l, "kl_divergence_z": kl_z},
        )

    def _get_generative_input(
        self, tensors: dict[str, torch.Tensor], *args: object, **kwargs: object
    ) -> dict[str, torch.Tensor | None]:
        # Labels are asked for, and used by no dispersion that can be chosen here.
        held = {REGISTRY_KEYS.LABELS_KEY: None, **tensors}
        return super()._get_generative_input(held, *args, **kwargs)
