"""`ArrayCore`: what predicts when the model is a few arrays and not a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from episome.errors import ModelFileError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ArrayCore(ABC):
    """Base of linear, centroid, PCA and nearest-neighbour cores.

    A batch's ``"X"`` is the normalised scipy CSR of shape (B, G). ``forward`` returns numpy
    arrays: any of ``logits``, ``probabilities``, ``latent``, ``mean``.

    Parameters
    ----------
    config
        Plain JSON data, with ``n_features`` and ``n_classes`` at least.
    """

    inference_format: ClassVar[str] = "scipy"
    needs: ClassVar[tuple[str, ...]] = ()
    array_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **config: object) -> None:
        self.config = dict(config)
        self.arrays: dict[str, NDArray[np.generic]] = {}

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> ArrayCore:
        """Build an empty core from its configuration."""
        return cls(**config)

    @property
    def device(self) -> torch.device:
        """Arrays live on the host."""
        return torch.device("cpu")

    def to(self, device: object) -> ArrayCore:
        """Stay on the host, whatever the device."""
        return self

    def eval(self) -> ArrayCore:
        """Return the core; there is no training mode."""
        return self

    def on_load(self, model: object, **kwargs: object) -> None:  # noqa: B027 - optional
        """Do nothing: scvi-tools calls it after loading weights."""

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays by name."""
        return dict(self.arrays)

    def fill(self, **arrays: NDArray[np.generic]) -> ArrayCore:
        """Set all arrays at once and return the core."""
        self.load_state(arrays)
        return self

    def state(self) -> tuple[dict[str, NDArray[np.generic]], dict[str, bytes]]:
        """Return the arrays, and no files."""
        return {k: np.ascontiguousarray(v) for k, v in self.arrays.items()}, {}

    def load_state(
        self, tensors: Mapping[str, NDArray[np.generic]], files: Mapping[str, bytes] | None = None
    ) -> None:
        """Fill the core strictly.

        Raises
        ------
        ModelFileError
            Arrays are missing or unknown (E-M06).
        """
        missing = sorted(set(self.array_names) - set(tensors))
        unknown = sorted(set(tensors) - set(self.array_names))
        if missing or unknown:
            raise ModelFileError(
                "E-M06",
                "the weights do not fit the model",
                where="weights.safetensors",
                count=len(missing) + len(unknown),
                total=len(self.array_names),
                examples=[*missing, *unknown],
                fix="train the model again, or install the version that wrote it",
            )
        # One memory order, or a product before and after saving could differ in the last bit.
        self.arrays = {k: np.asarray(v, order="C") for k, v in tensors.items()}
        self.prepare()

    def prepare(self) -> None:  # noqa: B027 - optional
        """Check shapes and rebuild what follows from the arrays, such as indices."""

    @abstractmethod
    def forward(self, batch: Mapping[str, object]) -> dict[str, NDArray[np.floating]]:
        """Return the outputs for one batch."""

    def inference(self) -> Callable[[Mapping[str, object]], dict[str, NDArray[np.floating]]]:
        """Return what the ``Predictor`` calls."""
        return self.forward

    def require(self, name: str, *shape: int | None) -> NDArray[np.generic]:
        """Return an array after checking its shape; ``None`` stands for any length.

        Raises
        ------
        ModelFileError
            The shape is another one (E-M06).
        """
        array = self.arrays[name]
        fits = array.ndim == len(shape) and all(
            w is None or w == s for w, s in zip(shape, array.shape, strict=True)
        )
        if not fits:
            raise ModelFileError(
                "E-M06",
                f"{name} has shape {array.shape}, {shape} is expected",
                where="weights.safetensors",
                fix="train the model again, or install the version that wrote it",
            )
        return array
