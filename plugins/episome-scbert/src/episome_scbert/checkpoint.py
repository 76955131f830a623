"""A user's checkpoint of the original, under the names of ours; nothing in a file is executed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from episome.errors import ModelMismatchError
from episome.models import WeightsFile, require_finite_weights

if TYPE_CHECKING:
    import torch

#: Names of the original, as its recorded numbers have them, and ours.
_LAYER = re.compile(r"performer\.net\.layers\.(\d+)\.([01])\.(.+)")
_OF_LAYER = {
    ("0", "norm"): "attention_norm",
    ("0", "fn.to_q"): "attention.to_q",
    ("0", "fn.to_k"): "attention.to_k",
    ("0", "fn.to_v"): "attention.to_v",
    ("0", "fn.to_out"): "attention.to_out",
    ("1", "norm"): "ff_norm",
    ("1", "fn.fn.w1"): "ff_in",
    ("1", "fn.fn.w2"): "ff_out",
}
_OTHERS = {
    "token_emb": "encoder.token_embedding",
    "pos_emb.emb": "encoder.genes",
    "norm": "encoder.norm",
    "to_out": "encoder.to_tokens",
    "to_out.conv1": "head.reduce",
    "to_out.fc1": "head.first",
    "to_out.fc2": "head.second",
    "to_out.fc3": "head.out",
}
_PROJECTION = "fn.fast_attention.projection_matrix"
#: Counters, and second names of layers that stand elsewhere already.
_UNUSED = ("performer.calls_since_last_redraw", "performer.proj_updater.", "layer_pos_emb.")


@dataclass(frozen=True, slots=True)
class OriginalWeights:
    """Weights of the original.

    Parameters
    ----------
    file
        Name of the file.
    state
        Tensors under the names of ``episome_scbert.core.SCBERTCore``.
    facts
        What else is known of the file.
    """

    file: str
    state: Mapping[str, torch.Tensor]
    facts: Mapping[str, object]

    @property
    def n_genes(self) -> int:
        """Number of genes: places but for the appended one."""
        for name in ("encoder.genes.weight", "head.first.weight"):
            if name in self.state:
                return self.state[name].shape[0 if name.startswith("enc") else 1] - 1
        why = "neither vectors of genes nor a head say how many genes there are"
        raise self.mismatch(why)

    @property
    def n_classes(self) -> int:
        """Number of classes, 0 for weights of pretraining."""
        return len(self.state["head.out.bias"]) if "head.out.bias" in self.state else 0

    def sizes(self) -> dict[str, int]:
        """Sizes of the network, read off the shapes.

        Raises
        ------
        ModelMismatchError
            Tensors of the network are missing (E-M34).
        """
        first = "encoder.layers.0"
        needed = (
            "encoder.token_embedding.weight",
            f"{first}.attention.projection",
            f"{first}.attention.to_q.weight",
            f"{first}.ff_in.weight",
        )
        if missing := [n for n in needed if n not in self.state]:
            why = f"it has no {missing[0]}"
            raise self.mismatch(why)
        n_tokens, dim = self.state[needed[0]].shape
        nb_features, dim_head = self.state[needed[1]].shape
        depth = len({n.split(".")[2] for n in self.state if n.startswith("encoder.layers.")})
        return {
            "n_bins": n_tokens - 2,
            "dim": dim,
            "depth": depth,
            "heads": self.state[needed[2]].shape[0] // dim_head,
            "dim_head": dim_head,
            "ff_mult": self.state[needed[3]].shape[0] // dim,
            "nb_features": nb_features,
        }

    def mismatch(self, why: str) -> ModelMismatchError:
        """Return the error of weights that are not those of the network (E-M34)."""
        return ModelMismatchError(
            "E-M34",
            "the weights are not those of the original network",
            where=self.file,
            why=why[:300],
            fix="pass the checkpoint as the original's training script wrote it",
        )


def read_checkpoint(path: str | Path) -> OriginalWeights:
    """Read a state dict, a dictionary that holds one, or ``.safetensors``.

    Raises
    ------
    InputFileError
        There is no such file (E-F07).
    UntrustedModelError
        The file names code (E-M30).
    ModelFileError
        It cannot be read, or holds no tensors (E-M31), or weights are not finite (E-M07).
    ModelMismatchError
        Tensors are none of the network (E-M34).
    """
    file = WeightsFile.at(path)
    content = file.content()
    named = {k.removeprefix("module."): v for k, v in content.tensors.items()}
    state, foreign = {}, []
    for name, tensor in named.items():
        if name.startswith(_UNUSED):
            continue
        ours = our_name(name)
        if ours is None:
            foreign.append(name)
            continue
        state[ours] = tensor.float()
    found = OriginalWeights(file.path.name, state, content.facts)
    if foreign:
        why = f"{len(foreign)} tensors are not its, first {sorted(foreign)[0]}"
        raise found.mismatch(why)
    require_finite_weights(state, file.path.name)
    if "head.reduce.weight" in state:
        # A convolution over one row of numbers is a dot product.
        state["head.reduce.weight"] = state["head.reduce.weight"].reshape(1, -1)
    return found


def our_name(name: str) -> str | None:
    """Return the name of a tensor of the original here, or ``None`` where it has none."""
    if match := _LAYER.fullmatch(name):
        number, part, rest = match.groups()
        if (part, rest) == ("0", _PROJECTION):
            return f"encoder.layers.{number}.attention.projection"
        stem, _, kind = rest.rpartition(".")
        ours = _OF_LAYER.get((part, stem))
        return None if ours is None else f"encoder.layers.{number}.{ours}.{kind}"
    stem, _, kind = name.rpartition(".")
    return f"{_OTHERS[stem]}.{kind}" if stem in _OTHERS else None
