"""`EnsembleCore`: several cores that answer as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from episome.inference._outputs import class_probabilities
from episome.metrics import disagreement
from episome.nn import with_format

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.inference._cores import RunningCore


class EnsembleCore:
    """The mean of the probabilities of cores with the same genes and classes.

    A batch is read and normalised once for all of them. Outputs: ``probabilities`` (B, C), the
    arithmetic mean over members, and ``disagreement`` (B,), see ``episome.metrics``.

    Parameters
    ----------
    members
        The cores; they may be of different kinds.

    References
    ----------
    Fischer et al. (2024); Lakshminarayanan et al. (2017), deep ensembles.
    """

    def __init__(self, members: Sequence[RunningCore]) -> None:
        self.members = tuple(members)
        formats = {m.inference_format for m in self.members}
        self.inference_format = formats.pop() if len(formats) == 1 else "csr"

    @property
    def config(self) -> dict[str, Any]:
        """Configurations of the members; genes and classes are the same in all."""
        first = self.members[0].config
        shared: dict[str, Any] = {k: first[k] for k in ("n_features", "n_classes") if k in first}
        return {**shared, "members": [m.config for m in self.members]}

    @property
    def device(self) -> torch.device:
        """Device of the first member that is not bound to the host."""
        devices = [torch.device(m.device) for m in self.members]
        return next((d for d in devices if d.type != "cpu"), devices[0])

    def to(self, device: object) -> EnsembleCore:
        """Move every member; those of arrays stay on the host."""
        for member in self.members:
            member.to(device)
        return self

    def inference(self) -> Callable[[dict[str, Any]], Mapping[str, object]]:
        """Return what the ``Predictor`` calls."""
        runs = [m.inference() for m in self.members]

        def predict(batch: dict[str, Any]) -> dict[str, NDArray[np.floating]]:
            stacked = np.stack([class_probabilities(out) for out in self.each(runs, batch)])
            return {
                "probabilities": stacked.mean(axis=0),
                "disagreement": disagreement(stacked),
            }

        return predict

    def each(self, runs: Sequence[Callable[..., Any]], batch: dict[str, Any]) -> Iterator[Any]:
        """Run every member's function on the batch in the form that the member reads."""
        n_features = int(self.members[0].config["n_features"])
        for run, member in zip(runs, self.members, strict=True):
            wanted = member.inference_format
            x = with_format(batch["X"], self.inference_format, wanted, n_features=n_features)
            yield run({**batch, "X": x})
