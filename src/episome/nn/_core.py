"""`TorchCore`: the network that predicts, built from plain JSON configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import nn

from episome.errors import ModelFileError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Outputs: TypeAlias = "dict[str, torch.Tensor]"


class TorchCore(nn.Module):
    """Base of cores that are torch modules.

    A core gets a batch whose ``"X"`` is the dense, normalised (B, G) tensor on its device and
    returns any of ``logits``, ``probabilities``, ``latent``, ``mean``, ``target``; in training
    also ``penalty``, a scalar that is added to the loss.

    Subclasses set ``self.config`` to the plain JSON data that builds them again.
    """

    #: Form of ``"X"`` in training and in prediction: ``"dense"``, ``"csr"`` or ``"scipy"``.
    input_format: ClassVar[str] = "dense"
    inference_format: ClassVar[str] = "dense"
    #: Form of the values of another modality in training: ``"dense"`` or ``"csr"``.
    target_format: ClassVar[str] = "dense"
    needs: ClassVar[tuple[str, ...]] = ()
    #: Whether the loss reads ``batch["counts"]``, what the data hold before normalisation.
    wants_counts: ClassVar[bool] = False

    config: dict[str, object]

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> TorchCore:
        """Build a core with fresh weights from its configuration."""
        return cls(**config)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def gene_axes(self) -> Mapping[str, int]:
        """Return the names of parameters whose rows or columns are genes, and that axis.

        ``plan_kwargs={"share_moment": True}`` treats the genes of these alike; see
        :class:`episome.train.SharedMomentAdamW`. None by default.
        """
        return {}

    def parts(self) -> Mapping[str, Any]:
        """Return what other models may take from this one, as plain data; none by default.

        ``{"encoder": {"prefix": ..., "tensors": [...], "gene_axes": {...}, "settings": {...}}}``:
        see :class:`episome.models.EncoderPart`.
        """
        return {}

    def on_load(self, model: object, **kwargs: object) -> None:
        """Do nothing: scvi-tools calls it after loading weights."""

    def state(self) -> tuple[dict[str, NDArray[np.generic]], dict[str, bytes]]:
        """Return all parameters and buffers as arrays, and no files."""
        tensors = {
            k: v.detach().cpu().contiguous().clone().numpy() for k, v in self.state_dict().items()
        }
        return tensors, {}

    def load_state(
        self, tensors: Mapping[str, NDArray[np.generic]], files: Mapping[str, bytes] | None = None
    ) -> None:
        """Fill the core strictly.

        Raises
        ------
        ModelFileError
            Tensors are missing, unknown or of another shape (E-M06).
        """
        check_tensors({k: tuple(v.shape) for k, v in self.state_dict().items()}, tensors)
        self.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in tensors.items()})

    def loss(self, batch: dict[str, object]) -> torch.Tensor | Mapping[str, torch.Tensor]:
        """Return the loss of a normalised batch, for models that are trained without labels.

        A scalar, or a mapping with ``"loss"`` and further scalars that are logged. Annotators
        need none: the host compares their logits with the labels.
        """
        msg = f"{type(self).__name__} has no loss of its own"
        raise NotImplementedError(msg)

    def inference(self) -> Callable[[dict[str, object]], Outputs]:
        """Return what the ``Predictor`` calls; override to return a faster equal function."""
        self.eval()
        return self


def check_tensors(
    expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, NDArray[np.generic]]
) -> None:
    """Refuse tensors that are not exactly the expected ones."""
    missing, unknown = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    wrong = [k for k in expected if k in tensors and tuple(tensors[k].shape) != expected[k]]
    if missing or unknown or wrong:
        raise ModelFileError(
            "E-M06",
            "the weights do not fit the model",
            where="weights.safetensors",
            count=len(missing) + len(unknown) + len(wrong),
            total=len(expected),
            examples=[
                *(f"missing {k}" for k in missing),
                *(f"unknown {k}" for k in unknown),
                *wrong,
            ],
            fix="train the model again, or install the version that wrote it",
        )
