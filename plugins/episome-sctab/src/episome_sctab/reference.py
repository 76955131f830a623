"""From a checkpoint of the published implementation to a trained `SCTab`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from episome.data import InputRule, require_choice
from episome.errors import ModelFileError, ModelMismatchError
from episome.log import get_logger
from episome.models import registry_from_parts
from episome.nn import rename_reference_state
from episome_sctab.checkpoint import Checkpoint, read_checkpoint
from episome_sctab.presets import PAPER
from episome_sctab.reference_tables import read_genes, read_labels

if TYPE_CHECKING:
    import torch

    from episome_sctab.model import SCTab
    from episome_sctab.reference_tables import Table

logger = get_logger(__name__)

MASKS = {"entmax": "entmax15", "entmax15": "entmax15", "sparsemax": "sparsemax"}
#: Settings that shapes do not tell.
FREE = ("gamma", "mask", "momentum", "virtual_batch_size", "lambda_sparse")
#: Counts over the model's genes, as the published pipeline normalises them.
RULE = InputRule(input_kind="counts", size_factor="model_genes", target_sum=1e4)


def import_reference(
    cls: type[SCTab],
    path: str | Path,
    *,
    genes: Table | None,
    labels: Table | None,
    unlabeled_category: str,
    **given: object,
) -> SCTab:
    """See ``SCTab.from_reference_checkpoint``."""
    checkpoint = read_checkpoint(path)
    state = _renamed(checkpoint)
    sizes = sizes_of(state)
    _require_agreement(checkpoint, sizes)
    settings = free_settings(checkpoint, given)
    if labels is None and isinstance(genes, str | Path) and Path(genes).is_dir():
        labels = genes
    features = read_genes(genes, state["input_norm.weight"].shape[0])
    classes = read_labels(labels, state["head.weight"].shape[0], unlabeled_category)
    registry = registry_from_parts(cls, features, classes, RULE)
    model = cls(registry=registry, preset="paper", **sizes, **settings)
    try:
        model.module.net.load_state_dict(state)
    except RuntimeError as error:
        raise _mismatch(checkpoint, str(error)) from error
    model.module.eval()
    model.is_trained_ = True
    model.history_ = {}
    model.fit_ = {"source": "reference checkpoint", **checkpoint.facts}
    return model


def _renamed(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return float32 weights under this package's names."""
    state = checkpoint.state
    plain = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    try:
        renamed = rename_reference_state(plain)
    except ValueError as error:
        raise _mismatch(checkpoint, str(error)) from error
    bad = [k for k, v in renamed.items() if not np.isfinite(v.numpy()).all()]
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
            settings[name], source = PAPER[name], "the published script"
        logger.info("%s=%s, from %s", name, settings[name], source)
    if settings["mask"] not in MASKS.values():
        raise _mismatch(checkpoint, f"there is no mask {settings['mask']!r}")
    return settings


def _mismatch(checkpoint: Checkpoint, why: str) -> ModelMismatchError:
    return ModelMismatchError(
        "E-M34",
        "the weights are not those of a reference scTab network",
        where=checkpoint.file,
        why=" ".join(why.split())[:300],
        fix="pass the checkpoint as the published training script wrote it",
    )
