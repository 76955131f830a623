"""Modules of scvi-tools under the host's contract for cores; importing this imports scvi-tools."""

from __future__ import annotations

from typing import Any

import torch
from scvi import REGISTRY_KEYS
from scvi.module import SCANVAE, VAE

from episome_baselines.scvi_core import SCANVIAdapterCore, SCVIAdapterCore

#: Of the configuration, what is not an argument of scvi-tools' module.
OURS = frozenset({"n_features", "n_classes", "target_sum"})


class ChosenGenes:
    """A module that reads some columns of the data, named by the buffer ``genes``."""

    config: dict[str, Any]
    genes: torch.Tensor

    def _begin(self, config: dict[str, Any]) -> None:
        self.config = dict(config)
        self.register_buffer("genes", torch.arange(config["n_input"]))
        self.minified_data_type = None

    def _chosen(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        x = tensors[REGISTRY_KEYS.X_KEY]
        return {**tensors, REGISTRY_KEYS.X_KEY: x[:, self.genes]}

    def _get_inference_input(
        self, tensors: dict[str, torch.Tensor], **kwargs: object
    ) -> dict[str, torch.Tensor | None]:
        return super()._get_inference_input(self._chosen(tensors), **kwargs)

    def _get_generative_input(
        self, tensors: dict[str, torch.Tensor], *args: object, **kwargs: object
    ) -> dict[str, torch.Tensor | None]:
        # Labels are asked for and used by no dispersion that can be chosen here.
        held = {REGISTRY_KEYS.LABELS_KEY: None, **tensors}
        return super()._get_generative_input(held, *args, **kwargs)


class SCVIModule(ChosenGenes, SCVIAdapterCore, VAE):
    """scVI's network.

    Parameters
    ----------
    **config
        ``n_features``, ``target_sum`` and arguments of ``scvi.module.VAE``.
    """

    def __init__(self, **config: Any) -> None:
        VAE.__init__(self, **{k: v for k, v in config.items() if k not in OURS})
        self._begin(config)

    def loss(
        self,
        tensors: dict[str, torch.Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        kl_weight: torch.Tensor | float = 1.0,
    ) -> Any:
        """Return scVI's loss on the chosen genes."""
        return VAE.loss(
            self, self._chosen(tensors), inference_outputs, generative_outputs, kl_weight=kl_weight
        )


class SCANVIModule(ChosenGenes, SCANVIAdapterCore, SCANVAE):
    """scANVI's network.

    Parameters
    ----------
    **config
        ``n_features``, ``n_classes``, ``target_sum`` and arguments of ``scvi.module.SCANVAE``.
    """

    def __init__(self, **config: Any) -> None:
        known = {k: v for k, v in config.items() if k not in OURS}
        SCANVAE.__init__(self, n_labels=int(config["n_classes"]), **known)
        self._begin(config)

    def loss(
        self,
        tensors: dict[str, torch.Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        kl_weight: torch.Tensor | float = 1.0,
        labelled_tensors: dict[str, torch.Tensor] | None = None,
        classification_ratio: float | None = None,
    ) -> Any:
        """Return scANVI's loss on the chosen genes; scVI's while it is pretrained."""
        chosen = self._chosen(tensors)
        if classification_ratio is None:
            return VAE.loss(
                self, chosen, inference_outputs, generative_outputs, kl_weight=kl_weight
            )
        return SCANVAE.loss(
            self,
            chosen,
            inference_outputs,
            generative_outputs,
            kl_weight=kl_weight,
            labelled_tensors=labelled_tensors,
            classification_ratio=classification_ratio,
        )
