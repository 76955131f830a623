"""Weights of the reference TabNet implementations under this package's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch

__all__ = ["rename_reference_state", "reference_name"]

_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_BLOCK = r"encoder\.(initial_splitter|feat_transformers\.(\d+))"
_INPUT = re.compile(rf"encoder\.initial_bn\.{_NORM}")
_SHARED = re.compile(rf"{_BLOCK}\.shared\.(?:shared_layers\.(\d+)|glu_layers\.(\d+)\.fc)\.weight")
_SPECIFIC = re.compile(rf"{_BLOCK}\.specifics\.glu_layers\.(\d+)\.fc\.weight")
_GLU_NORM = re.compile(rf"{_BLOCK}\.(shared|specifics)\.glu_layers\.(\d+)\.bn\.bn\.{_NORM}")
_ATTENTION = re.compile(rf"encoder\.att_transformers\.(\d+)\.(?:fc\.(weight)|bn\.bn\.{_NORM})")
_HEAD = "final_mapping.weight"


class ReferenceName(NamedTuple):
    """Our name of a reference tensor, and whether it is stored transposed."""

    name: str
    transposed: bool = False


def _transformer(match: re.Match[str]) -> int:
    return 0 if match[2] is None else int(match[2]) + 1


def reference_name(name: str, n_shared: int) -> ReferenceName | None:
    """Our name of one reference tensor, or None if the name is not known.

    Parameters
    ----------
    name
        Name in the reference's state.
    n_shared
        Number of shared layers of the network.
    """
    if name == _HEAD:
        return ReferenceName("head.weight")
    if m := _INPUT.fullmatch(name):
        return ReferenceName(f"input_norm.{m[1]}")
    if m := _ATTENTION.fullmatch(name):
        part = "weight" if m[2] else f"norm.{m[3]}"
        return ReferenceName(f"attentions.{m[1]}.{part}")
    if m := _SHARED.fullmatch(name):
        layer = int(m[3] or m[4])
        if layer == 0:
            return ReferenceName("first.0", transposed=True)
        return ReferenceName(f"shared.{layer - 1}")
    if m := _SPECIFIC.fullmatch(name):
        layer, k = int(m[3]), _transformer(m)
        if n_shared:
            return ReferenceName(f"transformers.{k}.specific.{layer}")
        if layer == 0:
            return ReferenceName(f"first.{k}", transposed=True)
        return ReferenceName(f"transformers.{k}.specific.{layer - 1}")
    if m := _GLU_NORM.fullmatch(name):
        layer = int(m[4]) + (n_shared if m[3] == "specifics" else 0)
        return ReferenceName(f"transformers.{_transformer(m)}.norms.{layer}.{m[5]}")
    return None


def rename_reference_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Translate the state of a reference TabNet to the names of :class:`TabNet`.

    The reference names are those of scTab's classifier and of pytorch-tabnet's network without
    its outer prefix (``encoder.initial_bn.weight``, ``encoder.initial_splitter.shared...``,
    ``final_mapping.weight``). They become:

    ==============================================  ==================================
    reference                                       here
    ==============================================  ==================================
    ``encoder.initial_bn.*``                        ``input_norm.*``
    first gene-wide map ``(2 H, G)``                ``first.0`` ``(G, 2 H)``
    further shared maps ``i``                       ``shared.{i - 1}``
    ``encoder.initial_splitter``                    ``transformers.0``
    ``encoder.feat_transformers.{t}``               ``transformers.{t + 1}``
    ``specifics.glu_layers.{i}.fc.weight``          ``specific.{i}``
    norms of shared and specific layers             ``norms.{i}``, in order
    ``encoder.att_transformers.{t}.fc.weight``      ``attentions.{t}.weight``
    ``encoder.att_transformers.{t}.bn.bn.*``        ``attentions.{t}.norm.*``
    ``final_mapping.weight``                        ``head.weight``
    ==============================================  ==================================

    Parameters
    ----------
    state
        Reference tensors by name. A tensor that layers share may come under any or all of its
        names; they must agree.

    Returns
    -------
    State for :meth:`TabNet.load_state_dict`.

    Raises
    ------
    ValueError
        If a name is unknown, a tensor is missing, or shared tensors differ.
    """
    n_shared = _count(state, r"\.shared\.glu_layers\.(\d+)\.bn\.bn\.")
    out: dict[str, torch.Tensor] = {}
    unknown = []
    for name, tensor in state.items():
        found = reference_name(name, n_shared)
        if found is None:
            unknown.append(name)
            continue
        value = tensor.T.contiguous() if found.transposed else tensor
        if found.name in out and not torch.equal(out[found.name], value):
            msg = f"Shared tensor {name} differs from another name of it. The state is damaged."
            raise ValueError(msg)
        out[found.name] = value
    if unknown:
        msg = (
            f"{len(unknown)} of {len(state)} tensors have names that no reference TabNet has "
            f"(first: {unknown[:3]}). Remove an outer prefix and tensors of other modules first."
        )
        raise ValueError(msg)
    missing = sorted(_expected(state, n_shared) - out.keys())
    if missing:
        msg = (
            f"{len(missing)} tensors are missing from the reference state (first: {missing[:3]}, "
            "named as here). Give the whole state of the network."
        )
        raise ValueError(msg)
    return out


def _count(state: Mapping[str, torch.Tensor], pattern: str) -> int:
    numbers = [int(m[1]) for name in state if (m := re.search(pattern, name))]
    return max(numbers, default=-1) + 1


def _expected(state: Mapping[str, torch.Tensor], n_shared: int) -> set[str]:
    """Our names of a network as deep as the largest layer numbers in `state`."""
    n_independent = _count(state, r"\.specifics\.glu_layers\.(\d+)\.")
    n_steps = max(
        _count(state, r"feat_transformers\.(\d+)\."), _count(state, r"att_transformers\.(\d+)\.")
    )
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {"head.weight", *(f"input_norm.{p}" for p in norm)}
    names |= {f"first.{i}" for i in range(1 if n_shared else n_steps + 1)}
    names |= {f"shared.{i}" for i in range(n_shared - 1)}
    for k in range(n_steps + 1):
        own = n_independent if n_shared else n_independent - 1
        names |= {f"transformers.{k}.specific.{i}" for i in range(own)}
        layers = range(n_shared + n_independent)
        names |= {f"transformers.{k}.norms.{i}.{p}" for i in layers for p in norm}
    for t in range(n_steps):
        names |= {f"attentions.{t}.weight", *(f"attentions.{t}.norm.{p}" for p in norm)}
    return names
