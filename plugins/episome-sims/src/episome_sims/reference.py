"""From a checkpoint of the published implementation to a trained `SIMS`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from episome.data import InputRule, require_choice
from episome.errors import ModelFileError, ModelMismatchError, UsageError
from episome.log import get_logger
from episome.models import registry_from_parts
from episome.nn import rename_reference_state
from episome_sims.checkpoint import Checkpoint, read_checkpoint
from episome_sims.presets import PUBLISHED
from episome_sims.reference_tables import read_genes, read_labels

if TYPE_CHECKING:
    from episome_sims.model import SIMS
    from episome_sims.reference_tables import Table

logger = get_logger(__name__)

MASKS = {"entmax": "entmax15", "entmax15": "entmax15", "sparsemax": "sparsemax"}
#: Settings that shapes do not tell.
FREE = ("gamma", "mask", "momentum", "virtual_batch_size", "lambda_sparse")
#: What stands before the names of the network in the files of the published code.
PREFIXES = ("network.tabnet.", "tabnet.", "")
_INPUT = "encoder.initial_bn.weight"
#: A second input norm that the published network registers and never uses.
_UNUSED = "initial_bn."


def import_reference(
    cls: type[SIMS],
    path: str | Path,
    *,
    trust: bool,
    genes: Table | None,
    labels: Table | None,
    unlabeled_category: str,
    input_scaling: str,
    target_sum: float,
    **given: object,
) -> SIMS:
    """See ``SIMS.from_reference_checkpoint``."""
    _require_known(given)
    checkpoint = read_checkpoint(path, trust=trust)
    network, temperature = network_state(checkpoint)
    state = _renamed(checkpoint, network)
    sizes = sizes_of(state)
    settings = free_settings(checkpoint, given)
    _require_agreement(checkpoint, sizes)
    n_inputs, n_outputs = state["input_norm.weight"].shape[0], state["head.weight"].shape[0]
    features = read_genes(checkpoint.genes if genes is None else genes, n_inputs)
    names = checkpoint.labels if labels is None else labels
    classes = read_labels(names, n_outputs, unlabeled_category)
    rule = InputRule(input_kind="counts", size_factor="model_genes", target_sum=target_sum)
    registry = registry_from_parts(cls, features, classes, rule)
    model = cls(registry=registry, preset="tall", input_scaling=input_scaling, **sizes, **settings)
    try:
        model.module.net.load_state_dict(state)
    except RuntimeError as error:
        raise _mismatch(checkpoint, str(error)) from error
    model.module.eval()
    model.is_trained_ = True
    model.history_ = {}
    model.fit_ = {"source": "reference checkpoint", **checkpoint.facts}
    if temperature is not None:
        model.fit_["temperature_of_the_file"] = temperature
        logger.info("the temperature %.3f of the file is not applied", temperature)
    return model


def _require_known(given: Mapping[str, object]) -> None:
    if unknown := sorted(set(given) - set(FREE)):
        raise UsageError(
            "E-U24",
            f"unknown arguments {', '.join(unknown)}",
            where="from_reference_checkpoint()",
            why="sizes are read off the tensors",
            fix=f"use some of {', '.join(FREE)}",
        )


def network_state(checkpoint: Checkpoint) -> tuple[dict[str, torch.Tensor], float | None]:
    """Return the tensors of the network without their prefix, and the temperature of the file.

    A second input norm that is never used is left out, and so are matrices of gene groups that
    leave every gene alone. Everything else has to be the network's.
    """
    state = dict(checkpoint.state)
    temperature = state.pop("temperature", None)
    prefix = next((p for p in PREFIXES if p + _INPUT in state), None)
    if prefix is None:
        raise _mismatch(checkpoint, f"it has no tensor {PREFIXES[0]}{_INPUT}")
    for name in [n for n in state if n.endswith(("group_matrix", "group_attention_matrix"))]:
        matrix = state.pop(name)
        if not torch.equal(matrix, torch.eye(len(matrix), dtype=matrix.dtype)):
            raise _mismatch(checkpoint, "it has groups of genes, which are not imported")
    foreign = [n for n in state if not n.startswith(prefix)]
    if foreign:
        raise _mismatch(checkpoint, f"{len(foreign)} tensors are not its, first {foreign[0]}")
    inner = {n.removeprefix(prefix): v for n, v in state.items()}
    kept = {n: v for n, v in inner.items() if not n.startswith(_UNUSED)}
    return kept, None if temperature is None else float(temperature.flatten()[0])


def _renamed(checkpoint: Checkpoint, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return float32 weights under this package's names."""
    plain = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    try:
        renamed = rename_reference_state(plain)
    except ValueError as error:
        raise _mismatch(checkpoint, str(error)) from error
    bad = [k for k, v in renamed.items() if not torch.isfinite(v).all()]
    if bad:
        raise ModelFileError(
            "E-M07",
            "weights that are not finite",
            where=checkpoint.file,
            count=len(bad),
            total=len(renamed),
            examples=bad,
            why="every call would be meaningless",
            fix="take another checkpoint",
        )
    if "attentions.0.weight" not in renamed:
        raise _mismatch(checkpoint, "it has no decision step")
    return renamed


def sizes_of(state: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Sizes of the network, read off the names and shapes of its tensors."""

    def count(pattern: str) -> int:
        return sum(bool(re.fullmatch(pattern, name)) for name in state)

    n_shared = 0 if count(r"first\.\d+") > 1 else 1 + count(r"shared\.\d+")
    return {
        "n_d": state["head.weight"].shape[1],
        "n_a": state["attentions.0.weight"].shape[1],
        "n_steps": count(r"attentions\.\d+\.weight"),
        "n_shared": n_shared,
        "n_independent": count(r"transformers\.0\.norms\.\d+\.weight") - n_shared,
    }


def _require_agreement(checkpoint: Checkpoint, sizes: Mapping[str, int]) -> None:
    said = {k: checkpoint.settings.get(k, v) for k, v in sizes.items()}
    wrong = [
        f"{k} is {v} by the tensors, {said[k]} by its" for k, v in sizes.items() if said[k] != v
    ]
    if wrong:
        raise _mismatch(checkpoint, f"{wrong[0]} hyper-parameters")


def free_settings(checkpoint: Checkpoint, given: Mapping[str, object]) -> dict[str, object]:
    """Return what shapes do not tell: from the file, else from the caller, else as published."""
    if given.get("mask") is not None:
        require_choice("mask", given["mask"], tuple(dict.fromkeys(MASKS.values())))
    said = dict(checkpoint.settings)
    if "mask_type" in said:
        said["mask"] = MASKS.get(str(said["mask_type"]), said["mask_type"])
    settings: dict[str, object] = {}
    for name in FREE:
        value, wish = said.get(name), given.get(name)
        if value is not None and wish is not None and wish != value:
            raise _mismatch(
                checkpoint, f"its hyper-parameters say {name}={value!r}, the call {wish!r}"
            )
        source = "the file" if value is not None else "the call"
        settings[name] = value if value is not None else wish
        if settings[name] is None:
            settings[name], source = PUBLISHED[name], "the published code"
        logger.info("%s=%s, from %s", name, settings[name], source)
    if settings["mask"] not in MASKS.values():
        raise _mismatch(checkpoint, f"there is no mask {settings['mask']!r}")
    return settings


def _mismatch(checkpoint: Checkpoint, why: str) -> ModelMismatchError:
    return ModelMismatchError(
        "E-M34",
        "the weights are not those of a published SIMS network",
        where=checkpoint.file,
        why=" ".join(why.split())[:300],
        fix="pass the checkpoint as the published code wrote it",
    )
