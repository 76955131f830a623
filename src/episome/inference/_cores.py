"""What the predictor asks of a core."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


class BatchSource(Protocol):
    """What batches are read from: a query, or the cells of a training."""

    def loader(
        self, rows: NDArray[np.int64] | None, /, *, batch_size: int
    ) -> Iterable[dict[str, Any]]: ...


class RunningCore(Protocol):
    """What the predictor runs."""

    @property
    def inference_format(self) -> str: ...
    @property
    def config(self) -> dict[str, Any]: ...
    def to(self, device: Any, /) -> object: ...
    def inference(self) -> Callable[[dict[str, Any]], Mapping[str, object]]: ...
    @property
    def device(self) -> torch.device: ...


class Core(RunningCore, Protocol):
    """What a model folder restores and the predictor runs; see the architecture page."""

    def state(self) -> tuple[dict[str, NDArray[np.generic]], dict[str, bytes]]: ...
    def load_state(
        self, tensors: Mapping[str, NDArray[np.generic]], files: Mapping[str, bytes] | None = None
    ) -> None: ...
    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Core: ...
