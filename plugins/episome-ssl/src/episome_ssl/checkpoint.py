"""Weights of the published code, under the names of ours; nothing in a file is executed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from episome.errors import ModelMismatchError
from episome.models import WeightsFile, require_finite_weights

if TYPE_CHECKING:
    import torch

_LAYER = re.compile(r"(?P<stack>.*?)(?P<index>\d+)\.weight$")
#: How stacks of layers are called in files of the published code, best first.
_ENCODERS = ("encoder.", "online.net.", "online_encoder.net.", "backbone.")
_DECODERS = ("decoder.0.", "decoder.")


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """Encoder, and decoder where there is one, of the published code.

    Parameters
    ----------
    file
        Name of the file.
    encoder, decoder
        Weight and bias of every layer, in order; no decoder in files of contrastive tasks.
    facts
        What else is known of the file.
    """

    file: str
    encoder: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    decoder: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    facts: Mapping[str, object]

    @property
    def n_genes(self) -> int:
        """Number of genes that enter."""
        return self.encoder[0][0].shape[1]

    @property
    def hidden(self) -> list[int]:
        """Widths of the hidden layers of the encoder."""
        return [len(bias) for _, bias in self.encoder[:-1]]

    @property
    def n_latent(self) -> int:
        """Width of the embedding."""
        return len(self.encoder[-1][1])

    def state(self) -> dict[str, torch.Tensor]:
        """Return the tensors under the names of ``episome_ssl.core.SSLCore``.

        The published likelihood of counts has outputs for means and for dispersions that it never
        reads: those of the means are taken.

        Raises
        ------
        ModelMismatchError
            The decoder does not mirror the encoder (E-M34).
        """
        (first, bias), *others = self.encoder
        found = {"net.first": first.T.contiguous(), "net.first_bias": bias}
        for i, (weight, shift) in enumerate(others):
            at = 3 * i + 2  # behind an activation and a dropout each
            found |= {f"net.encoder.{at}.weight": weight, f"net.encoder.{at}.bias": shift}
        if not self.decoder:
            return found
        mirrored = [self.n_latent, *reversed(self.hidden), self.n_genes]
        widths = [self.decoder[0][0].shape[1], *(len(b) for _, b in self.decoder)]
        # Means, and dispersions or zero inflation behind them.
        if widths[:-1] != mirrored[:-1] or widths[-1] % self.n_genes:
            msg = f"the decoder has widths {widths}; mirrored they are {mirrored}"
            raise self.mismatch(msg)
        *inner, (weight, shift) = self.decoder
        for i, (w, b) in enumerate(inner):
            found |= {f"net.decoder.{3 * i}.weight": w, f"net.decoder.{3 * i}.bias": b}
        n = self.n_genes
        return {**found, "net.out.weight": weight[:n], "net.out.bias": shift[:n]}

    def mismatch(self, why: str) -> ModelMismatchError:
        """Return the error of weights that are not those of the network (E-M34)."""
        return ModelMismatchError(
            "E-M34",
            "the weights are not those of a published encoder",
            where=self.file,
            why=why[:300],
            fix="pass the checkpoint as the published training script wrote it",
        )


def read_checkpoint(path: str | Path) -> PublishedWeights:
    """Read a Lightning checkpoint, a state dict (``.pt``) or ``.safetensors``.

    Raises
    ------
    InputFileError
        There is no such file (E-F07).
    UntrustedModelError
        The file names code (E-M30).
    ModelFileError
        It cannot be read, or holds no tensors (E-M31), or weights are not finite (E-M07).
    ModelMismatchError
        It holds no encoder (E-M34).
    """
    file = WeightsFile.at(path)
    content = file.content()
    stacks = _stacks(content.tensors)
    encoder = _named(stacks, _ENCODERS)
    nothing = PublishedWeights(file.path.name, (), (), content.facts)
    if encoder is None:
        msg = f"it holds no encoder beside {', '.join(sorted(stacks)[:5])}"
        raise nothing.mismatch(msg)
    decoder = _named(stacks, _DECODERS) or ()
    for before, after in zip(encoder, encoder[1:], strict=False):
        if after[0].shape[1] != len(before[1]):
            msg = "layers of the encoder do not follow on one another"
            raise nothing.mismatch(msg)
    tensors = [tensor for layer in (*encoder, *decoder) for tensor in layer]
    require_finite_weights({f"tensor {i}": t for i, t in enumerate(tensors)}, file.path.name)
    return PublishedWeights(file.path.name, encoder, decoder, content.facts)


def _stacks(
    tensors: Mapping[str, torch.Tensor],
) -> dict[str, tuple[tuple[torch.Tensor, torch.Tensor], ...]]:
    """Linear layers by the name of their stack, in order."""
    found: dict[str, list[tuple[int, Any, Any]]] = {}
    for name, weight in tensors.items():
        match = _LAYER.match(name)
        bias = tensors.get(f"{name.removesuffix('weight')}bias")
        if match is None or weight.ndim != 2 or bias is None:
            continue
        layer = (int(match["index"]), weight.float(), bias.float())
        found.setdefault(match["stack"], []).append(layer)
    return {
        stack: tuple((w, b) for _, w, b in sorted(layers, key=lambda layer: layer[0]))
        for stack, layers in found.items()
    }


def _named(
    stacks: Mapping[str, tuple[tuple[torch.Tensor, torch.Tensor], ...]], names: tuple[str, ...]
) -> tuple[tuple[torch.Tensor, torch.Tensor], ...] | None:
    for name in names:
        for stack, layers in stacks.items():
            if stack == name or stack.endswith(f".{name}"):
                return layers
    return None
