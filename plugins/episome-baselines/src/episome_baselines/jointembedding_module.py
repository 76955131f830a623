"""The module of `JointEmbeddingAdapter`; importing this needs scvi-tools 1.5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scvi.external import JointEmbeddingVAE

from episome_baselines.scvi_core import JointEmbeddingAdapterCore
from episome_baselines.scvi_modules import OURS, ChosenGenes

if TYPE_CHECKING:
    import torch


class JointEmbeddingModule(ChosenGenes, JointEmbeddingAdapterCore, JointEmbeddingVAE):
    """scVI's network with the joint embedding loss.

    Parameters
    ----------
    **config
        ``n_features``, ``target_sum`` and arguments of ``scvi.external.JointEmbeddingVAE``.
    """

    def __init__(self, **config: Any) -> None:
        JointEmbeddingVAE.__init__(self, **{k: v for k, v in config.items() if k not in OURS})
        self._begin(config)

    def loss(
        self,
        tensors: dict[str, torch.Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        kl_weight: torch.Tensor | float = 1.0,
    ) -> Any:
        """Return the loss on the chosen genes; in evaluation, that of scVI."""
        return JointEmbeddingVAE.loss(
            self, self._chosen(tensors), inference_outputs, generative_outputs, kl_weight=kl_weight
        )
