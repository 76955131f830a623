"""The cores of the adapters to scvi-tools: what the host asks of its modules.

Importing this file imports neither scvi-tools nor Lightning; building a core imports scvi-tools.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from episome.nn import TorchCore, restored_counts
from episome_baselines.extras import require_joint_embedding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    _Module = nn.Module
else:
    _Module = object


class SCVIAdapterCore(_Module):
    """What a module of scvi-tools has beside its own methods, so that the host can run it.

    The encoder reads counts, which the host hands on as normalised values and the size of the
    cell; they are multiplied out again, to the integers that they were. Expected expression is
    that of the first batch of the training data for every cell, known or new: a query's batches
    are not the model's.
    """

    needs: ClassVar[tuple[str, ...]] = ("scvi",)
    inference_format: ClassVar[str] = "dense"
    #: ``mean`` is scvi-tools' ``px_scale``: shares of the cell's molecules.
    mean_scale: ClassVar[str] = "proportion"
    #: File of this package, and in it the class of the module.
    module_file: ClassVar[str] = "scvi_modules"
    module_name: ClassVar[str] = "SCVIModule"

    config: dict[str, Any]
    genes: torch.Tensor

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> SCVIAdapterCore:
        """Build a module with fresh weights; imports scvi-tools."""
        modules = import_module(f"episome_baselines.{cls.module_file}")
        core: SCVIAdapterCore = getattr(modules, cls.module_name)(**config)
        return core

    def on_load(self, model: object, **kwargs: object) -> None:
        """Do nothing: folders hold no state of old scvi-tools to mend."""

    def state(self) -> tuple[dict[str, NDArray[np.generic]], dict[str, bytes]]:
        """Return all parameters and buffers as arrays, and no files."""
        return TorchCore.state(self)

    def load_state(
        self, tensors: Mapping[str, NDArray[np.generic]], files: Mapping[str, bytes] | None = None
    ) -> None:
        """Fill the module strictly.

        Raises
        ------
        ModelFileError
            Tensors are missing, unknown or of another shape (E-M06).
        """
        TorchCore.load_state(self, tensors, files)
        self.eval()

    def select_genes(self, genes: NDArray[np.int64]) -> None:
        """Say which columns the network reads, int64 (n_input,)."""
        self.genes.copy_(torch.as_tensor(genes))

    def inference(self, *args: object, **kwargs: object) -> Any:
        """Return what the ``Predictor`` calls; with arguments, do what scvi-tools' method does."""
        if args or kwargs:
            return super().inference(*args, **kwargs)
        self.eval()
        return self._predicting()

    def _predicting(self) -> Callable[[Mapping[str, Any]], dict[str, torch.Tensor]]:
        def predict(batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
            latent = self.latent(batch)
            return {"latent": latent, "mean": self.expected(latent)}

        return predict

    def latent(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the mean of the posterior, float32 (B, n_latent); nothing is drawn."""
        cells = restored_counts(batch, float(self.config["target_sum"]))[:, self.genes]
        hidden = self.z_encoder.encoder(torch.log1p(cells))
        found: torch.Tensor = self.z_encoder.mean_encoder(hidden)
        return found

    def expected(self, latent: torch.Tensor) -> torch.Tensor:
        """Return shares of molecules in the first batch, float32 (B, n_features).

        Genes that the network does not model are NaN.
        """
        first = latent.new_zeros((len(latent), 1))
        shares = self.decoder(self.dispersion, latent, first, first.long())[0]
        if shares.shape[1] == self.config["n_features"]:
            found: torch.Tensor = shares
            return found
        full = shares.new_full((len(shares), int(self.config["n_features"])), float("nan"))
        full[:, self.genes] = shares
        return full


class SCANVIAdapterCore(SCVIAdapterCore):
    """The same of scANVI, whose classifier reads the mean of the posterior."""

    module_name: ClassVar[str] = "SCANVIModule"

    def _predicting(self) -> Callable[[Mapping[str, Any]], dict[str, torch.Tensor]]:
        def predict(batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
            latent = self.latent(batch)
            return {"latent": latent, "logits": self.classifier(latent)}

        return predict


class JointEmbeddingAdapterCore(SCVIAdapterCore):
    """The same of scVI with the joint embedding loss, which needs scvi-tools 1.5."""

    module_file: ClassVar[str] = "jointembedding_module"
    module_name: ClassVar[str] = "JointEmbeddingModule"

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> SCVIAdapterCore:
        """Build a module with fresh weights; imports scvi-tools.

        Raises
        ------
        MissingDependencyError
            scvi-tools has no such model (E-P02).
        """
        require_joint_embedding()
        return super().from_config(config)


class TOTALVIAdapterCore(SCVIAdapterCore):
    """The same of totalVI, whose encoder is shown no proteins, and which says what they would be.

    ``target`` is log1p of expected counts: background and foreground, each by its probability, at
    the mean of the posterior of the latent space, in every batch of training; batches are averaged
    by their share of the training cells in which a protein was measured.
    """

    module_file: ClassVar[str] = "totalvi_module"
    module_name: ClassVar[str] = "TOTALVIModule"

    #: Share of the training cells of every batch, by protein, (n_batch, n_proteins).
    weights: torch.Tensor

    def _predicting(self) -> Callable[[Mapping[str, Any]], dict[str, torch.Tensor]]:
        def predict(batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
            latent = self.latent(batch)
            return {"latent": latent, "target": torch.log1p(self.expected(latent))}

        return predict

    def latent(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the mean of the posterior given the RNA, float32 (B, n_latent)."""
        cells = restored_counts(batch, float(self.config["target_sum"]))[:, self.genes]
        genes = torch.log1p(cells / (1 + cells.mean(dim=1, keepdim=True)))
        proteins = genes.new_zeros((len(genes), self.weights.shape[1]))
        hidden = self.encoder.encoder(torch.cat([genes, proteins], dim=1))
        found: torch.Tensor = self.encoder.z_mean_encoder(hidden)
        return found

    def expected(self, latent: torch.Tensor) -> torch.Tensor:
        """Return expected counts of proteins, float32 (B, n_proteins)."""
        found = torch.zeros_like(self.weights[:1])
        for code in range(len(self.weights)):
            batch = latent.new_full((len(latent), 1), code, dtype=torch.long)
            found = found + self.weights[code] * self.expected_in(latent, batch)
        return found

    def expected_in(self, latent: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        """Return expected counts of proteins in cells of batches, float32 (B, n_proteins).

        They are what scvi-tools' ``get_normalized_expression(include_protein_background=True)``
        gives, averaged over the draws of the background, times the efficiency of the batch, which
        counts have and that method leaves out.
        """
        net = self.decoder

        def hidden(name: str) -> torch.Tensor:
            return torch.cat([getattr(net, name)(latent, batch), latent], dim=-1)

        back, fore, mixing = map(hidden, ("py_back_decoder", "py_fore_decoder", "sigmoid_decoder"))
        spread = net.activation_function_bg(net.py_back_mean_log_beta(back, batch)) + 1e-8
        # The background is log-normal: this is its mean.
        level = torch.exp(net.py_back_mean_log_alpha(back, batch) + spread**2 / 2)
        times = net.py_fore_scale_decoder(fore, batch) + 1 + 1e-8
        share = torch.sigmoid(net.py_background_decoder(mixing, batch))
        efficiency = torch.exp(self.log_per_batch_efficiency.T[batch.squeeze(-1)])
        found: torch.Tensor = efficiency * level * (share + (1 - share) * times)
        return found
