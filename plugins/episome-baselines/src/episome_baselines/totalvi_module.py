"""The module of `TOTALVIAdapter`; importing this imports scvi-tools."""

from __future__ import annotations

from typing import Any

import torch
from scvi.module import TOTALVAE

from episome_baselines.scvi_core import TOTALVIAdapterCore
from episome_baselines.scvi_modules import OURS, ChosenGenes

#: Of the configuration, what has another name in scvi-tools' module or is not of it.
_RENAMED = frozenset({"n_input", "n_targets", "rna_only"})


class TOTALVIModule(ChosenGenes, TOTALVIAdapterCore, TOTALVAE):
    """totalVI's network, whose encoder is not shown the proteins of all cells.

    Parameters
    ----------
    **config
        ``n_features``, ``target_sum``, ``n_targets``, ``rna_only`` and arguments of
        ``scvi.module.TOTALVAE``.
    """

    def __init__(self, **config: Any) -> None:
        known = {k: v for k, v in config.items() if k not in OURS | _RENAMED}
        (n_proteins,) = config["n_targets"].values()
        n_batch = int(config["n_batch"])
        TOTALVAE.__init__(
            self,
            n_input_genes=int(config["n_input"]),
            n_input_proteins=int(n_proteins),
            n_panel=n_batch,
            # A query's batch is not one of the model's: the encoder is told of none.
            encode_covariates=False,
            **known,
        )
        self._begin(config)
        self.register_buffer("weights", torch.full((n_batch, int(n_proteins)), 1 / n_batch))

    def _get_inference_input(
        self, tensors: dict[str, torch.Tensor], **kwargs: object
    ) -> dict[str, torch.Tensor | None]:
        found = super()._get_inference_input(tensors, **kwargs)
        # Cells that validate are encoded as a query is: from their RNA.
        share = float(self.config["rna_only"]) if self.training else 1.0
        proteins = found["y"]
        shown = torch.rand((len(proteins), 1), device=proteins.device) >= share
        return {**found, "y": proteins * shown}

    def loss(
        self,
        tensors: dict[str, torch.Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        pro_recons_weight: float = 1.0,
        kl_weight: torch.Tensor | float = 1.0,
    ) -> Any:
        """Return totalVI's loss on the chosen genes and all proteins, those hidden as well."""
        return TOTALVAE.loss(
            self,
            self._chosen(tensors),
            inference_outputs,
            generative_outputs,
            pro_recons_weight=pro_recons_weight,
            kl_weight=kl_weight,
        )
